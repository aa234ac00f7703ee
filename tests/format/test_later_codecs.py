"""Room for codecs that are still to come: a file of each, written and parsed by the container alone.

What they keep in their records is made up here after their designs: units of levels and blocks, a second
weights file named by digest, a table of regions, and lanes.
"""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import replace

import pytest

import lic_format
import licodec
from lic_format import Flag, FormatError, Head, LicFile, Order, Part, Unit, UnsupportedError
from lic_format.fields import U8, U16, EnumU8, Rest, Table, VarBytes
from lic_format.limits import MAX_SIDE_INFO, MAX_UNIT_SIDE_INFO
from tests.format import corpus, second_reader


def body(seed: int, words: int) -> bytes:
    """A body of kind 0 as far as the container knows: two escape bytes and so many words."""
    octets = bytearray(random.Random(seed).randbytes(4 * words))
    octets[-1] |= 1
    return lic_format.join_ans_body(b"\x81\x01", bytes(octets))


def same_for_both_readers(file: LicFile) -> bytes:
    """The file's bytes, when both readers gave the same of them."""
    data = lic_format.write(file)
    assert lic_format.read(data) == file
    assert lic_format.read_stream(io.BytesIO(data + b"more")) == file
    second = second_reader.read_file(data)
    assert second["head"]["side_info"] == file.head.side_info
    assert second["units"] == [(unit.kind, unit.side_info, unit.body) for unit in file.units]
    return data


# --- a progressive codec: several units a level

LEVELS = Table(
    "levels side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("tables", EnumU8({1: "Gauss"}), "table set"),
        ("blocks", VarBytes(8), "how many blocks each level has, from coarse to fine"),
    ),
)
BLOCK = Table("block", (("level", U8(0, 7), "from coarse to fine"), ("block", U8(0, 15), "in its level")))
BLOCKS = bytes([1, 1, 2, 1])


def progressive() -> LicFile:
    side_info = LEVELS.write({"layout": 1, "tables": 1, "blocks": BLOCKS})
    head = corpus.head(
        width=768, height=512, codec="levels-1", tag="s-1", side_info=side_info, rate=120,
        order=Order.CHECKERBOARD,
    )  # fmt: skip
    places = [(level, block) for level, count in enumerate(BLOCKS) for block in range(count)]
    units = (
        Unit(0, BLOCK.write({"level": level, "block": block}), body(number, 3 << 2 * level))
        for number, (level, block) in enumerate(places)
    )
    return LicFile(head, units=tuple(units))


def complete_levels(file: LicFile) -> int:
    """How many levels the units of a file make whole."""
    blocks: bytes = LEVELS.read_whole(file.head.side_info, where="HEAD")["blocks"]
    expected = [{"level": level, "block": block} for level, n in enumerate(blocks) for block in range(n)]
    found = [BLOCK.read_whole(unit.side_info, where="DATA") for unit in file.units]
    assert found == expected[: len(found)], "units in another order than coarse to fine"
    return sum(sum(blocks[: level + 1]) <= len(found) for level in range(len(blocks)))


def test_a_prefix_of_a_progressive_file_gives_the_levels_that_stand_complete() -> None:
    file = progressive()
    data = same_for_both_readers(file)
    assert complete_levels(file) == len(BLOCKS)
    opened = data.index(b"DATA") + 4
    assert lic_format.read_head(data[:opened]) == (file.head, ())
    levels = []
    for length in range(opened, len(data)):
        part = lic_format.read(data[:length], partial=True)
        assert not part.complete and part.fault is not None and part.fault.incomplete
        assert part.units == file.units[: len(part.units)]
        levels.append(complete_levels(part))
    assert levels == sorted(levels) and set(levels) == set(range(len(BLOCKS) + 1))


def test_damage_in_one_level_leaves_the_levels_before_it() -> None:
    data = bytearray(same_for_both_readers(progressive()))
    place = -1
    for _ in range(3):  # the third unit, the first block of level 2
        place = data.index(b"DATA", place + 1)
    data[place + 40] ^= 4
    part = lic_format.read(bytes(data), partial=True)
    assert complete_levels(part) == 2
    assert part.fault is not None and not part.fault.incomplete and part.fault.chunk == "DATA"
    with pytest.raises(FormatError, match="damaged"):
        lic_format.read(bytes(data))


