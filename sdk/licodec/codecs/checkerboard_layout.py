"""What both ways of running `checkerboard` share: sizes, orders, reading weights' metadata, choosing symbols.

Nothing here needs torch. `checkerboard` says what each of it is for.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lic_format.container import SEALED_ANS, Unit
from lic_format.errors import UsageValueError, WeightsError
from lic_format.header import Order
from licodec.codecs.channel_skip import Channels, write_skipped
from licodec.codecs.contract import Coded, Shared, Timer
from licodec.codecs.registry import FHIC_CELL, FHIC_GRID_MIN, FHIC_SIDE_INFO
from licodec.entropy import schedule
from licodec.entropy.coder import StreamEncoder
from licodec.entropy.reference import write_varint
from licodec.entropy.schedule import Pass, checkerboard
from licodec.entropy.tables import NOT_CODED, PRECISION, TableSet
from licodec.exact.neighbours import Neighbours, Positions, neighbours
from licodec.exact.specs import LayerSpec
from licodec.store import Weights

T = TypeVar("T")
Numbers = npt.NDArray[np.int64]

CELL = FHIC_CELL
"""Pixels a latent position covers, each way."""
GRID_MIN = FHIC_GRID_MIN
"""Rows and columns of latents of the smallest pictures."""
HYPER = 4
"""Latent positions a hyper-latent position covers, each way."""
SCALE_MIN, SCALE_MAX, SCALES = 0.11, 64.0, 64


TRANSFORMS = ("lapped", "unshuffled", "gllmm")
"""The transforms of a member of the family: `checkerboard`'s own, `unshuffled`'s, `gllmm`'s."""


@dataclass(frozen=True)
class Preset:
    """Sizes of one member of the family. Which of the sizes from `eighth` to `decoder_sixteenth_blocks` count
    is for its transforms to say."""

    groups: tuple[int, ...]
    depths: tuple[int, ...]
    transforms: str = TRANSFORMS[0]
    """One of `TRANSFORMS`."""
    eighth: int = 96
    encoder_eighth_blocks: int = 3
    decoder_eighth_blocks: int = 3
    encoder_sixteenth: int = 192
    encoder_sixteenth_blocks: int = 1
    decoder_sixteenth: int = 128
    decoder_sixteenth_blocks: int = 1
    hyper: int = 96
    mean: int = 128
    mean_heads: tuple[int, ...] = ()
    """Hidden layers of the heads of the mean nets; where there are none, one that follows from `mean`."""
    exact: int = 96
    preview_groups: int = 3
    """Of which previews are made."""

    @property
    def latents(self) -> int:
        return sum(self.groups)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Order 1."""
        return checkerboard(self.groups, self.depths)

    @property
    def straight(self) -> bool:
        """Whether the transforms have a linear path beside their nets, which starts as a KLT: then latents
        are coefficients in units of pixels, and few of them make a preview."""
        return self.transforms != "gllmm"

    @property
    def refined(self) -> bool:
        """Whether the encoder looks at what it would decode (`checkerboard.Refinement`). That takes a
        synthesis, which only the lapped transforms have for little."""
        return self.transforms == "lapped"

    @property
    def halo(self) -> int:
        """Latent positions that analysis or synthesis see around one: of every layer that looks around, its
        reach in positions of the grid on which it works, in parts of a latent position."""
        if self.transforms == "gllmm":
            return GLLMM_HALO
        if self.transforms == "unshuffled":  # a 3x3 in every block, one more block at the ends of either
            return math.ceil(max(self.encoder_eighth_blocks + 1 + 1, self.decoder_eighth_blocks + 2) / 2)
        # 3x3 convolutions: two on 4x4 blocks, one in every block on the coarser grids
        analysis = 0.5 * self.encoder_eighth_blocks + self.encoder_sixteenth_blocks
        synthesis = 0.5 * self.decoder_eighth_blocks + self.decoder_sixteenth_blocks
        return math.ceil(2 * 0.25 + max(analysis, synthesis))

    @property
    def tile_pixels(self) -> int:
        """Pixels of a tile of a large picture: bounds memory, changes no value. Activations of most of
        gllmm's layers are on the 1/2 grid, a kilobyte a pixel, and so are those of what a tile sees beyond
        itself."""
        return TILE_PIXELS // 2 if self.transforms == "gllmm" else TILE_PIXELS


GLLMM_HALO = 19
"""Latent positions that the analysis of `gllmm` sees on either side (the synthesis: 14), by grid:

