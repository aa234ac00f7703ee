"""One picture, ours and peers at equal bytes, with the real codec and its installed weights."""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from lic_format.errors import LicWarning, UsageTypeError, UsageValueError
from licodec import Decoder, Encoder
from licodec.evaluation import compare as room
from licodec.evaluation.compare import Comparison, Original, compare, known_peers, read, shown_part
from licodec.evaluation.metrics import Pixels, psnr
from licodec.evaluation.peers import PEERS

from .conftest import png, synthetic

Run = Callable[..., Comparison]


@pytest.fixture(scope="module")
def run() -> Run:
    encoder, decoder = Encoder(device="cpu"), Decoder(device="cpu")

    def call(pixels: Pixels, **options: Any) -> Comparison:
        return compare(Original(pixels), encoder, decoder, **options)

    call.encoder, call.decoder = encoder, decoder  # type: ignore[attr-defined]
    return call


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


# --- at equal bytes -------------------------------------------------------------------------------


def test_figures_are_those_of_the_whole_file_and_its_pixels(run: Run) -> None:
    pixels = synthetic(168, 180)
    found = run(pixels, quality=40, peers=["webp"])
    data = run.encoder(pixels, quality=40)  # type: ignore[attr-defined]
    decoded = run.decoder(data, output="numpy")  # type: ignore[attr-defined]
    assert (found.ours.size, found.ours.setting) == (len(data), 40)
    assert found.ours.bpp == 8 * len(data) / (168 * 180)
    assert found.ours.psnr == psnr(pixels, decoded)
    assert np.array_equal(found.ours.pixels, decoded) and np.array_equal(found.pixels, pixels)
    webp = found.renditions[1]
    assert webp.psnr == psnr(pixels, webp.pixels) and 0.5 < (webp.ms_ssim or 0) < 1


def test_peers_get_the_largest_file_that_is_not_larger_than_ours(run: Run) -> None:
    pixels = synthetic(96, 128)
    found = run(pixels, quality=60, peers=["jpeg", "webp", "avif"])
    assert [rendition.name for rendition in found.renditions] == ["fhic", "jpeg", "webp", "avif"]
    for rendition in found.renditions[1:]:
        peer = PEERS[rendition.name]
        assert rendition.fits and rendition.size <= found.ours.size
        assert len(peer.encode(pixels, rendition.setting)) == rendition.size
        following = peer.search[peer.search.index(rendition.setting) + 1]
        assert len(peer.encode(pixels, following)) > found.ours.size


def test_bytes_are_the_most_that_our_file_has(run: Run) -> None:
    found = run(synthetic(96, 128), max_bytes=900, peers=["webp"])
    assert 800 < found.ours.size <= 900 and found.renditions[1].size <= found.ours.size


def test_too_few_bytes_name_the_smallest_file_which_can_be_had(run: Run) -> None:
    pixels = synthetic(16, 16)
    with pytest.raises(UsageValueError, match="bytes: 9 are too few") as caught:
        run(pixels, max_bytes=9)
    smallest = int(re.findall(r"\d+", str(caught.value))[-1])
    assert run(pixels, max_bytes=smallest, peers=[]).ours.size == smallest
    with pytest.raises(UsageValueError, match=str(smallest)):
        run(pixels, max_bytes=smallest - 1, peers=[])


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (17, 23)])
def test_tiny_pictures_have_no_ms_ssim_and_peers_may_be_larger(run: Run, shape: tuple[int, int]) -> None:
    found = run(synthetic(*shape), quality=30, peers=["webp", "avif"])
    assert all(rendition.ms_ssim is None for rendition in found.renditions)
    assert any("MS-SSIM is not defined" in note for note in found.notes)
    assert found.renditions[2].pixels.shape == (*shape, 3)
    for rendition in found.renditions:
        assert rendition.fits == (rendition.size <= found.ours.size)
    if shape == (1, 1):
        assert not found.renditions[2].fits  # an AVIF of one pixel has some 300 bytes


def test_a_lossless_codec_is_refused(run: Run) -> None:
    with pytest.raises(UsageValueError, match="pilc is lossless"):
        compare(Original(synthetic(8, 8)), Encoder("pilc"), run.decoder, peers=[])  # type: ignore[attr-defined]


# --- peers that are not there ---------------------------------------------------------------------


def test_unknown_peers_are_refused_and_named_twice_count_once() -> None:
    with pytest.raises(UsageValueError, match=r"expected some of .*webp.*'mozjpeg'"):
        known_peers(["webp", "mozjpeg"])
    assert known_peers(["webp", "avif", "webp"]) == ("webp", "avif")


def test_peers_that_are_missing_or_fail_are_left_out_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(setting: float, threads: int) -> dict[str, Any]:
        raise ValueError("encoding error 5: too large")

    peers = dict(PEERS)
    peers["webp"] = dataclasses.replace(PEERS["webp"], feature="no such library")
    peers["avif"] = dataclasses.replace(PEERS["avif"], save_options=fails)
    monkeypatch.setattr(room, "PEERS", peers)
    monkeypatch.setattr("PIL.features.check", lambda name: name != "no such library")
    found = run(synthetic(16, 16), quality=30, peers=["webp", "jpeg", "avif"])
    assert [rendition.name for rendition in found.renditions] == ["fhic", "jpeg"]
    assert found.left_out == {
        "webp": "needs a Pillow built with no such library",
        "avif": "encoding error 5: too large",
    }


