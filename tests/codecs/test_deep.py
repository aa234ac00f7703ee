"""pilc of 16 bits: every sample comes back, from every host, by two decoders; damage is seen."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lic_format
import licodec
from lic_format import FormatError, LicError, UnsupportedError, UsageError
from lic_format.header import Depth
from licodec.cli.program import run
from licodec.codecs import deep
from licodec.codecs.deep import LOW, Stored
from licodec.codecs.registry import CODECS, DEEP, PILC_DEEP_SIDE_INFO, PILC_TILE
from licodec.entropy import lanes
from tests.codecs.second_deep import Numbers, decode_tile

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
CHAPTER = SPEC.split("\n### Sixteen bits\n")[1].split("\n## ")[0]
Deep = npt.NDArray[np.uint16]


def photograph(height: int, width: int, channels: int = 3, noise: float = 30) -> Deep:
    """Smooth shapes with colour and noise in the low bits."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    shapes = [
        30000 + 18000 * np.sin((x + 11 * c) / 17 + y / 29) + 9000 * np.cos(y / (7 + 2 * c))
        for c in range(channels)
    ]
    grain = rng.normal(0, noise, (height, width, channels))
    return np.clip(np.stack(shapes, axis=2) + grain, 0, 65535).astype(np.uint16)


def encoded(samples: npt.NDArray[Any]) -> bytes:
    return licodec.encode(samples, lossless=True)


def decoded(data: bytes) -> Any:
    return licodec.decode(data, output="numpy")


def modes(data: bytes) -> list[int]:
    units = lic_format.read(data).units
    return [PILC_TILE.read_whole(unit.side_info, where="DATA")["mode"] for unit in units]


def side_info(data: bytes) -> dict[str, Any]:
    return CODECS["pilc"].read_side_info(lic_format.read(data).head.side_info)


# --- samples come back ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (1, 40), (33, 1), (16, 17), (77, 131), (300, 520)]
)
def test_every_size_comes_back(height: int, width: int, channels: int) -> None:
    samples = photograph(height, width, channels)
    back = decoded(encoded(samples))
    assert back.dtype == np.uint16
    assert np.array_equal(back.reshape(samples.shape), samples)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 4, 16, 257, 4096, 65535]),
    st.booleans(),
)
def test_whatever_the_samples_are(
    height: int, width: int, channels: int, seed: int, spread: int, gradient: bool
) -> None:
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 65536) + rng.integers(0, spread + 1, (height, width, channels))
    if gradient:
        y, x = np.mgrid[0:height, 0:width]
        wide += (x * int(rng.integers(2000)) + y * int(rng.integers(2000)))[:, :, None]
    samples = wide.astype(np.uint16)
    assert np.array_equal(decoded(encoded(samples)).reshape(samples.shape), samples)
    tile = samples[:, :, : 3 if channels > 2 else 1]
    (body,) = deep.encode([tile])
    assert np.array_equal(deep.decode([body], [tile.shape])[0], tile)


