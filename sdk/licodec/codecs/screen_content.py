"""Tiles that are no photographs (flat art, text, screens, palettes, noise), coded without networks.

    mode, body = best(tile)                              # the smallest of the modes, by effort
    tile = decode(mode, body, tile.shape, tile.dtype)    # exactly the samples encoded

    id  mode      for
    0   raw       noise: never larger than the samples
    1   constant  tiles of one colour
    2   palette   at most 256 colours: their list, and an index for every pixel
    3   lz        text, screens, repeats, gradients: differences, then LZ77

A tile is uint8 or uint16 [height, width, channels], channels 1..4 (grey, grey and alpha, RGB, RGBA), height
and width at least 1. Bodies carry no size, depth, mode or check: these are the file's. SPEC.md has the bytes.

When not to use it: for photographs, which a codec with predictors and an adaptive coder makes far smaller.
`best` sees in a few milliseconds that a tile is none of these, and returns it raw.

    >>> page = np.full((64, 64, 3), 255, np.uint8)
    >>> page[20:24] = 200, 0, 0
    >>> mode, body = best(page)
    >>> mode.name, len(body) < 40, bool((decode(mode, body, page.shape, page.dtype) == page).all())
    ('PALETTE', True, True)
"""

from __future__ import annotations

import heapq
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError, UsageValueError
from lic_format.fields import U8, EnumU8, Table, VarBytes

Tile: TypeAlias = npt.NDArray[Any]
"""Samples [height, width, channels], uint8 or uint16."""
Bytes: TypeAlias = npt.NDArray[np.uint8]


class Mode(IntEnum):
    """How a tile is coded."""

    RAW = 0
    CONSTANT = 1
    PALETTE = 2
    LZ = 3


class Colour(IntEnum):
    """What stands for the colours of a pixel."""

    AS_THEY_ARE = 0
    LESS_GREEN = 1


class Order(IntEnum):
    """How the bytes of samples follow each other."""

    PIXELS = 0
    PLANES = 1


class Filter(IntEnum):
    """What is taken off a sample: bit 0 the difference to the left, bit 1 the one to the row above."""

    NONE = 0
    LEFT = 1
    ABOVE = 2
    PLANE = 3
    ROWS = 4


class Packing(IntEnum):
    """How bytes are packed."""

    STORED = 0
    DEFLATE = 1
    LZMA2 = 2


_FILTER: Final = ("filter", EnumU8(Filter), "what was taken off every sample")
_PACKING: Final = (
    "packing",
    EnumU8(Packing, "stored", "deflate", "LZMA2"),
    "how the rest of the body is packed",
)
LZ: Final = Table(
    "lz",
    (
        ("colour", EnumU8(Colour), "whether green was taken off red and blue"),
        ("order", EnumU8(Order), "how bytes follow each other"),
        _FILTER,
        _PACKING,
    ),
)
COLOURS_MAX: Final = 256
PALETTE: Final = Table(
    "palette",
    (
        ("last", U8(1), "greatest index: colours of the palette less one"),
        ("palette_packing", EnumU8(Packing, "stored", "deflate", "LZMA2"), "how the palette is packed"),
        ("palette", VarBytes(COLOURS_MAX * 4 * 2), "the colours"),
        ("bits", EnumU8({1: "bit", 2: "bits", 4: "bits", 8: "bits"}), "of an index"),
        _FILTER,
        _PACKING,
    ),
)

MODE: Final = Table("tile", (("mode", EnumU8(Mode), "how the tile is coded"),))

EFFORT_MAX: Final = 2
_CHUNK: Final = "DATA"
_DICTIONARY_MIN: Final = 4096
"""Bytes of LZMA2's dictionary where the packed bytes are fewer: the least that LZMA2 takes."""


# --- bodies ---------------------------------------------------------------------------------------


