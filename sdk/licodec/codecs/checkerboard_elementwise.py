"""What stands between `checkerboard`'s layers in integers of 16 bits, element by element; compiled, see
`licodec.compiled` and `exact.fixed_point`.

All of it is float32, one rounded operation after the other, and so the same on every machine and on any
number of threads; "in steps" means rounded half to even and saturated at 16,383 (`fixed_point.LARGEST`).
Channels come in multiples of 4. `checkerboard_elementwise_loops` holds the loops themselves, which believe
the addresses that they are given.

Symbols and table indices are laid out by channel, [C, n]; nets take and give rows [n, C], which may be parts
of larger ones.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from licodec import object_cache
from licodec.codecs.checkerboard_layout import QUARTER, magnitude_table
from licodec.exact.fixed_point import LANES, Floats, Held, Jobs, Strided, address_of, bits_of

Symbols = npt.NDArray[np.int16]
Indices = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]
Rows = tuple[int, int]
"""The address of row 0, and the bytes to the next one."""
SOURCES: Final = (
    "licodec.codecs.checkerboard_elementwise_loops",
    "licodec.codecs.checkerboard_layout",
    "licodec.entropy.tables",
    "licodec.exact.fixed_point",
    "licodec.exact.loop_building",
)
"""What the loops are defined by."""
WORTH_SHARING: Final = 16384
"""Elements of a piece of work: some microseconds."""
POSITIONS_WORTH_SHARING: Final = 32
"""Pieces of what is laid out by channel are multiples of so many positions: a cache line of symbols."""
_SEEN: Final = Held(magnitude_table().astype(np.int16))
_ZEROS: Final = np.zeros(LANES, np.int16)
"""Symbols where there are none."""


class Places(NamedTuple):
    """Positions that lie anywhere in memory, each with its channels one behind the other.

    Attributes:
        address: of what `offsets` count from. offsets: bytes to each position, int64 [n or more].
    """

    address: int
    offsets: Held


class Target(NamedTuple):
    """Where values go in steps.

    Attributes:
        places: int16 [C] each. factors: steps per unit, float32 [C].
    """

    places: Places
    factors: Floats


@functools.cache
def _loops() -> Jobs:
    def text() -> str:
        from licodec.codecs.checkerboard_elementwise_loops import module_text

        return module_text()

    return Jobs(object_cache.engine("checkerboard_elementwise", SOURCES, text))


def _run(name: str, arguments: Sequence[int], total: int, elements: int, multiple: int = 1) -> None:
    """elements: of each of `total` rows or positions, of which pieces take multiples of `multiple`."""
    chunk = -(-WORTH_SHARING // max(1, elements))
    _loops().run(name, arguments, total, -(-chunk // multiple) * multiple)


def _address(array: npt.NDArray[Any], kind: type[np.generic], *shape: int) -> int:
    """Of an array of that type and shape without gaps."""
    assert array.dtype == kind and array.shape == shape, (array.dtype, array.shape)
    assert array.flags.c_contiguous
    return address_of(array)


def _channels(count: int) -> int:
    assert count % 4 == 0, count
    return count


# --- Between symbols by channel and rows by position --------------------------------------------------------


def magnitudes(symbols: Symbols, out: Rows) -> None:
    """Of symbols [C, n] what the scale nets see (`layout.magnitude_table`), int16 rows [n, C]."""
    channels, n = symbols.shape
    given = _address(symbols, np.int16, channels, n), _SEEN.address, *out, _channels(channels), n
    _run("magnitudes", given, n, channels, POSITIONS_WORTH_SHARING)


def indices(rows: Rows, first_table: npt.NDArray[np.int32], out: Indices) -> None:
    """The tables of symbols [C, n]: 255 where first_table [C] is negative or the scale is 0, and the sum of
    both elsewhere. rows: scales, int16 [n, C or more]."""
    channels, n = out.shape
    given = (
        *rows, _address(first_table, np.int32, channels), _address(out, np.uint8, channels, n),
        _channels(channels), n,
    )  # fmt: skip
    _run("indices", given, n, channels, POSITIONS_WORTH_SHARING)


def settle(means: Rows, symbols: Symbols | None, per: Floats, targets: Sequence[Target], n: int) -> None:
    """Values of n positions, which are mean + symbol / per, times each target's factors, in steps.

    Args:
        means: float32 [n, C or more]. symbols: [C, n]; None where all are zero. per: symbols per unit, [C].
    """
    channels = len(per)
    if symbols is None:
        of_symbols = address_of(_ZEROS), 0, 0
    else:
        of_symbols = _address(symbols, np.int16, channels, n), 2 * n, 2
    listed = _listed(targets, channels)
    given = (
        *means, *of_symbols, _address(per, np.float32, channels), address_of(listed), len(targets),
        _channels(channels),
    )  # fmt: skip
    _run("settle", given, n, channels * len(targets), POSITIONS_WORTH_SHARING)


def _listed(targets: Sequence[Target], channels: int) -> npt.NDArray[np.int64]:
    """Of each target its address, that of its offsets and that of its factors."""
    rows = [
        (of.places.address, of.places.offsets.address, _address(of.factors, np.float32, channels))
        for of in targets
    ]
    return np.array(rows, np.int64)


def choose(
    values: Places, means: Rows, per: Floats, index: Indices, worth: Floats, savings: Floats, out: Symbols
) -> None:
    """The encoder's symbols [C, n] of value - mean * per: see `checkerboard_layout.choose_symbols`.

    Args:
        values: float32 [C] each, in units of symbols. means: float32 [n, C or more]. per: symbols per unit,
            [C]. index: tables, [C, n]. worth: bits that the squared error of one whole symbol is worth, [C].
            savings: `symbol_savings` of the table set, [256, 257].
    """
    channels, n = out.shape
    given = (
        values.address, values.offsets.address, *means, _address(per, np.float32, channels),
        _address(index, np.uint8, channels, n), _address(worth, np.float32, channels),
        _address(savings, np.float32, 256, 257), _address(out, np.int16, channels, n), _channels(channels), n,
    )  # fmt: skip
    _run("choose", given, n, channels, POSITIONS_WORTH_SHARING)


# --- Pixels and blocks of 4x4 -------------------------------------------------------------------------------


def to_steps(planes: Pixels, factors: Floats, out: Strided) -> None:
    """Pixels [H, W, 3] / 255 - 0.5 as blocks of 4x4, times factors [48] in steps: int16 [H / 4, W / 4, 48] of
    (row, column, colour)."""
    given, rows, columns = _of_planes(planes, factors, out)
    _run("to_steps", given, rows, columns * QUARTER)


def missing(planes: Pixels, shown: Strided, factors: Floats, out: Strided) -> None:
    """The same of pixels / 255 - 0.5 less what is shown, blocks int16 [H / 4, W / 4 or more, 48] in steps of
    SHOWN_STEP."""
    given, rows, columns = _of_planes(planes, factors, out)
    _run("missing", (*given, *shown), rows, columns * QUARTER)


def _of_planes(planes: Pixels, factors: Floats, out: Strided) -> tuple[tuple[int, ...], int, int]:
    """What both take, and rows and columns of blocks."""
    height, width, colours = planes.shape
    assert planes.dtype == np.uint8 and (height % 4, width % 4, colours) == (0, 0, 3)
    assert planes.strides[1:] == (3, 1)
    source = planes.ctypes.data, planes.strides[0]
    return (*source, _address(factors, np.float32, QUARTER), *out, width // 4), height // 4, width // 4


def pixels(shown: Strided, planes: Rows, rows: int, columns: int) -> None:
    """Blocks int16 [rows, columns, 48] in steps of SHOWN_STEP as pixels uint8 [4 rows, 4 columns, 3]: times
    255 plus 128, what stands behind the point left away, from 0 to 255."""
    _run("pixels", (*shown, *planes, columns), rows, columns * QUARTER)


# --- Rows of latents ----------------------------------------------------------------------------------------


def kept(s: Floats, factors: Floats, out: Symbols, more_factors: Floats, more_out: Symbols) -> None:
    """Symbols before rounding s [n, M], 0 where they are nearly that (`layout.NEARLY_ZERO`), times factors
    [M] in steps [n, M]; and times others."""
    n, channels = s.shape
    given = (
        _address(s, np.float32, n, channels), _address(factors, np.float32, channels),
        _address(out, np.int16, n, channels), _address(more_factors, np.float32, channels),
        _address(more_out, np.int16, n, channels), _channels(channels),
    )  # fmt: skip
    _run("kept", given, n, channels)


def refined(s: Floats, found: Strided, inverse: Floats, step: Floats, out: Floats) -> None:
    """Symbols before rounding s [h, w, M], moved: out = s + step * ((k + found * inverse) - s), where k is s
    or 0 as of `kept`.

    Args:
        found: coefficients that the decoded picture lacks, float32 [h, w, M or more]. inverse: symbols per
            coefficient, [M]. step: how much of the way to go, [M].
    """
    h, w, channels = s.shape
    given = (
        _address(s, np.float32, h, w, channels), *found, _address(inverse, np.float32, channels),
        _address(step, np.float32, channels), _address(out, np.float32, h, w, channels), w,
        _channels(channels),
    )  # fmt: skip
    _run("refined", given, h, w * channels)


def expected(
    s: Places,
    means: Rows,
    index: int,
    savings: Floats,
    per: Floats,
    prices: tuple[Floats, Floats],
    targets: Sequence[Target],
    rise: int,
    slope: int,
    steepness: float,
    n: int,
) -> None:
    """Symbols before rounding of n positions as their expectation, and how it and its price rise; see
    `checkerboard_look`. What they decode to, mean + expectation / per, goes to the targets as of `settle`.

    Args:
        s: float32 [C] each, in units of symbols. means: float32 [n, C or more]. index: the address of uint8
            tables, laid out as the symbols are. savings: `symbol_savings` of the table set, [256, 257]. per:
            symbols per unit, [C]. prices: what a symbol's variance costs, and one over the second derivative
            of the distortion by it, [C]. rise, slope: addresses of float32, laid out as the symbols are.
            steepness: of the probability that a value between two symbols is taken for the upper one, in the
            middle between them, over that of the value itself.
    """
    channels = len(per)
    listed = _listed(targets, channels)
    given = (
        s.offsets.address, s.address, *means, index, _address(savings, np.float32, 256, 257),
        *(_address(each, np.float32, channels) for each in (per, *prices)),
        address_of(listed), len(targets), rise, slope,
        bits_of(steepness), _channels(channels),
    )  # fmt: skip
    _run("expected", given, n, channels * len(targets))


def returned(
    lacking: Places,
    rise: int,
    slope: int,
    more: tuple[Places, Places],
    factors: Floats,
    out: Symbols,
) -> None:
    """What positions lack, with what their successors' means lack added in place; and what their own means
    should be moved by, in steps, int16 [n, C].

    Args:
        lacking: float32 [C] each. rise, slope: addresses of what `expected` gives, laid out in the same way.
        more: int16 [C] each, which are added. factors: of both of them; steps per unit of what lacks, where
            it is the mean that decides, and of the slope, [3, C].
    """
    n, channels = out.shape
    back, own = more
    given = (
        lacking.offsets.address, lacking.address, rise, slope, back.address, back.offsets.address,
        own.address, own.offsets.address, *(_address(each, np.float32, channels) for each in factors),
        _address(out, np.int16, n, channels), 2 * channels, _channels(channels),
    )  # fmt: skip
    _run("returned", given, n, channels)


def moved(
    s: Floats, found: Strided, inverse: Floats, rise: Floats, slope: Floats, farthest: float, reach: float
) -> None:
    """Symbols before rounding s [h, w, M], moved in place by reach * (rise * found * inverse - slope), which
    is at most `farthest` before it is multiplied; `found`, `inverse` as of `refined`, `rise` and `slope` as
    `expected` gives them, [h, w, M]."""
    h, w, channels = s.shape
    at = _address(s, np.float32, h, w, channels)
    given = (
        at, *found, _address(inverse, np.float32, channels), _address(rise, np.float32, h, w, channels),
        _address(slope, np.float32, h, w, channels), bits_of(farthest), bits_of(reach), at, w,
        _channels(channels),
    )  # fmt: skip
    _run("moved", given, h, w * channels)


def asinh_in_steps(y: Floats, factors: Floats, out: Symbols) -> None:
    """asinh of y [n, M], to 2e-6 of it or 1e-6, times factors [M] in steps [n, M]."""
    n, channels = y.shape
    given = (
        _address(y, np.float32, n, channels), _address(factors, np.float32, channels),
        _address(out, np.int16, n, channels), _channels(channels),
    )  # fmt: skip
    _run("asinh_in_steps", given, n, channels)
