"""Parts of pictures: the samples of the whole, of the tiles that are needed, at the cost of these."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lic_format
import licodec
from lic_format import Chunk, FormatError, UnsupportedError
from licodec import alpha
from licodec.codecs.lossless import Lossless, check_of
from licodec.codecs.registry import PILC_TILE
from licodec.plugins.pillow import LicDecodeError

Samples = npt.NDArray[np.uint8]
PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
WIDTH, HEIGHT = 640, 530
REGIONS = (
    (0, 0, WIDTH, HEIGHT),
    (0, 0, 1, 1),
    (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT),
    (500, 500, 530, 520),
    (512, 0, WIDTH, 512),
    (7, 511, 600, 512),
)


@pytest.fixture(scope="module")
def samples() -> Samples:
    """RGBA, four tiles; alpha is a ramp with a hole."""
    with PIL.Image.open(PHOTO) as photo:
        colours = np.asarray(photo.convert("RGB").resize((WIDTH, HEIGHT)))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramp = np.where((x - 300) ** 2 + (y - 200) ** 2 < 90**2, 0, (x + y) % 256).astype(np.uint8)
    return np.dstack([colours, ramp])


@pytest.fixture(scope="module")
def lossless(samples: Samples) -> bytes:
    return licodec.encode(samples, lossless=True)


@pytest.fixture(scope="module")
def lossy(samples: Samples) -> bytes:
    return licodec.encode(samples[:200, :300], quality=40)


def cut(whole: Any, region: tuple[int, int, int, int]) -> Any:
    x0, y0, x1, y1 = region
    return whole[y0:y1, x0:x1]


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_that_part_of_the_picture(samples: Samples, lossless: bytes, region: Any) -> None:
    found = licodec.decode(lossless, output="numpy", region=region)
    assert np.array_equal(found, cut(samples, region))


def test_a_region_in_every_form(samples: Samples, lossless: bytes) -> None:
    region = (513, 520, 600, 525)
    expected = cut(samples, region)
    assert licodec.decode(lossless, region=region).tobytes() == expected.tobytes()
    tensor = licodec.decode(lossless, output="torch", region=np.array(region))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("channels", [[0], [0, 3], [0, 1, 2]])
def test_a_region_of_any_kind_of_picture(samples: Samples, channels: list[int]) -> None:
    part = samples[300:, :520, channels]
    data = licodec.encode(part, lossless=True)
    for region in ((3, 5, 516, 190), (515, 200, 518, 230)):
        found = licodec.decode(data, output="numpy", region=region)
        assert np.array_equal(found.reshape(*found.shape[:2], -1), cut(part, region))


def test_a_region_of_a_lossy_file_is_cut_from_the_whole(lossy: bytes) -> None:
    decoder = licodec.Decoder(device="cpu")
    whole = decoder(lossy, output="numpy")
    region = (13, 17, 290, 199)
    assert np.array_equal(decoder(lossy, output="numpy", region=region), cut(whole, region))
    found = decoder([lossy, lossy], output="numpy", region=[0, 0, 5, 5])
    assert [np.array_equal(each, whole[:5, :5]) for each in found] == [True, True]


@pytest.mark.parametrize("factor", [4, 16])
@pytest.mark.parametrize("name", ["lossless", "lossy"])
def test_with_reduce_a_region_is_that_part_of_the_reduced_picture(
    name: str, factor: int, request: pytest.FixtureRequest
) -> None:
    data: bytes = request.getfixturevalue(name)
    info, whole = licodec.inspect(data), licodec.decode(data, output="numpy", reduce=factor)
    for x0, y0, x1, y1 in ((0, 16, 160, info.height), (16, 0, info.width, 32)):
        found = licodec.decode(data, output="numpy", reduce=factor, region=(x0, y0, x1, y1))
        rows, columns = (slice(a // factor, -(-b // factor)) for a, b in ((y0, y1), (x0, x1)))
        assert np.array_equal(found, whole[rows, columns])


def test_a_region_counts_stored_pixels_and_is_turned_as_the_picture_is(samples: Samples) -> None:
    image = PIL.Image.fromarray(samples[:40, :60, :3])
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = licodec.encode(image, lossless=True, exif=exif, dpi=(72, 72))
    found = licodec.decode(data, region=(10, 5, 50, 25))
    assert found.info["dpi"] == pytest.approx((72, 72), abs=0.1)
    assert np.array_equal(np.asarray(found), samples[5:25, 10:50, :3])
    assert np.array_equal(np.asarray(PIL.ImageOps.exif_transpose(found)), np.rot90(np.asarray(found), -1))
    turned = iio.imread(data, extension=".lic", region=(10, 5, 50, 25), rotate=True)
    assert np.array_equal(turned, np.rot90(np.asarray(found), -1))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([8, 16]))
def test_any_area_of_any_alpha_plane(draw: st.DataObject, depth: int) -> None:
    height, width = draw.draw(st.integers(1, 40)), draw.draw(st.integers(1, 40))
    rng = np.random.default_rng(draw.draw(st.integers(0, 999)))
    steps = rng.integers(0, draw.draw(st.sampled_from([1, 3, 1 << depth])), (height, width))
    summed = steps.cumsum(draw.draw(st.sampled_from([0, 1])))
    plane = summed.astype(np.uint8 if depth == 8 else np.uint16)
    top, left = draw.draw(st.integers(0, height - 1)), draw.draw(st.integers(0, width - 1))
    area = (
        slice(top, draw.draw(st.integers(top + 1, height))),
        slice(left, draw.draw(st.integers(left + 1, width))),
    )
    found = alpha.decode_area(alpha.encode(plane), plane.shape, depth, area)
    assert np.array_equal(found, plane[area]) and found.dtype == plane.dtype


def test_an_alpha_plane_that_ends_before_the_region_is_damaged() -> None:
    chunk = alpha.encode(np.arange(200 * 300).reshape(200, 300).astype(np.uint8))
    for payload in (chunk.payload[:30], chunk.payload[:2], chunk.payload[:2] + b"nonsense"):
        with pytest.raises(FormatError, match="ALPH"):
            alpha.decode_area(Chunk("ALPH", payload), (200, 300), 8, (slice(190, 200), slice(0, 5)))


# --- what is read, and what it costs --------------------------------------------------------------


class Counted(io.BytesIO):
    """Counts the bytes that are read of it."""

    total = 0

    def read(self, count: int | None = -1) -> bytes:
        piece = super().read(count)
        self.total += len(piece)
        return piece


def test_only_what_is_needed_is_read_and_the_rest_is_stepped_over(
    samples: Samples, lossless: bytes, tmp_path: Path
) -> None:
    whole, path = lic_format.read(lossless), tmp_path / "x.lic"
    path.write_bytes(lossless)
    file = Counted(b"before" + lossless)
    file.seek(6)
    region = (520, 515, 530, 520)
    assert np.array_equal(licodec.decode(file, output="numpy", region=region), cut(samples, region))
    others = sum(len(unit.body) for unit in whole.units[:3])
    assert file.total < len(lossless) - others + 100 and file.tell() == len(lossless) + 6
    assert np.array_equal(licodec.decode(path, output="numpy", region=region), cut(samples, region))

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    assert np.array_equal(licodec.decode(Pipe(lossless), output="numpy", region=region), cut(samples, region))


def test_tiles_that_a_region_does_not_meet_are_not_decoded(
    lossless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    decode = Lossless._decode_tiles

    def noted(self: Lossless, window: Any, group: Any, timer: Any) -> None:
        numbers.extend(number for number, *_ in group)
        decode(self, window, group, timer)

    monkeypatch.setattr(Lossless, "_decode_tiles", noted)
    for region, expected in (
        ((511, 0, 513, 9), [0, 1]),
        ((0, 512, 512, 530), [2]),
        (REGIONS[0], [0, 1, 2, 3]),
    ):
        numbers.clear()
        licodec.decode(lossless, region=region)
        assert numbers == expected


def test_a_region_of_a_large_picture_takes_memory_for_itself_alone() -> None:
    """100 megapixels of the same tile again and again; nothing of the size of the picture is made."""
    tile = np.full((512, 512, 3), 9, np.uint8)
    file = lic_format.read(licodec.encode(tile, lossless=True))
    head = dataclasses.replace(file.head, width=512 * 20, height=512 * 20)
    record = PILC_TILE.read_whole(file.units[0].side_info, where="DATA")
    units = [
        dataclasses.replace(
            file.units[0], side_info=PILC_TILE.write(record | {"check": check_of(tile, number)})
        )
        for number in range(400)
    ]
    data = lic_format.write(dataclasses.replace(file, head=head, units=tuple(units)))
    licodec.decode(data, region=(0, 0, 1, 1))
    tracemalloc.start()
    found = licodec.decode(data, output="numpy", region=(5000, 5000, 5700, 5300))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (300, 700, 3) and (found == 9).all()
    assert peak < 8 * 2**20, "the picture has 300 MiB, the tiles that are met 3"


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((5, 5, 5, 9), "is empty"),
        ((5, 9, 6, 9), "is empty"),
        ((9, 5, 6, 9), "is reversed"),
        ((5, 9, 6, 8), "is reversed"),
        ((0, 0, 641, 5), "reaches outside"),
        ((0, 0, 5, 531), "reaches outside"),
        ((-1, 0, 5, 5), "reaches outside"),
        ((10**30, 0, 10**31, 5), "reaches outside"),
    ],
)
def test_a_region_that_is_none_of_the_picture_is_refused_with_its_size(
    lossless: bytes, region: Any, message: str
) -> None:
    for data in (lossless, io.BytesIO(lossless)):
        with pytest.raises(
            licodec.UsageError, match=f"^region: .*{message}.* has 640 x 530 pixels"
        ) as caught:
            licodec.decode(data, region=region)
        assert caught.value.argument == "region" and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("region", "kind"),
    [
        ((1, 2, 3), ValueError),
        ((1, 2, 3, 4, 5), ValueError),
        ("1,2,3,4", TypeError),
        (b"abcd", TypeError),
        ((0, 0, 5, 5.0), TypeError),
        ((False, 0, 5, 5), TypeError),
        ((0, 0, 5, None), TypeError),
        ({0, 1, 2, 3}, TypeError),
        (7, TypeError),
        (np.array([[0, 0], [5, 5]]), ValueError),
    ],
)
def test_what_is_not_four_whole_numbers_is_refused_before_the_file_is_read(region: Any, kind: Any) -> None:
    with pytest.raises(licodec.UsageError, match=r"^region: expected four whole numbers") as caught:
        licodec.decode("nowhere.lic", region=region)
    assert isinstance(caught.value, kind)


def test_a_region_between_the_pixels_of_a_reduced_picture_is_refused(lossless: bytes) -> None:
    with pytest.raises(licodec.UsageError, match=r"with reduce=4: 6 is no multiple of 4 .* 640 x 530"):
        licodec.decode(lossless, region=(0, 6, 8, 12), reduce=4)


def test_limits_count_for_the_whole_picture(lossless: bytes) -> None:
    with pytest.raises(UnsupportedError, match="max_pixels"):
        licodec.decode(lossless, region=(0, 0, 5, 5), max_pixels=WIDTH * HEIGHT - 1)
    with pytest.raises(UnsupportedError, match="max_pixels_per_byte"):
        licodec.decode(lossless, region=(0, 0, 5, 5), max_pixels_per_byte=1)


def damaged(data: bytes, change: Callable[[lic_format.LicFile], lic_format.LicFile]) -> bytes:
    return lic_format.write(change(lic_format.read(data)))


def test_damage_is_seen_where_the_region_lies_and_missing_tiles_everywhere(
    samples: Samples, lossless: bytes
) -> None:
    first = lossless.index(b"DATA") + 4000
    changed = bytearray(lossless)
    changed[first] ^= 16
    beside = (520, 0, 530, 9)
    assert np.array_equal(licodec.decode(bytes(changed), output="numpy", region=beside), cut(samples, beside))
    with pytest.raises(FormatError, match="CRC"):
        licodec.decode(bytes(changed), region=(500, 0, 530, 9))
    swapped = damaged(
        lossless, lambda f: dataclasses.replace(f, units=(f.units[1], f.units[0], *f.units[2:]))
    )
    with pytest.raises(FormatError):
        licodec.decode(swapped, region=beside)
    for units in (slice(0, 3), slice(1, 4)):
        fewer = damaged(lossless, lambda f, units=units: dataclasses.replace(f, units=f.units[units]))  # type: ignore[misc]
        for source in (fewer, io.BytesIO(fewer)):
            with pytest.raises(FormatError, match="3 DATA chunks for 4 tiles"):
                licodec.decode(source, region=beside)


def test_a_file_that_is_cut_anywhere_or_goes_on_is_refused(lossless: bytes) -> None:
    for length in (*range(0, 120, 7), *range(120, len(lossless), len(lossless) // 40), len(lossless) - 1):
        for source in (lossless[:length], io.BytesIO(lossless[:length])):
            with pytest.raises(FormatError):
                licodec.decode(source, region=(0, 0, 9, 9))
    for source in (lossless + b"x", io.BytesIO(lossless + b"x")):
        with pytest.raises(FormatError, match="1 bytes follow the end"):
            licodec.decode(source, region=(0, 0, 9, 9))


def test_tiles_of_one_pixel_are_not_counted_one_by_one(lossless: bytes) -> None:
    head = lic_format.read(lossless).head
    claim = dataclasses.replace(head, width=1 << 14, height=1 << 14, side_info=bytes([1, 0, 0, 0]))
    data = damaged(lossless, lambda f: dataclasses.replace(f, head=claim))
    with pytest.raises((FormatError, UnsupportedError)):
        licodec.decode(data, region=(0, 0, 1 << 14, 1 << 14), max_pixels_per_byte=1 << 30)


# --- hosts ----------------------------------------------------------------------------------------


def test_imageio_reads_a_region(samples: Samples, lossless: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    path.write_bytes(lossless)
    region = (500, 500, 530, 520)
    assert np.array_equal(iio.imread(path, region=region), cut(samples, region))
    grey = iio.imread(path, region=region, mode="L")
    assert grey.shape == (20, 30)
    with pytest.raises(ValueError, match=r"region: .* 640 x 530"):
        iio.imread(path, region=(0, 0, 641, 1))
    path.write_bytes(lossless[:-1])
    with pytest.raises(LicDecodeError):
        iio.imread(path, region=region)
