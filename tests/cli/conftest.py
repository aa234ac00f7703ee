"""The command line in this process, against an SDK that codes by PNG: the command line alone is tested."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import licodec
from lic_format.errors import FormatError
from licodec.cli.program import run

SIGNATURE = b"fake-lic"


class FakeEncoder:
    """Writes PNG behind a signature; remembers what it was made with and asked for."""

    made: list[dict[str, Any]] = []  # noqa: RUF012  (cleared by the fixture)
    asked: list[dict[str, Any]] = []  # noqa: RUF012  (cleared by the fixture)

    def __init__(self, codec: str, *, quality: float | None, **place: Any) -> None:
        self.made.append({"codec": codec, "quality": quality, **place})

    def __call__(self, image: Image.Image, **metadata: Any) -> bytes:
        self.asked.append(metadata)
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "PNG")
        return SIGNATURE + sink.getvalue()


class FakeDecoder:
    def __init__(self, **place: Any) -> None: ...

    def __call__(
        self, data: bytes | Path, *, max_pixels: int | None = None, max_pixels_per_byte: int | None = None,
        reduce: int = 1, region: tuple[int, int, int, int] | None = None,
    ) -> Image.Image:  # fmt: skip
        data = data.read_bytes() if isinstance(data, Path) else data
        if not data.startswith(SIGNATURE):
            raise FormatError("not a .lic file", offset=0)
        image = Image.open(io.BytesIO(data[len(SIGNATURE) :]))
        image.load()
        return image.crop(region).reduce(reduce)


@pytest.fixture
def fake_sdk(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put the fakes in the SDK's place; the value lists the options of every encoder made."""
    FakeEncoder.made.clear()
    FakeEncoder.asked.clear()
    monkeypatch.setitem(vars(licodec), "Encoder", FakeEncoder)
    monkeypatch.setitem(vars(licodec), "Decoder", FakeDecoder)
    return FakeEncoder.made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "photo.png")


def picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def licodec_command(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, str]]:
    """Run a command line; the value is (exit status, stdout, stderr)."""

    def call(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        status = run([str(argument) for argument in arguments])
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return call
