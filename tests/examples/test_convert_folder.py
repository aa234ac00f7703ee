"""A folder of pictures becomes a folder of files, whatever is among them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest

import licodec
from examples import convert_folder
from tests.examples.page import ROOT, masked, shown


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The program as people start it: its workers import it by its path."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "convert_folder.py"), *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}


def test_the_page_shows_a_first_run_and_a_second_that_repeats_only_the_failure(
    here: Path, pictures: Path
) -> None:
    for command in shown("python examples/convert_folder.py"):
        done = run([*command.arguments[:-1], "1"], here)  # one worker is enough for so few
        assert done.returncode == 1
        assert masked([*done.stderr.splitlines(), *done.stdout.splitlines()]) == masked(command.lines)
    out = here / "out" / "converted"
    sources = [path for path in pictures.rglob("*") if path.is_file() and path.stem != "damaged"]
    assert sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) == sorted(
        path.relative_to(pictures).with_suffix(".lic") for path in sources
    )
    for source in sources[:2]:
        with PIL.Image.open(source) as picture:
            expected = licodec.encode(picture, quality=60)
        assert (out / source.relative_to(pictures)).with_suffix(".lic").read_bytes() == expected


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for a child there")
def test_ctrl_c_ends_the_workers_and_leaves_whole_files_only(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        os.link(pictures / "crop-1.png", folder / f"{number}.png")
    command = [
        str(ROOT / "examples" / "convert_folder.py"),
        str(folder),
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    running = subprocess.Popen(
        [sys.executable, *command],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What runs these tests may ignore Ctrl-C, as jobs in the background do, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("out/*.lic")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = running.communicate(
        timeout=60
    )  # returns when the last that holds stderr, worker or not, has ended
    assert running.returncode == 130 and "stopped: " in said and "Traceback" not in said, said
    files = list((tmp_path / "out").iterdir())
    assert 0 < len(files) < 400 and {file.suffix for file in files} == {".lic"}
    for file in files[-3:]:
        PIL.Image.open(file).verify()


def test_a_newer_picture_is_done_again_and_a_done_one_is_not(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "a.lic"
    source.write_bytes(b"")
    assert not convert_folder.is_done(source, target)
    target.write_bytes(b"")
    os.utime(source, (100, 100))
    os.utime(target, (100, 100))
    assert convert_folder.is_done(source, target)
    os.utime(source, (101, 101))
    assert not convert_folder.is_done(source, target)


def test_a_failure_says_why_and_leaves_the_old_file(tmp_path: Path, pictures: Path) -> None:
    target = tmp_path / "x.lic"
    target.write_bytes(b"old")
    deep = tmp_path / "deep.png"
    PIL.Image.new("I;16", (8, 8)).save(deep)
    for source, reason in [
        (pictures / "damaged.png", "truncated"),
        (deep, "I;16"),
        (tmp_path / "none", "No such"),
    ]:
        size, said = convert_folder.convert(source, target, 60)
        assert size == 0 and reason in said
    assert target.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [deep, target]


def test_wrong_arguments_are_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.JPG"):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    folder, out = str(tmp_path / "in"), str(tmp_path / "out")
    for arguments, reason in [
        ([folder, out], "would both become"),
        ([str(tmp_path / "none"), out], "is no folder"),
        ([folder, out, "--quality", "101"], "from 0 to 100"),
        ([folder, out, "--workers", "0"], "at least 1"),
    ]:
        with pytest.raises(SystemExit) as caught:
            convert_folder.main(arguments)
        assert caught.value.code == 2 and reason in capsys.readouterr().err
    assert not Path(out).exists()


def test_an_empty_folder_is_done_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert_folder.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("0 files written")


def test_a_worker_that_dies_is_told(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(pictures / "crop-1.png", tmp_path / "in")
    monkeypatch.setattr(convert_folder, "start_worker", os._exit)  # as the system does where memory ends
    assert convert_folder.main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "a worker was ended from outside" in capsys.readouterr().err
