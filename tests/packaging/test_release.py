"""tools/release.py on a copy of the tree: what it writes, whole or not at all, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from licodec.atomic import write_atomic
from tools import release

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("CHANGELOG.md", "sdk/licodec/version.py", "tests/golden/frozen.json")
READ = ("README.md", "lic_format", "sdk", "tools/frozen.py", "tools/release.py", "tests/golden", *WRITTEN)
DATE = "2026-01-31"
VERSION = "9.0.0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that is ready for a release: what the tool reads, committed."""
    tree = tmp_path / "tree"
    for name in READ:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    (tree / "weights").symlink_to(ROOT / "weights")
    (tree / ".gitignore").write_text("weights\n__pycache__/\n")
    (tree / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n### Added\n- A thing.\n\n## 0.0.1 (2025-01-31)\n\n- Another.\n"
    )
    (tree / "README.md").write_text("# licodec\n")
    git(tree, "init", "--quiet")
    commit(tree)
    return tree


def git(tree: Path, *command: str) -> None:
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *command], cwd=tree, check=True, env=os.environ | own, capture_output=True)


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "all")


def released(tree: Path, *arguments: str, version: str = VERSION, date: str = DATE) -> tuple[int, str]:
    """Exit status and all that the tool said."""
    command = [sys.executable, "tools/release.py", version, "--date", date, *arguments]
    paths = os.pathsep.join(map(str, (tree, tree / "sdk")))
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def contents(tree: Path) -> dict[str, str]:
    return {name: (tree / name).read_text() for name in WRITTEN}


def refused(tree: Path, *said: str, **given: str) -> None:
    before = contents(tree)
    status, text = released(tree, **given)
    assert status == 1, text
    for each in said:
        assert each in text
    assert "Traceback" not in text
    assert contents(tree) == before


def test_a_release_has_its_version_its_changelog_and_what_is_frozen(tree: Path) -> None:
    before = contents(tree)
    assert released(tree, "--check") == (0, f"ready for release {VERSION}\n")
    assert contents(tree) == before
    status, text = released(tree)
    assert status == 0, text
    after = contents(tree)
    assert f'\n__version__ = "{VERSION}"\n' in after["sdk/licodec/version.py"]
    assert after["CHANGELOG.md"] == before["CHANGELOG.md"].replace(
        "## Unreleased\n", f"## Unreleased\n\n## {VERSION} ({DATE})\n"
    )
    last = json.loads(after["tests/golden/frozen.json"])["releases"][-1]
    assert (last["version"], last["date"]) == (VERSION, DATE)
    known = json.loads((ROOT / "sdk/licodec/store/known.json").read_text())["weights"]
    old = {f"{r['codec']}/{r['tag']}" for r in frozen_rows(before)}
    new = {f"{r['codec']}/{r['tag']}" for r in last["weights"]}
    assert old | new == {f"{row['codec']}/{row['tag']}" for row in known} and not old & new


def frozen_rows(texts: dict[str, str]) -> list[dict[str, str]]:
    releases = json.loads(texts["tests/golden/frozen.json"])["releases"]
    return [row for release in releases for row in release["weights"]]


@pytest.mark.parametrize("lost", WRITTEN)
def test_a_release_that_was_stopped_between_files_is_finished_by_the_same_command(
    lost: str, tree: Path
) -> None:
    assert released(tree)[0] == 0
    whole = contents(tree)
    git(tree, "checkout", lost)
    assert contents(tree) != whole
    assert released(tree)[0] == 0
    assert contents(tree) == whole
    assert released(tree)[0] == 0
    assert contents(tree) == whole


def test_a_committed_release_is_not_made_again(tree: Path) -> None:
    assert released(tree)[0] == 0
    commit(tree)
    before = contents(tree)
    assert released(tree) == (0, f"the last commit has release {VERSION} already: nothing to do\n")
    assert contents(tree) == before
    assert released(tree, date="2026-02-01")[0] == 0 and contents(tree) == before
    (tree / "README.md").write_text("changed\n")
    refused(tree, "nothing under Unreleased", "README.md is not committed", version="9.0.1")
    (tree / "CHANGELOG.md").write_text(
        before["CHANGELOG.md"].replace("## Unreleased\n", "## Unreleased\n- More.\n", 1)
    )
    commit(tree)
    refused(tree, f"{VERSION} is released already, 8.9.9 would come after it", version="8.9.9")
    assert released(tree, version="9.0.1")[0] == 0


