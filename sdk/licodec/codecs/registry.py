"""Which codecs there are, and what can be said of their files without torch, NumPy or weights.

Side-info tables are declared here: `inspect` shows every field, SPEC.md prints the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lic_format.container import CODEC_BYTES, LANES, SEALED_ANS, Part, Unit
from lic_format.errors import FormatError, UnsupportedError
from lic_format.fields import U8, U32, EnumU8, Rest, Table, VarBytes
from lic_format.header import Depth, Head, Order
from lic_format.limits import MAX_SIDE_INFO


@dataclass(frozen=True)
class CodecEntry:
    """One codec: token in files, module that codes, tag that encodes, and how its side info reads.

    `precheck(head, units)` raises FormatError or UnsupportedError for what no weights are needed to refuse.
    `lossless`: decoding gives the samples that were encoded; the models are `contract.LosslessModel`s, and a
    `digest` in the side info is that of `Picture.digest`. `reductions`: to which parts of its size it decodes
    a picture in less time. `regions`: how parts of a picture are decoded without the rest, where they can be.
    `depths`: bits a sample of its pictures. `layouts`: further tables of side info, with the layout id that
    begins them. `order_tags`: tags that encode in the decode orders among which its pictures have a choice;
    `tune_tags`: those for what files are made good by.
    `alternates`: decoders beside "fast" whose synthesis a caller may ask for, with the modules that know
    them.
    """

    token: str
    module: str
    default_tag: str
    side_info: Table
    title: str
    precheck: Callable[[Head, Sequence[Unit]], None]
    lossless: bool = False
    reductions: tuple[int, ...] = ()
    regions: Regions | None = None
    depths: tuple[int, ...] = (8,)
    layouts: tuple[tuple[int, Table], ...] = ()
    order_tags: Mapping[Order, str] = field(default_factory=dict)
    tune_tags: Mapping[str, str] = field(default_factory=dict)
    alternates: Mapping[str, str] = field(default_factory=dict)

    def read_side_info(self, payload: bytes) -> dict[str, Any]:
        """HEAD's side info, by the table of its layout; FormatError or UnsupportedError where it is none."""
        table = next(
            (table for layout, table in self.layouts if payload[:1] == bytes((layout,))), self.side_info
        )
        return table.read_whole(payload, where="HEAD")


@dataclass(frozen=True)
class Regions:
    """How parts of a codec's pictures are decoded without the rest.

    `units(head, area)`: the numbers of the units that show an area which lies inside the picture.
    `precheck(part)`: as of `CodecEntry`. Both raise FormatError.
    """

    units: Callable[[Head, Area], Container[int]]
    precheck: Callable[[Part], None]


Area = tuple[slice, slice]
"""Rows and columns of a picture."""


FHIC_SIDE_INFO = Table(
    "fhic side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("tables", EnumU8({1: "Gauss, Student t8, Laplace"}), "table set of the symbols"),
        (
            "channel_skip",
            EnumU8({0: "none", 1: "suffix", 2: "skipped", 3: "kept", 4: "bitmap"}),
            "how channels without symbols are listed",
        ),
        ("tiling", EnumU8({0: "one unit"}), "0: the whole picture is one unit; others reserved"),
        (
            "hyper_prior",
            EnumU8({0: "one a rate"}),
            "prior of the hyper-latents; 1: a bank per position, reserved",
        ),
        ("channels", Rest(MAX_SIDE_INFO - 5), "those channels, as channel_skip says"),
    ),
)

FHIC_HYPER_CELL = 64
FHIC_HYPER = 96
"""Channels at each cell in preset s. A tag with more can only make the cheapest-symbol test milder than it
could be."""
FHIC_CHEAPEST_BITS = 6.6e-5
"""No symbol of table set 1 is cheaper (the largest frequency is 65533 of 65536)."""
FHIC_ORDERS = (Order.ONE_STEP, Order.CHECKERBOARD, Order.SERIAL)

FHIC_CELL, FHIC_GRID_MIN = 16, 4
"""Pixels of a latent position each way, and the fewest positions each way."""
FHIC_FRONTS_MAX = 2**14
"""Wavefronts of a group in order 2. Each takes its time however few positions it has, so a strip of many
pixels would take hours."""