def test_the_first_levels_are_read_without_the_bytes_of_the_others() -> None:
    file = progressive()
    data = lic_format.write(file)

    def coarse(head: Head) -> range:
        return range(sum(LEVELS.read_whole(head.side_info, where="HEAD")["blocks"][:2]))

    part: Part = lic_format.read_part(io.BytesIO(data), coarse)
    assert part.units == tuple(enumerate(file.units[:2])) and part.count == len(file.units)
    assert part.payload_bytes == file.payload_bytes


def test_a_unit_costs_14_bytes_beside_its_body() -> None:
    file = progressive()
    fewer = replace(file, units=file.units[:-1])
    cost = len(lic_format.write(file)) - len(lic_format.write(fewer)) - len(file.units[-1].body)
    assert cost <= 15


def test_there_may_be_as_many_units_as_blocks_of_a_deep_codec_in_tiles() -> None:
    """Nine blocks a tile of 1024 x 1024 pixels, and nine for a picture of one pixel."""
    unit = progressive().units[0]
    for width, height, count in ((1, 1, 9), (10240, 10240, 900)):
        head = replace(progressive().head, width=width, height=height)
        file = LicFile(head, units=(unit,) * count)
        assert lic_format.read(lic_format.write(file)) == file


# --- a codec with a dictionary of its own in a second weights file

DICTIONARY = Table(
    "dictionary side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("tables", EnumU8({1: "Gauss"}), "table set"),
        ("slices", U8(1, 16), "in which channels are coded"),
        ("dictionary", VarBytes(16), "none, or 16 bytes: of the weights file that has it"),
    ),
)


@pytest.mark.parametrize("named", [True, False])
def test_a_second_weights_file_is_named_by_digest_in_what_opens_a_picture(named: bool) -> None:
    digest = hashlib.sha256(b"the tensors of a dictionary").digest()[:16] if named else b""
    record = {"layout": 1, "tables": 1, "slices": 5, "dictionary": digest}
    head = corpus.head(width=300, height=200, codec="words-1", tag="m-2", side_info=DICTIONARY.write(record))
    data = same_for_both_readers(LicFile(head, units=(Unit(0, b"", body(4, 900)),)))
    found, _ = lic_format.read_head(data[: data.index(b"DATA") + 4])
    assert DICTIONARY.read_whole(found.side_info, where="HEAD") == record
    if named:
        with pytest.raises(FormatError, match="damaged"):
            lic_format.read_head(data.replace(digest, bytes(16)))


@pytest.mark.parametrize("length", [17, 200])
def test_a_digest_that_is_too_long_is_invalid(length: int) -> None:
    side_info = bytes([1, 1, 5, *corpus.leb128(length)]) + bytes(length)
    with pytest.raises(FormatError, match="dictionary"):
        DICTIONARY.read_whole(side_info, where="HEAD")


# --- a codec with side information for regions of the picture

REGIONS = Table(
    "regions",
    (
        ("slices", U8(1, 16), "pairs of coefficients a region"),
        ("count", U16(0, 65535), "regions that have coefficients of their own"),
        ("records", Rest(65532), "of each: its number (u16), then two signed bytes a slice"),
    ),
)


def regions(count: int, slices: int) -> bytes:
    rng = random.Random(count)
    records = b"".join(
        (3 * number).to_bytes(2, "little") + rng.randbytes(2 * slices) for number in range(count)
    )
    return REGIONS.write({"slices": slices, "count": count, "records": records})


def read_regions(side_info: bytes) -> dict[int, bytes]:
    found = REGIONS.read_whole(side_info, where="DATA")
    step = 2 + 2 * found["slices"]
    if len(found["records"]) != step * found["count"]:
        raise FormatError(f"{found['count']} regions in {len(found['records'])} bytes", chunk="DATA")
    pieces = [found["records"][at : at + step] for at in range(0, len(found["records"]), step)]
    return {int.from_bytes(piece[:2], "little"): piece[2:] for piece in pieces}


