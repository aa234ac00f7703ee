"""Lattices of int16 taken apart and put together by compiled loops; see `licodec.compiled`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from licodec import compiled
from licodec.codecs.lattices import BEFORE

Integers = npt.NDArray[Any]


@compiled.function
def fill(values: Integers, stack: Integers) -> None:
    """All phases of a lattice, [4, rows, columns], from its samples [height, width]; see `Lattice.put`."""
    height, width = values.shape
    _, rows, columns = stack.shape
    for phase in range(4):
        row, column = phase >> 1, phase & 1
        h, w = (height + 1 - row) // 2, (width + 1 - column) // 2
        for i in range(rows):
            to = stack[phase, i]
            if h * w == 0:
                for j in range(columns):
                    to[j] = stack[0, i, j]
                continue
            of_row = values[2 * min(max(i - BEFORE, 0), h - 1) + row]
            for j in range(w):
                to[BEFORE + j] = of_row[2 * j + column]
            for j in range(BEFORE):
                to[j] = to[BEFORE]
            for j in range(BEFORE + w, columns):
                to[j] = to[BEFORE + w - 1]


@compiled.function
def join(stack: Integers, more: Integers, both: bool, out: Integers) -> None:
    """The samples of a lattice, [4, rows, columns], and, where wanted, those of another added, into uint8
    [height, width]; see `Lattice.write`."""
    height, width = out.shape
    for phase in range(4):
        row, column = phase >> 1, phase & 1
        h, w = (height + 1 - row) // 2, (width + 1 - column) // 2
        for i in range(h):
            values, others = stack[phase, BEFORE + i], more[phase, BEFORE + i]
            to = out[2 * i + row]
            for j in range(w):
                value = values[BEFORE + j]
                to[2 * j + column] = value + others[BEFORE + j] if both else value