def fhic_fronts(width: int, height: int) -> int:
    """Wavefronts of a group of channels in order 2."""
    h, w = (max(FHIC_GRID_MIN, -(-side // FHIC_CELL)) for side in (height, width))
    return w + 3 * (h - 1)


def fhic_symbols(width: int, height: int) -> int:
    """Symbols of a picture that are coded for certain: its hyper-latents. They follow from its size alone."""
    return -(-width // FHIC_HYPER_CELL) * -(-height // FHIC_HYPER_CELL) * FHIC_HYPER


def _precheck_fhic(head: Head, units: Sequence[Unit]) -> None:
    side = FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD")
    if bool(side["channels"]) != bool(side["channel_skip"]):
        raise FormatError(
            f"fhic: channel_skip is {side['channel_skip']}, with {len(side['channels'])} bytes of channels",
            chunk="HEAD",
        )
    if head.order not in FHIC_ORDERS:
        raise UnsupportedError(f"fhic: decode order {int(head.order)} is not supported by this version")
    fronts = fhic_fronts(head.width, head.height)
    if head.order == Order.SERIAL and fronts > FHIC_FRONTS_MAX:
        raise FormatError(
            f"fhic: {head.width} x {head.height} pixels are {fronts} wavefronts of order 2, at most "
            f"{FHIC_FRONTS_MAX} are expected",
            chunk="HEAD",
        )
    if head.lossless or not head.tag:
        raise FormatError(
            "fhic is lossy and needs weights, but HEAD says lossless or names none", chunk="HEAD"
        )
    if len(units) != 1:
        raise FormatError(f"fhic: {len(units)} DATA chunks, expected 1", chunk="DATA")
    unit = units[0]
    if unit.kind != SEALED_ANS or unit.side_info:
        raise FormatError(
            f"fhic: DATA of kind {unit.kind} with {len(unit.side_info)} bytes of side info, "
            "expected kind 0 without",
            chunk="DATA",
        )
    symbols = fhic_symbols(head.width, head.height)
    need = symbols * FHIC_CHEAPEST_BITS * 0.99 / 8
    if need > len(unit.body):
        raise FormatError(
            f"fhic: {head.width} x {head.height} pixels are {symbols} symbols, at least {need:.0f} bytes; "
            f"DATA has {len(unit.body)}",
            chunk="DATA",
        )


PILC_SIDE_INFO = Table(
    "pilc side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("columns", U8(0, 24), "tiles are 2^columns pixels wide"),
        ("rows", U8(0, 24), "and 2^rows pixels high; those at the right and lower edge are smaller"),
        ("digest", VarBytes(16), "none, or 16 bytes: BLAKE2b-128 of all samples, row by row"),
    ),
)
PILC_DEEP_SIDE_INFO = Table(
    "pilc side info",
    (
        ("layout", EnumU8({2: "this layout"}), "layout id of this table"),
        *PILC_SIDE_INFO.rows[1:],
        ("bits", U8(1, 16), "of a stored sample u"),
        ("shift", U8(0, 15), "u 2^shift is the sample"),
        ("repeated", EnumU8({0: "no", 1: "yes"}), "whether the highest bits of u follow as the lowest ones"),
    ),
)
"""What stands in HEAD where samples have 16 bits."""
LATTICE, LATTICE0, THREEWAY, DEEP = 4, 5, 6, 7
LANE_MODES = frozenset({LATTICE, LATTICE0, THREEWAY})
"""Modes of tiles whose bodies are lanes; their samples have one byte."""
PILC_TILE = Table(
    "pilc tile",
    (
        (
            "mode",
            EnumU8(
                {
                    **{0: "raw", 1: "constant", 2: "palette", 3: "lz"},
                    **{LATTICE: "lattice", LATTICE0: "lattice0", THREEWAY: "threeway", DEEP: "deep"},
                }
            ),
            "how the tile is coded",
        ),
        ("flips", U8(0, 3), "bit 0: coded upside down; bit 1: coded left to right"),
        ("check", U32(), "CRC-32 of its samples, row by row, xor the tile's number"),
    ),
)
"""The side info of a unit."""
PILC_TILE_EXPONENT = 18
"""A tile has at most 2^18 pixels."""


def tile_exponents(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of a picture's tiles as powers of two: 512 x 512; 1024 x 256 or 256 x 1024 for
    pictures of few tiles, which are more alike then; and where the picture has fewer rows or columns than
    half of that, more of the other."""
    columns, rows = 9, 9
    if 512 < width <= 1024 and 256 < height <= 512:
        columns, rows = 10, 8
    elif 512 < height <= 1024 and 256 < width <= 512:
        columns, rows = 8, 10
    while rows > 0 and height <= 1 << (rows - 1) and width > 1 << columns:
        columns, rows = columns + 1, rows - 1
    while columns > 0 and width <= 1 << (columns - 1) and height > 1 << rows:
        columns, rows = columns - 1, rows + 1
    return columns, rows


def tiles(width: int, height: int, columns: int, rows: int) -> list[Area]:
    """The tiles of a picture in raster order."""
    return [
        (slice(top, min(top + (1 << rows), height)), slice(left, min(left + (1 << columns), width)))
        for top in range(0, height, 1 << rows)
        for left in range(0, width, 1 << columns)
    ]


DEEP_LAYOUT = 2


def _pilc_grid(head: Head) -> tuple[int, int, int]:
    """Tiles across, their columns and rows as powers of two, of a HEAD that can be pilc's."""
    side = CODECS["pilc"].read_side_info(head.side_info)
    layout = DEEP_LAYOUT if head.depth == Depth.BITS_16 else 1
    if side["layout"] != layout:
        raise FormatError(
            f"pilc: side info of layout {side['layout']} in a file of {int(head.depth)} bits a sample, "
            f"expected layout {layout}",
            chunk="HEAD",
        )
    bits, shift = side.get("bits", 8), side.get("shift", 0)
    if bits + shift > int(head.depth):
        raise FormatError(
            f"pilc: samples of {bits} bits, shifted by {shift}, have more than {int(head.depth)}",
            chunk="HEAD",
        )
    if side.get("repeated") and (bits + shift != head.depth or not 0 < shift <= bits):
        raise FormatError(
            f"pilc: {bits} bits that are repeated in {shift} more, expected 8 to 15, and 16 in all",
            chunk="HEAD",
        )
    columns, rows = side["columns"], side["rows"]
    if columns + rows > PILC_TILE_EXPONENT:
        raise FormatError(
            f"pilc: tiles of 2^{columns} x 2^{rows} pixels, at most 2^{PILC_TILE_EXPONENT} are expected",
            chunk="HEAD",
        )
    if len(side["digest"]) not in (0, 16):
        raise FormatError(f"pilc: a digest of {len(side['digest'])} bytes, expected none or 16", chunk="HEAD")
    if not head.lossless or head.order != Order.ONE_STEP or head.rate:
        raise FormatError(
            "pilc is lossless and has no rate and no order, but HEAD says other things", chunk="HEAD"
        )
    return -(-head.width >> columns), columns, rows


def _precheck_pilc(head: Head, units: Sequence[Unit]) -> None:
    _precheck_pilc_units(head, len(units), enumerate(units))


def _precheck_pilc_part(part: Part) -> None:
    _precheck_pilc_units(part.head, part.count, part.units)


def _pilc_units(head: Head, area: Area) -> Container[int]:
    across, columns, rows = _pilc_grid(head)
    top, bottom = area[0].start >> rows, (area[0].stop - 1) >> rows
    left, right = area[1].start >> columns, (area[1].stop - 1) >> columns
    return _Rectangle(across, range(top, bottom + 1), range(left, right + 1))


@dataclass(frozen=True)
class _Rectangle:
    """Numbers of tiles in some rows and columns of a grid that is so many tiles wide."""

    across: int
    rows: range
    columns: range

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        row, column = divmod(number, self.across)
        return row in self.rows and column in self.columns


def _precheck_pilc_units(head: Head, found: int, units: Iterable[tuple[int, Unit]]) -> None:
    across, _, rows = _pilc_grid(head)
    bits = CODECS["pilc"].read_side_info(head.side_info).get("bits", 8)
    count = across * -(-head.height >> rows)
    if found != count:
        raise FormatError(f"pilc: {found} DATA chunks for {count} tiles", chunk="DATA")
    for number, unit in units:
        record = PILC_TILE.read_whole(unit.side_info, where="DATA")
        kind = LANES if record["mode"] in LANE_MODES else CODEC_BYTES
        if unit.kind != kind:
            raise FormatError(
                f"pilc: tile {number} of mode {record['mode']} in DATA of kind {unit.kind}, expected {kind}",
                chunk="DATA",
            )
        if (record["mode"] == DEEP) if bits <= 8 else (record["mode"] in LANE_MODES):
            raise FormatError(
                f"pilc: tile {number} of mode {record['mode']} in a file of samples of {bits} bits",
                chunk="DATA",
            )


LOSSLESS = "pilc"
"""The codec where a lossless one is asked for and none is named."""

CODECS: dict[str, CodecEntry] = {
    "fhic": CodecEntry(
        token="fhic",
        module="licodec.codecs.fhic",
        default_tag="s-1",
        side_info=FHIC_SIDE_INFO,
        title="checkerboard context with exact scale nets; one model for all rates",
        precheck=_precheck_fhic,
        reductions=(4, 8, 16),
        order_tags={Order.ONE_STEP: "s-1", Order.CHECKERBOARD: "s-1", Order.SERIAL: "s-serial-1"},
        tune_tags={"psnr": "s-1", "ms-ssim": "s-msssim-1"},
        alternates={"best": "licodec.codecs.wide_synthesis"},
    ),
    "pilc": CodecEntry(
        token="pilc",
        module="licodec.codecs.lossless",
        default_tag="l-1",
        side_info=PILC_SIDE_INFO,
        title="lossless: nested lattices with exact integer nets",
        precheck=_precheck_pilc,
        lossless=True,
        regions=Regions(_pilc_units, _precheck_pilc_part),
        depths=(8, 16),
        layouts=((DEEP_LAYOUT, PILC_DEEP_SIDE_INFO),),
    ),
}
