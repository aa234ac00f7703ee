"""Compiled code on disk: the next process loads it, and never what is damaged or what another user may have
written."""

from __future__ import annotations

import ast
import ctypes
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite
import pytest
from llvmlite import binding

from licodec import object_cache
from licodec.exact import fixed_point

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="owners and permissions")


class Answers:
    """A function that answers with a number, asked for as loops are; how often it was compiled."""

    def __init__(self, sources: tuple[str, ...] = ("answering",)) -> None:
        self.sources, self.compiled = sources, 0

    def text(self) -> str:
        self.compiled += 1
        return "define i64 @answer() {\n ret i64 42\n}"

    def ask(self, *variant: object) -> int:
        engine = object_cache.engine("answers", self.sources, self.text, *variant)
        answer: int = ctypes.CFUNCTYPE(ctypes.c_int64)(engine.get_function_address("answer"))()
        return answer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code is kept."""
    monkeypatch.setenv("LICODEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


@pytest.fixture
def answers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Its code is kept already."""
    (tmp_path / "answering.py").write_text("42\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = Answers()
    assert (out.ask(), out.compiled) == (42, 1)
    assert (out.ask(), out.compiled) == (42, 1)
    return out


def kept(folder: Path) -> Path:
    (only,) = folder.iterdir()
    return only


def belongs_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


# --- Loops --------------------------------------------------------------------------------------------------

A_LAYER = """
import sys, zlib
import numpy as np
from licodec.exact.fixed_point import HERE, PLAIN, Map, layer
rng = np.random.default_rng(1)
of = layer(rng.normal(size=(16, 1, 32)).astype("f4"), np.ones(16, "f4"), np.ones(32, "f4"), np.ones(16, "f4"))
x, out = Map(40, 50, 32), Map(40, 50, 16)
x.memory[...] = rng.integers(-3000, 3000, x.memory.shape)
at, to = (x.address, x.row, x.step), (out.address, out.row, out.step)
of.run(PLAIN, HERE, HERE, at, 0, to, 40, 50)
print(zlib.crc32(out.memory[1:-1, 1:51].tobytes()), "licodec.exact.fixed_point_loops" in sys.modules)
"""


def test_another_process_loads_what_one_compiled_and_finds_the_same(folder: Path) -> None:
    path = os.pathsep.join([str(ROOT / "sdk"), str(ROOT)])

    def run() -> list[str]:
        command = [sys.executable, "-c", A_LAYER]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
        )
        assert not done.stderr
        return done.stdout.split()

    (digest, compiled), (again, second) = run(), run()
    assert (compiled, second) == ("True", "False")
    assert digest == again
    assert kept(folder).name.startswith("fixed_point-")


def test_sources_are_all_that_the_loops_definitions_import() -> None:
    tree = ast.parse(object_cache._source("licodec.exact.fixed_point_loops"))
    seen = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    ours = {each for each in seen if each and each.startswith("licodec")}
    assert ours <= set(fixed_point.SOURCES)


def test_code_for_other_products_is_other_code(folder: Path) -> None:
    for kind in (fixed_point.PORTABLE, fixed_point.EIGHT_PAIRS):
        fixed_point.Compiled(kind)
    assert len(list(folder.iterdir())) == 2


# --- What it was made from ----------------------------------------------------------------------------------


def test_changed_sources_variants_and_versions_are_compiled(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (answers.ask(True), answers.compiled) == (42, 2)
    (tmp_path / "answering.py").write_text("43\n")
    assert (answers.ask(), answers.compiled) == (42, 3)
    monkeypatch.setattr(llvmlite, "__version__", "0")
    assert (answers.ask(), answers.compiled) == (42, 4)
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "x86-64")
    assert (answers.ask(), answers.compiled) == (42, 5)
    assert (answers.ask(), answers.compiled) == (42, 5)


def test_without_sources_the_version_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Answers(("nowhere_at_all", "sys"))
    assert (asked.ask(), asked.ask(), asked.compiled) == (42, 42, 1)
    monkeypatch.setattr(object_cache, "__version__", "0")
    assert (asked.ask(), asked.compiled) == (42, 2)


# --- What may not be loaded ---------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no code": lambda path: path.write_bytes(path.read_bytes()[:32]),
    "no last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "other digest": lambda path: flip(path, 3),
    "other code": lambda path: flip(path, -100),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_code_is_replaced_and_never_loaded(
    answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = kept(folder)
    whole = path.read_bytes()
    DAMAGE[damage](path)
    refuse_loading(monkeypatch)
    assert (answers.ask(), answers.compiled) == (42, 2)
    assert kept(folder) == path and path.read_bytes() == whole


def refuse_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: bytes) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(binding.ObjectFileRef, "from_data", refused)