def best(tile: Tile, effort: int = 1) -> tuple[Mode, bytes]:
    """The mode that makes a tile smallest, and its body, which is at most as large as the raw samples.

    effort: 0 the likeliest layout of the likeliest mode; 1 those that quick estimates put first (ten times as
        slow, 10 to 20 % smaller); 2 every layout, also for tiles that look like photographs (half a minute).
    """
    if not 0 <= effort <= EFFORT_MAX:
        raise UsageValueError(f"effort must be in 0..{EFFORT_MAX}, got {effort}", "effort")
    if (tile[0] == tile[0, 0]).all() and (tile == tile[:1]).all():
        return Mode.CONSTANT, encode_constant(tile)
    bodies = [(Mode.RAW, encode_raw(tile))]
    plan = _PLANS[effort]
    few = plan.every_tile or has_few_colours(tile)
    if few and (body := encode_palette(tile, effort)) is not None:
        bodies.append((Mode.PALETTE, body))
    alone = effort == 0 and len(bodies) > 1
    if not alone and (few or looks_drawn(tile)):
        bodies.append((Mode.LZ, encode_lz(tile, effort)))
    return min(bodies, key=lambda body: len(body[1]))


def decode(mode: int, body: bytes | memoryview, shape: tuple[int, int, int], dtype: npt.DTypeLike) -> Tile:
    """The tile of a body: `shape` and `dtype` are those of the tile encoded.

    Raises FormatError where the body is no such tile, UnsupportedError for a mode, filter or packing that a
    later version may define. Memory: a few times the tile and the body, whatever the body says.
    """
    kind = np.dtype(dtype)
    chosen = MODE.read(bytes((mode,)), where=_CHUNK)[0]["mode"]
    return _DECODERS[chosen](bytes(body), shape, kind)


def encode_raw(tile: Tile) -> bytes:
    """The samples as they are."""
    return _ordered(tile, Order.PIXELS)