def test_files_that_cannot_all_be_written_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {}
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"old {name}")
        plan[tmp_path / name] = f"new {name}"

    def fail(path: Path, data: bytes) -> None:
        if data == b"new c":
            raise OSError(28, "No space left on device", str(path))
        write_atomic(path, data)

    monkeypatch.setattr("tools.release.write_atomic", fail)
    with pytest.raises(OSError):
        release.write(plan)
    assert {path.read_text() for path in plan} == {"old a", "old b", "old c"}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_tree_with_changes_is_refused_by_their_names(tree: Path) -> None:
    (tree / "sdk" / "new.py").write_text("")
    (tree / "README.md").write_text("changed\n")
    refused(tree, "sdk/new.py is not committed", "README.md is not committed (git status: M)")


def test_a_half_written_release_of_another_day_is_refused(tree: Path) -> None:
    assert released(tree)[0] == 0
    git(tree, "checkout", "CHANGELOG.md")
    refused(tree, "tests/golden/frozen.json is not committed", date="2026-02-01")


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0rc1", "1.0.01", "", "1.0.0 "])
def test_what_is_no_version_is_refused(version: str, tree: Path) -> None:
    refused(tree, "is no version like 0.1.0", version=version)


def test_a_date_that_is_none_is_refused(tree: Path) -> None:
    refused(tree, "not ready", date="31 January")


@pytest.mark.parametrize(
    ("changelog", "says"),
    [
        ("# Changelog\n\n## Unreleased\n\n### Added\n\n## 0.0.1\n- Old.\n", "nothing under Unreleased"),
        ("# Changelog\n\n## 0.0.1\n- Old.\n", "no line '## Unreleased'"),
    ],
)
def test_an_empty_changelog_is_refused(changelog: str, says: str, tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text(changelog)
    commit(tree)
    refused(tree, says)


def test_a_readme_that_still_waits_for_the_release_is_refused(tree: Path) -> None:
    (tree / "README.md").write_text(f"Status: before release {VERSION}; all may change.\n")
    commit(tree)
    refused(tree, f"README.md still says 'before release {VERSION}'")


def test_codecs_tags_and_orders_without_golden_files_are_refused(tree: Path) -> None:
    golden = tree / "tests" / "golden"
    for path in (
        *golden.glob("pilc/*"),
        *golden.glob("fhic/*-order2.*"),
        *golden.glob("fhic/s-1-*-order0.*"),
    ):
        path.unlink()
    commit(tree)
    refused(
        tree,
        "the codec pilc has no golden file",
        "pilc/l-1 has no golden file",
        "fhic/s-1 has no golden file in decode order 0",
        "fhic/s-serial-1 has no golden file in decode order 2",
    )


def test_golden_files_of_other_weights_are_refused_with_what_rewrites_them(tree: Path) -> None:
    table = tree / "sdk" / "licodec" / "store" / "known.json"
    rows = json.loads(table.read_text())
    rows["weights"][0]["decode_digest"] = "0" * 32
    table.write_text(json.dumps(rows))
    (tree / "tests" / "golden" / "pilc" / "l-1-grey.json").unlink()
    (tree / "tests" / "golden" / "pilc" / "l-1-lz.lic").write_bytes(b"\x89LIC")
    commit(tree)
    refused(
        tree,
        "other weights than known.json has: run tools/make_golden.py --codec fhic --tag s-1 --replace",
        "l-1-grey.lic has no .json",
        "l-1-lz.lic: the file ends inside",
        "fhic/s-1 has no golden file",
    )


def test_weights_at_odds_with_the_table_are_refused(tree: Path) -> None:
    (tree / "weights").unlink()
    changed = tree / "weights" / "fhic" / "s-1" / "model.safetensors"
    changed.parent.mkdir(parents=True)
    changed.write_bytes(b"other")
    shutil.copytree(changed.parent, tree / "weights" / "fhic" / "s-9")
    refused(
        tree,
        "fhic/s-1/model.safetensors is not what known.json says: run tools/index_weights.py",
        "pilc/l-1 is neither in weights/ nor on the Hub",
        "fhic/s-9 is in weights/ and not in known.json",
    )


def test_a_changed_golden_file_of_an_earlier_release_is_refused(tree: Path) -> None:
    assert released(tree)[0] == 0
    (tree / "tests" / "golden" / "pilc" / "l-1-photo.png").write_bytes(b"")
    text = (tree / "CHANGELOG.md").read_text()
    (tree / "CHANGELOG.md").write_text(text.replace("## Unreleased\n", "## Unreleased\n- More.\n", 1))
    commit(tree)
    refused(tree, "tests/golden/pilc/l-1-photo.png is released, and was changed since", version="9.1.0")


def test_a_folder_that_is_no_repository_is_refused(tree: Path) -> None:
    shutil.rmtree(tree / ".git")
    refused(tree, "git show")
