"""Metadata through Pillow: every kind, every way of giving it, chains of formats; turned exactly once."""

from __future__ import annotations

import copy
import io
import time
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

import lic_format
import licodec
from lic_format import Chunk, LicWarning, UsageError
from lic_format.limits import MAX_METADATA
from licodec.plugins import pillow as plugin
from tests import memory

pytestmark = pytest.mark.usefixtures("stand_in")

TAG = 0x0112
OTHER_WAY = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def exif_object(orientation: int = 1) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x010F] = "Maker"
    exif[TAG] = orientation
    exif.get_ifd(0x8825)[1] = "N"
    return exif


CARRIED: dict[str, Any] = {
    "icc_profile": bytes(range(256)) * 3,
    "exif": exif_object().tobytes(),
    "xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>text</x:xmpmeta>",
    "dpi": (300, 150),
}
GIVEN: dict[str, Any] = {
    "icc_profile": b"another profile",
    "exif": exif_object(6).tobytes(),
    "xmp": OTHER_WAY,
    "dpi": (72, 72),
}


def through(image: PIL.Image.Image, name: str = "LIC", **options: Any) -> PIL.Image.Image:
    """The image, saved in a format and opened again."""
    buffer = io.BytesIO()
    if name == "LIC":
        options = {"codec": "stand-in", "quality": 100, **options}
    image.save(buffer, name, **options)
    return PIL.Image.open(buffer)


def metadata_of(image: PIL.Image.Image) -> dict[str, Any]:
    return {name: image.info[name] for name in CARRIED if name in image.info}


def carrying(**info: Any) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (24, 16))
    image.info.update(info)
    return image


def cornered() -> PIL.Image.Image:
    """Black, but for the upper left corner."""
    image = PIL.Image.new("L", (48, 32))
    image.paste(255, (0, 0, 16, 16))
    return image


def bright_corner(image: PIL.Image.Image) -> tuple[bool, bool, tuple[int, int]]:
    """Whether the bright corner is below, whether it is right, and the size."""
    y, x = np.unravel_index(np.argmax(np.asarray(image.convert("L").resize((3, 3)))), (3, 3))
    return bool(y > 1), bool(x > 1), image.size


# --- what is stored -------------------------------------------------------------------------------


def test_open_and_save_keep_everything_and_change_nothing() -> None:
    image = carrying(**CARRIED)
    image.getexif()
    before = copy.deepcopy(image.info)
    found = through(image)
    assert metadata_of(found) == CARRIED
    assert metadata_of(through(through(found))) == CARRIED
    found.load()
    assert metadata_of(found) == CARRIED
    assert image.info == before


def test_the_sdk_gives_the_info_that_pillow_gives() -> None:
    data = licodec.encode(carrying(), codec="stand-in", quality=100, **CARRIED)
    decoder = licodec.Decoder(device="cpu")
    assert metadata_of(licodec.decode(data)) == metadata_of(decoder(data)) == CARRIED
    encoder = licodec.Encoder("stand-in", quality=100, device="cpu")
    assert encoder([carrying(**CARRIED), carrying()], **CARRIED) == [data, data]
    assert licodec.inspect(data).metadata.keys() == {"iccp", "exif", "xmpd", "dpix"}
    assert licodec.inspect(encoder(carrying(**CARRIED), strip=True)).metadata == {}


@pytest.mark.parametrize("carried", [True, False], ids=["carried", "not carried"])
@pytest.mark.parametrize("name", CARRIED)
def test_each_kind_is_given_inherited_or_removed_on_its_own(name: str, carried: bool) -> None:
    image = carrying(**CARRIED) if carried else carrying()
    rest = {key: value for key, value in CARRIED.items() if carried and key != name}
    assert metadata_of(through(image)) == {**rest, **({name: CARRIED[name]} if carried else {})}
    assert metadata_of(through(image, **{name: GIVEN[name]})) == {**rest, name: GIVEN[name]}
    for nothing in (None,) if name == "dpi" else (None, b""):
        removed: dict[str, Any] = {name: nothing}
        assert metadata_of(through(image, **removed)) == rest
    assert metadata_of(through(image, strip=True)) == {}


def test_an_exif_object_is_saved_and_stays_as_it_is() -> None:
    exif = exif_object(8)
    before = exif.tobytes()
    image = carrying(**CARRIED)
    image.encoderinfo = {"exif": exif}
    found = through(image)
    assert found.info["exif"] == before == exif.tobytes()
    assert image.encoderinfo == {"exif": exif}
    assert found.getexif().get_ifd(0x8825) == {1: "N"}


def test_metadata_goes_through_chains_of_formats() -> None:
    png = through(carrying(), "PNG", **{key: CARRIED[key] for key in ("icc_profile", "exif", "dpi")})
    found = through(png)
    jpeg = through(found, "JPEG", **metadata_of(found))
    for image in (png, found, jpeg, through(jpeg)):
        assert image.info["icc_profile"] == CARRIED["icc_profile"]
        assert image.info["exif"] == CARRIED["exif"]
        assert image.info["dpi"] == pytest.approx(CARRIED["dpi"], abs=0.02)
    webp = through(carrying(), "WEBP", exif=CARRIED["exif"], xmp=CARRIED["xmp"])
    assert through(webp).info["xmp"] == CARRIED["xmp"]
    assert through(webp).info["exif"] == CARRIED["exif"]


