"""Metadata and orientation on their way into chunks and out of them again."""

from __future__ import annotations

import copy
import io
import random
import struct
import warnings
import zlib
from typing import Any

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic_format import Chunk, FormatError, LicWarning, UsageError, pack_metadata, unpack_metadata
from lic_format.limits import MAX_METADATA
from licodec import metadata, options
from licodec.metadata import METRES_AN_INCH

PREFIX = b"Exif\0\0"
TAG = 0x0112
INFO = {"icc_profile": b"profile" * 30, "exif": PREFIX + b"MM\0*\0\0\0\x08\0\0\0\0\0\0", "xmp": b"<x/>"}


def picture(**info: Any) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (4, 3))
    image.info.update(info)
    return image


def store(image: PIL.Image.Image | None = None, **given: Any) -> tuple[int, dict[str, bytes]]:
    """HEAD's orientation, and what the chunks of a picture hold, by type."""
    orientation, chunks = metadata.to_store(image, options.metadata(given))
    return orientation, {
        chunk.type: chunk.payload if chunk.type == "dpix" else unpack_metadata(chunk) for chunk in chunks
    }


def back(image: PIL.Image.Image | None = None, **given: Any) -> dict[str, Any]:
    return metadata.as_info(*metadata.to_store(image, options.metadata(given)))


