from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch

from lic_format import LicWarning, UsageError, UsageTypeError, UsageValueError
from lic_format.limits import MAX_SIDE
from licodec.images import from_picture, to_picture
from tests.sdk.fixtures import pixels


@pytest.mark.parametrize(
    "given",
    [
        pixels(),
        PIL.Image.fromarray(pixels()),
        torch.from_numpy(pixels()).permute(2, 0, 1),
        torch.from_numpy(pixels()).permute(2, 0, 1)[None],
        torch.from_numpy(pixels()).permute(2, 0, 1).float() / 255,
        torch.from_numpy(pixels()).permute(2, 0, 1).double() / 255,
        pixels()[:, ::-1][:, ::-1],
        (torch.from_numpy(pixels()).permute(2, 0, 1).float() / 255).requires_grad_(),
    ],
    ids=["array", "pil", "uint8", "1xCxHxW", "float", "double", "strided", "grad"],
)
def test_every_kind_of_rgb_picture_gives_the_same_planes(given: Any) -> None:
    picture = to_picture(given)
    assert picture.planes.dtype == np.uint8
    assert picture.planes.flags.c_contiguous
    np.testing.assert_array_equal(picture.planes, pixels())


def test_floats_are_rounded_to_the_nearest_level() -> None:
    levels = torch.tensor([0.0, 0.4, 0.6, 99.4, 99.6, 254.4, 254.6, 255.0])
    planes = to_picture((levels / 255).reshape(1, 1, 8)).planes
    assert planes.reshape(-1).tolist() == [0, 0, 1, 99, 100, 254, 255, 255]


@pytest.mark.parametrize(
    "given",
    [pixels(channels=1), pixels(channels=1)[:, :, 0], torch.from_numpy(pixels(channels=1)).permute(2, 0, 1)],
    ids=["HxWx1", "HxW", "1xHxW"],
)
def test_grey_stays_grey(given: Any) -> None:
    assert to_picture(given).grey
    np.testing.assert_array_equal(to_picture(given).planes, pixels(channels=1))


def test_the_layout_follows_the_type_never_the_shape() -> None:
    narrow = pixels(height=3, width=5)
    assert to_picture(narrow).planes.shape == (3, 5, 3)
    assert to_picture(torch.from_numpy(narrow)).planes.shape == (5, 3, 3)


@pytest.mark.parametrize(
    ("mode", "coded"),
    [("L", "L"), ("RGB", "RGB"), ("1", "L"), ("RGBX", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB")],
)
def test_modes_that_mean_the_same_are_converted(mode: str, coded: str) -> None:
    image = PIL.Image.fromarray(pixels()).convert(mode)
    result = from_picture(to_picture(image), "pil")
    assert result.mode == coded
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image.convert(coded)))


def test_a_palette_becomes_rgb_and_a_grey_palette_grey() -> None:
    colours = PIL.Image.fromarray(pixels()).quantize(32)
    np.testing.assert_array_equal(to_picture(colours).planes, np.asarray(colours.convert("RGB")))
    greys = PIL.Image.fromarray(pixels()[:, :, 0]).convert("P")
    assert to_picture(greys).grey
    np.testing.assert_array_equal(to_picture(greys).planes[:, :, 0], np.asarray(greys.convert("L")))


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B"])
def test_modes_that_would_lose_something_are_refused_by_name(mode: str) -> None:
    with pytest.raises(UsageTypeError, match=f"image: mode {mode}: .* 8 bits") as caught:
        to_picture(PIL.Image.new(mode, (4, 4)))
    assert caught.value.argument == "image"


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    framed = (
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_pictures_that_pillow_is_about_to_narrow_are_refused(tmp_path: Path) -> None:
    """Pillow writes no RGB of 16 bits, so this file is made by hand."""
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(12))) * 2)
    path = tmp_path / "deep.png"
    path.write_bytes(png((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")))
    with PIL.Image.open(path) as image:
        assert image.mode == "RGB"
        with pytest.raises(UsageTypeError, match="16 bits a sample, which Pillow reads as 8"):
            to_picture(image)


def test_other_deep_files_too_and_bmp_of_16_bits_a_pixel_not(tmp_path: Path) -> None:
    deep = tmp_path / "deep.ppm"
    for largest in (256, 65535):
        deep.write_bytes(b"P6 2 2 %d\n" % largest + bytes(range(24)))
        with PIL.Image.open(deep) as image, pytest.raises(UsageTypeError, match="16 bits a sample"):
            to_picture(image)
    deep.write_bytes(b"P6 2 2 255\n" + bytes(range(12)))
    with PIL.Image.open(deep) as image:
        assert to_picture(image).planes.tobytes() == bytes(range(12))
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    body = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 2835, 2835, 0, 0) + masks + bytes(8)
    path = tmp_path / "565.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + len(body) - 8) + body)
    with PIL.Image.open(path) as image:
        assert "BGR;16" in str(image.tile)
        assert to_picture(image).planes.shape == (2, 2, 3)


def cut_out(channels: int) -> Any:
    """Pixels whose last channel is alpha: transparent at the left, opaque at the right."""
    samples = pixels(channels=channels)
    samples[:, :, -1] = np.clip(np.arange(56) * 8 - 100, 0, 255)
    return samples


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("host", ["numpy", "torch", "float", "pil"])
def test_alpha_comes_back_in_every_form(channels: int, host: str) -> None:
    samples = cut_out(channels)
    tensor = torch.from_numpy(samples).permute(2, 0, 1)
    given: dict[str, Any] = {
        "numpy": samples,
        "torch": tensor,
        "float": tensor.float() / 255,
        "pil": PIL.Image.fromarray(samples, "LA" if channels == 2 else "RGBA"),
    }
    picture = to_picture(given[host])
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, samples[:, :, -1])
    np.testing.assert_array_equal(picture.planes, samples[:, :, :-1])
    np.testing.assert_array_equal(from_picture(picture, "numpy"), samples)
    np.testing.assert_array_equal(from_picture(picture, "torch").permute(1, 2, 0), samples)
    image = from_picture(picture, "pil")
    assert image.mode == ("LA" if channels == 2 else "RGBA")
    np.testing.assert_array_equal(np.asarray(image), samples)


@pytest.mark.parametrize(("mode", "coded"), [("PA", "RGBA"), ("RGBa", "RGBA"), ("La", "LA")])
def test_other_modes_with_alpha_are_converted(mode: str, coded: str) -> None:
    image = PIL.Image.fromarray(cut_out(2 if coded == "LA" else 4), coded)
    if mode == "PA":
        image = image.convert("RGB").quantize(16).convert("PA")
        image.putalpha(100)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    result = from_picture(to_picture(image), "pil")
    assert result.mode == coded
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image.convert(coded)))


