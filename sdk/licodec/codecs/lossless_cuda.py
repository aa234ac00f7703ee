"""pilc's tile mode 4 on a CUDA device: nets and lanes in Triton kernels, many tiles of one shape at once.

    model = lossless.build(weights, "cuda")         a `LosslessOnDevice`, where Triton is installed
    bodies = model.batches.encode_batch(tiles)      uint8 [T, h, w, c] on the device
    tiles = model.batches.decode_batch(bodies, (h, w, c))

The bytes are those of `lossless`, and so are the samples: all arithmetic is that of integers. What goes over
the bus is the bodies, and a few numbers for each tile. What a tile says of itself (see `lossless_adaptation`)
is nothing, or the caller's; the model's `encode_lattices` finds corrections on the CPU and offsets on the
device, and says what the CPU alone would. When not to use it: on the CPU, or for a few small tiles, which
take as many launches (two for each pass) as a thousand large ones.
"""

from __future__ import annotations

import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import triton

from lic_format.errors import FormatError, LicWarning, UnsupportedError, UsageTypeError, UsageValueError
from licodec.codecs import lossless_kernels as kernels
from licodec.codecs.contract import Timer
from licodec.codecs.lattices import BASE, EE, PASSES, Bytes, Known, Lattice, Pass, inputs, places, sides
from licodec.codecs.lossless import (
    BASE_TABLE,
    FITTED,
    HIDDEN_MAX,
    NO_TIMER,
    SCALES,
    WEIGHT_UNIT,
    Costs,
    Lossless,
    Net,
    Nets,
    Scratch,
    corrected,
    scales_by_activity,
    split,
    streams_of,
    tables_by_activity,
)
from licodec.codecs.lossless_adaptation import (
    NONE,
    OFFSET_MAX,
    STEP,
    Adaptation,
    Correction,
    Group,
    groups,
    near,
    write,
)
from licodec.codecs.registry import PILC_TILE_EXPONENT
from licodec.codecs.screen_content import Tile
from licodec.entropy import lanes as lane_coder
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import LANES_LOG2_MAX, LANES_MAX, STATE_MIN, sections_of
from licodec.entropy.reference import write_varint
from licodec.store.weights import Weights

AT_ONCE: Final = 1 << 28
"""Samples whose tiles are coded together. Encoding takes about eight bytes for each, decoding four."""
SAMPLES: Final = 64
"""That a program of `predict` works on: rows of its matrices."""
PACKED: Final = 1024
"""Bytes that a program of `pack` moves at a time."""
LAUNCH: Final[Mapping[str, int | bool]] = {"num_warps": 4, "enable_fp_fusion": False}
"""Options of every kernel: threads are 32 a warp, and floats are none."""
HIDDEN_MIDDLE: Final = (HIDDEN_MAX + 1) // 2
"""Taken from what the first layer gives, so that it is 256 high + low with high and low of 8 bits."""
INT8_MAX: Final = 127 * 256 + 127
"""The largest such number; the smallest is -128 * 257."""
BY_SCALE: Final = 2 * OFFSET_MAX + 1
"""Where 4 scale + quarter stands behind the tables of all offsets."""

Mark = Callable[[str], None]
"""Is told the name of a stage of work behind each launch of it."""


def _unmarked(name: str) -> None:
    pass


# --- Nets and stages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DeviceNet:
    """A net as `kernels.predict` takes it. k, a, b: inputs and units, with as many of nought as make
    powers of two. linear: int32 [K], of the net as it is, on the host."""

    k: int
    a: int
    b: int
    linear: npt.NDArray[np.int32]
    first: torch.Tensor
    second: torch.Tensor
    integers: torch.Tensor


def device_net(net: Net, name: str, device: torch.device) -> DeviceNet:
    """UnsupportedError where a weight is too large for products of int8."""
    first, third = net.first.astype(np.int64), net.third.astype(np.int64)
    second = np.rint(net.second.astype(np.float64) * WEIGHT_UNIT).astype(np.int64)
    used = first.shape[1] - 1
    k, a, b = (max(32, triton.next_power_of_2(n)) for n in (used, len(first) - 1, len(second)))
    integers = np.zeros(a + 3 * b + 3, np.int64)
    after_first, after_second, correction, activity, added = np.split(integers, np.cumsum([a, b, b, b]))
    after_first[: len(first) - 1] = first[1:, -1]
    after_second[: len(second)] = second[:, -1] + HIDDEN_MIDDLE * second[:, :-1].sum(axis=1)
    correction[: len(second)], activity[: len(second)] = third[:, :-1]
    added[:] = first[0, -1], third[0, -1], third[1, -1]
    return DeviceNet(
        k,
        a,
        b,
        _linear(net, k),
        torch.from_numpy(_halves(first[1:, :-1], a, k, f"{name}.first")).to(device),
        torch.from_numpy(_halves(second[:, :-1], b, a, f"{name}.second")).to(device),
        torch.from_numpy(integers.astype(np.int32)).to(device),
    )