def test_code_under_another_name_is_not_loaded(
    answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept(folder)
    answers.ask("other")
    (second,) = set(folder.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    refuse_loading(monkeypatch)
    assert (answers.ask("other"), answers.compiled) == (42, 3)


@POSIX
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
def test_a_file_that_others_may_write_is_replaced_and_never_loaded(
    answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    kept(folder).chmod(mode)
    with monkeypatch.context() as patch:
        refuse_loading(patch)
        assert (answers.ask(), answers.compiled) == (42, 2)
    assert kept(folder).stat().st_mode & 0o777 == 0o600
    assert (answers.ask(), answers.compiled) == (42, 2)


@POSIX
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_another_user_owns_is_never_loaded(
    answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    belongs_to_another(kept(folder) if what == "file" else folder, monkeypatch)
    refuse_loading(monkeypatch)
    assert (answers.ask(), answers.compiled) == (42, 2)


@POSIX
def test_a_folder_that_others_may_write_is_left_alone(
    answers: Answers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o770)
    path = kept(folder)
    path.write_bytes(b"as it was")
    refuse_loading(monkeypatch)
    assert (answers.ask(), answers.compiled) == (42, 2)
    assert path.read_bytes() == b"as it was"


@POSIX
@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_are_not_followed(
    answers: Answers, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    linked = kept(folder) if what == "file" else folder
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    refuse_loading(monkeypatch)
    assert (answers.ask(), answers.compiled) == (42, 2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_its_place_is_not_waited_for(answers: Answers, folder: Path) -> None:
    path = kept(folder)
    path.unlink()
    os.mkfifo(path)
    assert (answers.ask(), answers.compiled) == (42, 2)
    assert (answers.ask(), answers.compiled) == (42, 2)


# --- Where nothing can be kept ------------------------------------------------------------------------------


@POSIX
def test_what_is_made_is_the_users_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        Answers(()).ask()
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept(folder).stat().st_mode & 0o777 == 0o600


@POSIX
def test_nothing_is_made_in_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICODEC_CACHE", str(tmp_path / "cache"))
    belongs_to_another(tmp_path, monkeypatch)
    asked = Answers(())
    assert (asked.ask(), asked.ask(), asked.compiled) == (42, 42, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lacking", ["folder", "room", "home", "right to read"])
def test_without_a_place_to_keep_it_every_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setenv("LICODEC_CACHE", str(tmp_path / "cache"))

    def fails(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    if lacking == "folder":
        (tmp_path / "cache").write_bytes(b"")
    elif lacking == "room":
        monkeypatch.setattr(os, "fsync", fails(OSError(errno.ENOSPC, "no space left on device")))
    elif lacking == "home":
        monkeypatch.delenv("LICODEC_CACHE")
        monkeypatch.setattr(Path, "home", fails(RuntimeError("no home")))
    else:
        monkeypatch.setattr(os, "lstat", fails(PermissionError(errno.EACCES, "permission denied")))
    asked = Answers(())
    assert (asked.ask(), asked.ask(), asked.compiled) == (42, 42, 2)
    monkeypatch.undo()
    assert not [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]


def test_an_empty_variable_and_the_platforms_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LICODEC_CACHE", "")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, "not/absolute")
    usual = {
        "linux": ".cache/licodec",
        "darwin": "Library/Caches/licodec",
        "win32": "AppData/Local/licodec/Cache",
    }
    for platform, place in usual.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert object_cache._folder() == tmp_path / place / "compiled"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert object_cache._folder() == tmp_path / "local/licodec/Cache/compiled"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert object_cache._folder() == tmp_path / "xdg/licodec/compiled"
    monkeypatch.setenv("LICODEC_CACHE", "here")
    assert object_cache._folder() == Path("here/compiled")


# --- Several at once, and what is old -----------------------------------------------------------------------


def test_several_at_once_keep_one_whole_file(folder: Path) -> None:
    together = threading.Barrier(8)
    found: list[int] = []

    def ask() -> None:
        asked = Answers(())
        together.wait()
        found.extend(asked.ask() for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [42] * 40
    assert kept(folder).suffix == ".o"
    last = Answers(())
    assert (last.ask(), last.compiled) == (42, 0)


def test_old_code_and_what_a_killed_process_left_go(answers: Answers, folder: Path) -> None:
    now, own = time.time(), kept(folder)

    def there(name: str, days: float) -> Path:
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (now - days * object_cache.DAY,) * 2)
        return folder / name

    unused = there("answers-old.o", 91)
    answers.ask("some")
    assert not unused.exists()
    recent = [there(f"answers-{n}.o", n + 1) for n in range(2)]
    crowd = [there(f"answers-crowd{n}.o", 10 + n) for n in range(4)]
    others = [there("answered-1.o", 100), there(".other-1.o.123.tmp", 100), there(".answers-1.o.12.tmp", 0.5)]
    left = there(".answers-1.o.123.tmp", 2)
    new = {*folder.iterdir()}
    answers.ask("new")
    assert not left.exists()
    assert own.exists() and all(each.exists() for each in recent + others)
    assert [each.exists() for each in crowd] == [True, True, True, False]
    assert len({*folder.iterdir()} - new) == 1


def test_code_in_use_is_never_old(answers: Answers, folder: Path) -> None:
    os.utime(kept(folder), (time.time() - 89 * object_cache.DAY,) * 2)
    answers.ask()
    assert answers.compiled == 1
    assert time.time() - kept(folder).stat().st_mtime < object_cache.DAY
