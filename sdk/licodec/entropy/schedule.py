"""The order of passes over a latent: one description for encoder, decoder and tests.

A latent [M, h, w] is coded in passes. A pass takes a range of channels at some cells of the grid; its symbols
stand in channel, row, column order.

    one_step(M)             one pass over everything
    checkerboard(groups)    for each group of channels: anchors, then the others

        a o a o     a: (row + column) even
        o a o a
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from licodec.entropy.coder import StreamDecoder, StreamEncoder

Cells = Literal["all", "anchors", "others"]
Symbols = npt.NDArray[np.int16]
Indices = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pass:
    """Channels `first`..`last - 1` of a latent at `cells`; `group` is the channel group they belong to."""

    group: int
    first: int
    last: int
    cells: Cells

    def mask(self, h: int, w: int) -> npt.NDArray[np.bool_]:
        """Which of this pass's [last - first, h, w] positions it codes."""
        even = (np.arange(h)[:, None] + np.arange(w)[None]) % 2 == 0
        plane = {"all": np.ones_like(even), "anchors": even, "others": ~even}[self.cells]
        return np.broadcast_to(plane, (self.last - self.first, h, w))


def one_step(channels: int) -> tuple[Pass, ...]:
    return (Pass(0, 0, channels, "all"),)


def checkerboard(groups: Sequence[int]) -> tuple[Pass, ...]:
    passes, first = [], 0
    for group, width in enumerate(groups):
        for cells in ("anchors", "others"):
            passes.append(Pass(group, first, first + width, cells))
        first += width
    return tuple(passes)


class Direction(Protocol):
    """Where symbols go to or come from. One codec loop serves both ways, so the two can't drift apart."""

    def exchange(self, symbols: npt.NDArray[Any], index: Indices, where: npt.NDArray[np.bool_]) -> None:
        """Code the positions `where` of `symbols`, both ways in place.

        symbols, index: [C, h, w]. where: a mask of that shape that is the same for every channel, or one true
        value for everything.
        """


class Writer:
    """Encoder's side: symbols are known and go into the stream."""

    def __init__(self, stream: StreamEncoder) -> None:
        self.stream = stream

    def exchange(self, symbols: npt.NDArray[Any], index: Indices, where: npt.NDArray[np.bool_]) -> None:
        if where.all():
            self.stream.put(symbols.reshape(-1), index.reshape(-1))
        else:
            cells = _cells(where)
            self.stream.put(_gather(symbols, cells), _gather(index, cells))


class Reader:
    """Decoder's side: symbols come out of the stream."""

    def __init__(self, stream: StreamDecoder) -> None:
        self.stream = stream

    def exchange(self, symbols: npt.NDArray[Any], index: Indices, where: npt.NDArray[np.bool_]) -> None:
        if where.all():
            symbols[...] = self.stream.get(index.reshape(-1)).reshape(symbols.shape)
        else:
            cells = _cells(where)
            found = self.stream.get(_gather(index, cells)).reshape(symbols.shape[0], -1)
            symbols.reshape(symbols.shape[0], -1)[:, cells] = (
                found  # a view: slices of channels are contiguous
            )


def _cells(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Grid positions of a mask, row by row; one plane serves all channels."""
    return np.flatnonzero(where[0])


def _gather(values: npt.NDArray[Any], cells: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    return np.take(values.reshape(values.shape[0], -1), cells, axis=1).reshape(-1)
