"""The part of a picture that is wanted, filled tile by tile.

    window = Window(area, 3)
    for place, coded in tiles:
        room = window.room_for(place)       # the tile's samples go here, all of them
        window.settle(place, room)          # those that are wanted are in window.samples now

A tile that lies inside the area is decoded in place; one that only meets it has memory of its own for as long
as it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from licodec.codecs.registry import Area

Samples = npt.NDArray[Any]


class Window:
    """Samples [H, W, C], uint8 or uint16, of an area, rows and columns of a picture."""

    def __init__(self, area: Area, channels: int, dtype: npt.DTypeLike = np.uint8) -> None:
        self._area = area
        rows, columns = (part.stop - part.start for part in area)
        self.samples: Samples = np.empty((rows, columns, channels), dtype)

    def room_for(self, place: Area) -> Samples:
        """Memory for the samples of a tile at a place, which need not lie inside the area."""
        if self._common(place) == place:
            return self.samples[self._here(place)]
        rows, columns = (part.stop - part.start for part in place)
        return np.empty((rows, columns, self.samples.shape[2]), self.samples.dtype)

    def settle(self, place: Area, tile: Samples) -> None:
        """Keep what is wanted of a tile whose room is filled. It meets the area."""
        common = self._common(place)
        if common != place:
            part = tuple(
                slice(c.start - p.start, c.stop - p.start) for c, p in zip(common, place, strict=True)
            )
            self.samples[self._here(common)] = tile[part]

    def _common(self, place: Area) -> Area:
        """Rows and columns of both."""
        rows, columns = (
            slice(max(part.start, mine.start), min(part.stop, mine.stop))
            for part, mine in zip(place, self._area, strict=True)
        )
        return rows, columns

    def _here(self, place: Area) -> Area:
        """A place in the picture as rows and columns of the samples."""
        rows, columns = (
            slice(part.start - mine.start, part.stop - mine.start)
            for part, mine in zip(place, self._area, strict=True)
        )
        return rows, columns