def _linear(net: Net, k: int) -> npt.NDArray[np.int32]:
    out = np.zeros(k, np.int32)
    out[: net.first.shape[1] - 1] = net.first[0, :-1]
    return out


def _halves(matrix: npt.NDArray[np.int64], rows: int, columns: int, name: str) -> npt.NDArray[np.int8]:
    """Integers as 256 high + low: int8 [2, rows, columns], low and high, noughts below and to the right."""
    if matrix.size and (largest := int(matrix.max())) > INT8_MAX:
        raise UnsupportedError(f"{name!r} has a weight of {largest}; on a device at most {INT8_MAX} can be")
    out = np.zeros((2, rows, columns), np.int8)
    low = (matrix + 128 & 255) - 128
    out[0, : matrix.shape[0], : matrix.shape[1]] = low
    out[1, : matrix.shape[0], : matrix.shape[1]] = matrix - low >> 8
    return out


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage of a tile's stream: which samples of its planes it has, and where they stand.

    step: None for a base. count, width, height: samples, in a row, and rows. first: symbols before it in the
    tile. stride_y, stride_x, target: in a plane of the tile, from one sample to the next and to the first.
    places: of what a net sees, see `kernels.predict`; empty for a base.
    """

    plane: int
    level: int
    step: Pass | None
    height: int
    width: int
    first: int
    stride_y: int
    stride_x: int
    target: int
    places: torch.Tensor

    @property
    def count(self) -> int:
        return self.height * self.width

    @property
    def group(self) -> Group | None:
        """Whose net it has; None for a base."""
        return None if self.step is None else (min(self.level, 1), self.plane, self.step.name)


def stages_of(shape: tuple[int, ...], device: torch.device) -> list[Stage]:
    """The stages of a tile [height, width, 1 or 3 planes], in their order."""
    height, width, planes = shape
    shapes = sides(height, width)
    base = len(shapes) - 1
    none = torch.empty(0, dtype=torch.int32)
    out: list[Stage] = []
    first = 0
    for plane in range(planes):
        out.append(Stage(plane, base, None, *shapes[base], first, width << base, 1 << base, 0, none))
        first += out[-1].count
        for level in range(base - 1, -1, -1):
            lattice = Lattice(*shapes[level])
            for step in PASSES:
                rows, columns = lattice.size(step.target)
                if not rows * columns:
                    continue
                target = (step.target.row * width + step.target.column) << level
                seen = _places(lattice, step, plane, level, width, height * width)
                stride = 2 << level
                where = (width * stride, stride, target, seen)
                out.append(Stage(plane, level, step, rows, columns, first, *where))
                first += out[-1].count
    both = torch.cat([stage.places.reshape(-1) for stage in out]).to(device)
    at = 0
    for number, stage in enumerate(out):
        size = stage.places.numel()
        out[number] = replace(stage, places=both[at : at + size])
        at += size
    return out


def _places(lattice: Lattice, step: Pass, plane: int, level: int, width: int, area: int) -> torch.Tensor:
    """See `kernels.predict`: [5, K + 4]."""
    own = [(plane, place) for place in places(step.seen)]
    own += [(earlier, place) for earlier in range(plane) for place in places(step.around)]
    k = max(32, triton.next_power_of_2(len(own)))
    out = np.zeros((5, k + 4), np.int32)
    for number, (of_plane, (phase, i, j)) in enumerate(own + [(plane, place) for place in step.nearest]):
        rows, columns = lattice.size(phase)
        if not rows * columns:
            phase = EE
            rows, columns = lattice.size(phase)
        column = number if number < len(own) else k + number - len(own)
        offset = of_plane * area + ((phase.row * width + phase.column) << level)
        out[:, column] = offset, i, j, rows - 1, columns - 1
    return torch.from_numpy(out)


@dataclass(frozen=True, eq=False)
class Change:
    """How a group is to be in each tile: see `kernels.predict`."""

    rows: torch.Tensor
    chosen: torch.Tensor


# --- Batches of tiles ---------------------------------------------------------------------------------------


class DeviceLattices:
    """Codes tiles of mode 4 on a device. Immutable but for what it remembers of shapes; safe in threads.

    Raises:
        UnsupportedError: weights that the kernels can't take.
    """

    def __init__(self, nets: Nets, scales: Bytes, tables: LaneTables, device: str) -> None:
        self.device = torch.device(device)
        self._plain = nets
        self._nets = {
            (which, plane, name): device_net(net, f"{which}.{plane}.{name}", self.device)
            for (which, plane, name), net in nets.items()
        }
        self._tables_of = self._by_offset(scales, scales_by_activity(scales))
        self._tables_by_scale = self._by_offset(np.arange(SCALES, dtype=np.uint8))
        costs = Costs(tables).of_offsets.T.astype(np.int32)
        self._costs = torch.from_numpy(np.ascontiguousarray(costs)).to(self.device)
        self._slots = torch.from_numpy(tables.slots.view(np.int32).copy()).to(self.device)
        self._codes = torch.from_numpy(tables.codes.copy()).to(self.device)
        self._stages: dict[tuple[int, ...], list[Stage]] = {}

    def _by_offset(self, scales: Bytes, *more: Bytes) -> torch.Tensor:
        """`tables_by_activity` of all offsets, and rows behind them: uint8 [7 or more, 4 len(scales)]."""
        tables = [tables_by_activity(scales, offset) for offset in range(-OFFSET_MAX, OFFSET_MAX + 1)]
        return torch.from_numpy(np.stack([*tables, *more])).to(self.device)

    def encode_batch(
        self,
        tiles: torch.Tensor,
        adaptations: Sequence[Adaptation] | None = None,
        *,
        lanes: int | None = None,
        mark: Mark = _unmarked,
    ) -> list[bytes]:
        """Bodies of tiles, uint8 [T, h, w, 1 or 3], on the device.

        adaptations: what each tile is to say of itself; nothing where there are none. lanes: a power of two,
        1..512, where it isn't to be what the format's writer takes.

        Raises:
            UsageTypeError, UsageValueError: a tensor of another dtype, shape or place; adaptations of another
                count, or that can't be written.
            FormatError: a correction that a reader would refuse.
        """
        if adaptations is None:
            adaptations = [NONE] * len(tiles)
        return self._encode_parts(tiles, adaptations, lanes, mark, choose=False)

    def encode_suited(
        self,
        tiles: torch.Tensor,
        corrections: Sequence[Mapping[Group, Correction]],
        *,
        lanes: int | None = None,
        mark: Mark = _unmarked,
    ) -> list[bytes]:
        """Bodies of tiles that say of themselves these corrections and what offsets suit them best: the
        bytes of `Lossless.encode_lattices`. Otherwise as `encode_batch`."""
        adaptations = [Adaptation({}, each) for each in corrections]
        return self._encode_parts(tiles, adaptations, lanes, mark, choose=True)

    def _encode_parts(
        self,
        tiles: torch.Tensor,
        adaptations: Sequence[Adaptation],
        lanes: int | None,
        mark: Mark,
        *,
        choose: bool,
    ) -> list[bytes]:
        if tiles.dtype != torch.uint8 or tiles.ndim != 4:
            raise UsageTypeError(
                f"tiles: expected uint8 [T, h, w, c], found {tiles.dtype} {tuple(tiles.shape)}",
                argument="tiles",
            )
        shape = tuple(tiles.shape[1:])
        _check_shape(shape)
        if tiles.device.type != self.device.type:
            raise UsageValueError(
                f"tiles: expected on {self.device}, found on {tiles.device}", argument="tiles"
            )
        if lanes is not None and lanes not in (1 << n for n in range(LANES_LOG2_MAX + 1)):
            raise UsageValueError(
                f"lanes: expected a power of two, 1..{LANES_MAX}, found {lanes}", argument="lanes"
            )
        if len(adaptations) != len(tiles):
            raise UsageValueError(
                f"adaptations: expected {len(tiles)}, found {len(adaptations)}", argument="adaptations"
            )
        for adaptation in adaptations:
            _check_adaptation(adaptation)
        of_tile = lanes or lane_coder.lanes_for(int(np.prod(shape)))
        together = max(1, AT_ONCE // int(np.prod(shape)))
        out: list[bytes] = []
        with self._at_work():
            for first in range(0, len(tiles), together):
                part = slice(first, first + together)
                out += self._encode(tiles[part], shape, adaptations[part], of_tile, mark, choose=choose)
        return out

    def decode_batch(
        self, bodies: Sequence[bytes | memoryview], shape: tuple[int, ...], *, mark: Mark = _unmarked
    ) -> torch.Tensor:
        """Tiles of `shape` [h, w, 1 or 3]: uint8 [T, h, w, c] on the device.

        Raises:
            FormatError: a body that can't be such a tile's. A body that can, of other samples than were
                coded, shows in its tile's CRC-32 only, which is the caller's to compare.
            UsageValueError: another shape.
        """
        _check_shape(shape)
        together = max(1, AT_ONCE // int(np.prod(shape)))
        with self._at_work():
            parts = [
                self._decode(bodies[first : first + together], shape, first, len(bodies), mark)
                for first in range(0, len(bodies), together)
            ]
            if len(parts) == 1:
                return parts[0]
            return torch.cat([torch.empty((0, *shape), dtype=torch.uint8, device=self.device), *parts])

    def _at_work(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _stages_of(self, shape: tuple[int, ...]) -> list[Stage]:
        found = self._stages.get(shape)
        if found is None:
            if len(self._stages) >= SHAPES_KEPT:
                self._stages = {}
            found = self._stages[shape] = stages_of(shape, self.device)
        return found

    def _changes(self, adaptations: Sequence[Adaptation], *, by_scale: bool = False) -> dict[Group, Change]:
        """How the groups are to be in each tile; `by_scale`: to give 4 scale + quarter for tables.

        Raises:
            FormatError: see `lossless.corrected`.
        """
        chosen = np.zeros((len(self._nets), len(adaptations), 2), np.int32)
        chosen[:, :, 1] = BY_SCALE if by_scale else OFFSET_MAX
        rows = [[net.linear] for net in self._nets.values()]
        for tile, adaptation in enumerate(adaptations):
            if adaptation is NONE:
                continue
            for number, (group, net) in enumerate(self._nets.items()):
                if not by_scale:
                    chosen[number, tile, 1] += adaptation.offsets.get(group, 0)
                if (correction := adaptation.corrections.get(group)) is not None:
                    chosen[number, tile, 0] = len(rows[number])
                    rows[number].append(_linear(corrected(self._plain[group], group, correction), net.k))
        linear = torch.from_numpy(np.concatenate([row for of_group in rows for row in of_group])).to(
            self.device
        )
        chosen_there = torch.from_numpy(chosen).to(self.device)
        out, first = {}, 0
        for number, (group, net) in enumerate(self._nets.items()):
            size = net.k * len(rows[number])
            out[group] = Change(linear[first : first + size], chosen_there[number])
            first += size
        return out

    def _predict(
        self,
        stage: Stage,
        step: Pass,
        changes: Mapping[Group, Change],
        shape: tuple[int, ...],
        planes: torch.Tensor,
        values: torch.Tensor,
        indices: torch.Tensor,
        *,
        code: bool,
    ) -> None:
        """Launch `kernels.predict`; values and indices [T, all symbols of a tile] if `code`, else those of
        the stage."""
        group = min(stage.level, 1), stage.plane, step.name
        net, change = self._nets[group], changes[group]
        area, count = shape[0] * shape[1], stage.count
        blocks = -(-count // SAMPLES)
        kernels.predict[(len(planes) * blocks,)](
            planes,
            values,
            indices,
            stage.places,
            net.first,
            net.second,
            net.integers,
            change.rows,
            self._tables_of,
            change.chosen,
            count,
            stage.width,
            stage.stride_y,
            stage.stride_x,
            stage.target,
            area,
            area * shape[2],
            area * shape[2] if code else count,
            stage.first if code else 0,
            blocks,
            stage.plane,
            inputs(0, step),
            inputs(1, step) - inputs(0, step),
            K=net.k,
            A=net.a,
            B=net.b,
            CODE=code,
            BLOCK=SAMPLES,
            **LAUNCH,
        )

    def _base(
        self,
        stage: Stage,
        shape: tuple[int, ...],
        planes: torch.Tensor,
        values: torch.Tensor,
        *,
        code: bool,
    ) -> None:
        area = shape[0] * shape[1]
        kernels.base[(len(planes),)](
            planes,
            values,
            stage.height,
            stage.width,
            stage.stride_y,
            stage.stride_x,
            area,
            area * shape[2],
            area * shape[2] if code else stage.count,
            stage.first if code else 0,
            stage.plane,
            CODE=code,
            SIDE=BASE,
            **LAUNCH,
        )

    def _encode(
        self,
        tiles: torch.Tensor,
        shape: tuple[int, ...],
        adaptations: Sequence[Adaptation],
        lanes: int,
        mark: Mark,
        *,
        choose: bool,
    ) -> list[bytes]:
        count, size = len(tiles), int(np.prod(shape))
        changes = self._changes(adaptations, by_scale=choose)
        planes = _planes_of(tiles)
        mark("colour")
        stages = self._stages_of(shape)
        symbols = torch.empty((count, size), dtype=torch.uint8, device=self.device)
        indices = torch.empty_like(symbols)
        for stage in stages:
            if stage.step is None:
                self._base(stage, shape, planes, symbols, code=True)
                indices[:, stage.first : stage.first + stage.count] = BASE_TABLE + stage.plane
                mark("base")
            else:
                self._predict(stage, stage.step, changes, shape, planes, symbols, indices, code=True)
                mark("nets")
        del planes
        if choose:
            adaptations = self._suited(stages, adaptations, symbols, indices)
            mark("offsets")
        said = [write(adaptation, shape[2]) for adaptation in adaptations]
        starts = torch.tensor(
            [*(stage.first for stage in stages), size], dtype=torch.int32, device=self.device
        )
        states = torch.empty((count, LANES_MAX), dtype=torch.int32, device=self.device)
        words = torch.empty((count, size), dtype=torch.int16, device=self.device)
        escapes = torch.empty((count, size), dtype=torch.uint8, device=self.device)
        first = torch.empty((count, 2), dtype=torch.int32, device=self.device)
        kernels.encode_lanes[(count,)](
            symbols,
            indices,
            starts,
            len(stages),
            self._codes,
            states,
            words,
            escapes,
            first,
            lanes,
            size,
            LANES=LANES_MAX,
            **LAUNCH,
        )
        mark("lanes")
        used = size - first.cpu().numpy().astype(np.int64)
        heads = [
            write_varint(len(each)) + each + bytes([lanes.bit_length() - 1]) + write_varint(n)
            for each, n in zip(said, used[:, 1].tolist(), strict=True)
        ]
        head_length = max(len(head) for head in heads)
        head_sizes = np.array([len(head) for head in heads], np.int32)
        ends = np.cumsum(head_sizes + used[:, 1] + 4 * lanes + 2 * used[:, 0])
        total = int(ends[-1])
        out = torch.empty(total, dtype=torch.uint8, device=self.device)
        padded = bytearray().join(head.ljust(head_length, b"\0") for head in heads)
        kernels.pack[(count,)](
            torch.frombuffer(padded, dtype=torch.uint8).to(self.device),
            torch.from_numpy(head_sizes).to(self.device),
            escapes,
            states.view(torch.uint8),
            words.view(torch.uint8),
            first,
            torch.from_numpy(np.concatenate([[0], ends])).to(self.device),
            out,
            lanes,
            size,
            head_length,
            LANES=LANES_MAX,
            BLOCK=PACKED,
            **LAUNCH,
        )
        mark("bodies")
        fixed = self.device.type == "cuda"
        host = torch.empty(total, dtype=torch.uint8, pin_memory=fixed).copy_(out)
        mark("download")
        view = host.numpy().data
        return [
            bytes(view[start:end]) for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]

    def _suited(
        self,
        stages: Sequence[Stage],
        adaptations: Sequence[Adaptation],
        symbols: torch.Tensor,
        indices: torch.Tensor,
    ) -> list[Adaptation]:
        """Choose the offsets of all tiles as `lossless.offset_of` does, and turn scales into tables.

        indices: [T, symbols of a tile], 4 scale + quarter before, tables after; those of bases stay.
        """
        totals: dict[Group, torch.Tensor] = {}
        samples: Counter[Group] = Counter()
        for stage in stages:
            if stage.group is not None:
                samples[stage.group] += stage.count
        for stage in stages:
            if stage.group is None:
                continue
            step = max(1, samples[stage.group] // FITTED)
            some = slice(stage.first, stage.first + stage.count, step)
            places = indices[:, some].to(torch.int64) << 8 | symbols[:, some]
            found = torch.stack([costs[places].sum(dim=1) for costs in self._costs])
            before = totals.get(stage.group)
            totals[stage.group] = found if before is None else before + found
        offsets: dict[Group, npt.NDArray[np.int64]] = {}
        for group, total in totals.items():
            of_tiles = total.cpu().numpy()
            gains = of_tiles.min(axis=0) < of_tiles[OFFSET_MAX]
            offsets[group] = np.where(gains, of_tiles.argmin(axis=0) - OFFSET_MAX, 0)
        rows = {
            group: torch.from_numpy(OFFSET_MAX + offset).to(self.device)[:, None]
            for group, offset in offsets.items()
        }
        for stage in stages:
            if stage.group is not None:
                part = indices[:, stage.first : stage.first + stage.count]
                part.copy_(self._tables_by_scale[rows[stage.group], part.to(torch.int64)])
        return [
            Adaptation(
                {group: int(offset[tile]) for group, offset in offsets.items()}, adaptation.corrections
            )
            for tile, adaptation in enumerate(adaptations)
        ]

    def _decode(
        self,
        bodies: Sequence[bytes | memoryview],
        shape: tuple[int, ...],
        number: int,
        of: int,
        mark: Mark,
    ) -> torch.Tensor:
        """Tiles `number`... of `of`."""
        count, area = len(bodies), shape[0] * shape[1]
        sections = np.zeros((count, 4), np.int64)
        lanes = np.zeros(count, np.int32)
        start_states = np.full((count, LANES_MAX), STATE_MIN, np.uint32)
        adapted = [split(body, shape[2]) for body in bodies]
        changes = self._changes([adaptation for adaptation, _ in adapted])
        start = 0
        for tile, (_, body) in enumerate(adapted):
            lanes[tile], escapes_at, states_at, words_at = sections_of(body)
            sections[tile] = (
                start + words_at,
                (len(body) - words_at) // 2,
                start + escapes_at,
                states_at - escapes_at,
            )
            start_states[tile, : lanes[tile]] = np.frombuffer(body, "<u4", lanes[tile], states_at)
            start += len(body)
        data = torch.frombuffer(bytearray().join([body for _, body in adapted]), dtype=torch.uint8).to(
            self.device
        )
        sections_there = torch.from_numpy(sections).to(self.device)
        lanes_there = torch.from_numpy(lanes).to(self.device)
        states = torch.from_numpy(start_states.view(np.int32)).to(self.device)
        taken = torch.zeros((count, 3), dtype=torch.int32, device=self.device)
        mark("upload")

        stages = self._stages_of(shape)
        most = max(stage.count for stage in stages)
        planes = torch.empty((count, shape[2], area), dtype=torch.int16, device=self.device)
        values = torch.empty(count * most, dtype=torch.uint8, device=self.device)
        indices = torch.empty_like(values)
        for stage in stages:
            if stage.step is not None:
                self._predict(stage, stage.step, changes, shape, planes, values, indices, code=False)
                mark("nets")
            kernels.decode_lanes[(count,)](
                data,
                sections_there,
                lanes_there,
                states,
                taken,
                self._slots,
                self._codes,
                values,
                indices,
                planes,
                stage.count,
                stage.width,
                stage.stride_y,
                stage.stride_x,
                stage.target,
                area,
                area * shape[2],
                BASE_TABLE + stage.plane,
                stage.plane,
                BASE=stage.step is None,
                LANES=LANES_MAX,
                **LAUNCH,
            )
            mark("lanes")
            if stage.step is None:
                self._base(stage, shape, planes, values, code=False)
                mark("base")
        out = _tiles_of(planes, shape)
        mark("colour")
        _check_ends(sections, lanes, taken.cpu().numpy(), states.cpu().numpy().view(np.uint32), number, of)
        return out


SHAPES_KEPT: Final = 32
"""Shapes of tiles whose stages are remembered: a picture has up to four."""


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[2] not in (1, 3) or not 0 < shape[0] * shape[1] <= 1 << PILC_TILE_EXPONENT:
        raise UsageValueError(
            f"shape: expected [h, w, 1 or 3] of 1..2^{PILC_TILE_EXPONENT} pixels, found {shape}",
            argument="shape",
        )


def _check_adaptation(adaptation: Adaptation) -> None:
    for group, offset in adaptation.offsets.items():
        if not -OFFSET_MAX <= offset <= OFFSET_MAX:
            raise UsageValueError(
                f"adaptations: offset {offset} of {group}, expected -{OFFSET_MAX}..{OFFSET_MAX}",
                argument="adaptations",
            )
    for group, correction in adaptation.corrections.items():
        if group[0] or correction.dtype != np.int8 or correction.shape != near(*group[1:]).shape:
            raise UsageValueError(
                f"adaptations: a correction of {group}, {correction.dtype} {correction.shape}; expected int8 "
                "for each near input of a group of class 0",
                argument="adaptations",
            )


def _planes_of(tiles: torch.Tensor) -> torch.Tensor:
    """G, R - G, B - G, or the one channel, int16 [T, planes, h, w], of tiles [T, h, w, channels]."""
    wide = tiles.permute(0, 3, 1, 2).to(torch.int16, memory_format=torch.contiguous_format)
    if wide.shape[1] == 1:
        return wide
    red, green, blue = wide.unbind(1)
    return torch.stack([green, red - green, blue - green], dim=1)


def _tiles_of(planes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of `_planes_of`, from planes [T, planes, h w]."""
    out = torch.empty((len(planes), *shape), dtype=torch.uint8, device=planes.device)
    shaped = planes.reshape(len(planes), shape[2], *shape[:2])
    if shape[2] == 1:
        out[..., 0] = shaped[:, 0]
        return out
    out[..., 1] = shaped[:, 0]
    for channel, plane in ((0, 1), (2, 2)):
        out[..., channel] = shaped[:, 0] + shaped[:, plane]
    return out


