"""A decoder of tile mode 6 in plain Python integers, written from SPEC.md: sample by sample, no NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.codecs.second_lossless import Lanes, between, products

Weights = Mapping[str, Any]
"""Tensors by name without their prefix, as nested lists."""


def signed(value: int) -> int:
    return (value + 128) % 256 - 128


def read_indices(lanes: Lanes, rows: int, columns: int, weights: Weights) -> dict[tuple[int, int], int]:
    """Index of every cell, by row and column."""
    s = 1
    while len(range(0, rows, s)) > 4 or len(range(0, columns, s)) > 4:
        s *= 2
    first = [(y, x) for y in range(0, rows, s) for x in range(0, columns, s)]
    known = dict(zip(first, lanes.stage([64] * len(first)), strict=True))
    while s > 1:
        s //= 2
        every = [(y, x) for y in range(0, rows, s) for x in range(0, columns, s)]
        for diagonal in (True, False):
            cells = [
                (y, x) for y, x in every if (y // s % 2 and x // s % 2 if diagonal else (y // s + x // s) % 2)
            ]
            if not cells:
                continue
            sides = [(-s, -s), (-s, s), (s, -s), (s, s)] if diagonal else [(-s, 0), (s, 0), (0, -s), (0, s)]
            tables = []
            for y, x in cells:
                around = [known[y + i, x + j] for i, j in sides if 0 <= y + i < rows and 0 <= x + j < columns]
                levels = []
                for feature in (0, 1):
                    f = sum(weights["features"][k][feature] for k in around) * (12 // len(around))
                    levels.append(sum(t <= f for t in weights["thresholds"][feature]))
                tables.append(8 * levels[0] + levels[1])
            known.update(zip(cells, lanes.stage(tables), strict=True))
    return known


def looked(
    indices: Mapping[tuple[int, int], int], rows: int, columns: int, y: int, x: int, weights: Weights
) -> list[int]:
    """The 96 numbers of a cell."""
    codes: list[int] = []
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            nearest = between(y + i, 0, rows - 1), between(x + j, 0, columns - 1)
            codes += weights["codes"][indices[nearest]]
    u = [between(value // 32, 0, 4095) for value in products(weights["first"], codes)]
    return [value // 4096 for value in products(weights["second"], u)]


def predicted(kind: int, weights: Sequence[int], west: int, north: int, corner: int, y: int, x: int) -> int:
    if kind == 0:
        return west + north - corner
    if kind == 2:
        return west + north - between(corner, min(west, north), max(west, north))
    if y == 0 or x == 0:
        return west if y == 0 else north
    a, b, c = weights
    return between((a * west + b * north + c * corner + 128) // 256, -128, 127)


def decode_tile(
    body: bytes, height: int, width: int, channels: int, weights: Weights
) -> list[list[list[int]]]:
    """Samples [height][width][channels] of a body of mode 6."""
    lanes = Lanes(body, weights["frequencies"])
    rows, columns = -(-height // 8), -(-width // 8)
    indices = read_indices(lanes, rows, columns, weights)
    numbers = {cell: looked(indices, rows, columns, *cell, weights) for cell in indices}
    tables, offsets = [], []
    for y in range(height):
        for x in range(width):
            of_cell = numbers[y // 8, x // 8]
            for k in range(channels):
                at = 12 * (y % 8 // 2) + 3 * (x % 8 // 2) + k
                tables.append(weights["tables"][k][between(of_cell[at], 0, 47)])
                offsets.append(between(of_cell[48 + at], -8, 7))
    residuals = [symbol + o for symbol, o in zip(lanes.stage(tables), offsets, strict=True)]
    assert lanes.at_its_end()

    planes: dict[tuple[int, int, int], int] = {}
    (kind,) = weights["predictor"]
    todo = iter(residuals)
    for y in range(height):
        for x in range(width):
            for k in range(channels):
                west, north, corner = (
                    planes.get(place, 0) for place in ((y, x - 1, k), (y - 1, x, k), (y - 1, x - 1, k))
                )
                p = predicted(kind, weights["weights"][k], west, north, corner, y, x)
                planes[y, x, k] = signed(p + next(todo))

    def pixel(y: int, x: int) -> list[int]:
        green = planes[y, x, 0] + 128
        if channels == 1:
            return [green % 256]
        return [(planes[y, x, 1] + green) % 256, green % 256, (planes[y, x, 2] + green) % 256]

    return [[pixel(y, x) for x in range(width)] for y in range(height)]
