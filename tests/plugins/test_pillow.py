"""The contract between Pillow and a plugin, shown with the stand-in codec."""

from __future__ import annotations

import copy
import functools
import io
import mimetypes
import pickle
import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import pytest
import torch

import lic_format
import licodec
import licodec.api
from lic_format import LicWarning, UnsupportedError, UsageError, WeightsError
from licodec.models import CACHE
from licodec.plugins import pillow as plugin
from tests.sdk.fixtures import pixels

pytestmark = pytest.mark.usefixtures("stand_in")


def opened(data: bytes) -> plugin.LicImageFile:
    image = PIL.Image.open(io.BytesIO(data))
    assert isinstance(image, plugin.LicImageFile)
    return image


def saved(image: PIL.Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "LIC", codec="stand-in", quality=100, **options)
    return buffer.getvalue()


# --- registration ---------------------------------------------------------------------------------


def test_the_format_is_registered_once_however_often_it_is_asked_for() -> None:
    for register in (licodec.register, licodec.register_pillow, licodec.register_imageio):
        assert register() is None
        assert register(3) is None, "as a data loader calls its worker_init_fn"
    assert PIL.Image.ID.count("LIC") == 1
    assert PIL.Image.EXTENSION[".lic"] == "LIC"
    assert PIL.Image.MIME["LIC"] == mimetypes.guess_type("x.lic")[0] == "image/x-lic"
    assert "LIC" not in PIL.Image.SAVE_ALL


def test_registering_again_mends_what_someone_removed(monkeypatch: pytest.MonkeyPatch, lic: bytes) -> None:
    monkeypatch.delitem(PIL.Image.OPEN, "LIC")
    monkeypatch.delitem(PIL.Image.SAVE, "LIC")
    licodec.register()
    assert opened(lic).format == "LIC"


@pytest.mark.parametrize(
    "prefix", [b"", b"\x89", b"\x89LIC\r\n\x1a", b"\x89PNG\r\n\x1a\n" + bytes(8), bytes(16)]
)
def test_accept_refuses_other_and_short_prefixes(prefix: bytes) -> None:
    assert plugin.accept(prefix) is False


def test_accept_costs_next_to_nothing_for_every_image_of_the_process() -> None:
    prefix = b"\xff\xd8\xff\xe0" + bytes(12)
    start = time.process_time()
    for _ in range(10_000):
        plugin.accept(prefix)
    assert (time.process_time() - start) / 10_000 < 5e-6  # a microsecond, with room for a busy machine


def test_the_content_decides_not_the_name(lic: bytes, tmp_path: Path) -> None:
    (tmp_path / "ours.png").write_bytes(lic)
    assert PIL.Image.open(tmp_path / "ours.png").format == "LIC"
    PIL.Image.new("RGB", (3, 3)).save(tmp_path / "png.lic", "PNG")
    assert PIL.Image.open(tmp_path / "png.lic").format == "PNG"
    (tmp_path / "text.lic").write_text("a licence")
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(tmp_path / "text.lic")


# --- open -----------------------------------------------------------------------------------------


def test_open_reads_the_header_alone(lic: bytes) -> None:
    licodec.clear_cache()
    file = io.BytesIO(lic)
    image = PIL.Image.open(file)
    assert (image.size, image.mode, image.format, image.get_format_mimetype()) == (
        (56, 40),
        "RGB",
        "LIC",
        plugin.MIME,
    )
    assert image.info["lic"]["codec"] == "stand-in"
    assert image.info["lic"]["digest"] == licodec.inspect(lic).decode_digest
    assert file.tell() < lic.index(b"DATA") + 16
    assert len(CACHE) == 0


def test_open_takes_less_than_a_millisecond(lic: bytes) -> None:
    opened(lic)
    times = []
    for _ in range(50):
        start = time.process_time()
        opened(lic)
        times.append(time.process_time() - start)
    assert sorted(times)[10] < 1e-3


def test_pixels_are_those_of_decode(lic: bytes, image: PIL.Image.Image) -> None:
    np.testing.assert_array_equal(np.asarray(opened(lic)), np.asarray(image))
    grey = image.convert("L")
    assert opened(saved(grey)).mode == "L"
    np.testing.assert_array_equal(np.asarray(opened(saved(grey))), np.asarray(grey))


