"""`make demo` after installation, with the network cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[2]

GUARDED = """
import runpy, socket, sys
def refused(*arguments, **options):
    raise OSError("the network is cut off")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refused)
socket.getaddrinfo = socket.create_connection = refused
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@cache
def cut_off() -> list[str]:
    """What runs a command without any network interface, where this system lets us."""
    for command in (["unshare", "-rn"], ["unshare", "-n"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True).returncode == 0
        ):
            return command
    return []


@pytest.mark.parametrize("way", ["no interface", "no socket"])
def test_the_demo_needs_no_network_and_no_home(way: str, tmp_path: Path) -> None:
    if way == "no interface" and not cut_off():
        pytest.skip("this system gives no network namespaces")
    program = [
        str(ROOT / "examples" / "demo.py"),
        str(ROOT / "examples" / "photo.png"),
        "--out",
        str(tmp_path),
    ]
    python = [sys.executable] if way == "no interface" else [sys.executable, "-c", GUARDED]
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LICODEC_"))
    }
    variables |= {"HOME": str(tmp_path / "none"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*(cut_off() if way == "no interface" else []), *python, *program]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:4]] == [
        "quality 20", "quality 50", "quality 80",
    ]  # fmt: skip
    assert PIL.Image.open(tmp_path / "side-by-side.png").size[0] > 1000
    assert len(list(tmp_path.glob("*.lic"))) == 3
    assert not (tmp_path / "none").exists()


def test_the_guard_of_this_file_guards() -> None:
    code = GUARDED.partition("sys.argv")[0] + "socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the network is cut off" in done.stderr