def _check_ends(
    sections: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int32],
    taken: npt.NDArray[np.int32],
    states: npt.NDArray[np.uint32],
    number: int,
    of: int,
) -> None:
    """FormatError where tiles asked for other words or escapes than they have, or a lane ends elsewhere."""
    astray = (np.arange(LANES_MAX) < lanes[:, None]) & (states != STATE_MIN)
    bad = (taken[:, 0] != sections[:, 1]) | (taken[:, 1] != sections[:, 3]) | (taken[:, 2] != 0)
    bad |= astray.any(axis=1)
    if not bad.any():
        return
    tile = int(bad.argmax())
    where = f"tile {number + tile} of {of}: " if of > 1 else ""
    if taken[tile, 2]:
        raise FormatError(f"{where}escapes: a symbol is escaped that its table has")
    for what, asked, stored in (
        ("words", taken[tile, 0], sections[tile, 1]),
        ("escapes", taken[tile, 1], sections[tile, 3]),
    ):
        if asked > stored:
            raise FormatError(f"{where}{what}: {stored} are stored, the symbols ask for more")
        if asked < stored:
            raise FormatError(f"{where}{what}: {stored - asked} of {stored} are left over")
    lane = int(astray[tile].argmax())
    raise FormatError(
        f"{where}lane {lane}: ends in state {states[tile, lane]}, expected {STATE_MIN}: "
        "damaged, or tables, weights or integer results other than the encoder's"
    )


