"""What a codec is, for those who call one.

A codec's module gives `build(weights, device, *, exact="auto") -> Model`. A model is immutable and may be
used by several threads at once. Its methods are called in a section of `threads.limited`; one that comes to
torch after `build` calls `threads.torch_as_wanted` in each such call.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from lic_format.container import LicFile, Part, Unit

if TYPE_CHECKING:
    from licodec.codecs.registry import Area
    from licodec.images import Picture

Stages = MutableMapping[str, float]
Shared = MutableMapping[str, Any]
"""What codings of one picture have in common: a codec puts it in at the first and finds it at the next."""


@dataclass(frozen=True)
class Coded:
    """What encoding gives the container: HEAD fields that the codec decides (rate, order, side_info), and its
    units."""

    head_fields: Mapping[str, Any]
    units: tuple[Unit, ...]


_NOT_TIMED: Final = contextlib.nullcontext()


class Timer:
    """Adds the milliseconds of named stages to a mapping, if there is one: those of all threads together."""

    def __init__(self, stages: Stages | None) -> None:
        self.stages = stages
        self._lock = threading.Lock()

    def __call__(self, name: str) -> contextlib.AbstractContextManager[None]:
        return _NOT_TIMED if self.stages is None else self._timed(name)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Where a stage has no beginning and end in one place; may be negative."""
        if self.stages is not None:
            with self._lock:
                self.stages[name] = self.stages.get(name, 0.0) + seconds * 1000


class Model(Protocol):
    """Loaded weights of one codec on one device."""

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
    ) -> Coded:
        """Code a picture (planes uint8 H x W x 1 or 3) at rate index 0..255; `order` None is the codec's
        default.

        `stages` receives milliseconds by stage, and the model's own estimate as `estimated_bits`. `shared`,
        empty at first, saves time where one picture is coded at several rates; no byte depends on it.
        """
        ...

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        """The picture of a file coded with these weights; FormatError where its payload isn't valid.

        `reduce`, one of the registry's `reductions`: at 1 / `reduce` of its size, sides rounded up.
        """
        ...


@dataclass(frozen=True)
class LosslessWish:
    """How a lossless codec is to code.

    digest: what its side info says of the picture. effort: 1..9. modes: the tile modes that it may choose for
    photographs; None is what the effort takes.
    """

    digest: bytes = b""
    effort: int = 5
    modes: frozenset[str] | None = None


USUAL: Final = LosslessWish()


@dataclass(frozen=True)
class LossyWish:
    """How a lossy codec is to code.

    effort: 1..9; more takes the encoder longer, for a file that is hardly ever worse (docs/effort.md). None
        is what the model usually takes.
    """

    effort: int | None = None


USUALLY: Final = LossyWish()


class LossyModel(Model, Protocol):
    """A model of a codec whose decoding gives samples near those that were encoded."""

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LossyWish = USUALLY,
    ) -> Coded:
        """Code a picture as `Model.encode` does."""
        ...


class LosslessModel(Model, Protocol):
    """A model of a codec whose decoding gives the samples that were encoded."""

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LosslessWish = USUAL,
    ) -> Coded:
        """Code a picture as `Model.encode` does, where `rate` says nothing."""
        ...

    def compile(self) -> None:
        """Get ready what takes time once and makes later calls faster, where there is such a thing."""
        ...

    def decode_region(self, part: Part, area: Area, *, stages: Stages | None = None) -> Picture:
        """Rows and columns of a picture, of the units that show them (the registry's `regions` says which);
        FormatError where their payload isn't valid. Memory: a small multiple of the area's."""
        ...