def test_without_pytorch_msssim_the_rest_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = run(synthetic(168, 170), quality=5, peers=[])
    assert found.ours.ms_ssim is None and "without pytorch-msssim" in found.notes[0]


# --- what is shown --------------------------------------------------------------------------------


def test_of_large_pictures_the_middle_is_shown() -> None:
    assert shown_part(768, 512) == (0, 0, 768, 512)
    x0, y0, x1, y1 = shown_part(6000, 4000)
    assert 0.98 * room.MOST_SHOWN < (x1 - x0) * (y1 - y0) <= room.MOST_SHOWN
    assert abs(x0 + x1 - 6000) <= 1 and abs(y0 + y1 - 4000) <= 1
    assert (x1 - x0) / (y1 - y0) == pytest.approx(1.5, abs=0.01)
    for size in ((60_000_000, 1), (3, 2_000_000), (20_000, 130)):
        x0, y0, x1, y1 = shown_part(*size)
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
        assert max(x1 - x0, y1 - y0) <= room.LONGEST_SHOWN and (x1 - x0) * (y1 - y0) <= room.MOST_SHOWN


def test_a_part_that_is_asked_for_is_cut_from_all_pictures(run: Run) -> None:
    pixels = synthetic(70, 90)
    whole = run(pixels, quality=30, peers=["webp"])
    part = run(pixels, quality=30, peers=["webp"], region=(10, 20, 50, 33))
    assert np.array_equal(part.pixels, pixels[20:33, 10:50])
    for one, other in zip(part.renditions, whole.renditions, strict=True):
        assert np.array_equal(one.pixels, other.pixels[20:33, 10:50])
        assert (one.size, one.psnr) == (other.size, other.psnr)
    assert any("from 10,20 to 50,33" in note for note in part.notes)


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((90, 70), (0, 0, 91, 70)),
        ((90, 70), (-1, 0, 5, 5)),
        ((90, 70), (5, 5, 5, 9)),
        ((9000, 7000), (0, 0, 9000, 7000)),
        ((20_000, 9), (0, 0, 20_000, 1)),
    ],
)
def test_parts_outside_the_picture_or_too_large_are_refused(
    size: tuple[int, int], region: tuple[int, int, int, int]
) -> None:
    with pytest.raises(UsageValueError, match="crop: "):
        shown_part(*size, region)


# --- kinds of pictures ----------------------------------------------------------------------------


def deep_png(pixels: Pixels) -> bytes:
    """A PNG of 16 bits a sample, H x W x 3, each sample twice its byte."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + np.repeat(row.reshape(-1), 2).tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_rgb_stays_as_it_is_with_its_profile() -> None:
    pixels, profile = synthetic(9, 14), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = read(saved(Image.fromarray(pixels), "PNG", icc_profile=profile))
    assert np.array_equal(found.pixels, pixels)
    assert (found.notes, found.profile) == ((), profile)
    assert read(saved(Image.fromarray(pixels), "PNG", icc_profile=b"none at all")).profile is None


def test_grey_becomes_rgb() -> None:
    grey = synthetic(9, 14)[:, :, 0]
    found = read(saved(Image.fromarray(grey), "PNG"))
    assert np.array_equal(found.pixels, np.dstack([grey] * 3)) and found.notes == ("grey, taken as RGB",)


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3], pixels[0, :, 3] = (200, 100, 0), (255, 0, 51)
    found = read(saved(Image.fromarray(pixels), "PNG"))
    assert found.pixels[0].tolist() == [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    assert found.notes == ("transparency laid on white",)


def test_sixteen_bits_become_eight() -> None:
    deep = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    found = read(saved(Image.fromarray(deep), "PNG"))
    assert found.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 255]
    assert found.notes == ("16 bits a sample, taken as 8", "grey, taken as RGB")
    pixels = synthetic(5, 7)
    found = read(deep_png(pixels))
    assert np.array_equal(found.pixels, pixels) and found.notes == ("16 bits a sample, taken as 8",)


def test_cmyk_becomes_srgb_and_warns() -> None:
    image = Image.fromarray(synthetic(8, 8)).convert("CMYK")
    with pytest.warns(LicWarning, match="CMYK"):
        found = read(saved(image, "TIFF"))
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.notes == ("CMYK, converted to sRGB",)


def test_pictures_are_turned_upright() -> None:
    pixels, exif = synthetic(4, 6), Image.Exif()
    exif[0x0112] = 6
    found = read(saved(Image.fromarray(pixels), "PNG", exif=exif))
    assert np.array_equal(found.pixels, np.rot90(pixels, -1))
    assert found.notes == ("turned upright, as its EXIF says",)


def test_of_several_frames_the_first_is_taken() -> None:
    frames = [Image.fromarray(synthetic(8, 8, seed)) for seed in (1, 2)]
    found = read(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    assert np.array_equal(found.pixels, np.asarray(frames[0])) and found.notes == ("the first of 2 frames",)


def test_what_means_no_colours_is_refused_by_name() -> None:
    with pytest.raises(UsageTypeError, match="mode F"):
        read(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_what_is_no_picture_or_half_of_one_is_an_error() -> None:
    for data in (b"", b"no picture", png(synthetic(40, 40))[:900]):
        with pytest.raises(OSError):
            read(data)