# --- The model ----------------------------------------------------------------------------------------------


class LosslessOnDevice(Lossless):
    """`Lossless` whose tiles of mode 4 are coded on a device; what else tiles need is done on the CPU."""

    together = 256

    def __init__(self, weights: Weights, device: str) -> None:
        super().__init__(weights)
        self.batches = DeviceLattices(self.nets, self.scales, self.tables, device)

    def compile(self) -> None:
        """Nothing: a device takes many tiles at a time, compiled loops one."""

    def encode_lattices(self, group: Sequence[Tile], timer: Timer = NO_TIMER) -> list[bytes]:
        """See `Lossless`."""
        scratch = Scratch()
        with timer("corrections"):
            corrections = [self._corrections(Known.of(tile).lattices, scratch) for tile in group]
        bodies = [b""] * len(group)
        with timer("device"):
            for members in _by_shape([tile.shape for tile in group]).values():
                tiles = torch.from_numpy(np.stack([group[i] for i in members])).to(self.batches.device)
                found = self.batches.encode_suited(tiles, [corrections[i] for i in members])
                for i, body in zip(members, found, strict=True):
                    bodies[i] = body
        return bodies

    def decode_lattices(
        self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]], timer: Timer = NO_TIMER
    ) -> list[Tile]:
        """See `Lossless`."""
        tiles: list[Tile] = [np.empty(0, np.uint8)] * len(bodies)
        with timer("device"):
            for shape, members in _by_shape(shapes).items():
                found = self.batches.decode_batch([bodies[i] for i in members], shape).cpu().numpy()
                for i, tile in zip(members, found, strict=True):
                    tiles[i] = tile
        return tiles