def decode_raw(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Tile:
    """The tile of a body of mode raw."""
    _expect(len(body), _size(shape, dtype), "raw samples")
    return _samples(np.frombuffer(body, np.uint8), shape, dtype, Order.PIXELS)


def encode_constant(tile: Tile) -> bytes:
    """The one pixel of a tile of one colour."""
    return _ordered(tile[:1, :1], Order.PIXELS)


def decode_constant(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Tile:
    """The tile of a body of mode constant."""
    pixel = (1, 1, shape[2])
    _expect(len(body), _size(pixel, dtype), "a constant pixel")
    return np.broadcast_to(_samples(np.frombuffer(body, np.uint8), pixel, dtype, Order.PIXELS), shape).copy()


def encode_palette(tile: Tile, effort: int = 1) -> bytes | None:
    """The body of mode palette, or None where the tile has one colour or more than 256."""
    found = palette_of(tile)
    if found is None:
        return None
    palette, indices = found
    stored = _ordered(_differences(palette[:, None], Filter.ABOVE), Order.PLANES)
    packing, packed = min(
        (
            (Packing.STORED, stored),
            (Packing.DEFLATE, _deflated(stored)),
            (Packing.LZMA2, _lzma2(stored, _USUAL)),
        ),
        key=lambda pair: len(pair[1]),
    )

    def layouts() -> Iterator[Layout]:
        for bits in _bits_to_try(len(palette), effort):
            rows = _packed_bits(indices, bits)[:, :, None]
            for each in _PLANS[effort].index_filters:
                head = {"last": len(palette) - 1, "palette_packing": packing, "palette": packed, "bits": bits}
                yield Layout(PALETTE, head | {"filter": each}, _filtered(rows, each, Order.PIXELS))

    return _smallest(layouts(), effort)


def decode_palette(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Tile:
    """The tile of a body of mode palette."""
    height, width, channels = shape
    values, start = PALETTE.read(body, where=_CHUNK)
    count, bits = values["last"] + 1, values["bits"]
    if count > 1 << bits:
        raise _damaged(f"a palette of {count} colours, at most {1 << bits} have an index of {bits} bits")
    colours = (count, 1, channels)
    data = _unpacked(values["palette_packing"], values["palette"], _size(colours, dtype), "the palette")
    palette = _samples(data, colours, dtype, Order.PLANES)
    np.cumsum(palette, axis=0, dtype=dtype, out=palette)
    keys = _keys(palette)
    if len(np.unique(keys)) < count:
        raise _damaged(f"a palette of {count} colours has one twice")
    rows = (height, -(-width * bits // 8), 1)
    packed = _unfiltered(
        body[start:], values["packing"], values["filter"], Order.PIXELS, rows, np.dtype(np.uint8)
    )
    indices, padding = _unpacked_bits(packed[:, :, 0], bits, width)
    if padding.any():
        raise _damaged(f"bits beyond the {width} indices of a row are not zero")
    if indices.max() >= count:
        raise _damaged(f"index {indices.max()} in a palette of {count} colours")
    return palette[:, 0].take(indices, axis=0)


def encode_lz(tile: Tile, effort: int = 1) -> bytes:
    """The body of mode lz."""
    plan = _PLANS[effort]
    planar = tile.shape[2] > 1 or tile.itemsize > 1

    def layouts() -> Iterator[Layout]:
        for colour in Colour if tile.shape[2] >= 3 else (Colour.AS_THEY_ARE,):
            samples = _less_green(tile) if colour == Colour.LESS_GREEN else tile
            for order in plan.orders if planar else plan.orders[:1]:
                for each in plan.filters:
                    head = {"colour": colour, "order": order, "filter": each}
                    yield Layout(LZ, head, _filtered(samples, each, order))

    return _smallest(layouts(), effort)


def encode_lz_of_one_filter(tile: Tile) -> bytes:
    """The body of mode lz with the one filter that a quick LZMA2 packs best: for tiles of one channel
    nearly as small as at effort 1, in a fifth of its time."""
    head = {"colour": Colour.AS_THEY_ARE, "order": Order.PIXELS}
    layouts = [Layout(LZ, head | {"filter": each}, _filtered(tile, each, Order.PIXELS)) for each in Filter]
    layout = min(layouts, key=lambda each: len(_lzma2(each.data, _USUAL, quick=True)))
    return _least(layout, [_lzma2(layout.data, _USUAL)])


def decode_lz(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Tile:
    """The tile of a body of mode lz."""
    values, start = LZ.read(body, where=_CHUNK)
    if values["colour"] == Colour.LESS_GREEN and shape[2] < 3:
        raise _damaged(f"green taken off where a pixel has {shape[2]} samples")
    tile = _unfiltered(body[start:], values["packing"], values["filter"], values["order"], shape, dtype)
    if values["colour"] == Colour.LESS_GREEN:
        tile[:, :, 0] += tile[:, :, 1]
        tile[:, :, 2] += tile[:, :, 1]
    return tile


_DECODERS: Final[dict[Mode, Callable[[bytes, tuple[int, int, int], np.dtype[Any]], Tile]]] = {
    Mode.RAW: decode_raw,
    Mode.CONSTANT: decode_constant,
    Mode.PALETTE: decode_palette,
    Mode.LZ: decode_lz,
}


# --- what a tile looks like -----------------------------------------------------------------------


_SAMPLED: Final = 4
"""The guards look at every fourth row, at every fourth column of it where they count colours."""
_DRAWN: Final = 0.4
"""Share of foreseeable pixels above which a tile is tried as drawn. Kodak's pictures stay below 0.37,
screens that show a photograph in a window stay above 0.43."""


def has_few_colours(tile: Tile) -> bool:
    """Whether a palette is worth trying: a sixteenth of the pixels has at most 256 colours, or at most 128
    where a pixel is one byte."""
    most = COLOURS_MAX // 2 if tile.shape[2] * tile.itemsize == 1 else COLOURS_MAX
    return all(  # a part with too many says enough
        len(np.unique(_keys(tile[::step, ::_SAMPLED]))) <= most for step in (4 * _SAMPLED, _SAMPLED)
    )


def looks_drawn(tile: Tile) -> bool:
    """Whether lz is worth trying: 40 % of the pixels equal the left one, the upper one or left + upper -
    upper left, or 40 % of the rows or of the columns equal an earlier one."""
    if tile.shape[0] > 1 and tile.shape[1] > 1:
        upper = tile[:-1:_SAMPLED]
        lower = tile[1::_SAMPLED][: len(upper)]
        pixel, left, above, corner = lower[:, 1:], lower[:, :-1], upper[:, 1:], upper[:, :-1]
        foreseen = _same(pixel, left) | _same(pixel, above) | _same(pixel, left + above - corner)
    else:
        line = tile.reshape(1, -1, tile.shape[2])
        foreseen = _same(line[:, 1:], line[:, :-1])
    return bool(foreseen.size and foreseen.mean() > _DRAWN) or any(
        _repeated(lines) > _DRAWN for lines in (tile, tile.swapaxes(0, 1))
    )


def _same(these: Tile, those: Tile) -> npt.NDArray[np.bool_]:
    """Where pixels are equal [height, width]; channel by channel, which is faster than `all(axis=2)`."""
    same: npt.NDArray[np.bool_] = these[:, :, 0] == those[:, :, 0]
    for channel in range(1, these.shape[2]):
        same &= these[:, :, channel] == those[:, :, channel]
    return same


def _repeated(lines: Tile) -> float:
    """Share of lines (along the first axis) that an earlier one equals at every fourth pixel; too much where
    that is little: then at fewer pixels."""
    for step in (16 * _SAMPLED, _SAMPLED):
        different = {zlib.crc32(line) for line in np.ascontiguousarray(lines[:, ::step])}
        if (share := 1 - len(different) / len(lines)) <= _DRAWN:
            break
    return share


def palette_of(tile: Tile) -> tuple[Tile, Bytes] | None:
    """The colours of a tile, by luma and then by samples in the order of channels, and every pixel's index.

    Returns palette [colours, channels] in the tile's dtype and indices uint8 [height, width], or None where
    the tile has one colour or more than 256.
    """
    keys = _keys(tile)
    if len(np.unique(keys[:: 4 * _SAMPLED])) > COLOURS_MAX:
        return None
    found, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if not 1 < len(found) <= COLOURS_MAX:
        return None
    colours = tile.reshape(-1, tile.shape[2])[first]
    wide = colours.astype(np.int64)
    luma = 2 * wide[:, 0] + 5 * wide[:, 1] + wide[:, 2] if tile.shape[2] >= 3 else wide[:, 0]
    order = np.lexsort((*wide.T[::-1], luma))
    rank = np.empty(len(found), np.uint8)
    rank[order] = np.arange(len(found))
    return colours[order], rank[inverse.reshape(tile.shape[:2])]


def _keys(tile: Tile) -> npt.NDArray[np.uint64]:
    """A number [height x width] for each pixel [height, width, channels], different for different pixels."""
    keys = np.zeros(tile.shape[:2], np.uint64)
    for channel in range(tile.shape[2]):
        keys <<= np.uint64(8 * tile.itemsize)
        keys |= tile[:, :, channel]
    return keys.ravel()


# --- samples and bytes ----------------------------------------------------------------------------


def _size(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _less_green(tile: Tile) -> Tile:
    """Red and blue less green, modulo 2^depth."""
    out = tile.copy()
    out[:, :, 0] -= tile[:, :, 1]
    out[:, :, 2] -= tile[:, :, 1]
    return out


def _differences(tile: Tile, how: Filter) -> Tile:
    """Samples less their left neighbour, or the upper, or both, modulo 2^depth; zeros outside."""
    if how & Filter.ABOVE:
        tile = np.diff(tile, axis=0, prepend=np.zeros_like(tile[:1]))
    if how & Filter.LEFT:
        tile = np.diff(tile, axis=1, prepend=np.zeros_like(tile[:, :1]))
    return tile


def _filtered(tile: Tile, how: Filter, order: Order) -> bytes:
    """The bytes of a filtered tile; where rows choose their filters, these first."""
    if how != Filter.ROWS:
        return _ordered(_differences(tile, how), order)
    signed = np.int8 if tile.itemsize == 1 else np.int16
    rows = np.stack([_differences(tile, each) for each in _ROW_FILTERS])
    costs = np.abs(rows.view(signed).astype(np.int32)).sum(axis=(2, 3))
    chosen: npt.NDArray[np.intp] = costs.argmin(axis=0)
    return chosen.astype(np.uint8).tobytes() + _ordered(rows[chosen, np.arange(len(tile))], order)


_ROW_FILTERS: Final = (Filter.NONE, Filter.LEFT, Filter.ABOVE, Filter.PLANE)


def _unfiltered(
    body: bytes,
    packing: Packing,
    how: Filter,
    order: Order,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
) -> Tile:
    """Inverse of `_filtered` and a packing."""
    size = _size(shape, dtype)
    rows = shape[0] if how == Filter.ROWS else 0
    data = _unpacked(packing, body, rows + size, "the samples")
    tile = _samples(data[rows:], shape, dtype, order)
    if how != Filter.ROWS:
        if how & Filter.LEFT:
            np.cumsum(tile, axis=1, dtype=dtype, out=tile)
        if how & Filter.ABOVE:
            np.cumsum(tile, axis=0, dtype=dtype, out=tile)
        return tile
    filters = data[:rows]
    if filters.max() > max(_ROW_FILTERS):
        raise _damaged(f"row filter {filters.max()}, expected 0..{max(_ROW_FILTERS)}")
    left = np.flatnonzero(filters & Filter.LEFT)
    tile[left] = np.cumsum(tile[left], axis=1, dtype=dtype)
    for row in np.flatnonzero(filters[1:] & Filter.ABOVE) + 1:
        tile[row] += tile[row - 1]
    return tile


def _ordered(tile: Tile, order: Order) -> bytes:
    """The bytes of samples, high ones first: pixel by pixel, or the first ones of all pixels and so on."""
    data = _bytes_of_pixels(tile)
    return (data if order == Order.PIXELS else data.transpose(2, 0, 1)).tobytes()


def _bytes_of_pixels(tile: Tile) -> Bytes:
    """[height, width, bytes of a pixel], big-endian."""
    big = np.ascontiguousarray(tile, tile.dtype.newbyteorder(">"))
    return big.view(np.uint8).reshape(*tile.shape[:2], -1)


def _samples(data: Bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], order: Order) -> Tile:
    """Inverse of `_ordered`, in memory of its own."""
    height, width, channels = shape
    if order == Order.PLANES:
        data = data.reshape(channels * dtype.itemsize, height, width).transpose(1, 2, 0)
    big = np.ascontiguousarray(data).reshape(-1).view(dtype.newbyteorder(">"))
    return big.reshape(shape).astype(dtype)


def _bits_to_try(colours: int, effort: int) -> list[int]:
    """Numbers of bits of an index: from the fewest that hold all colours."""
    bits = [bits for bits in (1, 2, 4, 8) if colours <= 1 << bits]
    return bits if effort else bits[:1]


def _packed_bits(indices: Bytes, bits: int) -> Bytes:
    """Indices [height, width] in rows of bytes, the first in the highest bits; zeros fill the last byte."""
    each = 8 // bits
    padded = np.pad(indices, ((0, 0), (0, -indices.shape[1] % each)))
    out = np.zeros((len(padded), padded.shape[1] // each), np.uint8)
    for place in range(each):
        out |= padded[:, place::each] << np.uint8(8 - bits * (place + 1))
    return out


def _unpacked_bits(rows: Bytes, bits: int, width: int) -> tuple[Bytes, Bytes]:
    """The indices [height, width] of packed rows, and what stands behind them in each row."""
    each = 8 // bits
    out = np.empty((len(rows), rows.shape[1] * each), np.uint8)
    for place in range(each):
        out[:, place::each] = rows >> np.uint8(8 - bits * (place + 1)) & np.uint8((1 << bits) - 1)
    return out[:, :width], out[:, width:]


# --- packing --------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """One way of writing a tile: the fields before `packing`, and the bytes to pack."""

    table: Table
    head: dict[str, Any]
    data: bytes

    def body(self, packing: Packing, packed: bytes) -> bytes:
        return self.table.write(self.head | {"packing": packing}) + packed


class Literals(NamedTuple):
    """What chooses LZMA's probabilities: bits of the byte before (lc) and of the position (lp) those of bytes
    that no repeat covers, bits of the position (pb) those of everything else."""

    lc: int
    lp: int
    pb: int


class Plan(NamedTuple):
    """What an effort tries."""

    every_tile: bool
    """Whether tiles that look like photographs are tried too."""
    orders: tuple[Order, ...]
    filters: tuple[Filter, ...]
    index_filters: tuple[Filter, ...]


_PLANS: Final = (
    Plan(False, (Order.PIXELS,), (Filter.NONE, Filter.ROWS), (Filter.NONE,)),
    Plan(False, tuple(Order), tuple(Filter), tuple(Filter)),
    Plan(True, tuple(Order), tuple(Filter), tuple(Filter)),
)
_USUAL: Final = Literals(3, 0, 0)
_ALTERNATIVES: Final = (
    Literals(4, 0, 0),
    Literals(0, 0, 0),
    Literals(0, 2, 0),
    Literals(3, 0, 1),
    Literals(2, 2, 2),
)
_EVERY_LITERALS: Final = tuple(
    Literals(lc, lp, pb) for lp in range(3) for lc in range(5 - lp) for pb in range(3)
)
_SMALL: Final = 2048
"""Packed bytes below which deflate may be smaller than LZMA2, whose probabilities start at one half."""


def _smallest(layouts: Iterable[Layout], effort: int) -> bytes:
    """The smallest body that an effort finds."""
    search = (_smallest_of_the_likeliest, _smallest_of_the_likely, _smallest_of_all)[effort]
    return search(layouts)


def _smallest_of_the_likeliest(layouts: Iterable[Layout]) -> bytes:
    """The body of the layout that a quick deflate packs best."""
    layout = min(layouts, key=_quickly_deflated)
    return _least(layout, [_lzma2(layout.data, _USUAL, quick=len(layout.data) > _SHORT)])


def _smallest_of_the_likely(layouts: Iterable[Layout]) -> bytes:
    """The smallest body of the layouts that a quick deflate and then a quick LZMA2 leave over.

    Deflate judges layouts of an equal number of bytes only: it takes long runs for far more than LZMA2 does.
    """
    groups: dict[int, list[tuple[int, Layout]]] = {}
    for layout in layouts:
        groups.setdefault(layout.head.get("bits", 0), []).append((_quickly_deflated(layout), layout))
    ranked = []
    for group in groups.values():
        for _, layout in heapq.nsmallest(_DEFLATED_KEPT, group, key=_size_of_pair):
            ranked.append((len(_lzma2(layout.data, _USUAL, quick=True)), layout))
    ranked.sort(key=_size_of_pair)
    kept = _FINALISTS if ranked[0][0] > _CHEAP else 2 * _FINALISTS
    tried = [(layout, _lzma2(layout.data, _USUAL)) for _, layout in ranked[:kept]]
    layout = min(tried, key=lambda pair: len(pair[1]))[0]
    literals = min(_ALTERNATIVES, key=lambda literals: len(_lzma2(layout.data, literals, quick=True)))
    finalists = [_least(one, [packed]) for one, packed in tried]
    return min(*finalists, _least(layout, [_lzma2(layout.data, literals)]), key=len)


def _quickly_deflated(layout: Layout) -> int:
    return len(_deflated(layout.data, _QUICK_LEVEL))


def _size_of_pair(pair: tuple[int, Layout]) -> int:
    return pair[0]


def _smallest_of_all(layouts: Iterable[Layout]) -> bytes:
    """The smallest body of all layouts in all packings; parameters of LZMA2 are tried on the best two."""
    bodies = []
    ranked = []
    for layout in layouts:
        packed = _lzma2(layout.data, _USUAL)
        bodies.append(_least(layout, [packed], always=True))
        ranked.append((len(packed), layout))
    for _, layout in heapq.nsmallest(2, ranked, key=_size_of_pair):
        bodies.append(_least(layout, (_lzma2(layout.data, literals) for literals in _EVERY_LITERALS)))
    return min(bodies, key=len)


def _least(layout: Layout, lzma2: Iterable[bytes], *, always: bool = False) -> bytes:
    """The smallest body of a layout: LZMA2 as given, deflate where that may be smaller, or stored."""
    packed = [(Packing.LZMA2, each) for each in lzma2] + [(Packing.STORED, layout.data)]
    if always or min(len(each) for _, each in packed) < _SMALL:
        packed.append((Packing.DEFLATE, _deflated(layout.data)))
    return layout.body(*min(packed, key=lambda pair: len(pair[1])))


_QUICK_LEVEL: Final = 1
_DEFLATED_KEPT: Final = 5
"""Layouts of an equal number of bytes that go on from deflate to LZMA2 at effort 1."""
_FINALISTS: Final = 3
"""Of those, layouts that go on to LZMA2's thorough search; twice as many where that costs little."""
_CHEAP: Final = 1 << 13
"""Packed bytes of a tile that is searched thoroughly in little time."""
_SHORT: Final = 1 << 16
"""Bytes for which LZMA2's thorough search is quick enough for effort 0."""


def _deflated(data: bytes, level: int = 9) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return packer.compress(data) + packer.flush()


def _lzma2(data: bytes, literals: Literals, *, quick: bool = False) -> bytes:
    """LZMA2 without a container; its chunks say which parameters they were coded with."""
    search = {"preset": 3} if quick else {"preset": 6, "nice_len": 273}
    chain = {"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(len(data)), **literals._asdict(), **search}
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[chain])


def _dictionary(size: int) -> int:
    """LZMA2's dictionary for so many unpacked bytes: all of them."""
    return max(_DICTIONARY_MIN, size)


def _unpacked(packing: Packing, packed: bytes, size: int, what: str) -> Bytes:
    """The `size` bytes that were packed; not one more is unpacked than shows that there are more."""
    if packing == Packing.STORED:
        data, ended, rest = packed, True, 0
    else:
        unpacker: Any
        if packing == Packing.DEFLATE:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        else:
            chain = [{"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(size)}]
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)
        try:
            data = unpacker.decompress(packed, size + 1)
        except (zlib.error, lzma.LZMAError) as error:
            raise _damaged(f"{what} are no {packing.name} stream: {error}") from None
        ended, rest = unpacker.eof, len(unpacker.unused_data)
    _expect(len(data), size, what)
    if not ended:
        raise _damaged(f"the {packing.name} stream of {what} is cut off")
    if rest:
        raise _damaged(f"{rest} bytes stand behind the {packing.name} stream of {what}")
    return np.frombuffer(data, np.uint8)


def _expect(found: int, expected: int, what: str) -> None:
    if found != expected:
        number = f"more than {expected}" if found > expected else f"{found}"
        raise _damaged(f"{number} bytes of {what}, expected {expected}")


def _damaged(reason: str) -> FormatError:
    return FormatError(reason, chunk=_CHUNK)
