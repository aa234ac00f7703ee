"""A decoder of tiles of 16 bits in plain Python integers, written from SPEC.md: no NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from licodec.entropy.reference import read_varint
from tests.codecs.second_lossless import CODED, NEAREST, SEEN, Lanes, Phases, Rows, between, neighbours

Numbers = Mapping[str, Any]
"""deep.json as it was parsed."""


def bits_of(data: bytes) -> Iterator[int]:
    for byte in data:
        for place in range(8):
            yield byte >> place & 1


class Low:
    """The low bits, number by number."""

    def __init__(self, data: bytes) -> None:
        self.left = 8 * len(data)
        self.bits = bits_of(data)

    def number(self, count: int) -> int:
        self.left -= count
        return sum(next(self.bits) << place for place in range(count))

    def at_its_end(self) -> bool:
        return self.left < 8 and not any(self.bits)


def difference(token: int, low: Low) -> int:
    """What a token and its low bits stand for."""
    assert token < 40
    if token < 16:
        z = token
    else:
        n = (token - 8) // 2
        z = (2 + token % 2 << n - 1) + low.number(n - 1)
    return z // 2 if z % 2 == 0 else 65536 - (z + 1) // 2


def looked(
    numbers: Numbers, name: str, step: str, own: Phases, earlier: Sequence[Phases], i: int, j: int
) -> tuple[int, int]:
    """Table and prediction of one sample."""
    m = (sum(own.at(phase, i + down, j + right) for phase, down, right in NEAREST[step]) + 2) // 4
    x = [
        own.at(phase, i + down, j + right) - m
        for phase, rows, columns in SEEN[step]
        for down in rows
        for right in columns
    ]
    for lattice in earlier:
        centre = lattice.at(CODED[step], i, j)
        x += [value - centre for value in neighbours(lattice, CODED[step], i, j)]
    p = sum(w * v for w, v in zip(numbers["prediction"][name], x, strict=True))
    f = m + (p + 512) // 1024 + (earlier[0].at(CODED[step], i, j) if earlier else 0)
    a = max(sum(w * abs(v) for w, v in zip(numbers["activity"][name], x, strict=True)), 1)
    e = a.bit_length() - 1
    return between(4 * e + 4 * a // 2**e - 4 - 32, 0, 71), between(f, 0, 65535)


def decode_tile(body: bytes, height: int, width: int, channels: int, flips: int, numbers: Numbers) -> Any:
    """Samples [height][width][channels] of a body in mode 7."""
    size, start = read_varint(body, 0, where="low bits", max_bytes=5)
    low = Low(body[start : start + size])
    tables = [[*table, *[0] * 88, 1, *[0] * 127] for table in numbers["tables"]]
    lanes = Lanes(body[start + size :], tables)
    shapes = [(height, width)]
    while max(shapes[-1]) > 16:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    known: list[list[Phases]] = []
    planes: list[Rows] = []
    for plane in range(channels):
        rows, columns = shapes[-1]
        differences = iter([difference(token, low) for token in lanes.stage([72 + plane] * (rows * columns))])
        values: Rows = []
        for y in range(rows):
            values.append([])
            for x in range(columns):
                before = values[y][x - 1] if x else values[y - 1][0] if y else 0
                values[y].append((next(differences) + before) % 65536)
        if plane:  # the samples are 0..65535, the plane is not
            green = planes[0]
            step = 2 ** (len(shapes) - 1)
            for y in range(rows):
                for x in range(columns):
                    g = green[y * step][x * step]
                    values[y][x] = (values[y][x] + g) % 65536 - g
        mine: list[Phases] = []
        for level in range(len(shapes) - 2, -1, -1):
            own = Phases(*shapes[level])
            own.values["ee"] = values
            earlier = [lattices[len(mine)] for lattices in known]
            for name, phase in CODED.items():
                rows, columns = own.shape(phase)
                if not rows * columns:
                    continue
                full = f"{min(level, 1)}.{plane}.{name}"
                seen = [
                    looked(numbers, full, name, own, earlier, i, j)
                    for i in range(rows)
                    for j in range(columns)
                ]
                tokens = lanes.stage([table for table, _ in seen])
                coded = [
                    (difference(token, low) + f) % 65536 for token, (_, f) in zip(tokens, seen, strict=True)
                ]
                grid = [coded[columns * i : columns * (i + 1)] for i in range(rows)]
                if plane:
                    grid = [
                        [s - earlier[0].at(phase, i, j) for j, s in enumerate(r)] for i, r in enumerate(grid)
                    ]
                own.values[phase] = grid
            values = own.whole()
            mine.append(own)
        known.append(mine)
        planes.append(values)
    assert lanes.at_its_end() and low.at_its_end()
    order = [1, 0, 2] if channels == 3 else [0]
    tile = [
        [[planes[p][y][x] + (planes[0][y][x] if p else 0) for p in order] for x in range(width)]
        for y in range(height)
    ]
    if flips & 1:
        tile = tile[::-1]
    return [row[::-1] for row in tile] if flips & 2 else tile