@pytest.mark.parametrize("case", ["noise", "black and white", "checkers", "one pixel", "opposite colours"])
def test_extremes_come_back_by_mode_7_too(case: str) -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:70, 0:90]
    grey = {
        "noise": rng.integers(0, 65536, (70, 90)),
        "black and white": 65535 * rng.integers(0, 2, (70, 90)),
        "checkers": 65535 * ((x + y) % 2),
        "one pixel": 65535 * ((x == 33) & (y == 21)),
        "opposite colours": 65535 * ((x // 3 + y // 5) % 2),
    }[case]
    samples = np.stack([grey[::-1], grey, 65535 - grey], axis=2).astype(np.uint16)
    shapes = [samples.shape, (70, 90, 1), (9, 5, 3)]
    bodies = deep.encode([samples, samples[:, :, :1], samples[:9, :5]])
    found = deep.decode(bodies, shapes)
    assert np.array_equal(found[0], samples)
    assert np.array_equal(found[1], samples[:, :, :1])
    assert np.array_equal(found[2], samples[:9, :5])
    assert len(bodies[0]) < samples.nbytes * 1.05 + 400


def test_several_tiles_of_several_modes() -> None:
    samples = photograph(600, 700)
    samples[:512, 512:] = 4000, 513, 9
    samples[512:, :512] = np.random.default_rng(0).integers(0, 65536, (88, 512, 3))
    data = encoded(samples)
    assert modes(data) == [DEEP, 1, 0, DEEP]
    assert np.array_equal(decoded(data), samples)


@pytest.mark.parametrize("shape", [(512, 512), (600, 1030, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_pictures_are_within_the_limits(shape: tuple[int, ...], dtype: type) -> None:
    samples: npt.NDArray[Any] = np.full(shape, 77, dtype)
    assert np.array_equal(decoded(encoded(samples)), samples)


# --- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda v: v >> 8 << 8 | v >> 8, (8, 8, 1)),
        (lambda v: v >> 6 << 6 | v >> 6 >> 4, (10, 6, 1)),
        (lambda v: v >> 4 << 4 | v >> 4 >> 8, (12, 4, 1)),
        (lambda v: v >> 4 << 4, (12, 4, 0)),
        (lambda v: v >> 8 << 8, (8, 8, 0)),
        (lambda v: v >> 4, (12, 0, 0)),
        (lambda v: v >> 9, (7, 0, 0)),
        (lambda v: v, (16, 0, 0)),
    ],
)
def test_bits_that_say_nothing_are_not_stored(made: Any, expected: tuple[int, int, int]) -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    samples[0, 0] = 65535
    given = made(samples).astype(np.uint16)
    stored = Stored.of(given)
    assert (stored.bits, stored.shift, stored.repeated) == expected
    assert np.array_equal(stored.spread(stored.taken(given)), given)
    data = encoded(given)
    assert tuple(side_info(data)[name] for name in deep.FIELDS) == expected
    assert np.array_equal(decoded(data), given)


def test_pictures_of_8_bits_take_as_much_in_16() -> None:
    samples = (photograph(90, 130) >> 8).astype(np.uint8)
    small, large = encoded(samples), encoded(samples * np.uint16(257))
    assert len(large) == len(small) + 3
    assert modes(large) == modes(small)
    assert [unit.body for unit in lic_format.read(large).units] == [
        unit.body for unit in lic_format.read(small).units
    ]


def test_all_numbers_go_through_zigzag_and_tokens() -> None:
    differences = np.arange(65536, dtype=np.uint16)
    numbers = deep.zigzag(differences)
    assert numbers[[0, 65535, 1, 65534, 2]].tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(np.sort(numbers), differences)
    assert np.array_equal(deep.unzigzag(numbers), differences)
    assert deep.TOKEN_OF[[15, 16, 23, 24, 65535]].tolist() == [15, 16, 16, 17, 39]
    low = deep.LowBits(deep.packed_low(numbers))
    halves = [low.get(deep.TOKEN_OF[part]) for part in np.split(numbers, [777])]
    low.close()
    assert np.array_equal(np.concatenate(halves), numbers)


def test_deep_photographs_take_less_than_png() -> None:
    grey = photograph(200, 300, 1)[:, :, 0]
    png = io.BytesIO()
    PIL.Image.fromarray(grey).save(png, "PNG", optimize=True)
    assert len(encoded(grey)) < 0.9 * len(png.getvalue())


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_pillow_saves_and_opens_grey(mode: str) -> None:
    grey = photograph(30, 40, 1)[:, :, 0]
    image = PIL.Image.new(mode, (40, 30))
    kind = {"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")
    image.frombytes(grey.astype(kind).tobytes())
    image.info["dpi"] = (300, 300)
    sink = io.BytesIO()
    image.save(sink, "LIC", lossless=True)
    with PIL.Image.open(sink) as back:
        assert (back.mode, back.size, back.info["dpi"]) == ("I;16", (40, 30), (300, 300))
        assert np.array_equal(np.asarray(back), grey)
    assert licodec.inspect(sink.getvalue()).mode == "I;16"


def test_what_16_bits_cannot_hold_is_refused_by_name() -> None:
    for number in (-1, 65536):
        with pytest.raises(UsageError, match="mode I with numbers from"):
            licodec.encode(PIL.Image.new("I", (2, 2), number), lossless=True)
    image = PIL.Image.new("I;16", (2, 2))
    image.info["transparency"] = 0
    with pytest.raises(UsageError, match="transparency 0"):
        licodec.encode(image, lossless=True)
    for other in (PIL.Image.new("F", (2, 2)), np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)):
        with pytest.raises(UsageError, match=r"mode F|uint8 or uint16"):
            licodec.encode(other, lossless=True)
    for lossy in (PIL.Image.new("I;16", (2, 2)), np.zeros((2, 2), np.uint16)):
        with pytest.raises(UsageError, match="8 bits"):
            licodec.encode(lossy)


@pytest.mark.parametrize(("channels", "name"), [(2, "grey with alpha"), (3, "RGB"), (4, "RGB with alpha")])
def test_what_pillow_has_no_mode_for_is_told_with_the_way_out(channels: int, name: str) -> None:
    data = encoded(photograph(10, 12, channels))
    with pytest.raises(UnsupportedError, match=f"16-bit {name}: Pillow has no mode for it"):
        licodec.decode(data)
    with pytest.raises(OSError, match=f"16-bit {name}: Pillow has no mode for it"):
        PIL.Image.open(io.BytesIO(data))


def test_arrays_of_the_other_order_of_bytes_and_tensors() -> None:
    samples = photograph(20, 30, 4)
    data = encoded(samples)
    assert encoded(samples.astype(">u2")) == encoded(samples[::1]) == data
    tensor = licodec.decode(data, output="torch")
    assert tensor.dtype == torch.uint16
    assert np.array_equal(tensor.numpy(), samples.transpose(2, 0, 1))
    assert licodec.encode(tensor, lossless=True) == data
    smaller: Any = licodec.decode(data, output="numpy", reduce=4)
    assert smaller.dtype == np.uint16
    assert abs(int(smaller[1, 1, 0]) - samples[4:8, 4:8, 0].mean()) <= 0.5


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_imageio_reads_and_writes_all_of_them(channels: int, tmp_path: Path) -> None:
    samples = photograph(20, 30, channels)
    given = samples[:, :, 0] if channels == 1 else samples
    path = tmp_path / "x.lic"
    iio.imwrite(path, given, lossless=True)
    back = iio.imread(path)
    assert back.dtype == np.uint16 and np.array_equal(back, given)
    properties = iio.improps(path)
    assert properties.shape == given.shape and properties.dtype == np.uint16
    batch: Any = ...
    assert iio.imread(path, index=batch).shape == (1, *given.shape)
    metadata = iio.immeta(path)
    assert metadata["mode"] == {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    if channels > 1:
        with pytest.raises(ValueError, match="does not convert to L"):
            iio.imread(path, mode="L")
    with pytest.raises(OSError, match="ends"):
        iio.imread(path.read_bytes()[:-20])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_imageio_turns_as_pillow_does(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    small = photograph(5, 7, 3)
    deep_one = iio.imwrite("<bytes>", small, extension=".lic", lossless=True, exif=exif)
    flat = iio.imwrite("<bytes>", (small >> 8).astype(np.uint8), extension=".lic", lossless=True, exif=exif)
    turned = iio.imread(deep_one, rotate=True)
    assert np.array_equal(turned >> 8, iio.imread(flat, rotate=True))
    assert iio.immeta(deep_one)["Orientation"] == orientation


# --- the specification ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    stored: Numbers = json.loads(_numbers())
    return stored


def _numbers() -> bytes:
    return (importlib.resources.files("licodec.codecs") / deep.NUMBERS).read_bytes()


def test_the_printed_records_and_numbers_are_the_declared_ones() -> None:
    for table in (PILC_DEEP_SIDE_INFO, LOW):
        assert f"\n\n{table.markdown()}\n\n" in CHAPTER
    assert hashlib.sha256(_numbers()).hexdigest() in CHAPTER


def test_no_sum_leaves_the_integers_of_float64(numbers: Numbers) -> None:
    for kind, lowest in (("prediction", -deep.WEIGHT_MAX), ("activity", 0)):
        assert len(numbers[kind]) == 18
        for weights in numbers[kind].values():
            assert min(weights) >= lowest
            assert sum(map(abs, weights)) * 2 * 65535 < 2**53


@pytest.mark.parametrize(("height", "width", "channels"), [(37, 29, 3), (18, 51, 1), (1, 37, 3), (9, 8, 3)])
def test_a_decoder_written_from_the_specification_reads_tiles(
    numbers: Numbers, height: int, width: int, channels: int
) -> None:
    samples = photograph(height, width, channels)
    part = samples[height // 2 :, width // 3 :]
    part[:] = np.random.default_rng(1).integers(0, 65536, part.shape)
    (body,) = deep.encode([samples[:, ::-1]])
    assert decode_tile(body, height, width, channels, 2, numbers) == samples.tolist()


# --- bad files ------------------------------------------------------------------------------------


def changed(data: bytes, *, side: Mapping[str, Any] | None = None, **head: Any) -> bytes:
    file = lic_format.read(data)
    if side is not None:
        head["side_info"] = PILC_DEEP_SIDE_INFO.write(side_info(data) | dict(side))
    return lic_format.write(dataclasses.replace(file, head=dataclasses.replace(file.head, **head)))


def test_depths_that_contradict_each_other_are_format_errors() -> None:
    shallow, deep_one = encoded(np.full((9, 9, 3), 7, np.uint8)), encoded(photograph(9, 9))
    for data in (changed(shallow, depth=Depth.BITS_16), changed(deep_one, depth=Depth.BITS_8)):
        with pytest.raises(FormatError, match=r"side info of layout [12] in a file of (8|16) bits"):
            licodec.decode(data)
    for side, message in (
        ({"bits": 8}, "mode 7 in a file of samples of 8 bits"),
        ({"bits": 12, "shift": 5}, "have more than 16"),
        ({"bits": 12, "shift": 3, "repeated": 1}, "repeated"),
        ({"bits": 16, "shift": 0, "repeated": 1}, "repeated"),
        ({"bits": 7, "shift": 9, "repeated": 1}, "repeated"),
        ({"bits": 12}, "a stored sample is"),
    ):
        with pytest.raises(FormatError, match=message):
            licodec.decode(changed(deep_one, side=side))
    as_bytes = encoded(photograph(160, 160, noise=900) >> 8 << 8)
    assert modes(as_bytes) == [4]
    with pytest.raises(FormatError, match="mode 4 in a file of samples of 9 bits"):
        licodec.decode(changed(as_bytes, side={"bits": 9, "shift": 7}))


def test_every_flipped_bit_and_every_truncation_is_seen() -> None:
    small = encoded(photograph(17, 12))
    for at in range(0, len(small), 3):
        damaged = bytearray(small)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(LicError):
            licodec.decode(bytes(damaged))
    for length in range(0, len(small), 11):
        with pytest.raises(LicError):
            licodec.decode(small[:length])


def test_bodies_that_are_damaged_behind_right_checksums_give_no_samples() -> None:
    data = encoded(photograph(30, 20))
    file = lic_format.read(data)
    (unit,) = file.units

    def with_unit(**fields: Any) -> bytes:
        return lic_format.write(dataclasses.replace(file, units=(dataclasses.replace(unit, **fields),)))

    rng = np.random.default_rng(0)
    for _ in range(60):
        body = bytearray(unit.body)
        body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(FormatError):
            licodec.decode(with_unit(body=bytes(body)))
    for length in (0, 1, 5, len(unit.body) // 2, len(unit.body) - 1):
        with pytest.raises(FormatError):
            licodec.decode(with_unit(body=unit.body[:length]))
    record = PILC_TILE.read_whole(unit.side_info, where="DATA")
    for field, value in (("check", record["check"] ^ 1), ("flips", 2)):
        with pytest.raises(FormatError, match="tile 0 decodes to samples"):
            licodec.decode(with_unit(side_info=PILC_TILE.write(record | {field: value})))


def test_low_bits_and_tokens_that_cannot_be_are_named() -> None:
    tile = photograph(20, 20, 1)
    (body,) = deep.encode([tile])
    values, start = LOW.read(body, where="DATA")
    low: bytes = values["low"]
    for other, message in ((low[:-1], "ask for more"), (low + b"\0", "left over"), (b"", "ask for more")):
        with pytest.raises(FormatError, match=f"low bits.*{message}"):
            deep.decode([LOW.write({"low": other}) + body[start:]], [tile.shape])
    zeros = np.zeros((4, 3, 1), np.uint16)
    (body,) = deep.encode([zeros])
    with pytest.raises(FormatError, match="left over"):
        deep.decode([LOW.write({"low": b"\0"}) + body[1:]], [zeros.shape])
    base = np.full(12, deep.BASE_TABLE, np.uint8)
    escaped = lanes.encode([(np.full(12, 40, np.uint8), base)], deep.committed().tables, 1)
    with pytest.raises(FormatError, match=r"token 40, expected 0\.\.39"):
        deep.decode([LOW.write({"low": b""}) + escaped], [zeros.shape])
    three = lanes.encode([(np.full(12, 16, np.uint8), base)], deep.committed().tables, 1)
    bits = LOW.write({"low": b"\xff" * 4 + b"\x1f"})
    with pytest.raises(FormatError, match="bits behind the last low bits are not zero"):
        deep.decode([bits + three], [zeros.shape])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([(1, 1, 1), (20, 33, 3), (7, 40, 1)]))
def test_any_bytes_are_a_tile_or_a_format_error(body: bytes, shape: tuple[int, int, int]) -> None:
    try:
        (tile,) = deep.decode([body], [shape])
    except FormatError:
        return
    assert tile.shape == shape


def test_pillows_png_of_16_bits_goes_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = photograph(20, 30, 1)[:, :, 0]
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")

    def path(name: str) -> str:
        return str(tmp_path / name)

    assert run(["encode", path("a.png"), "--lossless", "--quiet"]) == 0
    for suffix in ("png", "tiff", "pgm"):
        assert run(["decode", path("a.lic"), "--quiet", "-o", path(f"b.{suffix}")]) == 0
        with PIL.Image.open(tmp_path / f"b.{suffix}") as back:
            assert np.array_equal(np.asarray(back), grey), suffix
    (tmp_path / "rgb.lic").write_bytes(encoded(photograph(4, 4)))
    (tmp_path / "rgb.png").write_bytes(rgb_png())
    capsys.readouterr()
    for arguments, message in (
        (["decode", path("a.lic"), "-o", path("c.webp")], "keeps no 16 bits a sample in WEBP"),
        (["decode", path("a.lic"), "-o", path("c.jpg")], "keeps no 16 bits a sample in JPEG"),
        (["decode", path("rgb.lic"), "-o", path("c.png")], "16-bit RGB: Pillow has no mode for it"),
        (["encode", path("rgb.png"), "--lossless", "-o", path("c.lic")], "which Pillow reads as 8"),
    ):
        assert run(arguments) == 1
        assert message in capsys.readouterr().err
        assert not Path(arguments[-1]).exists()


def rgb_png() -> bytes:
    """2 x 2 pixels of RGB with 16 bits a sample, which Pillow doesn't write."""
    rows = zlib.compress((b"\0" + bytes(range(12))) * 2)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    framed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