@pytest.mark.parametrize("where", ["HEAD", "DATA"])
def test_a_header_that_lies_or_ends_is_an_unidentified_image_and_an_oserror(lic: bytes, where: str) -> None:
    lies = bytearray(lic)
    lies[lic.index(b"HEAD") + 9] ^= 1
    for data in (bytes(lies), lic[: lic.index(where.encode()) + 2], lic[:8], lic[:12]):
        with pytest.raises(plugin.LicOpenError) as caught:
            PIL.Image.open(io.BytesIO(data))
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, PIL.UnidentifiedImageError)
        assert isinstance(caught.value, lic_format.FormatError)
        assert caught.value.reason in str(caught.value)


def test_a_newer_file_is_refused_when_it_is_opened(lic: bytes) -> None:
    file = lic_format.read(lic)
    deep = lic_format.write(replace(file, head=replace(file.head, depth=lic_format.Depth.BITS_16)))
    with pytest.raises(UnsupportedError, match="16-bit RGB") as caught:
        PIL.Image.open(io.BytesIO(deep))
    assert isinstance(caught.value, OSError)


def test_pillows_limit_holds_before_anything_is_allocated(
    lic: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 40 * 56 // 2 - 1)
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(io.BytesIO(lic))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 40 * 56 - 1)
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        PIL.Image.open(io.BytesIO(lic))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert opened(lic).size == (56, 40)


def test_the_users_file_stays_open_and_ours_is_closed(lic: bytes, tmp_path: Path) -> None:
    file = io.BytesIO(lic)
    PIL.Image.open(file).load()
    assert not file.closed
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    image = PIL.Image.open(path)
    handle = image.fp
    image.load()
    assert handle is not None
    assert handle.closed
    path.unlink()


def test_a_file_inside_another_begins_where_its_reader_stands(lic: bytes, image: PIL.Image.Image) -> None:
    """`Image.open` always goes back to byte 0; plugins of container formats hand over a file as it stands."""
    for use in (PIL.Image.Image.tobytes, plugin.LicImageFile.verify):
        file = io.BytesIO(b"whatever" + lic)
        file.seek(8)
        inner = plugin.LicImageFile(file)
        assert inner.size == (56, 40)
        assert use(inner) in (None, image.tobytes())


def test_a_file_that_can_not_seek_is_read(lic: bytes) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = lic

        def read(self, size: int = -1) -> bytes:
            taken, self.rest = (self.rest, b"") if size < 0 else (self.rest[:size], self.rest[size:])
            return taken

        def seek(self, *_: Any) -> int:
            raise io.UnsupportedOperation

    PIL.Image.open(Pipe()).load()  # type: ignore[arg-type]


def test_there_is_one_frame(lic: bytes) -> None:
    image = opened(lic)
    assert (image.is_animated, image.n_frames) == (False, 1)
    image.seek(0)
    with pytest.raises(EOFError):
        image.seek(1)


# --- load -----------------------------------------------------------------------------------------


def test_loading_twice_is_free_and_writing_needs_no_copy(lic: bytes) -> None:
    image = opened(lic)
    image.load()
    core = image.im
    image.load()
    assert image.im is core
    assert image.readonly == 0
    image.putpixel((0, 0), (1, 2, 3))
    assert image.im is core


def test_threads_that_load_one_image_all_get_its_pixels(lic: bytes, image: PIL.Image.Image) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(12):
            shared = opened(lic)
            results = list(pool.map(lambda unloaded: unloaded.tobytes(), [shared] * 8))
            assert results == [image.tobytes()] * 8


def test_threads_that_load_one_image_decode_it_once(lic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    decode = licodec.api.decode

    def slow(data: bytes, **options: Any) -> PIL.Image.Image:
        calls.append(len(data))
        time.sleep(0.05)
        image: PIL.Image.Image = decode(data, **options)
        return image

    monkeypatch.setattr(licodec.api, "decode", slow)
    shared = opened(lic)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda unloaded: unloaded.load(), [shared] * 8))
    assert calls == [len(lic)]