@pytest.mark.parametrize(
    ("mode", "transparency", "coded"),
    [
        ("P", 3, "RGBA"),
        ("P", bytes(range(0, 32 * 8, 8)), "RGBA"),
        ("grey P", 100, "LA"),
        ("L", 100, "LA"),
        ("1", 255, "LA"),
        ("RGB", (7, 8, 9), "RGBA"),
    ],
)
def test_transparency_that_a_mode_does_not_show_becomes_alpha(
    mode: str, transparency: Any, coded: str
) -> None:
    samples = pixels()
    samples[3:9, 4:20] = (7, 8, 9)
    image = PIL.Image.fromarray(samples)
    if mode == "P":
        image = image.quantize(32)
    elif mode == "grey P":
        image = image.convert("L").convert("P")
    else:
        image = image.convert(mode)
    if mode in ("L", "grey P"):
        image.paste(100, (4, 3, 20, 9))
    image.info["transparency"] = transparency
    before = dict(image.info)
    result = from_picture(to_picture(image), "pil")
    assert result.mode == coded and "transparency" not in result.info
    expected = image.convert("RGBA")
    assert np.asarray(expected)[:, :, 3].min() < 255
    np.testing.assert_array_equal(np.asarray(result.convert("RGBA")), np.asarray(expected))
    assert image.info == before


