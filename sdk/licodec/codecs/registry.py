"""Which codecs there are, and what can be said of their files without torch, NumPy or weights.

Side-info tables are declared here: `inspect` shows every field, SPEC.md prints the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lic_format.container import SEALED_ANS, Unit
from lic_format.errors import FormatError, UnsupportedError
from lic_format.fields import EnumU8, Table
from lic_format.header import Head, Order


@dataclass(frozen=True)
class CodecEntry:
    """One codec: token in files, module that codes, tag that encodes, and how its side info reads.

    `precheck(head, units)` raises FormatError or UnsupportedError for what no weights are needed to refuse.
    `reductions`: to which parts of its size it decodes a picture in less time.
    """

    token: str
    module: str
    default_tag: str
    side_info: Table
    title: str
    precheck: Callable[[Head, Sequence[Unit]], None]
    reductions: tuple[int, ...] = ()


FHIC_SIDE_INFO = Table(
    "fhic side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("tables", EnumU8({1: "Gauss, Student t8, Laplace"}), "table set of the symbols"),
        (
            "channel_skip",
            EnumU8({0: "none"}),
            "channels without symbols: 1 suffix, 2 skipped, 3 kept, 4 bitmap reserved",
        ),
        ("tiling", EnumU8({0: "one unit"}), "0: the whole picture is one unit; others reserved"),
        (
            "hyper_prior",
            EnumU8({0: "one a rate"}),
            "prior of the hyper-latents; 1: a bank per position, reserved",
        ),
    ),
)

FHIC_HYPER_CELL = 64
FHIC_HYPER = 96
"""Channels at each cell in preset s. A tag with more can only make the cheapest-symbol test milder than it
could be."""
FHIC_CHEAPEST_BITS = 6.6e-5
"""No symbol of table set 1 is cheaper (the largest frequency is 65533 of 65536)."""
FHIC_ORDERS = (Order.ONE_STEP, Order.CHECKERBOARD)


def fhic_symbols(width: int, height: int) -> int:
    """Symbols of a picture that are coded for certain: its hyper-latents. They follow from its size alone."""
    return -(-width // FHIC_HYPER_CELL) * -(-height // FHIC_HYPER_CELL) * FHIC_HYPER


def _precheck_fhic(head: Head, units: Sequence[Unit]) -> None:
    FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD")
    if head.order not in FHIC_ORDERS:
        raise UnsupportedError(f"fhic: decode order {int(head.order)} is not supported by this version")
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


CODECS: dict[str, CodecEntry] = {
    "fhic": CodecEntry(
        token="fhic",
        module="licodec.codecs.checkerboard",
        default_tag="s-1",
        side_info=FHIC_SIDE_INFO,
        title="checkerboard context with exact scale nets; one model for all rates",
        precheck=_precheck_fhic,
        reductions=(4, 8, 16),
    ),
}
