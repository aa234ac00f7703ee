"""SPEC.md says what lic_format does: same tables, same example, and a second reader that agrees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lic_format
from lic_format import HEAD, FormatError, UnsupportedError
from lic_format.chunks import CHUNKS, chunk_table
from lic_format.container import ANS_BODY, UNIT
from lic_format.metadata import ALPHA, ALPHA_TILE, METADATA, PREDICTION, RESOLUTION, TILING
from tests.format import corpus, second_reader

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "table",
    [
        HEAD.markdown(),
        UNIT.markdown(),
        ANS_BODY.markdown(),
        METADATA.markdown(),
        RESOLUTION.markdown(),
        ALPHA.markdown(),
        PREDICTION.markdown(),
        TILING.markdown(),
        ALPHA_TILE.markdown(),
        chunk_table(),
    ],
    ids=[
        "HEAD",
        "DATA",
        "ANS body",
        "metadata",
        "dpix",
        "ALPH",
        "ALPH, method 1",
        "ALPH, method 2",
        "ALPH, a tile",
        "chunks",
    ],
)
def test_the_printed_tables_are_the_declared_ones(table: str) -> None:
    assert f"\n\n{table}\n\n" in SPEC, "print the table again with markdown() and put it into SPEC.md"


def _example() -> bytes:
    lines = SPEC.split("## Example")[1].split("```")[1].splitlines()
    words = 52  # the column where the explanations begin
    return bytes.fromhex("".join(line[:words] for line in lines))


def test_the_example_is_a_file_of_this_format() -> None:
    data = _example()
    assert len(data) == 94
    assert lic_format.read(data) == corpus.plain()
    assert lic_format.write(corpus.plain()) == data
    assert second_reader.read_file(data)["head"]["width"] == 768


def test_the_second_reader_knows_the_same_chunks() -> None:
    assert {kind.type: (kind.shortest, kind.longest) for kind in CHUNKS.values()} == second_reader.PAYLOAD


def test_the_second_readers_crc_is_the_one_of_the_specification() -> None:
    assert second_reader.crc32(b"123456789") == 0xCBF43926


def test_the_limits_are_as_printed() -> None:
    assert HEAD.max_size == int(re.search(r"never longer than (\d+) bytes", SPEC)[1])  # type: ignore[index]
    assert lic_format.limits.max_units(300, 200) == 1024 + 300 * 200 // 32768
    assert lic_format.limits.DEFAULT_MAX_PIXELS == 2**28
    assert lic_format.limits.MAX_PIXELS_PER_BYTE == 2**16
    assert lic_format.limits.MAX_METADATA_CHUNKS == 64


@pytest.mark.parametrize("heading", ["Entropy stream", "Codec fhic", "Reserved", "Versions"])
def test_the_parts_that_the_text_points_to_are_there(heading: str) -> None:
    assert f"\n## {heading}\n" in SPEC


def _first(data: bytes) -> Any:
    try:
        file = lic_format.read(data)
    except FormatError as error:
        return "incomplete" if error.incomplete else "invalid"
    except UnsupportedError:
        return "newer"
    head = {name: getattr(file.head, name) for name in HEAD.names}
    return {
        "head": head,
        "metadata": [(chunk.type, chunk.payload) for chunk in file.metadata],
        "units": [(unit.kind, unit.side_info, unit.body) for unit in file.units],
    }


def _second(data: bytes) -> Any:
    try:
        return second_reader.read_file(data)
    except second_reader.IncompleteFile:
        return "incomplete"
    except second_reader.InvalidFile:
        return "invalid"
    except second_reader.NewerFile:
        return "newer"


@pytest.mark.parametrize("data", corpus.valid_files(), ids=["plain", "rich", "weightless"])
def test_both_readers_see_the_same_file_and_every_prefix_of_it_as_incomplete(data: bytes) -> None:
    assert isinstance(_first(data), dict)
    assert _first(data) == _second(data)
    for count in range(len(data)):
        assert _first(data[:count]) == _second(data[:count]) == "incomplete"


def test_both_readers_judge_broken_files_alike() -> None:
    verdicts = []
    for seed in range(2500):
        data = corpus.mutant(seed)
        verdict = _first(data)
        assert verdict == _second(data), f"corpus.mutant({seed})"
        verdicts.append(verdict if isinstance(verdict, str) else "valid")
    # The corpus is worth its name: it holds enough of every kind.
    assert all(verdicts.count(kind) >= 40 for kind in ("valid", "invalid", "incomplete", "newer"))