def test_after_close_and_after_with_the_error_says_so(lic: bytes, tmp_path: Path) -> None:
    image = opened(lic)
    image.close()
    with pytest.raises(ValueError, match="closed"):
        image.load()
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    with PIL.Image.open(path) as unloaded:
        pass
    with pytest.raises(ValueError, match="closed"):
        unloaded.load()
    with PIL.Image.open(path) as loaded:
        loaded.load()
    assert loaded.getpixel((0, 0)) is not None


def test_images_pickle_and_copy_loaded_or_not(lic: bytes, image: PIL.Image.Image) -> None:
    for source in (opened(lic), opened(lic)):
        again = pickle.loads(pickle.dumps(source))
        assert again.tobytes() == image.tobytes()
        assert again.size == image.size
    assert opened(lic).copy().tobytes() == image.tobytes()
    assert copy.copy(opened(lic)).tobytes() == image.tobytes()
    assert opened(lic).convert("L").tobytes() == image.convert("L").tobytes()


def test_damaged_payload_is_an_oserror_that_says_where(lic: bytes) -> None:
    damaged = bytearray(lic)
    damaged[-20] ^= 1
    image = opened(bytes(damaged))
    with pytest.raises(plugin.LicDecodeError, match="at byte") as caught:
        image.load()
    assert isinstance(caught.value, OSError)
    with pytest.raises(plugin.LicDecodeError):
        opened(lic[: len(lic) // 2]).load()


@pytest.mark.parametrize("other", [pixels(20, 56), pixels(40, 56, 1)], ids=["size", "mode"])
def test_a_file_that_changed_since_it_was_opened_is_an_oserror(other: Any, lic: bytes) -> None:
    file = io.BytesIO(lic)
    image = PIL.Image.open(file)
    file.seek(0)
    file.truncate()
    file.write(licodec.encode(other, codec="stand-in"))
    with pytest.raises(OSError, match=r"changed since it was opened: it was RGB \(56, 40\)"):
        image.load()


def test_missing_weights_are_an_oserror_at_load_and_none_at_open(lic: bytes, stand_in: Path) -> None:
    licodec.clear_cache()
    (stand_in / "stand-in" / "t-1" / "model.safetensors").unlink()
    image = opened(lic)
    with pytest.raises(WeightsError, match="LICODEC_WEIGHTS") as caught:
        image.load()
    assert isinstance(caught.value, OSError)


def test_random_damage_gives_oserrors_only_and_fast(lic: bytes) -> None:
    rng = random.Random(5)
    for _ in range(400):
        damaged = bytearray(lic)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(8, len(lic))] = rng.randrange(256)
        start = time.process_time()
        try:
            PIL.Image.open(io.BytesIO(damaged)).load()
            assert bytes(damaged) == lic
        except (OSError, PIL.Image.DecompressionBombError):
            pass
        assert time.process_time() - start < 1.0


def test_verify_finds_every_damaged_byte_without_weights(lic: bytes, stand_in: Path) -> None:
    licodec.clear_cache()
    (stand_in / "stand-in" / "t-1" / "model.safetensors").unlink()
    opened(lic).verify()
    rng = random.Random(6)
    for _ in range(20):
        damaged = bytearray(lic)
        damaged[rng.randrange(8, len(lic))] ^= 1 << rng.randrange(8)
        with pytest.raises(OSError):
            PIL.Image.open(io.BytesIO(damaged)).verify()


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_the_incremental_parser_gives_the_same_image_in_any_pieces(
    lic: bytes, image: PIL.Image.Image, size: int
) -> None:
    parser = PIL.ImageFile.Parser()
    for start in range(0, len(lic), size):
        parser.feed(lic[start : start + size])
    assert parser.close().tobytes() == image.tobytes()


def test_the_incremental_parser_knows_the_size_early_and_a_cut_file_is_an_oserror(lic: bytes) -> None:
    parser = PIL.ImageFile.Parser()
    parser.feed(lic[: lic.index(b"DATA") + 4])
    assert parser.image is not None
    assert parser.image.size == (56, 40)
    parser.feed(lic[lic.index(b"DATA") + 4 : 2 * len(lic) // 3])
    with pytest.raises(OSError):
        parser.close()


# --- save -----------------------------------------------------------------------------------------


def test_save_gives_the_bytes_of_encode(image: PIL.Image.Image, lic: bytes, tmp_path: Path) -> None:
    assert saved(image) == lic
    image.save(tmp_path / "x.LIC", codec="stand-in", quality=100)
    assert (tmp_path / "x.LIC").read_bytes() == lic


def test_save_needs_nothing_but_write_and_only_once(image: PIL.Image.Image, lic: bytes) -> None:
    class Sink:
        def __init__(self) -> None:
            self.writes: list[bytes] = []

        def write(self, data: bytes) -> int:
            self.writes.append(data)
            return len(data)

    sink = Sink()
    image.save(sink, "LIC", codec="stand-in", quality=100)  # type: ignore[arg-type]
    assert sink.writes == [lic]


def test_save_writes_where_the_file_stands(image: PIL.Image.Image, lic: bytes) -> None:
    buffer = io.BytesIO()
    buffer.write(b"before")
    image.save(buffer, "LIC", codec="stand-in", quality=100)
    assert buffer.getvalue() == b"before" + lic


def test_saving_onto_the_open_file_works(lic: bytes, image: PIL.Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    with PIL.Image.open(path) as same:
        same.save(path, codec="stand-in", quality=100)
    assert PIL.Image.open(path).tobytes() == image.tobytes()


@pytest.mark.parametrize("quality", [75.5, np.int64(50), np.float32(20)])
def test_save_takes_every_real_quality(image: PIL.Image.Image, quality: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "LIC", codec="stand-in", quality=quality)
    assert licodec.inspect(buffer.getvalue()).quality == pytest.approx(float(quality), abs=0.3)


@pytest.mark.parametrize("quality", [101, -1, "high", True, float("nan")])
def test_save_refuses_other_qualities_and_removes_the_new_file(
    image: PIL.Image.Image, tmp_path: Path, quality: Any
) -> None:
    with pytest.raises(ValueError, match="quality: expected a number from 0 to 100"):
        image.save(tmp_path / "x.lic", codec="stand-in", quality=quality)
    assert not (tmp_path / "x.lic").exists()


def test_modes_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    for mode in ("I", "I;16", "F"):
        with pytest.raises(UsageError, match=f"mode {mode}"):
            saved(PIL.Image.new(mode, (4, 4)))
    with pytest.raises(ValueError, match="empty"):
        saved(PIL.Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_come_back_as_they_were(mode: str, image: PIL.Image.Image) -> None:
    given = image.convert(mode)
    if mode.endswith("A"):
        given.putalpha(PIL.Image.linear_gradient("L").resize(given.size).point(lambda level: level | 1))
    with PIL.Image.open(io.BytesIO(saved(given))) as opened:
        assert (opened.mode, opened.size) == (mode, given.size)
        assert opened.tobytes() == given.tobytes()


def test_opening_reads_no_further_than_the_alpha_plane() -> None:
    noise = np.random.default_rng(1).integers(1, 256, (400, 400, 4), np.uint8)
    data = saved(PIL.Image.fromarray(noise))
    assert licodec.inspect(data).alpha_bytes > 150_000
    start = data.index(b"ALPH") + 4
    assert PIL.Image.open(io.BytesIO(data[:start])).mode == "RGBA"


def test_a_mistyped_option_warns_with_the_one_that_was_meant(image: PIL.Image.Image) -> None:
    with pytest.warns(LicWarning, match="'qualty' .* did you mean quality") as caught:
        saved(image, qualty=3)
    assert caught[0].filename == __file__


def test_options_of_other_formats_are_ignored_in_silence(image: PIL.Image.Image, lic: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(image, optimize=True, progressive=True, method=6, lossless=False, exif=b"") == lic


def kept(image: PIL.Image.Image, **given: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "LIC", **given)
    return buffer.getvalue()


def test_lossless_keeps_every_sample_in_every_host(image: PIL.Image.Image, lic: bytes) -> None:
    def written(**given: Any) -> bytes:
        found = iio.imwrite("<bytes>", np.asarray(image), extension=".lic", **given)
        assert isinstance(found, bytes)
        return found

    lossless = licodec.encode(image, lossless=True)
    assert licodec.encode(image, codec="pilc") == licodec.Encoder("pilc")(image) == lossless
    assert kept(image, lossless=True) == written(lossless=True) == lossless
    info = licodec.inspect(lossless)
    assert (info.codec, info.lossless, info.quality) == ("pilc", True, None)
    opened = PIL.Image.open(io.BytesIO(lossless))
    assert opened.info["lic"]["lossless"] is True
    assert np.array_equal(np.asarray(opened), np.asarray(image))
    assert np.array_equal(iio.imread(lossless, extension=".lic"), np.asarray(image))
    for save in (functools.partial(kept, image), functools.partial(licodec.encode, image)):
        stand_in = functools.partial(save, codec="stand-in", quality=100)
        assert stand_in(lossless=False) == stand_in(lossless=None) == lic
        with pytest.raises(TypeError, match=r"^lossless: expected"):
            save(lossless="yes")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P"])
def test_lossless_keeps_every_mode_with_the_colours_that_nobody_sees(mode: str) -> None:
    rng = np.random.default_rng(4)
    image = PIL.Image.fromarray(rng.integers(0, 256, (30, 41, 4), dtype=np.uint8), "RGBA").convert(mode)
    if "A" in image.getbands():
        image.putalpha(PIL.Image.fromarray((255 * rng.integers(0, 2, (30, 41))).astype(np.uint8)))
    back = PIL.Image.open(io.BytesIO(kept(image, lossless=True)))
    assert np.array_equal(np.asarray(back), np.asarray(image.convert(back.mode)))


@pytest.mark.parametrize("mode", ["YCbCr", "CMYK", "HSV", "LAB", "La", "RGBa"])
def test_lossless_refuses_what_it_would_have_to_convert(mode: str) -> None:
    image = PIL.Image.new(mode, (8, 8))
    with pytest.raises(TypeError, match=f"mode {mode}: on the way to RGB it loses something"):
        kept(image, lossless=True)
    with pytest.raises(TypeError, match="float tensor is rounded to 8 bits"):
        licodec.encode(torch.zeros(3, 8, 8), lossless=True)


@pytest.mark.parametrize("name", ["quality", "target_size", "target_bpp", "target_psnr"])
def test_lossless_and_a_quality_or_target_contradict_each_other(image: PIL.Image.Image, name: str) -> None:
    target: dict[str, Any] = {name: 30}
    with pytest.raises(ValueError, match=f"lossless and {name} are both given"):
        kept(image, lossless=True, **target)
    with pytest.raises(ValueError, match=f"^{name}: pilc is lossless and takes none"):
        licodec.encode(image, codec="pilc", **target)
    with pytest.raises(ValueError, match=f"^{name}: pilc is lossless"):
        licodec.Encoder("pilc")(image, **target)
    with pytest.raises(ValueError, match=r"^lossless: this encoder is one of stand-in, which is lossy"):
        licodec.Encoder("stand-in")(image, lossless=True)


def test_save_all_is_not_pretended(image: PIL.Image.Image) -> None:
    with pytest.raises(KeyError):
        saved(image, save_all=True)


def test_save_reads_the_options_set_on_the_image_and_changes_none(image: PIL.Image.Image) -> None:
    given = {"codec": "stand-in", "quality": 0}
    image.encoderinfo = dict(given)
    buffer = io.BytesIO()
    image.save(buffer, "LIC")
    assert licodec.inspect(buffer.getvalue()).rate == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_exactly_once_in_every_chain(image: PIL.Image.Image, orientation: int) -> None:
    image.getexif()[0x0112] = orientation
    upright = PIL.ImageOps.exif_transpose(image)
    back = opened(saved(image))
    np.testing.assert_array_equal(np.asarray(PIL.ImageOps.exif_transpose(back)), np.asarray(upright))
    assert opened(saved(opened(saved(image)))).getexif().get(0x0112, 1) == orientation


def test_grey_pictures_of_every_small_size_come_back() -> None:
    for height in (1, 2, 17):
        for width in (1, 3, 16):
            picture = PIL.Image.fromarray(pixels(height, width, 1)[:, :, 0])
            assert opened(saved(picture)).tobytes() == picture.tobytes()
