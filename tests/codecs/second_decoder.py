"""A second decoder of fhic's symbols, written from SPEC.md alone: NumPy in int64 and plain Python.

It reads the container with the second reader of tests/format and shares no line with licodec; the only files
of the project that it opens are the two that SPEC.md names, the table set and the weights. Names and order
follow SPEC.md: "Entropy stream", then "Codec fhic" up to "From symbols to pixels".

    q, z = Decoder(weights_file.read_bytes(), tables_file.read_bytes()).decode(lic_bytes)
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.format.second_reader import Cursor, InvalidFile, read_file

Integers = npt.NDArray[np.int64]
NOT_CODED = 255


# --- Entropy stream


@dataclass(frozen=True)
class Table:
    """L, and C of every entry with 2^24 at the end."""

    limit: int
    cumulative: list[int]


def read_table_set(data: bytes) -> list[Table]:
    """A table set in its canonical form."""
    cursor = Cursor(data, InvalidFile)
    cursor.fixed(1)
    limits = [0] * cursor.fixed(2)
    limits = [cursor.fixed(1) for _ in limits]
    tables = []
    for limit in limits:
        frequencies = [cursor.fixed(2) for _ in range(2 * limit + 2)]
        assert min(frequencies) >= 1 and sum(frequencies) == 65536
        tables.append(Table(limit, [256 * c for c in accumulate(frequencies, initial=0)]))
    assert not cursor.rest()
    return tables


class Stream:
    """A body of kind 0: `pop` gives the symbols in decoding order, `finish` checks the seal."""

    def __init__(self, body: bytes, tables: list[Table]) -> None:
        cursor = Cursor(body, InvalidFile)
        self.escapes = Cursor(cursor.octets(cursor.varint()), InvalidFile)
        words = cursor.rest()
        self.words = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
        self.tables, self.state, self.coded = tables, 0, bytearray()
        self.refill()

    def refill(self) -> None:
        while self.words and self.state < 2**32:
            self.state = self.state * 2**32 + self.words.pop()

    def pass_(self, index: list[int]) -> list[int]:
        """Symbols of one pass, 0 where the index says not coded."""
        symbols = [0] * len(index)
        grouped = sorted((table, position) for position, table in enumerate(index) if table != NOT_CODED)
        for table, position in grouped:
            symbols[position] = self.pop(self.tables[table])
            self.coded += symbols[position].to_bytes(2, "little", signed=True)
        return symbols

    def pop(self, table: Table) -> int:
        v = self.state % 2**24
        entry = bisect.bisect_right(table.cumulative, v) - 1
        low, high = table.cumulative[entry : entry + 2]
        self.state = (self.state // 2**24) * (high - low) + v - low
        self.refill()
        return entry - table.limit if entry <= 2 * table.limit else self.escape(table.limit)

    def escape(self, limit: int) -> int:
        before = self.escapes.at
        number = self.escapes.varint()
        size = number // 2 + limit + 1
        if self.escapes.at - before > 3 or size > 32767:
            raise InvalidFile("escape")
        return -size if number % 2 else size

    def finish(self) -> None:
        if self.escapes.rest() or self.words or self.state != 2**32 + zlib.crc32(bytes(self.coded)):
            raise InvalidFile("the stream does not verify")


# --- Weights


@dataclass(frozen=True)
class Tensor:
    dtype: str
    values: Any
    raw: bytes


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, integers as int64 arrays and floats left as they are; and the metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    forms = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "I32": "<i4"}
    tensors = {}
    for name, row in header.items():
        start, end = row["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        form = forms.get(row["dtype"])
        values = np.zeros(row["shape"], np.int8)  # floats: the shape alone
        if form:
            values = np.frombuffer(raw, form).astype(np.int64).reshape(row["shape"])
        tensors[name] = Tensor(row["dtype"], values, raw)
    return tensors, metadata


def decode_digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """SPEC.md, Digests: the decode part."""
    message = hashlib.sha256()
    for name in sorted(tensors, key=lambda name: name.encode()):
        if not name.startswith(("synthesis.", "encoder.")):
            tensor = tensors[name]
            message.update(name.encode() + b"\0" + tensor.dtype.encode() + b"\0")
            for number in (tensor.values.ndim, *tensor.values.shape):
                message.update(number.to_bytes(4, "little"))
            message.update(tensor.raw)
    for key in ("architecture", "tables"):
        message.update(key.encode() + b"\0" + metadata[key].encode() + b"\0")
    return message.digest()[:16]


# --- Integer networks


@dataclass(frozen=True)
class Layer:
    name: str
    weight: Integers
    bias: Integers
    multiplier: Integers
    shift: Integers

    def check_bound(self) -> None:
        bound = 127 * np.abs(self.weight).sum(axis=(1, 2, 3)) + np.abs(self.bias).max(axis=0)
        assert bound.max() < 2**24 and np.abs(self.weight).max() <= 127
        assert self.multiplier.min() >= 16384 and self.multiplier.max() <= 32767
        assert self.shift.min() >= 0 and self.shift.max() <= 30

    @property
    def top(self) -> int:
        scale_index = re.fullmatch(r"direct\.1|scale\.\d+\.\d+\.1|serial\.scale\.\d+\.1", self.name)
        return 63 if scale_index else 127

    def acc(self, x: Integers, rate: int) -> Integers:
        """Sums [out, h, w] of integers [in, h, w]."""
        j, f = rate // 16, rate % 16
        bias = (self.bias[j] * (16 - f) + self.bias[j + 1] * f) // 16
        k = self.weight.shape[2]
        padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, x.shape[1] * x.shape[2])
        sums = self.weight.reshape(len(self.weight), -1) @ columns
        result: Integers = sums.reshape(-1, *x.shape[1:]) + bias[:, None, None]
        return result

    def __call__(self, x: Integers, rate: int) -> Integers:
        scaled = self.acc(x, rate) * self.multiplier[:, None, None]
        shift = self.shift[:, None, None]
        half = np.where(shift > 0, 2 ** np.maximum(shift - 1, 0), 0)
        result: Integers = ((scaled + half) // 2**shift).clip(0, self.top)
        return result


def shuffle(x: Integers) -> Integers:
    """4 C channels into C channels at twice the height and width."""
    c, h, w = x.shape[0] // 4, x.shape[1], x.shape[2]
    out = np.empty((c, 2 * h, 2 * w), np.int64)
    for dy in range(2):
        for dx in range(2):
            out[:, dy::2, dx::2] = x[(2 * dy + dx) * c : (2 * dy + dx + 1) * c]
    return out


def in_lattice(level: int, row: int, column: int) -> bool:
    step = 2 ** (level // 2)
    if row % step or column % step:
        return False
    return level % 2 == 0 or (row + column) // step % 2 == 0


def level_of(magnitude: int) -> int:
    """The level of a symbol of this magnitude."""
    n, v = 1 + min(magnitude, 255), 0
    while v < 127 and 2 ** (2 * v + 1) <= n**32:
        v += 1
    return v


LEVELS = np.array([level_of(magnitude) for magnitude in range(256)], np.int64)


def known_inputs(channels: int, low: int) -> list[Integers]:
    x, values = 2026, []
    for _ in range(channels * 24 * 16):
        x = (6364136223846793005 * x + 1442695040888963407) % 2**64
        values.append(low + x // 2**33 % (128 - low))
    mixed = np.array(values, np.int64).reshape(channels, 24, 16)
    return [mixed, np.full((channels, 6, 6), 127), np.full((channels, 6, 6), low)]


# --- Codec fhic


def skipped_channels(mode: int, channels: bytes, m: int) -> set[int]:
    """Skipped channels; InvalidFile where the list is not the one for them."""
    skipped = set[int]()
    cursor = Cursor(channels, InvalidFile)
    if mode == 4:
        if len(channels) != (m + 7) // 8:
            raise InvalidFile("bitmap of another length")
        skipped = {c for c in range(8 * len(channels)) if channels[c // 8] >> c % 8 & 1}
        if skipped and max(skipped) >= m:
            raise InvalidFile("bits beyond the last channel")
    elif mode:
        first = cursor.varint(0, m if mode == 2 else m - 1)
        skipped = set(range(first, m))
        last = first - 1 if mode == 3 else -1
        while cursor.at < len(channels):
            if mode == 1:
                raise InvalidFile("a suffix with a list")
            last += cursor.varint() + 1
            if last >= (first if mode == 2 else m):
                raise InvalidFile("a listed channel that is not there")
            skipped ^= {last}
    if ways_to_list(skipped, m)[0] != (len(channels), mode, channels):
        raise InvalidFile("not the shortest list")
    return skipped


def ways_to_list(skipped: set[int], m: int) -> list[tuple[int, int, bytes]]:
    """(bytes, mode, channels) of all ways, the one to take first."""
    if not skipped:
        return [(0, 0, b"")]
    first, tail = min(skipped), m
    while tail and tail - 1 in skipped:
        tail -= 1
    below = [c for c in sorted(skipped) if c < tail]
    kept = [c for c in range(first, m) if c not in skipped]
    bitmap = sum(1 << c for c in skipped).to_bytes((m + 7) // 8, "little")
    ways = {
        2: varint(tail) + b"".join(varint(b - a - 1) for a, b in zip([-1, *below], below, strict=False)),
        3: varint(first)
        + b"".join(varint(b - a - 1) for a, b in zip([first - 1, *kept], kept, strict=False)),
        4: bitmap,
    }
    if not below and tail < m:
        ways[1] = varint(tail)
    return sorted((len(channels), mode, channels) for mode, channels in ways.items())


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


class Decoder:
    """Symbols of files coded with these weights."""

    def __init__(self, weights: bytes, tables: bytes) -> None:
        self.tensors, self.metadata = read_safetensors(weights)
        assert self.metadata["tables"] == hashlib.sha256(tables).hexdigest()
        self.tables = read_table_set(tables)
        sizes = json.loads(self.metadata["architecture"])
        self.groups, self.depths, self.hyper = sizes["groups"], sizes["depths"], sizes["hyper"]
        names = sorted({name.rpartition(".")[0] for name in self.tensors if name.startswith("exact.")})
        self.layers = {}
        for name in names:
            parts = [
                self.tensors[f"{name}.{part}"].values for part in ("weight", "bias", "multiplier", "shift")
            ]
            self.layers[name.removeprefix("exact.")] = Layer(name.removeprefix("exact."), *parts)
        for layer in self.layers.values():
            layer.check_bound()

    def check_known_answers(self) -> None:
        answers = json.loads(self.metadata["known_answers"])
        assert set(answers) == set(self.layers)
        for name, layer in self.layers.items():
            crc = 0
            for x in known_inputs(layer.weight.shape[1], -127 if name == "hyper.0" else 0):
                crc = zlib.crc32(layer.acc(x, 137).astype("<i4").tobytes(), crc)
            assert crc == answers[name], name

    def decode(self, data: bytes) -> tuple[Integers, Integers]:
        """(z, q) of a file; InvalidFile or NewerFile where it is not one."""
        file = read_file(data)
        head, units = file["head"], file["units"]
        assert head["codec"] == "fhic"
        assert head["decode_digest"] == decode_digest(self.tensors, self.metadata)
        if head["order"] == 2 and "serial.family" not in self.tensors:
            raise InvalidFile("an order that these weights do not have")
        side = Cursor(head["side_info"], InvalidFile)
        mode = [side.listed(known) for known in ((1,), (1,), (0, 1, 2, 3, 4), (0,), (0,))][2]
        skipped = skipped_channels(mode, side.rest(), sum(self.groups))
        if head["order"] == 2 and skipped:
            raise InvalidFile("channels left out in order 2")
        self.skipped = np.array([c in skipped for c in range(sum(self.groups))])
        if len(units) != 1 or units[0][:2] != (0, b""):
            raise InvalidFile("not one unit of kind 0 without side info")
        self.rate, self.order = head["rate"], head["order"]
        stream = Stream(units[0][2], self.tables)
        h, w = max(4, -(-head["height"] // 16)), max(4, -(-head["width"] // 16))
        z = self.hyper_latents(stream, -(-h // 4), -(-w // 4))
        q = self.latents(stream, self.features(z)[:, :h, :w])
        stream.finish()
        return z, q

    def run(self, name: str, x: Integers) -> Integers:
        return self.layers[name](x, self.rate)

    def hyper_latents(self, stream: Stream, rows: int, columns: int) -> Integers:
        k = (self.rate + 8) // 16
        index = self.tensors["prior.index"].values[k]
        coded = stream.pass_([int(i) for i in np.repeat(index, rows * columns)])
        offset = self.tensors["prior.offset"].values[k]
        z: Integers = np.array(coded, np.int64).reshape(self.hyper, rows, columns) + offset[:, None, None]
        return z

    def features(self, z: Integers) -> Integers:
        f = self.run("hyper.0", z.clip(-127, 127))
        f = shuffle(self.run("hyper.1", f))
        return shuffle(self.run("hyper.2", f))

    def latents(self, stream: Stream, features: Integers) -> Integers:
        h, w = features.shape[1:]
        q = np.zeros((sum(self.groups), h, w), np.int64)
        if self.order == 0:
            scale = self.run("direct.1", self.run("direct.0", features))
            self.fill(stream, q, slice(None), np.ones((h, w), bool), scale)
            return q
        first = 0
        for g, width in enumerate(self.groups):
            part = slice(first, first + width)
            first += width
            base = self.base(g, features, q)
            if self.order == 2:
                self.serial(stream, g, base, q[part])
                continue
            done = np.zeros((h, w), bool)
            for n in range(self.depths[g] + 1):
                level = self.depths[g] - n
                seen = base
                if n:
                    s = 2 ** (level // 2)
                    taps = np.zeros((self.layers[f"taps.{g}.{n}"].weight.shape[0], h, w), np.int64)
                    taps[:, ::s, ::s] = self.run(f"taps.{g}.{n}", self.projection(g, q, done)[:, ::s, ::s])
                    seen = np.concatenate([base, taps])
                scale = self.run(f"scale.{g}.{n}.1", self.run(f"scale.{g}.{n}.0", seen))
                now = np.array([[in_lattice(level, row, c) for c in range(w)] for row in range(h)]) & ~done
                self.fill(stream, q, part, now, scale)
                done |= now
        return q

    def base(self, g: int, features: Integers, q: Integers) -> Integers:
        if g == 0:
            return features
        known = np.concatenate([self.projection(i, q, np.ones(q.shape[1:], bool)) for i in range(g)])
        return np.concatenate([features, self.run(f"{self.own}context.{g}", known)])

    def projection(self, g: int, q: Integers, where: npt.NDArray[np.bool_]) -> Integers:
        first = sum(self.groups[:g])
        level = LEVELS[np.minimum(np.abs(q[first : first + self.groups[g]]), 255)]
        return self.run(f"{self.own}project.{g}", level * where)

    @property
    def own(self) -> str:
        """What names of the layers that look at symbols begin with."""
        return "serial." if self.order == 2 else ""

    def serial(self, stream: Stream, g: int, base: Integers, q: Integers) -> None:
        """Read a group in order 2, its positions one at a time."""
        h, w = base.shape[1:]
        family = self.tensors["serial.family"].values[sum(self.groups[:g]) :][: len(q)]
        seen = np.zeros((self.layers[f"serial.project.{g}"].weight.shape[0], h + 2, w + 4), np.int64)
        for d in range(w + 3 * (h - 1)):
            here = [(row, d - 3 * row) for row in range(h) if 0 <= d - 3 * row < w]
            index = []
            for row, column in here:
                window = seen[:, row : row + 3, column : column + 5].reshape(len(seen), 15)[:, :12]
                taps = self.run(f"serial.taps.{g}", window.T.reshape(-1, 1, 1))
                x = np.concatenate([base[:, row, column, None, None], taps])
                scale = self.run(f"serial.scale.{g}.1", self.run(f"serial.scale.{g}.0", x))[:, 0, 0]
                index.append(np.where(scale > 0, scale + 64 * family, NOT_CODED))
            symbols = stream.pass_([int(i) for i in np.array(index).T.reshape(-1)])
            for n, (row, column) in enumerate(here):
                q[:, row, column] = symbols[n :: len(here)]
                level = LEVELS[np.minimum(np.abs(q[:, row, column]), 255)]
                found = self.run(f"serial.project.{g}", level[:, None, None])
                seen[:, row + 2, column + 2] = found[:, 0, 0]

    def fill(
        self, stream: Stream, q: Integers, part: slice, where: npt.NDArray[np.bool_], scale: Integers
    ) -> None:
        """Read one pass of the latents into q; `scale` holds the scale indices of these channels."""
        family = self.tensors["family.context" if self.order else "family.direct"].values[part]
        coded = where & (scale > 0) & ~self.skipped[part, None, None]
        index = np.where(coded, scale + 64 * family[:, None, None], NOT_CODED)
        symbols = np.array(stream.pass_([int(i) for i in index.reshape(-1)]), np.int64)
        q[part] = np.where(where, symbols.reshape(index.shape), q[part])
