"""Files that lie or are damaged, at the codec's own level: checks before weights, then the seal."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import lic_format
import licodec
from lic_format import Head, LicFile, Unit
from lic_format.errors import FormatError, LicError, UnsupportedError, WeightsError
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import fhic
from licodec.codecs.contract import LossyModel, Timer
from licodec.codecs.registry import CODECS
from tests.codecs.fixtures import ORDERS, encoded, pixels, with_body

PRECHECK = CODECS["fhic"].precheck


@pytest.fixture(scope="module", params=ORDERS, ids=["one-step", "checkerboard"])
def small(request: pytest.FixtureRequest, model: cb.Checkerboard, weights: store.Weights) -> LicFile:
    return encoded(model, weights.ref, pixels(17, 23), rate=120, order=request.param)


# --- what no weights are needed to refuse


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"flags": 2}, FormatError, "lossy"),
        ({"order": Order.SERIAL, "width": 16 * 16376}, FormatError, "16385 wavefronts"),
        ({"order": Order.SERIAL, "height": 16 * 5462}, FormatError, "16387 wavefronts"),
        ({"side_info": b""}, FormatError, "layout"),
        ({"side_info": bytes([2, 1, 0, 0, 0])}, UnsupportedError, "layout"),
        ({"side_info": bytes([1, 2, 0, 0, 0])}, UnsupportedError, "tables"),
        ({"side_info": bytes([1, 1, 1, 0, 0])}, FormatError, "0 bytes of channels"),
        ({"side_info": bytes([1, 1, 5, 0, 0, 3])}, UnsupportedError, "channel_skip"),
        ({"side_info": bytes([1, 1, 0, 1, 0])}, UnsupportedError, "tiling"),
        ({"side_info": bytes([1, 1, 0, 0, 1])}, UnsupportedError, "hyper_prior"),
        ({"side_info": bytes([1, 1, 0, 0])}, FormatError, "hyper_prior"),
        ({"side_info": bytes([1, 1, 0, 0, 0, 0])}, FormatError, "1 bytes of channels"),
    ],
)
def test_heads_that_fhic_does_not_have_are_refused_by_field(
    fields: dict[str, Any], error: type[LicError], message: str, small: LicFile
) -> None:
    with pytest.raises(error, match=message):
        PRECHECK(replace(small.head, **fields), small.units)


def test_units_that_fhic_does_not_have_are_refused(small: LicFile) -> None:
    unit = small.units[0]
    for units in (
        (),
        (unit, unit),
        (replace(unit, kind=1),),
        (replace(unit, kind=2),),
        (replace(unit, side_info=b"x"),),
    ):
        with pytest.raises(FormatError, match="DATA"):
            PRECHECK(small.head, units)


def test_a_picture_that_the_body_can_not_hold_is_refused(small: LicFile) -> None:
    with pytest.raises(FormatError, match="at least"):
        PRECHECK(replace(small.head, width=1 << 18, height=1 << 14), small.units)
    PRECHECK(small.head, small.units)


def bomb(head: Head, width: int, height: int) -> bytes:
    """A whole file of 100 bytes or so whose HEAD claims a huge picture."""
    unit = Unit(0, b"", bytes([0]) + bytes(range(1, 9)))
    return lic_format.write(LicFile(replace(head, width=width, height=height), units=(unit,)))


@pytest.mark.parametrize("size", [(1 << 14, 1 << 13), (1 << 24, 8), (8, 1 << 24), (1 << 14, 1 << 14)])
def test_a_100_byte_file_that_claims_2_to_the_27_pixels_is_refused_at_once_and_without_weights(
    size: tuple[int, int], small: LicFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were touched")

    monkeypatch.setattr(store, "load", load)
    data = bomb(small.head, *size)
    assert len(data) < 120
    times = []
    licodec.clear_cache()
    for _ in range(10):
        start = time.process_time()
        with pytest.raises((FormatError, UnsupportedError)):
            licodec.decode(data, device="cpu")
        times.append(time.process_time() - start)
    assert min(times) < 0.010


def test_weights_of_another_digest_are_not_used(small: LicFile) -> None:
    other = bytes(16)
    data = lic_format.write(replace(small, head=replace(small.head, decode_digest=other)))
    with pytest.raises(WeightsError) as caught:
        licodec.decode(data, device="cpu")
    assert other.hex() in str(caught.value) and small.head.decode_digest.hex() in str(caught.value)


# --- what only the seal can refuse: the container's checksums are right in all of these


Read = Callable[[LicFile], object]


@pytest.fixture(params=["in torch", "as it runs here"])
def read(request: pytest.FixtureRequest, model: cb.Checkerboard, usual: LossyModel) -> Read:
    """What reads a file's symbols; in torch on the fast path alone, as the second reading, on the safe one,
    gives the same integers."""
    of: Any = model if request.param == "in torch" else usual
    path = (of.exact.path,) if isinstance(of, cb.Checkerboard) else ()
    return lambda file: of._read_symbols(file, *path, Timer(None))


@pytest.fixture(scope="module")
def usual(weights: store.Weights) -> LossyModel:
    return fhic.build(weights, "cpu")


def refused(file: LicFile, read: Read) -> None:
    with pytest.raises(FormatError):
        read(file)


def test_a_body_cut_at_any_byte_is_refused(small: LicFile, read: Read) -> None:
    body = small.units[0].body
    for length in range(len(body)):
        refused(with_body(small, body[:length]), read)


def test_bit_flips_in_the_body_are_all_detected(small: LicFile, read: Read) -> None:
    body, rng = small.units[0].body, random.Random(5)
    for bit in rng.sample(range(8 * len(body)), min(8 * len(body), 500)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(with_body(small, bytes(damaged)), read)


def test_words_that_moved_are_detected(small: LicFile, read: Read) -> None:
    escapes, words = lic_format.split_ans_body(small.units[0].body)
    pieces = [words[i : i + 4] for i in range(0, len(words), 4)]
    changes: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda w: w[::-1],
        lambda w: [w[1], w[0], *w[2:]],
        lambda w: [*w, w[-1]],
        lambda w: [w[0], *w],
        lambda w: w[1:],
        lambda w: [*w[:-2], w[-1], w[-2]],
        lambda w: [b"\0\0\0\0", *w],
    ]
    for change in changes:
        changed = b"".join(change(pieces))
        if changed != words and changed[-4:] != b"\0\0\0\0":
            refused(with_body(small, lic_format.join_ans_body(escapes, changed)), read)


def test_escapes_that_no_symbol_asked_for_are_detected(small: LicFile, read: Read) -> None:
    escapes, words = lic_format.split_ans_body(small.units[0].body)
    for more in (b"\x00", b"\x05\x05", b"\x80\x01", b"\x80", b"\xff\xff\xff\x7f"):
        refused(with_body(small, lic_format.join_ans_body(escapes + more, words)), read)


def test_every_lie_of_one_bit_in_head_gives_an_error_or_a_picture_of_the_size_it_says(
    small: LicFile, usual: LossyModel
) -> None:
    """HEAD with right checksums but one wrong bit; digests apart, which the store judges."""
    data = lic_format.write(small)
    start, end = data.index(b"HEAD") + 5, data.index(b"DATA") - 4
    digests = data.index(small.head.decode_digest)
    for bit in range(8 * start, 8 * end):
        if digests <= bit // 8 < digests + 24:
            continue
        lying = bytearray(data)
        lying[bit // 8] ^= 1 << bit % 8
        try:
            file = lic_format.read(mended(bytes(lying), start, end), max_pixels=1 << 20)
            if file.head.codec == "fhic" and not file.head.alpha and file.head.depth == 8:
                PRECHECK(file.head, file.units)
                planes = usual.decode(file).planes
                assert planes.shape[:2] == (file.head.height, file.head.width)
        except LicError:
            pass


def mended(data: bytes, start: int, end: int) -> bytes:
    """The file with HEAD's checksum put right."""
    crc = zlib.crc32(data[start - 5 : end]).to_bytes(4, "little")
    return data[:end] + crc + data[end + 4 :]