def _by_shape(shapes: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    out: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        out.setdefault(tuple(shape), []).append(i)
    return out


_NO_DEVICE: Final = (
    *(UnsupportedError, triton.TritonError, RuntimeError, OSError, subprocess.SubprocessError),
    AssertionError,  # torch's, where it was built without CUDA
)
"""What Triton, its compilers, torch and `device_net` say of a device that can't be used."""


def on_device(weights: Weights, device: str) -> Lossless:
    """The model on a device that gives the bytes and samples of the CPU for a tile that takes every kernel;
    if it does not, a LicWarning and the model on the CPU.

    Raises:
        WeightsError: see `lossless.build`.
    """
    try:
        model = LosslessOnDevice(weights, device)
        wrong = differs(model)
    except _NO_DEVICE as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong is None:
        return model
    warnings.warn(f"pilc runs on the CPU, not on {device}: {wrong}", LicWarning, stacklevel=3)
    return Lossless(weights)


def differs(model: LosslessOnDevice) -> str | None:
    """What a device makes otherwise than the CPU of a tile that takes every kernel, once saying nothing of
    itself and once much; None where nothing."""
    tiles, adaptations = [trial_tile()] * 2, [NONE, trial_adaptation(model.nets)]
    expected = bodies_of(model, tiles, adaptations, LANES_MAX)
    try:
        samples = model.batches.decode_batch(expected, tiles[0].shape)
    except FormatError as error:
        return f"it cannot decode what the CPU encoded ({error})"
    if not np.array_equal(samples.cpu().numpy(), np.stack(tiles)):
        return "it decodes other samples than the CPU"
    if model.batches.encode_batch(samples, adaptations, lanes=LANES_MAX) != expected:
        return "it encodes to other bytes than the CPU"
    return None


def bodies_of(
    model: Lossless, tiles: Sequence[Tile], adaptations: Sequence[Adaptation], lanes: int
) -> list[bytes]:
    """What the CPU makes of tiles that say this of themselves."""
    scratch = Scratch()
    looks = [model.look(model.tables_of(each), each, scratch) for each in adaptations]
    streams = [
        [(symbols, tables) for _, symbols, tables in stream]
        for stream in streams_of(tiles, looks, model.dtype)
    ]
    coded = lane_coder.encode_many(streams, model.tables, [lanes] * len(tiles))
    said = [write(each, tile.shape[2]) for each, tile in zip(adaptations, tiles, strict=True)]
    return [write_varint(len(head)) + head + body for head, body in zip(said, coded, strict=True)]


def trial_adaptation(nets: Nets) -> Adaptation:
    """All offsets, and corrections that make the weights of linear predictions smaller, in each plane but for
    one pass of it."""
    offsets = {group: number % (2 * OFFSET_MAX + 1) - OFFSET_MAX for number, group in enumerate(groups(3))}
    corrections = {}
    for group in groups(3):
        if group[0] == 0 and group[2] != PASSES[group[1]].name:
            weights = nets[group].first[0, near(*group[1:])]
            corrections[group] = -np.clip(np.fix(weights / STEP), -3, 3).astype(np.int8)
    return Adaptation(offsets, corrections)


def trial_tile() -> Tile:
    """64 x 64 pixels of waves, an edge and noise: both classes of nets, all tables' kinds, escapes."""
    y, x = np.mgrid[0:64, 0:64]
    waves = [128 + 90 * np.sin((x + 9 * c) / 7) * np.cos(y / (5 + c)) for c in range(3)]
    tile = np.stack(waves, axis=2)
    tile[20:30, 10:50] = (250, 3, 128)
    tile[40:] += np.random.default_rng(8).integers(-60, 60, (24, 64, 3))
    out: Tile = np.clip(tile, 0, 255).astype(np.uint8)
    return out
