"""pilc's lattices without networks: samples come back, by two decoders; numbers are the committed ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import lic_format
from lic_format import FormatError, WeightsError
from lic_format.container import CODEC_BYTES, LANES
from licodec import store
from licodec.codecs import linear_lattice as codec
from licodec.codecs import lossless as pilc
from licodec.codecs.registry import CODECS, LATTICE0, PILC_SIDE_INFO, PILC_TILE
from licodec.entropy.lanes import LaneTables
from tests import memory
from tests.codecs.second_lossless import decode_tile, numbers_of

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "SPEC.md").read_text(encoding="utf-8").split("\n### Lattices without networks\n")[1]
SECTION = SECTION.split("\n## ")[0].split("\n### ")[0]
Samples = npt.NDArray[np.uint8]

GOLDEN_SAMPLES = (19, 26)
GOLDEN = (
    "000086b869009442706eaa2b939e18e5a34e4bec3a7f773062e0984df7ab856113522d2e745cbddb297241431a1d3f7b"
    "6a3f50c1d61eea5d5e0bae30f0c31f9ec72d3afb741e38e4987d45bd317b4c9f7924f71d87ac265b155fa3ef091de88c"
    "593b161e1f81a67c068378221fefa00d72938a73a48dd85207520754ac9e2e6e57d298dc0516bb40c0d1f272d8c16236"
    "a97207af081d7d4ec5010800ddf83c730ab6d431f7362ed5cbbdead537b253515a7fb31fb3ca80a6906c8acd82fc4da7"
    "b5d85af5fb17329f8e142f964b77aa9dd21407b4fecebcdeb95f9687aef4df893a5ce7f41a625fef226d9c7f586f6d31"
    "f79e97ac925054b20f7d211c5e6fca5f51bf02ee23ebd0fe1f1243ce323e214b739e6a54a60ce1fd485bc6bf7214a83d"
    "7cdd0c9babced621ed7d09dde34a27ff039fcc7f798cd9ea1d9e43926714cc8c446b4d7b5432869a08ca59c498ca21ba"
    "ffeff2690af49683185c88120aeae4cdd2e134c9ac7b4e59e7fd359e3a5889b2520b455f77c40ad82a8e4849fbceb9b2"
    "98622cf82e960deec4cfdbca043fa820e6ce82c93eaa992ca59ece79fe08737d8d762972715e3a41b23269ae229cd7d0"
    "0641cf8ddc0bc10f9075a8ed0bfc64ec78cf953f802d3f2b06af1070bc4daaed3bcbb10e1214338cc05ba61b3c11d274"
    "d52b2a5bafcb10303e4dbbdb671b65db25d148b5502c3b8b248ba43073d442cc0c8b3c5b0b5f59c602d4962ae6254a0a"
    "6f4bd7394d8359c38eb2925a5e8e4b57e178063ca9e7134ccebd6a4f0bca0abcba412492be06b2f72e4eaa6f25f7a0cb"
    "265083843f68fc9e5276e5fd6b19d7bf742fbed1dd2a9476663e8a369ccb97d6d5ad8b63e15f3cd8"
)
"""Of the upper left corner of examples/photo.png at half size. What any version wrote decodes for ever."""


@pytest.fixture(scope="module")
def photo() -> Samples:
    with PIL.Image.open(ROOT / "examples" / "photo.png") as image:
        rgb = np.asarray(image.convert("RGB"), np.uint16)
    height, width = len(rgb) // 2 * 2, rgb.shape[1] // 2 * 2
    rgb = rgb[:height, :width]
    summed = rgb[::2, ::2] + rgb[1::2, ::2] + rgb[::2, 1::2] + rgb[1::2, 1::2]
    return ((summed + 2) // 4).astype(np.uint8)


def round_trip(*tiles: Samples) -> list[bytes]:
    bodies = codec.encode_many(tiles)
    found = codec.decode_many(bodies, [tile.shape for tile in tiles])
    for tile, back in zip(tiles, found, strict=True):
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, tile)
    return bodies


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_comes_back(photo: Samples, channels: int) -> None:
    sizes = [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (16, 16), (17, 16), (16, 17), (2, 33), (77, 131)]
    round_trip(*(photo[:height, :width, :channels] for height, width in sizes))


def test_tiles_in_lockstep_have_the_bytes_that_they_have_alone(photo: Samples) -> None:
    tiles = [photo[:90, :70], photo[7:33, 5:200, :1], photo[50:51, :30], photo[:64, :64]]
    assert round_trip(*tiles) == [body for tile in tiles for body in round_trip(tile)]


def test_samples_that_no_photograph_has_come_back() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:61, 0:75]
    checks = (255 * ((x // 3 + y // 5) % 2)).astype(np.uint8)
    tiles = [
        rng.integers(0, 256, (61, 75, 3), dtype=np.uint8),
        (255 * rng.integers(0, 2, (61, 75, 3))).astype(np.uint8),
        np.stack([255 * ((x + y) % 2)] * 3, axis=2).astype(np.uint8),
        np.stack([255 - checks, checks, 255 - checks], axis=2),
        np.stack([0 * x, 255 * (x % 2), 255 * (y % 2)], axis=2).astype(np.uint8),
    ]
    for body in round_trip(*tiles):
        assert len(body) < 61 * 75 * 3 * 1.3 + 100


def test_photographs_take_less_than_as_png_or_webp_and_little_more_than_with_nets(photo: Samples) -> None:
    tile = np.ascontiguousarray(photo[:256, :384])
    (body,) = codec.encode_many([tile])
    for kind, best in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "method": 4})):
        peer = io.BytesIO()
        PIL.Image.fromarray(tile).save(peer, kind, **best)
        assert len(body) < peer.tell(), kind
    (with_nets,) = pilc.build(store.load("pilc", "l-1"), "cpu").encode_lattices([tile])
    assert len(body) < 1.06 * len(with_nets)


# --- the specification ----------------------------------------------------------------------------


def test_the_numbers_are_the_committed_ones() -> None:
    data = codec.PATH.read_bytes()
    assert hashlib.sha256(data).hexdigest() == codec.DIGEST
    assert f"`{codec.DIGEST}`" in SECTION and f" {len(data)} bytes" in SECTION
    assert len(data) <= 120_000
    assert codec.read(data).to_bytes() == data


@pytest.mark.parametrize(("height", "width", "channels"), [(37, 29, 3), (18, 51, 1), (1, 37, 3), (9, 8, 3)])
def test_a_decoder_written_from_the_specification_reads_tiles(
    photo: Samples, height: int, width: int, channels: int
) -> None:
    samples = photo[90 : 90 + height, 40 : 40 + width, :channels].copy()
    samples[height // 2 :, width // 3 :] = np.random.default_rng(1).integers(
        0, 256, samples[height // 2 :, width // 3 :].shape
    )
    (body,) = codec.encode_many([samples[:, ::-1]])
    numbers = numbers_of(codec.PATH.read_bytes())
    assert decode_tile(body, height, width, channels, 2, numbers, mode=5) == samples.tolist()


def test_a_body_of_the_first_version_decodes(photo: Samples) -> None:
    height, width = GOLDEN_SAMPLES
    expected = photo[:height, :width]
    (found,) = codec.decode_many([bytes.fromhex(GOLDEN)], [expected.shape])
    np.testing.assert_array_equal(found, expected)
    assert codec.encode_many([expected])[0].hex() == GOLDEN


# --- files ----------------------------------------------------------------------------------------


def file_of(tiles: list[Samples], kind: int = LANES, flips: int = 0) -> lic_format.LicFile:
    """A picture of tiles of 32 x 32 side by side, all in mode 5."""
    units = tuple(
        lic_format.Unit(
            kind,
            PILC_TILE.write({"mode": LATTICE0, "flips": flips, "check": pilc.check_of(tile, number)}),
            codec.encode_many([pilc._flipped(tile, flips)])[0],
        )
        for number, tile in enumerate(tiles)
    )
    head = lic_format.Head(
        width=32 * len(tiles),
        height=32,
        colour=lic_format.Colour.RGB,
        flags=lic_format.Flag.LOSSLESS,
        codec="pilc",
        tag="l-1",
        decode_digest=bytes(16),
        synthesis_digest=bytes(8),
        rate=0,
        side_info=PILC_SIDE_INFO.write({"layout": 1, "columns": 5, "rows": 5, "digest": b""}),
    )
    return lic_format.LicFile(head, units=units)


@pytest.mark.parametrize("flips", range(4))
def test_files_with_tiles_of_this_mode_decode(photo: Samples, flips: int) -> None:
    picture = photo[:32, :96]
    file = file_of([np.ascontiguousarray(picture[:, x : x + 32]) for x in (0, 32, 64)], flips=flips)
    CODECS["pilc"].precheck(file.head, file.units)
    model = pilc.build(store.load("pilc", "l-1"), "cpu")
    np.testing.assert_array_equal(model.decode(file).planes, picture)
    units = (file.units[1], *file.units[1:])
    damaged = dataclasses.replace(
        file, units=(dataclasses.replace(units[0], side_info=file.units[0].side_info), *units[1:])
    )
    with pytest.raises(FormatError, match="tile 0 decodes to samples"):
        model.decode(damaged)


def test_a_unit_of_another_kind_is_refused(photo: Samples) -> None:
    file = file_of([np.ascontiguousarray(photo[:32, :32])], CODEC_BYTES)
    with pytest.raises(FormatError, match="mode 5 in DATA of kind 2, expected 1"):
        CODECS["pilc"].precheck(file.head, file.units)


# --- bad bytes ------------------------------------------------------------------------------------


def test_damaged_bodies_are_refused_or_give_other_samples(photo: Samples) -> None:
    tile = photo[:40, :30]
    (body,) = codec.encode_many([tile])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(body)
        damaged[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        try:
            (found,) = codec.decode_many([bytes(damaged)], [tile.shape])
        except FormatError:
            refused += 1
        else:
            assert found.shape == tile.shape and not np.array_equal(found, tile)
    assert refused > 50
    for length in (0, 1, 5, len(body) // 2, len(body) - 1):
        with pytest.raises(FormatError):
            codec.decode_many([body[:length]], [tile.shape])
    with pytest.raises(FormatError, match="left over"):
        codec.decode_many([body + b"\0\0"], [tile.shape])
    with pytest.raises(FormatError):
        codec.decode_many([body], [(40, 31, 3)])


def test_memory_follows_from_the_tile_and_not_from_its_bytes() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        noise = bytes([int(rng.integers(10))]) + rng.bytes(int(rng.integers(4, 3000)))
        with memory.bounded(40 << 20), pytest.raises(FormatError):
            codec.decode_many([noise], [(256, 256, 3)])


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_that_could_leave_the_integers_are_refused() -> None:
    table = codec.read(codec.PATH.read_bytes())
    name = (0, 2, "B1")
    before = table.numbers[name]
    linear, activity, thresholds = before.linear.copy(), before.activity.copy(), before.thresholds.copy()
    linear[0, :3] = 1 << 14
    activity[1, -9:-1] = 1 << 11
    thresholds[5] = thresholds[6] + 1
    for changed, message in (
        ({"linear": linear}, "sums of"),
        ({"activity": activity}, "sums of"),
        ({"thresholds": thresholds}, "do not ascend"),
    ):
        numbers = {**table.numbers, name: dataclasses.replace(before, **changed)}
        with pytest.raises(WeightsError, match=message):
            codec.read(codec.Table(numbers, table.frequencies).to_bytes())
    for data in (table.to_bytes()[:-1], table.to_bytes() + b"\0", b""):
        with pytest.raises(WeightsError, match="bytes, expected"):
            codec.read(data)
    frequencies = table.frequencies.copy()
    frequencies[7, 0] += 1
    with pytest.raises(WeightsError, match="expected 4096"):
        codec.Coder(codec.read(codec.Table(table.numbers, frequencies).to_bytes()))
    assert isinstance(codec.Coder(table).tables, LaneTables)


def test_another_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "linear_lattice.bin"
    other.write_bytes(codec.PATH.read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(codec, "PATH", other)
    codec.coder.cache_clear()
    try:
        with pytest.raises(WeightsError, match="SHA-256"):
            codec.encode_many([np.zeros((4, 4, 1), np.uint8)])
        other.unlink()
        with pytest.raises(WeightsError, match="not complete"):
            codec.encode_many([np.zeros((4, 4, 1), np.uint8)])
    finally:
        codec.coder.cache_clear()


def test_inputs_of_a_pass_are_few() -> None:
    for _, plane, name in codec.names():
        view = codec.view_of(plane, name)
        assert len(view.taps) <= 20
        assert view.inputs == len(view.taps) + 8 * plane
        assert len(set(view.pairs)) == len(view.pairs)