def tiff(entries: list[tuple[int, int, int, bytes]], order: str = ">", rest: bytes = b"") -> bytes:
    """A TIFF structure with one directory of (tag, type, count, four bytes of value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(f"{order}H", len(entries)) + body + bytes(4) + rest


def short(value: int, order: str = ">") -> bytes:
    return struct.pack(f"{order}HH", value, 0)


def turned(value: int) -> bytes:
    return tiff([(0x010F, 2, 3, b"ab\0\0"), (TAG, 3, 1, short(value))], rest=b"maker note")


def read_by_pillow(exif: bytes, xmp: bytes = b"") -> int:
    value = picture(exif=PREFIX + exif, xmp=xmp).getexif().get(TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@st.composite
def tiffs(draw: st.DrawFn) -> bytes:
    order = draw(st.sampled_from("<>"))
    tags = draw(st.lists(st.integers(1, 0x0111) | st.integers(0x0113, 0x8000), max_size=5))
    entries = [(tag, 1, 1, bytes([draw(st.integers(0, 255)), 0, 0, 0])) for tag in tags]
    for value in draw(st.lists(st.integers(0, 10), max_size=1)):
        kind = draw(st.sampled_from((3, 4, 8, 9)))
        number = struct.pack(f"{order}H2x" if kind in (3, 8) else f"{order}I", value)
        entries.append((TAG, kind, 1, number))
    entries.sort()
    return tiff(entries, order, draw(st.binary(max_size=30)))


# --- content --------------------------------------------------------------------------------------


@given(icc=st.binary(min_size=1), xmp=st.binary(min_size=1), exif=tiffs())
@settings(deadline=None)
def test_content_comes_back_byte_for_byte(icc: bytes, xmp: bytes, exif: bytes) -> None:
    if b"tiff:Orientation" in xmp:
        return
    info = {"icc_profile": icc, "exif": PREFIX + exif, "xmp": xmp}
    found = back(picture(**info))
    assert (found["icc_profile"], found["xmp"]) == (icc, xmp)
    orientation = read_by_pillow(exif)
    assert read_by_pillow(found["exif"].removeprefix(PREFIX)) == orientation
    if picture(**info).getexif().get(TAG, 1) == orientation:  # nonsense becomes upright
        assert found["exif"] == PREFIX + exif


@settings(deadline=None)
@given(dpi=st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)))
def test_whole_numbers_of_dots_an_inch_come_back_exactly(dpi: tuple[int, int]) -> None:
    assert back(picture(dpi=dpi))["dpi"] == tuple(map(float, dpi))


@settings(deadline=None)
@given(dpi=st.floats(0.02, 1e8))
def test_a_resolution_does_not_drift_from_file_to_file(dpi: float) -> None:
    first = store(None, dpi=(dpi, 1))
    assert store(picture(**back(None, dpi=(dpi, 1)))) == first
    assert back(None, dpi=(dpi, 1))["dpi"][0] == pytest.approx(dpi, abs=METRES_AN_INCH)


@pytest.mark.parametrize("name", INFO)
@pytest.mark.parametrize("kept", [True, False])
def test_what_is_given_wins_over_what_the_image_carries(name: str, kept: bool) -> None:
    image = picture(**INFO) if kept else picture()
    other = PREFIX + turned(1) if name == "exif" else b"another"
    assert back(image, **{name: other}) == {**(INFO if kept else {}), name: other}
    for nothing in (None, b""):
        assert name not in back(image, **{name: nothing})
    assert back(picture(**INFO, dpi=(72, 72)), dpi=None) == INFO


def test_strip_drops_what_the_image_carries_and_stores_what_is_given() -> None:
    image = picture(**INFO, dpi=(72, 72))
    assert back(image, strip=True) == {}
    assert back(image, strip=True, icc_profile=b"another") == {"icc_profile": b"another"}


def test_pictures_that_carry_nothing_take_what_is_given() -> None:
    assert back(None) == {}
    assert store(None, exif=turned(6))[0] == 6


@pytest.mark.parametrize("prefix", [b"", PREFIX])
def test_exif_is_stored_without_and_given_back_with_its_prefix(prefix: bytes) -> None:
    for found in (store(picture(exif=prefix + turned(1))), store(None, exif=prefix + turned(1))):
        assert found[1]["exif"] == turned(1)
    assert back(picture(exif=prefix + turned(1)))["exif"] == PREFIX + turned(1)


def test_an_exif_object_is_taken_and_stays_as_it_is() -> None:
    exif = PIL.Image.Exif()
    exif[TAG] = 6
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    before = (dict(exif), exif.tobytes())
    image = picture(**INFO)
    info = copy.deepcopy(image.info)
    assert store(image, exif=exif)[0] == 6
    assert back(image, exif=exif)["exif"] == exif.tobytes()
    assert (dict(exif), exif.tobytes(), image.info) == (*before, info)
    assert "exif" not in back(image, exif=PIL.Image.Exif())


# --- an image's own Exif object -------------------------------------------------------------------


def test_reading_an_images_exif_changes_no_byte_of_it() -> None:
    # A quotient 0/0, as cameras record what they do not know: it does not even equal itself.
    exif = tiff([(0x010F, 2, 3, b"ab\0\0"), (0x011A, 5, 1, b"\0\0\0\x26")], rest=bytes(8))
    image = picture(exif=PREFIX + exif)
    image.getexif()
    image.getexif().get_ifd(0x8825)
    image.getexif().get_ifd(0x8769)
    assert back(image)["exif"] == PREFIX + exif


def test_what_was_deleted_from_an_images_exif_does_not_come_back() -> None:
    exif = PIL.Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    deleted, emptied = picture(exif=exif.tobytes()), picture(exif=exif.tobytes())
    del deleted.getexif()[0x8825]
    emptied.getexif().get_ifd(0x8825).clear()
    for image in (deleted, emptied):
        kept = picture(exif=back(image)["exif"]).getexif()
        assert kept[0x010F] == "Maker"
        assert kept.get_ifd(0x8825) == {}
        assert image.info["exif"] == exif.tobytes()


def test_exif_that_was_made_on_the_image_is_stored() -> None:
    image = picture()
    image.getexif()[0x010E] = "a description"
    assert picture(**back(image)).getexif()[0x010E] == "a description"


def test_the_orientation_of_xmp_does_not_count_as_a_change_of_exif() -> None:
    info = {"exif": PREFIX + tiff([(0x010F, 2, 3, b"ab\0\0")]), "xmp": b'<x tiff:Orientation="6"/>'}
    image = picture(**info)
    assert image.getexif()[TAG] == 6
    assert store(image)[0] == 6
    assert back(image) == info


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_keeps_profile_and_resolution_but_not_the_directory_of_its_strips(orientation: int) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 3)).save(buffer, "TIFF", icc_profile=b"profile", dpi=(300, 300), exif=turned(6))
    with PIL.Image.open(buffer) as image:
        image.load()  # Pillow turns TIFFs itself
        assert image.size == (3, 4)
        assert store(image)[0] == 1
        assert back(image) == {"icc_profile": b"profile", "dpi": (300.0, 300.0)}
        image.getexif()[TAG] = orientation
        assert store(image)[0] == orientation


# --- orientation ----------------------------------------------------------------------------------


@given(exif=tiffs(), orientation=st.integers(1, 8))
@settings(deadline=None)
def test_orientation_is_changed_in_place(exif: bytes, orientation: int) -> None:
    changed = metadata._with_orientation(exif, orientation)
    assert read_by_pillow(changed) == orientation
    assert metadata._orientation_in(exif, b"") == read_by_pillow(exif)
    before, after = picture(exif=PREFIX + exif).getexif(), picture(exif=PREFIX + changed).getexif()
    if TAG in before:
        assert len(changed) == len(exif)
        assert sum(old != new for old, new in zip(exif, changed, strict=True)) <= 1
    else:
        assert changed[8 : len(exif)] == exif[8:]
    assert {tag: after[tag] for tag in after if tag != TAG} == {
        tag: before[tag] for tag in before if tag != TAG
    }


@given(exif=st.binary(max_size=60).map(lambda rest: b"II*\0\x08\0\0\0" + rest), orientation=st.integers(1, 8))
@settings(deadline=None)
def test_damaged_exif_takes_an_orientation_too(exif: bytes, orientation: int) -> None:
    assert metadata._orientation_in(metadata._with_orientation(exif, orientation), b"") == orientation


def test_an_unreadable_orientation_is_replaced_not_joined() -> None:
    exif = tiff([(0x010F, 2, 3, b"ab\0\0"), (TAG, 2, 2, b"6\0\0\0")])
    changed = metadata._with_orientation(exif, 8)
    directory = changed[int.from_bytes(changed[4:8], "big") :]
    assert [directory[start : start + 2] for start in (2, 14)] == [b"\x01\x0f", b"\x01\x12"]
    assert directory[:2] == b"\0\x02"
    assert read_by_pillow(changed) == 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_orientation_in_the_last_bytes_counts_and_one_that_is_cut_off_does_not() -> None:
    exif = tiff([(TAG, 4, 1, struct.pack(">I", 6))])[:-4]  # without the offset of a next directory
    assert read_by_pillow(exif) == metadata._orientation_in(exif, b"") == 6
    assert metadata._orientation_in(exif[:-1], b"") == 1


def test_a_full_directory_takes_an_orientation_too() -> None:
    full = tiff([(0x010F, 3, 1, bytes(4))] * 0xFFFF)
    assert metadata._orientation_in(metadata._with_orientation(full, 6), b"") == 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_stored_once_and_given_back_to_the_byte(orientation: int) -> None:
    exif = turned(orientation)
    found, chunks = store(picture(exif=PREFIX + exif))
    assert found == orientation
    assert chunks["exif"] == turned(1)
    assert back(picture(exif=PREFIX + exif))["exif"] == PREFIX + exif


def test_an_orientation_alone_needs_no_chunk_and_looks_like_pillows() -> None:
    exif = PIL.Image.Exif()
    exif[TAG] = 6
    image = picture(exif=exif.tobytes())
    assert store(image) == (6, {})
    assert back(image) == {"exif": exif.tobytes()}


@pytest.mark.parametrize(
    "removed", [{"exif": None}, {"exif": b""}, {"strip": True}, {"exif": PIL.Image.Exif()}]
)
def test_removing_exif_does_not_turn_the_picture(removed: dict[str, Any]) -> None:
    assert store(picture(exif=turned(6)), **removed) == (6, {})
    xmp = b"<tiff:Orientation>6</tiff:Orientation>"
    assert store(picture(xmp=xmp), **removed, xmp=None) == (6, {})


def test_the_exif_that_is_written_decides_then_xmp() -> None:
    xmp = b'<x tiff:Orientation="8"/>'
    silent = tiff([(0x010F, 2, 3, b"ab\0\0")])
    assert store(picture(exif=turned(6), xmp=xmp), exif=turned(3))[0] == 3
    assert store(picture(exif=turned(6), xmp=xmp), exif=silent)[0] == 8
    assert store(picture(exif=turned(6)), exif=silent)[0] == 1
    assert store(picture(exif=turned(1), xmp=xmp))[0] == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, of the last one
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", [None, tiff([]), turned(3), b"MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("xmp", [None, b'<x tiff:Orientation="8"/>'])
def test_head_is_the_authority_whatever_the_chunks_say(
    orientation: int, exif: bytes | None, xmp: bytes | None
) -> None:
    chunks = [pack_metadata("exif", exif)] if exif else []
    chunks += [pack_metadata("xmpd", xmp)] if xmp else []
    image = picture(**metadata.as_info(orientation, tuple(chunks)))
    assert image.getexif().get(TAG, 1) == orientation


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("icc_profile", "text"),
        ("icc_profile", 3),
        ("xmp", "<x/>"),
        ("exif", b"no TIFF structure"),
        ("exif", b"MM\0*"),
        ("exif", {TAG: 6}),
        ("xmp", bytes(MAX_METADATA + 1)),
        ("dpi", 300),
        ("dpi", (300,)),
        ("dpi", (300, "300")),
        ("dpi", (True, 300)),
        ("dpi", (0, 300)),
        ("dpi", (float("nan"), 300)),
        ("dpi", (1e9, 300)),
    ],
)
def test_wrong_metadata_is_refused_when_given_and_left_out_when_carried(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name}: expected ") as caught:
        options.metadata({name: value})
    assert caught.value.argument == name
    assert len(str(caught.value)) < 250
    with pytest.warns(LicWarning, match=f"the image's {name} is left out: "):
        assert back(picture(**{**INFO, name: value})) == {key: INFO[key] for key in INFO if key != name}


@pytest.mark.parametrize("name", ["icc_profile", "exif", "xmp"])
def test_the_largest_content_is_taken_from_file_to_file_and_a_byte_more_is_not(name: str) -> None:
    largest = b"II*\0".ljust(MAX_METADATA, b"\0")
    given: dict[str, Any] = {name: largest}
    info = back(**given)
    assert info[name].removeprefix(PREFIX) == largest
    assert back(picture(**info)) == info
    with pytest.raises(UsageError, match=f"^{name}: .*16 MiB"):
        options.metadata({name: largest + b"\0"})


def test_an_exif_object_that_pillow_can_not_write_is_refused() -> None:
    exif = PIL.Image.Exif()
    exif[TAG] = object()
    with pytest.raises(UsageError, match="exif: expected"):
        options.metadata({"exif": exif})


@pytest.mark.parametrize("name", ["exif_", "icc", "quality"])
def test_a_name_that_is_no_metadata_option_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: there is no such option"):
        options.metadata({name: b""})


def test_the_keywords_are_the_declared_options() -> None:
    keywords = set(options.MetadataOptions.__annotations__)
    assert keywords == {*INFO, "dpi", "strip"}
    assert keywords <= set(options.OPTIONS)


@pytest.mark.parametrize("chunk_type", ["iccp", "exif", "xmpd"])
def test_content_that_is_damaged_or_a_bomb_is_a_format_error(chunk_type: str) -> None:
    for body in (b"no zlib", zlib.compress(bytes(MAX_METADATA + 1), 9)):
        with pytest.raises(FormatError, match=chunk_type):
            metadata.as_info(1, (Chunk(chunk_type, b"\x01" + body),))


def test_content_of_a_later_version_is_left_out_with_a_warning() -> None:
    chunks = (Chunk("exif", b"\x07packed in a new way"), pack_metadata("xmpd", b"<x/>"))
    with pytest.warns(LicWarning, match="without its exif"):
        info = metadata.as_info(6, chunks)
    assert info["xmp"] == b"<x/>"
    assert picture(**info).getexif()[TAG] == 6


def test_random_exif_never_stops_a_picture_from_being_written() -> None:
    rng = random.Random(3)
    exif = bytearray(turned(6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            damaged = bytearray(exif)
            for _ in range(rng.choice((1, 2, 8))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            orientation, _ = store(picture(exif=PREFIX + bytes(damaged)))
            assert 1 <= orientation <= 8
            back(picture(exif=PREFIX + bytes(damaged)))
