"""Pictures decoded smaller than they are stored, and what Pillow makes of them."""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest

import licodec
from licodec import api
from licodec.codecs import checkerboard, checkerboard_compiled
from licodec.entropy.coder import StreamDecoder
from licodec.images import psnr, reduced
from tests.sdk.fixtures import pixels

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"


@pytest.fixture(scope="module")
def photo() -> PIL.Image.Image:
    with PIL.Image.open(PHOTO) as image:
        return image.convert("RGB").crop((100, 60, 420, 300))


@pytest.fixture(scope="module")
def data(photo: PIL.Image.Image) -> bytes:
    return licodec.encode(photo, quality=60, dpi=(72, 72))


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


@pytest.mark.parametrize("factor", [4, 8, 16])
@pytest.mark.parametrize("quality", [10, 60, 95])
def test_a_reduced_picture_is_the_picture_reduced(photo: PIL.Image.Image, factor: int, quality: int) -> None:
    data = licodec.encode(photo, quality=quality)
    found = licodec.decode(data, output="numpy", reduce=factor)
    original, whole = (reduced(np.asarray(x), factor) for x in (photo, licodec.decode(data)))
    assert found.shape == whole.shape == (240 // factor, 320 // factor, 3)
    assert psnr(found, original) > {10: 27, 60: 31, 95: 33}[quality]
    assert abs(found.mean(dtype=float) - original.mean(dtype=float)) < 2, "no shift of colours"


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (17, 23), (64, 65)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sides_are_rounded_up_and_modes_stay(size: tuple[int, int], channels: int) -> None:
    planes = pixels(*size, channels)
    data = licodec.encode(planes, quality=80)
    for factor in (4, 8, 16):
        found: Any = licodec.decode(data, output="numpy", reduce=factor)
        rows, columns = -(-size[0] // factor), -(-size[1] // factor)
        assert found.shape == ((rows, columns) if channels == 1 else (rows, columns, channels))
        if channels in (2, 4):
            assert np.array_equal(found[:, :, -1:], reduced(planes[:, :, -1:], factor))
    assert licodec.decode(data, output="torch", reduce=16).shape[1:] == (-(-size[0] // 16), -(-size[1] // 16))


def test_a_codec_without_reduced_decoding_averages(stand_in: Any) -> None:
    planes = pixels(33, 50)
    data = licodec.encode(planes, codec="stand-in", quality=100)
    whole = licodec.decode(data, output="numpy")
    assert np.array_equal(licodec.decode(data, output="numpy", reduce=8), reduced(whole, 8))


def test_averages_round_half_up_and_repeat_edges() -> None:
    planes = np.array([[0, 1, 9], [1, 0, 9], [3, 3, 200]], np.uint8)[:, :, None]
    assert reduced(planes, 2)[:, :, 0].tolist() == [[1, 9], [3, 200]]
    assert reduced(planes, 1) is planes


@pytest.mark.parametrize("wrong", [0, 2, 3, 32, -4, 4.0, True, "4", None])
def test_other_factors_are_refused_by_name(data: bytes, wrong: Any) -> None:
    with pytest.raises(licodec.UsageError, match="reduce: expected 1, 4, 8 or 16"):
        licodec.decode(data, reduce=wrong)
    with pytest.raises(licodec.UsageError, match="reduce"):
        licodec.Decoder(device="cpu")([data], reduce=wrong)


def test_a_decoder_reduces_lists_too(data: bytes) -> None:
    found = licodec.Decoder(device="cpu")([data, data], reduce=8)
    assert [image.size for image in found] == [(40, 30)] * 2 and found[0].tobytes() == found[1].tobytes()


def test_damage_is_found_in_reduced_pictures_too(data: bytes) -> None:
    for at in (data.index(b"DATA") + 20, len(data) - 30):
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises(licodec.FormatError):
            licodec.decode(bytes(damaged), reduce=16)


def test_a_reduced_picture_needs_neither_synthesis_nor_all_symbols(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(wraps=StreamDecoder.get)
    monkeypatch.setattr(StreamDecoder, "get", lambda *given: read(*given))
    synthesis = Mock()

    def noted(of: Any) -> Any:
        return lambda *given: (synthesis(), of(*given))[1]

    for net, name in ((checkerboard.Synthesis, "forward"), (checkerboard_compiled.Synthesis, "__call__")):
        monkeypatch.setattr(net, name, noted(getattr(net, name)))
    licodec.decode(data, reduce=4)
    few = read.call_count
    assert few > 0 and synthesis.call_count == 0
    licodec.decode(data)
    assert read.call_count - few > few and synthesis.call_count == 1


# --- Pillow


def test_draft_takes_the_smallest_picture_that_is_large_enough(data: bytes) -> None:
    with opened(data) as image:
        assert image.draft(None, (320, 240)) is None and image.size == (320, 240)
        assert image.draft("L", (80, 60)) == ("RGB", (0, 0, 80, 60)) and image.size == (80, 60)
        assert image.draft(None, (79, 60)) == ("RGB", (0, 0, 80, 60))
        assert image.draft(None, (0, 0)) == ("RGB", (0, 0, 20, 15)) and image.size == (20, 15)
        assert image.draft(None, (41, 1)) == ("RGB", (0, 0, 80, 60)), "each time from the stored size"
        assert image.draft(None, (81, 10)) is None and image.size == (320, 240)
        assert image.draft("RGB", None) is None
        image.draft(None, (40, 30))
        image.load()
        assert image.size == (40, 30)
        assert image.draft(None, (20, 15)) is None, "too late"
        assert image.tobytes() == licodec.decode(data, reduce=8).tobytes()


def test_draft_waits_for_a_thread_that_loads_and_comes_too_late(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = api.decode
    drafts: list[Future[Any]] = []

    def decode_while_another_drafts(*given: Any, **options: Any) -> Any:
        drafts.append(pool.submit(image.draft, None, (40, 30)))
        assert wait(drafts, timeout=0.2).not_done, "not while the pixels come"
        return decode(*given, **options)

    monkeypatch.setattr(api, "decode", decode_while_another_drafts)
    with ThreadPoolExecutor(1) as pool, opened(data) as image:
        image.load()
        assert drafts[0].result() is None and image.size == (320, 240)


@pytest.mark.parametrize("size", [(32, 32), (20, 90), (100, 100)])
def test_thumbnails_look_like_those_of_a_loaded_picture(data: bytes, size: tuple[int, int]) -> None:
    with opened(data) as image, opened(data) as loaded:
        loaded.load()
        image.thumbnail(size)
        loaded.thumbnail(size)
        assert image.size == loaded.size and image.info == loaded.info
        assert psnr(np.asarray(image), np.asarray(loaded)) > 32


def test_a_box_covers_the_picture_where_sides_were_rounded_up() -> None:
    data = licodec.encode(pixels(70, 133), quality=60)
    with opened(data) as image:
        assert image.draft(None, (30, 10)) == ("RGB", (0, 0, 133 / 4, 70 / 4))
        image.load()
        assert image.size == (34, 18)