@pytest.mark.parametrize(("count", "slices"), [(0, 4), (409, 4), (1820, 17 - 1)])
def test_regions_of_a_large_picture_have_their_side_information_in_the_unit(count: int, slices: int) -> None:
    """409 regions of four slices are 4 KiB, 1820 of sixteen what a unit holds at most."""
    record = regions(count, slices)
    assert len(record) == 3 + count * (2 + 2 * slices) <= MAX_UNIT_SIDE_INFO
    head = corpus.head(width=16384, height=14336, codec="regions-1", tag="s-1", side_info=b"\x01\x01")
    file = LicFile(head, units=(Unit(0, record, body(1, 4000)),))
    data = same_for_both_readers(file)
    found = read_regions(lic_format.read(data).units[0].side_info)
    assert list(found) == list(range(0, 3 * count, 3)) and set(map(len, found.values())) <= {2 * slices}
    opened, _ = lic_format.read_head(data[: data.index(b"DATA") + 4])
    assert opened == head  # opening a picture does not read it


def test_a_region_table_that_is_cut_or_too_long_is_invalid() -> None:
    record = regions(409, 4)
    for wrong in (record[:-1], record + b"\x00", record[:2], b""):
        with pytest.raises(FormatError):
            read_regions(wrong)
    with pytest.raises(FormatError, match="records"):
        REGIONS.read_whole(bytes([4]) + bytes(2 + 65533), where="DATA")


def test_heads_own_side_info_holds_4_kib_and_no_more() -> None:
    head = corpus.head(width=8, height=8, codec="regions-1", tag="s-1", side_info=b"\x01" + bytes(4095))
    assert len(head.side_info) == MAX_SIDE_INFO == 4096
    data = same_for_both_readers(LicFile(head, units=(Unit(0, b"", body(1, 2)),)))
    assert lic_format.read_head(io.BytesIO(data))[0] == head
    with pytest.raises(lic_format.UsageValueError, match="side_info"):
        lic_format.write(LicFile(replace(head, side_info=bytes(4097)), units=(Unit(2, b"", b""),)))


# --- lossless lanes

LANE_BODY = bytes.fromhex(
    "02 03 02 80 01 bd a5 a8 3b 70 c8 fe 10 d0 bc 1d 04 cc 14 04 00 08 3c a0 46 20 03 c0 03"
)
"""The example of SPEC.md, Lanes."""
TILES = Table(
    "tiles side info",
    (
        ("layout", EnumU8({1: "this layout"}), "layout id of this table"),
        ("side", U8(4, 12), "tiles are 2^side pixels wide and high"),
    ),
)
TILE = Table("tile", (("mode", U8(0, 7), "how the tile is coded"),))


def test_lossless_lanes_stand_beside_the_codecs_own_tiles_and_are_read_one_by_one() -> None:
    head = corpus.head(
        width=70, height=40, codec="lanes-1", tag="l-2", flags=Flag.LOSSLESS,
        side_info=TILES.write({"layout": 1, "side": 5}),
    )  # fmt: skip
    lanes, raw = Unit(1, TILE.write({"mode": 4}), LANE_BODY), Unit(2, TILE.write({"mode": 0}), b"samples")
    file = LicFile(head, units=(lanes, raw, lanes, raw, lanes, lanes))  # 3 x 2 tiles
    data = same_for_both_readers(file)
    part = lic_format.read_part(io.BytesIO(data), lambda head: {2, 5})
    assert part.units == ((2, lanes), (5, lanes)) and part.count == 6
    for kind in (3, 4, 255):
        chunks = corpus.pieces(data)
        chunks[1] = ("DATA", bytes([kind]) + chunks[1][1][1:])
        with pytest.raises(UnsupportedError, match="kind"):
            lic_format.read(corpus.join(chunks))


# --- what a version that does not know them says


@pytest.mark.parametrize("codec", ["levels-1", "words-1", "regions-1", "lanes-1"])
def test_files_of_codecs_that_are_not_there_open_and_say_so_when_decoded(codec: str) -> None:
    file = progressive()
    data = lic_format.write(replace(file, head=replace(file.head, codec=codec)))
    info = licodec.inspect(data)
    assert (info.codec, info.width, info.height, info.side_info) == (codec, 768, 512, None)
    with pytest.raises(UnsupportedError, match=codec):
        licodec.decode(data)
