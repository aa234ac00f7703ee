"""`import licodec`, opening and inspecting stay light: what they load, and how long it takes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

import licodec
from lic_format import Head, LicFile, Unit, pack_metadata, pack_resolution, write
from lic_format.fields import EnumU8
from licodec.codecs.registry import CODECS, FHIC_SIDE_INFO

HEAVY = ("torch", "numpy", "imageio", "huggingface_hub", "safetensors", "constriction", "matplotlib", "scipy")

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy", "safetensors", "constriction"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of the default codec whose payload nobody looks at."""
    fields = {name: field for name, field, _ in FHIC_SIDE_INFO.rows if isinstance(field, EnumU8)}
    values = {name: min(field.members) for name, field in fields.items()}
    side_info = FHIC_SIDE_INFO.write({**values, "channels": b""})
    head = Head(17, 23, "fhic", "s-1", bytes(range(16)), bytes(8), side_info, rate=128, orientation=6)
    exif = pack_metadata("exif", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    metadata = (pack_metadata("iccp", b"profile"), exif, pack_resolution(2835, 2835))
    file = tmp_path / "x.lic"
    file.write_bytes(write(LicFile(head, metadata, units=(Unit(2, b"", b"payload"),))))
    return file


def test_import_loads_neither_torch_nor_numpy() -> None:
    loaded = run(f"import licodec, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_import_costs_at_most_150_milliseconds() -> None:
    """Processor time of the whole process, so that a busy machine does not count."""
    used = "import time; print(time.process_time())"
    bare = min(float(run(used)) for _ in range(3))
    full = min(float(run(f"import licodec; {used}")) for _ in range(5))
    assert full - bare <= 0.15


def test_open_and_inspect_work_without_torch_and_numpy(path: Path) -> None:
    code = BLOCKED + (
        "import licodec, PIL.Image\n"
        "image = PIL.Image.open(sys.argv[1])\n"
        "info = licodec.inspect(sys.argv[1])\n"
        "print(image.size, image.mode, info.codec, info.tag, info.rate)\n"
        "print(image.info['dpi'], image.getexif()[0x0112])\n"
        "print(sorted(info.side_info), len(licodec.list_codecs()))\n"
    )
    assert run(code, str(path)) == (
        f"(17, 23) RGB fhic s-1 128\n(72.0, 72.0) 6\n{sorted(FHIC_SIDE_INFO.names)} {len(CODECS)}"
    )


def test_the_blocker_of_this_file_blocks() -> None:
    assert (
        run(BLOCKED + "try:\n    import torch\nexcept ImportError as error:\n    print(error)")
        == "torch is not installed"
    )


def test_every_public_name_exists_and_an_unknown_one_does_not() -> None:
    for name in licodec.__all__:
        assert getattr(licodec, name) is not None
    assert set(licodec.__all__) <= set(dir(licodec))
    with pytest.raises(AttributeError, match="nonesuch"):
        licodec.nonesuch  # noqa: B018


def test_pillows_naming_convention_registers(path: Path) -> None:
    assert (
        run(
            "import licodec.LicImagePlugin, PIL.Image, sys; print(PIL.Image.open(sys.argv[1]).format)",
            str(path),
        )
        == "LIC"
    )


def size(path: str) -> tuple[int, int]:
    return PIL.Image.open(path).size


def test_register_works_as_the_initializer_of_spawned_workers(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1, initializer=licodec.register) as pool:
        assert pool.apply(size, (str(path),)) == (17, 23)
