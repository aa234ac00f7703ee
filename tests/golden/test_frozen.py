"""What a release has frozen stays: the content of its tags, and its golden files (tools/frozen.py)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import PIL.Image
import pytest

from licodec import store
from licodec.store.digests import FAST
from licodec.store.table import FILE_NAME, TABLE, HubFile, read_table
from licodec.version import __version__
from tools import frozen, make_golden, release

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_that_is_released_has_changed() -> None:
    assert list(frozen.changes(frozen.read(), read_table(TABLE), frozen.golden_files())) == []


def test_a_released_version_has_frozen_something_and_a_section_of_the_changelog() -> None:
    released = [version for version, _ in frozen.read().releases]
    if "dev" not in __version__:
        assert released[-1:] == [__version__]
    for version, date in frozen.read().releases:
        assert f"\n## {version} ({date})\n" in (ROOT / "CHANGELOG.md").read_text()


def test_weights_tags_and_golden_files_fit_each_other() -> None:
    """What a release asks for holds at every commit."""
    assert [*release.weights_at_odds(), *release.golden_files_at_odds()] == []


def test_every_case_of_every_tag_has_its_golden_file() -> None:
    with PIL.Image.open(make_golden.PHOTO) as opened:
        photo = opened.convert("RGB")
    for entry in read_table(TABLE):
        if entry.decoder == FAST and make_golden.path_of(entry).exists():
            codec, tag = entry.ref.codec, entry.ref.tag
            weights = store.load(codec, tag, path=make_golden.path_of(entry))
            wanted = {f"{tag}-{case}" for case, _ in make_golden.FILES[codec](photo, weights)}
            found = {path.stem for path in (frozen.GOLDEN / codec).glob("*.lic")}
            assert wanted - found == set(), "run tools/make_golden.py"


@pytest.fixture(scope="module")
def released() -> frozen.Frozen:
    """As if everything of this tree had been released."""
    return frozen.of_text(frozen.with_release('{"releases": []}', "0.0.1", "2026-01-31"))


def test_a_release_freezes_every_tag_and_every_golden_file(released: frozen.Frozen) -> None:
    assert set(released.tags) == {entry.name for entry in read_table(TABLE)}
    there = {p.relative_to(frozen.GOLDEN).as_posix() for p in frozen.GOLDEN.rglob("*") if p.is_file()}
    left = {p for p in there - set(released.files) if "__pycache__" not in p and not p.endswith(".py")}
    assert left == {"frozen.json"}
    assert released.releases == (("0.0.1", "2026-01-31"),)


def test_a_second_release_freezes_what_is_new_and_leaves_the_first_as_it_is(released: frozen.Frozen) -> None:
    first = frozen.with_release('{"releases": []}', "0.0.1", "2026-01-31")
    both = frozen.of_text(frozen.with_release(first, "0.0.2", "2026-02-28"))
    assert (both.tags, both.files) == (released.tags, released.files)
    assert both.releases == (("0.0.1", "2026-01-31"), ("0.0.2", "2026-02-28"))


def test_a_changed_tag_is_noticed_and_a_place_on_the_hub_is_no_change(released: frozen.Frozen) -> None:
    table, files = read_table(TABLE), frozen.golden_files()
    place = HubFile("owner/name", "0" * 40)
    published = [dataclasses.replace(entry, hub=(place,)) for entry in table]
    assert list(frozen.changes(released, published, files)) == []
    other = [dataclasses.replace(table[0], sha256="0" * 64), *table[1:]]
    (said,) = frozen.changes(released, other, files)
    assert said.startswith(f"{table[0].name} is released with sha256 {table[0].sha256}")
    (said,) = frozen.changes(released, table[1:], files)
    assert said == f"{table[0].name} is released, but known.json has it no more"


def test_weights_whose_file_changed_are_noticed(
    released: frozen.Frozen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = read_table(TABLE)[0]
    path = tmp_path / entry.name / FILE_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    monkeypatch.setattr(frozen, "WEIGHTS", tmp_path)
    monkeypatch.setattr(frozen, "ROOT", tmp_path)
    (said,) = frozen.changes(released, read_table(TABLE), frozen.golden_files())
    assert said == f"{entry.name} is released, but {entry.name}/{FILE_NAME} has another content"


def test_a_changed_or_missing_golden_file_is_noticed_and_a_new_one_is_no_change(
    released: frozen.Frozen,
) -> None:
    table, files = read_table(TABLE), frozen.golden_files()
    name = "pilc/l-1-photo.lic"
    assert list(frozen.changes(released, table, files | {"pilc/l-2-photo.lic": "0" * 64})) == []
    (said,) = frozen.changes(released, table, files | {name: "0" * 64})
    assert said == f"tests/golden/{name} is released, and was changed since"
    (said,) = frozen.changes(released, table, {path: d for path, d in files.items() if path != name})
    assert said == f"tests/golden/{name} is released, but not there any more"


def test_golden_files_of_a_released_tag_are_not_written_again(
    released: frozen.Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "read", lambda: released)
    with pytest.raises(SystemExit, match="pilc/l-1 is released"):
        make_golden.main(["--codec", "pilc", "--tag", "l-1", "--replace"])