def test_transparency_that_a_file_tells_of_after_its_pixels_becomes_alpha(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0\7\x08\x09\0\0\0")
    late = (b"tRNS", struct.pack(">HHH", 7, 8, 9))
    path.write_bytes(png((b"IHDR", header), (b"IDAT", rows), late, (b"IEND", b"")))
    with PIL.Image.open(path) as image:
        assert "transparency" not in image.info
        picture = to_picture(image)
    assert picture.alpha is not None and picture.alpha.tolist() == [[0, 255]]


def test_sides_are_as_long_as_a_file_can_say_and_no_longer() -> None:
    assert to_picture(np.zeros((1, MAX_SIDE), np.uint8)).width == MAX_SIDE
    for shape in ((1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)):
        with pytest.raises(UsageValueError, match=f"a side can be at most {MAX_SIDE}"):
            to_picture(np.zeros(shape, np.uint8))


def test_a_palette_with_alpha_of_its_own_becomes_alpha() -> None:
    image = PIL.Image.fromarray(cut_out(4), "RGBA").quantize(32, PIL.Image.Quantize.FASTOCTREE)
    assert image.palette is not None and image.palette.mode == "RGBA"
    result = from_picture(to_picture(image), "pil")
    assert result.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize(("mode", "nonsense"), [("RGB", "much"), ("1", b"01"), ("P", (0, 0, 0)), ("L", "x")])
def test_transparency_that_makes_no_sense_is_refused_not_dropped(mode: str, nonsense: Any) -> None:
    image = PIL.Image.new(mode, (4, 4))
    image.info["transparency"] = nonsense
    with pytest.raises(UsageTypeError, match=f"mode {mode} with transparency"):
        to_picture(image)


@pytest.mark.parametrize("profile", [None, b"no profile"])
def test_cmyk_becomes_rgb_as_pillow_shows_it_and_says_so(profile: bytes | None) -> None:
    image = PIL.Image.fromarray(pixels()).convert("CMYK")
    if profile:
        image.info["icc_profile"] = profile
    with pytest.warns(LicWarning, match="mode CMYK is stored as RGB"):
        picture = to_picture(image)
    np.testing.assert_array_equal(picture.planes, np.asarray(image.convert("RGB")))
    assert not picture.metadata, "its profile says nothing of RGB"


def test_lab_becomes_srgb() -> None:
    samples = np.zeros((2, 3, 3), np.uint8)
    samples[:, :, 0], samples[:, :, 1:] = (0, 128, 255), 0  # black, grey, white: Pillow has a and b signed
    image = PIL.Image.frombytes("LAB", (3, 2), samples.tobytes())
    with pytest.warns(LicWarning, match="mode LAB"):
        planes = to_picture(image).planes.astype(int)
    assert np.ptp(planes, axis=2).max() <= 3
    assert planes[0, 0].max() <= 2 and planes[0, 2].min() >= 252 and 110 < planes[0, 1, 0] < 130


def test_a_grey_palette_with_a_profile_for_rgb_stays_rgb() -> None:
    from PIL import ImageCms

    greys = PIL.Image.fromarray(pixels()[:, :, 0]).convert("P")
    greys.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = to_picture(greys)
    assert not picture.grey and [chunk.type for chunk in picture.metadata] == ["iccp"]


@pytest.mark.parametrize(
    ("given", "error", "found"),
    [
        (np.zeros((0, 5, 3), np.uint8), UsageValueError, "empty"),
        (np.zeros((5, 0, 3), np.uint8), UsageValueError, "empty"),
        (PIL.Image.new("RGB", (0, 5)), UsageValueError, "empty"),
        (torch.zeros(3, 0, 4), UsageValueError, "empty"),
        (np.zeros((4, 4, 3), np.float32), UsageTypeError, "float32"),
        (np.zeros((4, 4, 3), np.uint16), UsageTypeError, "uint16"),
        (np.zeros((4, 4), bool), UsageTypeError, "bool"),
        (np.zeros((4, 4, 5), np.uint8), UsageValueError, r"\(4, 4, 5\)"),
        (np.zeros((4, 4, 0), np.uint8), UsageValueError, r"\(4, 4, 0\)"),
        (np.zeros(4, np.uint8), UsageValueError, r"\(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), UsageValueError, r"\(1, 4, 4, 3\)"),
        (torch.zeros(4, 4), UsageValueError, r"\(4, 4\)"),
        (torch.zeros(2, 3, 4, 4), UsageValueError, r"\(2, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), UsageTypeError, "int32"),
        (torch.full((3, 4, 4), 1.01), UsageValueError, "1.01"),
        (torch.full((3, 4, 4), -0.01), UsageValueError, "-0.01"),
        (torch.full((3, 4, 4), torch.nan), UsageValueError, "nan"),
        ("photo.png", UsageTypeError, "str"),
        (None, UsageTypeError, "NoneType"),
        ([[1, 2], [3, 4]], UsageTypeError, "list"),
    ],
)
def test_what_is_no_picture_is_refused_and_says_what_was_found(given: Any, error: type, found: str) -> None:
    with pytest.raises(error, match=f"^image: .*{found}") as caught:
        to_picture(given)
    assert isinstance(caught.value, UsageError)
    assert caught.value.argument == "image"


@pytest.mark.parametrize("channels", [1, 3])
def test_each_output_holds_the_same_pixels_in_memory_of_its_own(channels: int) -> None:
    picture = to_picture(pixels(channels=channels))
    array = from_picture(picture, "numpy")
    assert array.shape == ((40, 56) if channels == 1 else (40, 56, 3))
    tensor = from_picture(picture, "torch")
    assert tensor.shape == (channels, 40, 56)
    assert tensor.dtype == torch.uint8
    image = from_picture(picture, "pil")
    assert image.mode == ("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(np.asarray(image), array)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy().reshape(array.shape), array)
    array[:] = 0
    tensor[:] = 0
    np.testing.assert_array_equal(picture.planes, pixels(channels=channels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_carried_and_turns_the_picture_exactly_once(orientation: int) -> None:
    image = PIL.Image.fromarray(pixels())
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    picture = to_picture(image)
    assert picture.orientation == orientation
    np.testing.assert_array_equal(picture.planes, pixels())
    upright = PIL.ImageOps.exif_transpose(image)
    back = PIL.ImageOps.exif_transpose(from_picture(picture, "pil"))
    np.testing.assert_array_equal(np.asarray(back), np.asarray(upright))
    np.testing.assert_array_equal(np.asarray(PIL.ImageOps.exif_transpose(back)), np.asarray(upright))


@pytest.mark.parametrize("nonsense", [0, 9, "6"])
def test_an_orientation_that_does_not_exist_counts_as_upright(nonsense: Any) -> None:
    image = PIL.Image.fromarray(pixels())
    image.getexif()[0x0112] = nonsense
    assert to_picture(image).orientation == 1