def test_getexif_reads_what_was_stored() -> None:
    exif = through(carrying(**CARRIED)).getexif()
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8825) == {1: "N"}


def test_getxmp_reads_what_was_stored() -> None:
    assert through(carrying(**CARRIED)).getxmp()["xmpmeta"]


# --- turned exactly once --------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_chain_turns_the_picture_exactly_once(orientation: int) -> None:
    source = cornered()
    source.info["exif"] = exif_object(orientation).tobytes()
    upright = bright_corner(PIL.ImageOps.exif_transpose(source))
    jpeg = through(source, "JPEG", quality=100, exif=source.info["exif"])
    found = through(source)
    chains = {
        "open": found,
        "open and save twice": through(through(found)),
        "from JPEG": through(jpeg),
        "to JPEG": through(found, "JPEG", quality=100, exif=found.info["exif"]),
        "to PNG": through(found, "PNG", exif=found.info["exif"]),
        "object": through(source, exif=source.getexif()),
        "no EXIF": through(source, exif=None),
        "empty EXIF": through(source, exif=b""),
        "strip": through(source, strip=True),
        "strip twice": through(through(source, strip=True), strip=True),
        "transpose first": through(PIL.ImageOps.exif_transpose(source)),
        "transpose between": through(PIL.ImageOps.exif_transpose(found)),
    }
    for chain, image in chains.items():
        turned = PIL.ImageOps.exif_transpose(image)
        assert bright_corner(turned) == upright, chain
        assert bright_corner(PIL.ImageOps.exif_transpose(turned)) == upright, chain
    assert bright_corner(found) == bright_corner(source), "stored pixels are never turned"
    assert found.info["exif"] == source.info["exif"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_stands_in_the_header_alone(orientation: int) -> None:
    source = cornered()
    source.info["exif"] = exif_object(orientation).tobytes()
    data = licodec.encode(source, codec="stand-in")
    file = lic_format.read(data)
    chunk = file.find("exif")
    assert file.head.orientation == orientation
    assert chunk is not None
    inside = PIL.Image.Exif()
    inside.load(lic_format.unpack_metadata(chunk))
    assert inside[TAG] == 1


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"exif": b"garbage"}, {"icc_profile": "sRGB"}, {"xmp": 3}, {"dpi": 300}, {"strip": "yes"}]
)
def test_wrong_options_leave_no_new_file_and_the_old_one_as_it_was(
    wrong: dict[str, Any], tmp_path: Any
) -> None:
    (name,) = wrong
    for save in (carrying().save, lambda path, **options: licodec.save(carrying(), path, **options)):
        with pytest.raises(UsageError, match=f"^{name}: expected "):
            save(tmp_path / "x.lic", codec="stand-in", **wrong)
        assert not (tmp_path / "x.lic").exists()
    (tmp_path / "x.lic").write_bytes(b"old")
    with pytest.raises(UsageError):
        licodec.save(carrying(), tmp_path / "x.lic", codec="stand-in", **wrong)
    assert (tmp_path / "x.lic").read_bytes() == b"old"


def test_a_mistyped_name_is_refused_by_the_sdk_and_warned_of_by_pillow() -> None:
    with pytest.raises(TypeError, match="did you mean icc_profile"):
        licodec.encode(carrying(), codec="stand-in", icc_profil=b"x")  # type: ignore[call-arg]
    with pytest.warns(LicWarning, match="did you mean icc_profile"):
        through(carrying(), icc_profil=b"x")


def with_chunks(data: bytes, *chunks: Chunk) -> bytes:
    return lic_format.write(replace(lic_format.read(data), metadata=chunks))


@pytest.mark.parametrize("chunk_type", ["iccp", "exif", "xmpd"])
def test_damaged_content_is_an_oserror_when_opened_and_no_matter_for_arrays(
    lic: bytes, chunk_type: str
) -> None:
    data = with_chunks(lic, Chunk(chunk_type, b"\x01no zlib stream"))
    with pytest.raises(plugin.LicOpenError, match=chunk_type):
        PIL.Image.open(io.BytesIO(data))
    with pytest.raises(lic_format.FormatError, match=chunk_type):
        licodec.decode(data)
    assert licodec.decode(data, output="numpy").shape == (40, 56, 3)
    assert licodec.inspect(data).metadata == {chunk_type: 15}


def test_bombs_are_refused_fast_and_in_bounded_memory(lic: bytes) -> None:
    full = bytes(MAX_METADATA - 1)
    bomb = zlib.compress(bytes(32 * MAX_METADATA), 9)
    chunks = [lic_format.pack_metadata(kind, full) for kind in ("iccp", "xmpd")]
    data = with_chunks(lic, chunks[0], Chunk("exif", b"\x01" + bomb), chunks[1])
    start = time.process_time()
    with memory.bounded(4 * MAX_METADATA), pytest.raises(plugin.LicOpenError, match="inflates to more"):
        PIL.Image.open(io.BytesIO(data))
    assert time.process_time() - start < 1


def test_content_of_a_later_version_does_not_hide_the_picture(lic: bytes, image: PIL.Image.Image) -> None:
    data = with_chunks(lic, Chunk("iccp", b"\x07later"))
    with pytest.warns(LicWarning, match="without its iccp"):
        found = PIL.Image.open(io.BytesIO(data))
    with pytest.warns(LicWarning, match="without its iccp"):
        assert found.tobytes() == image.tobytes()
