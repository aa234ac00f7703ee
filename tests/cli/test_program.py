"""The program as a whole: start-up, help, and the commands that code nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import licodec
from licodec.cli.program import licodec as group
from licodec.codecs.registry import CODECS
from licodec.evaluation.peers import PEERS
from licodec.options import understood_by

# Children find the packages where this process found them, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

Command = Callable[..., tuple[int, bytes, str]]


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["codecs"], ["--version"]])
def test_asking_loads_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys; from licodec.cli.program import run; status = run(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'rich', 'constriction'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_starting_takes_little_more_than_importing_click_and_pillow() -> None:
    def seconds(code: str) -> float:
        """Processor time, which other work on the machine does not stretch as it does wall-clock time."""
        times = []
        for _ in range(5):
            before = os.times()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=ENVIRONMENT)
            after = os.times()
            times.append(sum(after[2:4]) - sum(before[2:4]))
        return min(times)

    start = seconds("from licodec.cli.program import run; run(['--help'])")
    assert start - seconds("import click, PIL.Image") < 0.15  # 0.03 s on an idle machine


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def test_a_bare_command_prints_the_help_and_is_a_usage_error(licodec_command: Command) -> None:
    status, out, err = licodec_command()
    assert (status, out) == (2, b"") and "Commands:" in err


def test_unknown_commands_are_usage_errors(licodec_command: Command) -> None:
    status, _, err = licodec_command("compress", "x.png")
    assert status == 2 and err.count("\n") == 1 and "compress" in err


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_every_declared_option_is_on_the_command_line_with_its_default(direction: Any) -> None:
    parameters = {parameter.name: parameter for parameter in command(direction).params}
    for option in understood_by("cli", direction):
        assert parameters[option.name].default == option.default
        assert f"--{option.name.replace('_', '-')}" in parameters[option.name].opts
    assert "-d" not in {flag for parameter in parameters.values() for flag in parameter.opts}


def test_codecs_are_listed_with_their_tags(licodec_command: Command) -> None:
    status, out, _ = licodec_command("codecs")
    assert status == 0
    for entry in CODECS.values():
        assert f"{entry.token}  {entry.title} ({entry.default_tag})" in out.decode()
    _, out, _ = licodec_command("codecs", "--json")
    assert [json.loads(line)["token"] for line in out.splitlines()] == list(CODECS)


def test_the_help_of_bench_names_every_peer() -> None:
    assert all(name in str(command("bench").help) for name in PEERS)


class FakeInfo:
    width, height = 30, 20

    def as_dict(self) -> dict[str, Any]:
        return {"width": 30, "height": 20, "lossless": False, "side_info": None, "metadata": {"exif": 12}}


def test_inspect_prints_the_header_and_the_size_of_the_file(
    licodec_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inspect(data: bytes | str) -> FakeInfo:
        if data == b"bad":
            raise licodec.FormatError("no signature", offset=0)
        return FakeInfo()

    monkeypatch.setitem(vars(licodec), "inspect", inspect)
    file = tmp_path / "x.lic"
    file.write_bytes(b"0123456789")
    status, out, _ = licodec_command("inspect", file)
    text = out.decode()
    assert status == 0 and text.startswith(f"{file}\n")
    for words in (
        "bytes      10",
        "bpp        0.1333",
        "lossless   no",
        "side_info  unknown",
        "metadata   exif 12",
    ):
        assert words in text
    status, out, err = licodec_command("inspect", "-", file, "--json", stdin=b"bad")
    assert status == 1 and err == "licodec: stdin: no signature (at byte 0)\n"
    assert json.loads(out)["bytes"] == 10


def test_train_hands_over_what_is_given_and_leaves_the_rest_to_its_options(
    licodec_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = pytest.importorskip("licodec.training.loop")
    received: list[Any] = []
    monkeypatch.setattr(loop, "train", received.append)
    status, _, err = licodec_command(
        "train", "fhic", "--minutes", "2.5", "--out", tmp_path, "--resume", "--init", "s-1"
    )
    assert (status, err) == (0, "")
    (options,) = received
    expected = loop.TrainOptions(codec="fhic", minutes=2.5, out=tmp_path, resume=True, init="s-1")
    assert options == expected


def test_train_without_minutes_is_a_usage_error(licodec_command: Command, tmp_path: Path) -> None:
    status, _, err = licodec_command("train", "fhic", "--out", tmp_path)
    assert status == 2 and "--minutes" in err