| grid | layers that look around, in order from the picture | positions |
|---|---|---|
| 1 | a strided 3x3 | 1 |
| 1/2 | a 3x3, four of a residual block, a strided 3x3 | 6 |
| 1/4 | a 3x3, three of an attention, four of a residual block, a strided 3x3 | 9 |
| 1/8 | a 3x3, a deformable block, four of a residual block, a strided 3x3 | 12 |
| 1/16 | three of an attention, a deformable block | 9 |

1/16 + 6/8 + 9/4 + 12/2 + 9 is a little more than 18.
"""
SIZE_MAX = 4096
"""No width of a net is larger; a weights file that says so is damaged."""
HEADS_MAX = 4
"""Hidden layers of a head."""
GLLMM_MULTIPLE = 4
"""Deformable blocks look in as many groups of channels."""
DEPTH_MAX = 4
"""The deepest lattice that leaves no pass of a 4 x 4 grid empty."""
PRESETS = {
    "s": Preset(groups=(4, 12, 48, 96, 160), depths=(3, 3, 2, 1, 1)),
    "m": Preset(
        groups=(4, 12, 48, 96, 160),
        depths=(3, 3, 2, 1, 1),
        transforms="unshuffled",
        eighth=256,
        encoder_eighth_blocks=6,
        decoder_eighth_blocks=12,
        mean=320,
    ),
    "paper": Preset(groups=(192,), depths=(1,), transforms="gllmm", mean=384, mean_heads=(640, 1280)),
}
"""What can be trained: `s` for processors, `m` for GPUs, `paper` for comparison with what was published
(docs/presets.md)."""
QUARTER = 48
"""Channels of the picture as blocks of 4x4 RGB pixels."""
SHOWN_STEP = 2.0**-14
"""Of decoded pixels minus 0.5, where they are integers: a sixty-fourth of a level."""
NEARLY_ZERO = 0.75
"""Symbols below this count as zero when the encoder looks at what it would decode."""


def taps_kernel(step: Pass) -> int:
    """Rows and columns in which a pass looks around. Decoded are, on even levels, 12 of the 25 positions of 5
    x 5 and 4 of 3 x 3; on odd ones the 4 diagonal ones in either."""
    return 5 if step.group <= 1 and step.level % 2 == 0 else 3


@dataclass(frozen=True, eq=False)
class Place:
    """Where a pass of a group codes, and the grid in which it sees what the group has before it: every 1st,
    2nd, 4th .. row and column, so that its neighbours are near.

    Attributes:
        cells: its positions on the grid of latents, row * w + column. seen: the same on its own grid. Both
            int64 [n].
        height, width: of its own grid.
        known: the positions of its own grid that earlier passes have decoded, in their order.
        order: where each position of its own grid stands in the earlier passes' values and then the unknown
            ones put one behind the other.
        positions: `cells`, for those who look up where they lie.
    """

    cells: Numbers
    seen: Numbers
    height: int
    width: int
    known: Numbers
    order: Numbers
    positions: Positions
    _near: dict[int, Neighbours] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        """How many positions of its own grid are unknown."""
        return len(self.order) - len(self.known)

    def near(self, kernel: int) -> Neighbours:
        """What a convolution reads around the positions."""
        if kernel not in self._near:
            self._near[kernel] = neighbours(self.known, self.seen, self.height, self.width, kernel)
        return self._near[kernel]


@functools.lru_cache(maxsize=32)
def places(h: int, w: int, depth: int) -> tuple[Place, ...]:
    """Places of the passes of a group of that depth on an h x w grid, and one more in which nothing is
    unknown."""
    steps = checkerboard((1,), (depth,))
    cells = [schedule.positions(step, h, w) for step in steps]
    found = []
    for number, level in enumerate([*(step.level for step in steps), 0]):
        stride = 2 ** (level // 2)
        height, width = -(-h // stride), -(-w // stride)

        def local(
            cell: npt.NDArray[np.intp], stride: int = stride, width: int = width
        ) -> npt.NDArray[np.intp]:
            return cell // w // stride * width + cell % w // stride

        known = local(np.concatenate([*cells[:number], np.empty(0, np.intp)]))
        unknown = np.ones(height * width, bool)
        unknown[known] = False
        own = cells[number] if number < len(cells) else np.empty(0, np.intp)
        order = np.empty(height * width, np.intp)
        order[np.concatenate([known, np.flatnonzero(unknown)])] = np.arange(height * width)
        selections = (own, local(own), known, order)
        full, seen, before, order = (each.astype(np.int64) for each in selections)
        found.append(Place(full, seen, height, width, before, order, Positions(full, w)))
    return tuple(found)


SEEN = 64
"""Channels of earlier values that the mean nets look at around a position; more are mixed into as many
first."""
HYPER_WIDTH = TAPS = 96
"""Channels of the hyper analysis, and of what mean nets see around a position; no preset says otherwise."""
SERIAL = "serial.family"
"""The tensor that tells whether weights know order 2, which is an optional part (`serial`)."""
DISTORTION = "distortion"
"""The metadata that says what weights were trained by, where it isn't the mean squared error: "ms-ssim"."""
HYPER_LIMIT = 127
MAGNITUDE_UNIT = 1 / 16
HYPER_UNIT = 1 / 4


