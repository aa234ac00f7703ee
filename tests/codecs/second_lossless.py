"""A decoder of pilc's tiles in plain Python integers, written from SPEC.md: sample by sample, no NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from licodec.entropy.lanes_reference import ESCAPE, PRECISION, STATE_MIN, TOTAL, WORD_BITS, split_body

Rows = list[list[int]]
Weights = Mapping[str, Rows]
"""Tensors by name, as nested lists."""

SEEN = {
    "A": [("ee", range(-1, 3), range(-1, 3))],
    "B0": [("ee", range(-1, 2), range(-1, 3)), ("oo", range(-1, 2), range(-1, 3))],
    "B1": [(phase, range(-1, 3), range(-1, 2)) for phase in ("oo", "ee", "eo")],
}
NEAREST = {
    "A": [("ee", 0, 0), ("ee", 0, 1), ("ee", 1, 0), ("ee", 1, 1)],
    "B0": [("ee", 0, 0), ("ee", 0, 1), ("oo", -1, 0), ("oo", 0, 0)],
    "B1": [("oo", 0, -1), ("oo", 0, 0), ("ee", 0, 0), ("ee", 1, 0)],
}
CODED = {"A": "oo", "B0": "eo", "B1": "oe"}
PARITY = {"e": 0, "o": 1}


class Lanes:
    """The stream of one tile, symbol by symbol."""

    def __init__(self, body: bytes, frequencies: Rows) -> None:
        self.lanes, escapes, states, words = split_body(body)
        self.frequencies = frequencies
        self.escapes = iter(bytes(escapes))
        self.states = [int.from_bytes(states[4 * i : 4 * i + 4], "little") for i in range(self.lanes)]
        self.words = iter([int.from_bytes(words[i : i + 2], "little") for i in range(0, len(words), 2)])

    def stage(self, tables: Sequence[int]) -> list[int]:
        out = []
        for first in range(0, len(tables), self.lanes):
            row = tables[first : first + self.lanes]
            for lane, table in enumerate(row):
                out.append(self._symbol(lane, self.frequencies[table]))
            for lane in range(len(row)):
                if self.states[lane] < STATE_MIN:
                    self.states[lane] = self.states[lane] << WORD_BITS | next(self.words)
        return [
            next(self.escapes) if symbol == ESCAPE and 0 in self.frequencies[table] else symbol
            for symbol, table in zip(out, tables, strict=True)
        ]

    def _symbol(self, lane: int, frequencies: Sequence[int]) -> int:
        x = self.states[lane]
        rest, start = x % TOTAL, 0
        for symbol, frequency in enumerate(frequencies):
            if rest < start + frequency:
                self.states[lane] = frequency * (x >> PRECISION) + rest - start
                return symbol
            start += frequency
        raise AssertionError("frequencies do not add up")

    def at_its_end(self) -> bool:
        left = [*self.escapes, *self.words]
        return not left and all(state == STATE_MIN for state in self.states)


class Phases:
    """A lattice by its phases."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.values: dict[str, Rows] = {}

    def shape(self, phase: str) -> tuple[int, int]:
        row, column = (PARITY[letter] for letter in phase)
        return (self.height + 1 - row) // 2, (self.width + 1 - column) // 2

    def at(self, phase: str, i: int, j: int) -> int:
        rows, columns = self.shape(phase)
        if not rows * columns:
            phase, (rows, columns) = "ee", self.shape("ee")
        return self.values[phase][min(max(i, 0), rows - 1)][min(max(j, 0), columns - 1)]

    def whole(self) -> Rows:
        names = {(0, 0): "ee", (0, 1): "eo", (1, 0): "oe", (1, 1): "oo"}
        return [
            [self.values[names[y % 2, x % 2]][y // 2][x // 2] for x in range(self.width)]
            for y in range(self.height)
        ]


def neighbours(lattice: Phases, phase: str, i: int, j: int) -> Iterator[int]:
    row, column = (PARITY[letter] for letter in phase)
    corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    for down, right in [*corners, (-1, 0), (1, 0), (0, -1), (0, 1)]:
        y, x = row + down, column + right
        yield lattice.at("eo"[y % 2] + "eo"[x % 2], i + y // 2, j + x // 2)


def products(matrix: Rows, x: Sequence[int]) -> list[int]:
    return [sum(w * v for w, v in zip(row, (*x, 1), strict=True)) for row in matrix]


def between(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def near(plane: int, step: str) -> list[int]:
    """Numbers of the inputs that a correction is for."""
    row, column = (PARITY[letter] for letter in CODED[step])
    squares = [
        (2 * down + PARITY[phase[0]] - row) ** 2 + (2 * right + PARITY[phase[1]] - column) ** 2
        for phase, rows, columns in SEEN[step]
        for down in rows
        for right in columns
    ]
    own = [number for number, square in enumerate(squares) if square <= 5]
    return own + list(range(len(squares), len(squares) + 8 * plane))


def adapted(body: bytes, channels: int, weights: Weights) -> tuple[bytes, dict[str, int], dict[str, Rows]]:
    """The lanes of a body, the offset of each group, and the tensors that are others in this tile."""
    length, at = body[0] & 127, 1
    if body[0] > 127:
        length, at = length | body[1] << 7, 2
    said, lanes = body[at : at + length], body[at + length :]
    offsets, changed = {}, {}
    names = [f"{which}.{plane}.{step}" for which in (0, 1) for plane in range(channels) for step in CODED]
    rest = iter(said[len(names) :])
    for name, mark in zip(names, said[: len(names)], strict=False):
        offsets[name] = mark % 8 - 3
        if mark >= 8:
            _, plane, step = name.split(".")
            linear, *others = weights[f"{name}.first"]
            linear = list(linear)
            for number in near(int(plane), step):
                linear[number] += 8 * ((next(rest) + 128) % 256 - 128)
            changed[f"{name}.first"] = [linear, *others]
    assert not list(rest)
    return lanes, offsets, changed


def looked(
    weights: Weights,
    name: str,
    step: str,
    own: Phases,
    earlier: Sequence[Phases],
    i: int,
    j: int,
    offset: int,
) -> tuple[int, int]:
    """Table and prediction of one sample."""
    m = (sum(own.at(*place(i, j, *each)) for each in NEAREST[step]) + 2) // 4
    x = [
        own.at(phase, i + down, j + right) - m
        for phase, rows, columns in SEEN[step]
        for down in rows
        for right in columns
    ]
    for lattice in earlier:
        centre = lattice.at(CODED[step], i, j)
        x += [value - centre for value in neighbours(lattice, CODED[step], i, j)]
    linear, *u = products(weights[f"{name}.first"], x)
    v = products(weights[f"{name}.second"], [between(value, 0, 32767) for value in u])
    e, s = products(weights[f"{name}.third"], [between(value // 64, 0, 32767) for value in v])
    p = (linear + e // 8 + 320) // 128
    f = p // 4 + m + (earlier[0].at(CODED[step], i, j) if earlier else 0)
    t = between(weights["scales"][between(s // 64, 0, 4095)] + offset, 0, 47)  # type: ignore[operator]
    return 4 * t + p % 4 if t < 24 else 72 + t, between(f, 0, 255)


# --- lattices without networks ------------------------------------------------------------------------------

MAGNITUDES = {
    "A": [(1, 1), (1, 3), (3, 1)],
    "B0": [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1)],
    "B1": [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (3, 0)],
}
TAPS = {
    step: sorted({(a * dy, b * dx) for dy, dx in all_of for a in (-1, 1) for b in (-1, 1)})
    for step, all_of in MAGNITUDES.items()
}
DIAGONAL, STRAIGHT = [(1, 1), (1, -1)], [(0, 1), (1, 0)]
AXES = {"A": DIAGONAL, "B0": STRAIGHT, "B1": STRAIGHT}
AROUND = [(-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1)]


def numbers_of(file: bytes) -> Weights:
    """`linear_lattice.bin` by class, plane, pass and letter; and the frequencies of all tables."""
    out: dict[str, Rows] = {}
    at = 0

    def rows(count: int, columns: int, size: int, signed: bool) -> Rows:
        nonlocal at
        values = []
        for _ in range(count * columns):
            values.append(int.from_bytes(file[at : at + size], "little", signed=signed))
            at += size
        return [values[columns * i : columns * (i + 1)] for i in range(count)]

    for which in range(2):
        for plane in range(3):
            for step, taps in TAPS.items():
                k, name = len(taps) + 8 * plane, f"{which}.{plane}.{step}"
                f = len(pairs([0] * k, step, plane))
                out[f"{name}.L"] = rows(5, k, 2, True)
                out[f"{name}.C"] = rows(5, k + f + 1, 2, True)
                out[f"{name}.D"] = rows(2, f, 1, False)
                out[f"{name}.T"] = rows(1, 47, 2, False)
    out["frequencies"] = rows(123, 256, 2, False)
    assert at == len(file)
    return out


def pairs(x: Sequence[int], step: str, plane: int) -> list[int]:
    taps, first = TAPS[step], AXES[step][0]
    own = dict(zip(taps, x, strict=False))
    out = []
    for dy, dx in AXES[step]:
        for y, x_ in taps:
            if (y + 2 * dy, x_ + 2 * dx) in own:
                out.append(own[y, x_] - own[y + 2 * dy, x_ + 2 * dx])
    out.append(own[-first[0], -first[1]] + own[first])
    for earlier in range(plane):
        there = x[len(taps) + 8 * earlier : len(taps) + 8 * (earlier + 1)]
        seen = dict(zip(AROUND, there, strict=True))
        for dy, dx in AXES[step] + [axis for axis in DIAGONAL + STRAIGHT if axis not in AXES[step]]:
            out.append(seen[-dy, -dx] + seen[dy, dx])
    return out


def looked_without_nets(
    numbers: Weights, name: str, step: str, own: Phases, earlier: Sequence[Phases], i: int, j: int
) -> tuple[int, int]:
    """Table and prediction of one sample."""
    m = (sum(own.at(*place(i, j, *each)) for each in NEAREST[step]) + 2) // 4
    row, column = (PARITY[letter] for letter in CODED[step])
    x = []
    for dy, dx in TAPS[step]:
        y, z = row + dy, column + dx
        x.append(own.at("eo"[y % 2] + "eo"[z % 2], i + y // 2, j + z // 2) - m)
    for lattice in earlier:
        centre = lattice.at(CODED[step], i, j)
        x += [value - centre for value in neighbours(lattice, CODED[step], i, j)]
    magnitudes = [abs(value) for value in pairs(x, step, len(earlier))]
    u, v = (sum(w * y for w, y in zip(line, magnitudes, strict=True)) for line in numbers[f"{name}.D"])
    if 2 * u > 5 * v + 480:
        d = 2
    elif 4 * u > 5 * v + 480:
        d = 1
    elif 2 * v > 5 * u + 480:
        d = 4
    else:
        d = 3 if 4 * v > 5 * u + 480 else 0
    p = (sum(w * value for w, value in zip(numbers[f"{name}.L"][d], x, strict=True)) + 320) // 128
    f = p // 4 + m + (earlier[0].at(CODED[step], i, j) if earlier else 0)
    (activity,) = products([numbers[f"{name}.C"][d]], [abs(value) for value in x] + magnitudes)
    t = between(activity // 16, 0, 4095)
    s = sum(threshold <= t for threshold in numbers[f"{name}.T"][0])
    return 4 * s + p % 4 if s < 24 else 72 + s, between(f, 0, 255)


# --- tiles --------------------------------------------------------------------------------------------------


def place(i: int, j: int, phase: str, down: int, right: int) -> tuple[str, int, int]:
    return phase, i + down, j + right


def decode_tile(
    body: bytes, height: int, width: int, channels: int, flips: int, weights: Weights, mode: int = 4
) -> list[list[list[int]]]:
    """Samples [height][width][channels] of a body of mode 4 (tensors of weights) or 5 (`numbers_of`)."""
    offsets: dict[str, int] = {}
    if mode == 4:
        body, offsets, changed = adapted(body, channels, weights)
        weights = {**weights, **changed}
    lanes = Lanes(body, weights["frequencies"])
    shapes = [(height, width)]
    while max(shapes[-1]) > 16:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    known: list[list[Phases]] = []
    planes: list[Rows] = []
    green_base: Rows = []
    for plane in range(channels):
        rows, columns = shapes[-1]
        differences = iter(lanes.stage([120 + plane] * (rows * columns)))
        samples: Rows = []
        for y in range(rows):
            samples.append([])
            for x in range(columns):
                before = samples[y][x - 1] if x else samples[y - 1][0] if y else 0
                samples[y].append((next(differences) + before) % 256)
        if not plane:
            green_base = samples
            values = samples
        else:
            values = [
                [a - b for a, b in zip(mine, green, strict=True)]
                for mine, green in zip(samples, green_base, strict=True)
            ]
        mine_by_level: list[Phases] = []
        for level in range(len(shapes) - 2, -1, -1):
            own = Phases(*shapes[level])
            own.values["ee"] = values
            earlier = [lattices[len(mine_by_level)] for lattices in known]
            for step, phase in CODED.items():
                rows, columns = own.shape(phase)
                if not rows * columns:
                    continue
                name = f"{min(level, 1)}.{plane}.{step}"
                seen = [
                    looked(weights, name, step, own, earlier, i, j, offsets.get(name, 0))
                    if mode == 4
                    else looked_without_nets(weights, name, step, own, earlier, i, j)
                    for i in range(rows)
                    for j in range(columns)
                ]
                symbols = lanes.stage([table for table, _ in seen])
                coded = [(symbol + f) % 256 for symbol, (_, f) in zip(symbols, seen, strict=True)]
                grid = [coded[columns * i : columns * (i + 1)] for i in range(rows)]
                if plane:
                    grid = [
                        [s - earlier[0].at(phase, i, j) for j, s in enumerate(r)] for i, r in enumerate(grid)
                    ]
                own.values[phase] = grid
            values = own.whole()
            mine_by_level.append(own)
        known.append(mine_by_level)
        planes.append(values)
    assert lanes.at_its_end()
    order = [1, 0, 2] if channels == 3 else [0]
    tile = [
        [[planes[p][y][x] + (planes[0][y][x] if p else 0) for p in order] for x in range(width)]
        for y in range(height)
    ]
    if flips & 1:
        tile = tile[::-1]
    return [row[::-1] for row in tile] if flips & 2 else tile