def exact_layers(p: Preset) -> list[LayerSpec]:
    """All integer layers of the scale nets, in the order in which they run."""
    e = p.exact
    specs = [
        LayerSpec("hyper.0", p.hyper, 96, 3, in_unit=HYPER_UNIT, signed=True),
        LayerSpec("hyper.1", 96, 4 * e, 3),
        LayerSpec("hyper.2", e, 4 * e, 3),
        LayerSpec("direct.0", e, 128, 1),
        LayerSpec("direct.1", 128, p.latents, 1, last=True),
    ]
    for g, m in enumerate(p.groups):
        specs.append(LayerSpec(f"project.{g}", m, 32, 1, in_unit=MAGNITUDE_UNIT))
        if g:
            specs.append(LayerSpec(f"context.{g}", 32 * g, 48, 3))
    for step in p.passes:
        name, seen = f"{step.group}.{step.number}", e if step.group == 0 else e + 48
        if step.number:
            specs.append(LayerSpec(f"taps.{name}", 32, e, taps_kernel(step), gathered=True))
            seen += e
        specs += [
            LayerSpec(f"scale.{name}.0", seen, 2 * e, 1),
            LayerSpec(f"scale.{name}.1", 2 * e, step.last - step.first, 1, last=True),
        ]
    return specs


SYMBOL_MAX = 32767
Z_OFFSET_MAX = 1024
Z_MAX = SYMBOL_MAX - Z_OFFSET_MAX
"""Hyper-latents are coded with an offset taken off, which must not leave 16 bits."""
TILE_PIXELS = 1 << 21
"""Of a tile of a large picture, unless `Preset.tile_pixels` says less."""


def magnitude_table() -> npt.NDArray[np.int8]:
    """What the scale nets see of a symbol, by min(|q|, 255): round(16 log2(1 + |q|)), at most 127; integers
    only.

    v = round(16 log2(n)) is the largest v with 2^(2 v - 1) <= n^32.
    """
    values = [((n**32).bit_length() - 1 + 1) // 2 for n in range(1, 257)]
    return np.minimum(values, 127).astype(np.int8)


PRECISIONS = ("float32", "bfloat16", "fixed16")
"""Of the float nets; fixed16 is integers of 16 bits (`exact.fixed_point`), where nets have been measured."""


def precision_asked_for() -> str:
    """What LICODEC_PRECISION says; nothing where it is not set.

    Raises:
        UsageValueError: something else than one of `PRECISIONS`.
    """
    wish = os.environ.get("LICODEC_PRECISION", "")
    if wish and wish not in PRECISIONS:
        raise UsageValueError(
            f"environment variable LICODEC_PRECISION is {wish!r}, expected float32, bfloat16 or fixed16",
            argument="LICODEC_PRECISION",
        )
    return wish


STEPS = "steps"
"""The metadata that says what steps the channels of compiled transforms have."""


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of latents of a picture. Four at least: nets never saw less around a position."""
    return max(GRID_MIN, -(-height // CELL)), max(GRID_MIN, -(-width // CELL))


@dataclass(frozen=True)
class Symbols:
    """Symbols of a picture: hyper-latents z int16 [Z, h', w'], and those of the latents in the passes of
    order 1, each int16 [M_g, n], whatever order they are coded in; h and w of the latents' grid; which
    channels are left out, bool [M]."""

    z: npt.NDArray[np.int16]
    passes: tuple[npt.NDArray[np.int16], ...]
    steps: tuple[Pass, ...]
    height: int
    width: int
    skipped: Channels

    @classmethod
    def of(cls, z: npt.NDArray[np.int16], q: npt.NDArray[np.int16], steps: tuple[Pass, ...]) -> Symbols:
        """Those of an array [M, h, w]."""
        h, w = q.shape[1:]
        flat = q.reshape(len(q), -1)
        parts = (flat[step.first : step.last, schedule.positions(step, h, w)] for step in steps)
        return cls(z, tuple(parts), steps, h, w, np.zeros(len(q), np.bool_))

    @property
    def q(self) -> npt.NDArray[np.int16]:
        """The latents' symbols as an array [M, h, w]."""
        out = np.empty((self.steps[-1].last, self.height * self.width), np.int16)
        for step, symbols in zip(self.steps, self.passes, strict=True):
            out[step.first : step.last, schedule.positions(step, self.height, self.width)] = symbols
        return out.reshape(-1, self.height, self.width)


@dataclass(frozen=True)
class CodedPass:
    """A pass as the stream takes it: symbols int16 and table indices uint8, both [C, n]."""

    step: Pass
    symbols: npt.NDArray[np.int16]
    index: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """A rectangle of latent positions that a net computes, and the larger one it looks at; rows and columns
    as slices."""

    rows: slice
    columns: slice
    outer_rows: slice
    outer_columns: slice

    @property
    def inner_rows(self) -> slice:
        return inside(self.rows, self.outer_rows)

    @property
    def inner_columns(self) -> slice:
        return inside(self.columns, self.outer_columns)

    @property
    def inner_block_rows(self) -> slice:
        return times(self.inner_rows, 4)

    @property
    def inner_block_columns(self) -> slice:
        return times(self.inner_columns, 4)

    @property
    def pixel_rows(self) -> slice:
        return times(self.rows, CELL)

    @property
    def pixel_columns(self) -> slice:
        return times(self.columns, CELL)

    @property
    def outer_block_rows(self) -> slice:
        return times(self.outer_rows, 4)

    @property
    def outer_block_columns(self) -> slice:
        return times(self.outer_columns, 4)


def inside(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def times(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def seen_of(planes: npt.NDArray[np.uint8], tile: Tile) -> npt.NDArray[np.uint8]:
    """A tile's part of a picture, with what it sees around."""
    part = planes[times(tile.outer_rows, CELL), times(tile.outer_columns, CELL)]
    return np.ascontiguousarray(part)


def tiles(h: int, w: int, halo: int, pixels: int = TILE_PIXELS) -> Iterator[Tile]:
    """Tiles of a grid of latent positions, each seeing `halo` more on all sides; one tile for all but large
    pictures."""
    positions = max(1024, pixels // CELL**2)
    columns = min(w, max(32, positions // min(h, 64)))
    rows = min(h, max(32, positions // columns))
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            yield Tile(
                slice(top, bottom),
                slice(left, right),
                slice(max(0, top - halo), min(h, bottom + halo)),
                slice(max(0, left - halo), min(w, right + halo)),
            )


def once(shared: Shared | None, name: str, make: Callable[[], T]) -> T:
    """What codings of a picture have in common, made by the first of them."""
    if shared is None:
        return make()
    if name not in shared:
        shared[name] = make()
    found: T = shared[name]
    return found


def estimated_bits(symbols: npt.NDArray[np.int16], index: npt.NDArray[np.uint8], tables: TableSet) -> float:
    """What the tables say that these symbols cost: the model's own estimate."""
    coded = index != NOT_CODED
    magnitude, table = np.abs(symbols[coded].astype(np.int32)), index[coded]
    total = float(table_bits(tables)[table, 255 + np.minimum(magnitude, 255)].sum(dtype=np.float64))
    for m, t in zip(*(part[magnitude > 255].tolist() for part in (magnitude, table)), strict=True):
        escape = PRECISION - float(np.log2(tables.frequencies(t)[-1]))
        length = len(write_varint(2 * (m - tables.limit(t) - 1)))
        total += escape + 8 * length - float(table_bits(tables)[t, 510])
    return total


def written(
    symbols: Symbols, passes: Sequence[CodedPass], rate: int, order: Order, tables: TableSet, timer: Timer
) -> Coded:
    """What encoding gives the container; `passes` are those of the stream, in its order."""
    stream = StreamEncoder(tables)
    with timer("entropy"):
        for part in passes:
            stream.put(part.symbols.reshape(-1), part.index.reshape(-1))
        body = stream.finish()
    if (stages := timer.stages) is not None:
        bits = sum(estimated_bits(part.symbols, part.index, tables) for part in passes)
        stages["estimated_bits"] = stages.get("estimated_bits", 0.0) + bits
    mode, channels = write_skipped(symbols.skipped)
    fields = {"layout": 1, "tables": 1, "channel_skip": mode, "tiling": 0, "hyper_prior": 0}
    side_info = FHIC_SIDE_INFO.write({**fields, "channels": channels})
    return Coded({"rate": rate, "order": order, "side_info": side_info}, (Unit(SEALED_ANS, b"", body),))


@functools.cache
def table_bits(tables: TableSet) -> npt.NDArray[np.float32]:
    return tables.bits()


def knot_of(rate: int) -> int:
    """The rate knot whose tables code the hyper-latents."""
    return (rate + 8) // 16


HYPER_ROUND = 0.66
"""From which fraction on hyper-latents are rounded away from what their tables expect (docs/training.md)."""


def choose_symbols(
    value: npt.NDArray[np.float32],
    index: npt.NDArray[np.uint8],
    step_value: npt.NDArray[np.float32],
    savings: npt.NDArray[np.float32],
) -> npt.NDArray[np.int16]:
    """The encoder's choice: the nearest integer, or the one below it in magnitude where that saves more bits
    than its distortion is worth.

    Args:
        value: symbols before rounding, [C, n].
        index: their tables, [C, n].
        step_value: bits that the squared error of one whole symbol is worth, [C].
        savings: `symbol_savings` of the table set.
    """
    symbols = np.zeros(value.size, np.int16)
    flat = value.reshape(-1)
    at = np.flatnonzero(np.abs(flat) > 0.5)
    signed, table = flat.take(at), index.reshape(-1).take(at)
    magnitude = np.minimum(np.abs(signed), SYMBOL_MAX)
    n = np.rint(magnitude)
    saved = savings.take(table.astype(np.intp) * savings.shape[1] + np.minimum(n, 256).astype(np.intp))
    worth = np.repeat(step_value, value.shape[1]).take(at)
    n -= saved > worth * (2 * (magnitude - n) + 1)
    n[table == NOT_CODED] = 0
    symbols[at] = np.copysign(n, signed)
    return symbols.reshape(value.shape)


@functools.cache
def symbol_savings(tables: TableSet) -> npt.NDArray[np.float32]:
    """Bits that the next smaller magnitude saves at magnitudes 1..256 (0: nothing) in each table, float32
    [256, 257]; magnitudes from 255 on count the same."""
    bits = table_bits(tables)[:, 255:]
    saved = np.zeros((256, 257), np.float32)
    saved[: len(bits), 1 : bits.shape[1]] = np.diff(bits, axis=1)
    return saved


LATER = ("transforms", "mean_heads")
"""Fields that presets had not from the beginning: files that don't need them don't have them, so that earlier
versions read these files too."""


def write_preset(p: Preset) -> str:
    """What a weights file says of its preset, in the metadata "architecture"."""
    usual = {each.name: each.default for each in fields(p) if each.name in LATER}
    sizes = {name: value for name, value in asdict(p).items() if value != usual.get(name, MISSING)}
    return json.dumps(sizes, sort_keys=True, separators=(",", ":"))


def read_preset(weights: Weights) -> Preset:
    try:
        values = json.loads(weights.metadata["architecture"])
        groups, depths = (tuple(values.pop(name)) for name in ("groups", "depths"))
        heads, transforms = tuple(values.pop("mean_heads", ())), values.pop("transforms", TRANSFORMS[0])
        for size in (*groups, *heads, *values.values()):
            if type(size) is not int or not 1 <= size <= SIZE_MAX:
                raise ValueError(f"{size!r} is no size")
        for depth in depths:
            if type(depth) is not int or not 0 <= depth <= DEPTH_MAX:
                raise ValueError(f"{depth!r} is no depth")
        if len(depths) != len(groups):
            raise ValueError(f"{len(groups)} groups, {len(depths)} depths")
        if len(heads) > HEADS_MAX:
            raise ValueError(f"{len(heads)} hidden layers of mean_heads, expected {HEADS_MAX} at most")
        if transforms not in TRANSFORMS:
            raise ValueError(f"transforms {transforms!r}, expected one of {', '.join(TRANSFORMS)}")
        if transforms == "gllmm" and sum(groups) % GLLMM_MULTIPLE:
            raise ValueError(f"{sum(groups)} latents of gllmm, expected a multiple of {GLLMM_MULTIPLE}")
        return Preset(groups=groups, depths=depths, transforms=transforms, mean_heads=heads, **values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{weights.path}: its metadata 'architecture' does not describe a preset of fhic ({error})"
        ) from error


def searchable(weights: Weights) -> bool:
    """Whether a search, which lowers squared errors, finds what weights have learnt to care for."""
    return weights.metadata.get(DISTORTION) is None


def refuse_search(effort: int, weights: Weights) -> None:
    """UsageValueError where an effort looks for less squared error than weights have learnt to care for."""
    if effort > 1 and not searchable(weights):
        raise UsageValueError(
            f"effort: {effort} with the weights {weights.ref.codec}/{weights.ref.tag}, expected 1: a search "
            f"lowers squared errors, and they are trained for {weights.metadata[DISTORTION]}",
            argument="effort",
        )


def read_known_answers(weights: Weights) -> dict[str, int]:
    try:
        return {str(name): int(crc) for name, crc in json.loads(weights.metadata["known_answers"]).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{weights.path}: no readable metadata 'known_answers' ({error})") from error
