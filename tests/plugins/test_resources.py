"""What opening, loading and saving cost and leave behind: bytes, time, memory, descriptors, files."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest

import lic_format
import licodec
from lic_format import Unit
from licodec.cli.program import run
from tests import memory
from tests.sdk import stand_in as codec
from tests.sdk.fixtures import pixels

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "fhic"
ROUNDS = 300
MOST_GROWTH = 20 << 20

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts in /proc")


# --- opening --------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of 12 megapixels and 9 MB with the metadata of a photograph. Nobody decodes it."""
    file = lic_format.read((GOLDEN / "s-1-q50-order1.lic").read_bytes())
    rng = random.Random(1)
    exif = PIL.Image.Exif()
    exif[0x010E] = rng.randbytes(10_000).hex()
    metadata = (
        lic_format.pack_metadata("iccp", rng.randbytes(3144)),
        lic_format.pack_metadata("exif", exif.tobytes().removeprefix(b"Exif\0\0")),
        lic_format.pack_metadata("xmpd", b"<x/>" * 500),
    )
    unit = Unit(file.units[0].kind, file.units[0].side_info, file.units[0].body + rng.randbytes(9_000_000))
    head = replace(file.head, width=4000, height=3000)
    path = tmp_path / "large.lic"
    path.write_bytes(lic_format.write(lic_format.LicFile(head, metadata, (unit,))))
    return path


class Counting(io.FileIO):
    """A file that counts what is read of it, as the operating system sees it."""

    count = 0

    def readinto(self, buffer: Any) -> int:
        taken = super().readinto(buffer) or 0
        self.count += taken
        return taken

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self.count += len(data)
        return data


def test_opening_12_megapixels_reads_64_kibibytes_at_most(large: Path) -> None:
    for ask in (PIL.Image.open, licodec.inspect, iio.improps, iio.immeta):
        with Counting(large) as raw, io.BufferedReader(raw) as file:
            ask(file)
            assert raw.count <= 64 << 10
    with PIL.Image.open(large) as image:
        assert (image.size, image.mode) == ((4000, 3000), "RGB")
        assert len(image.info["exif"]) > 20_000


def test_opening_12_megapixels_takes_a_millisecond_at_most(large: Path) -> None:
    times = []
    for _ in range(40):
        start = time.process_time()
        PIL.Image.open(large).close()
        times.append(time.process_time() - start)
    assert sorted(times)[10] <= 1e-3


def test_opening_12_megapixels_needs_no_memory_for_them(large: Path) -> None:
    PIL.Image.open(large).close()
    with memory.bounded(256 << 10), PIL.Image.open(large):
        pass


# --- many times -----------------------------------------------------------------------------------


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def nothing_left_open() -> Iterator[None]:
    """No descriptor more afterwards, and none that was closed by chance."""
    before = descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        after = descriptors()
    assert after == before
    assert [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)] == []


@pytest.mark.slow
@needs_proc
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    picture = PIL.Image.open(GOLDEN / "s-1-q50-order1.png").convert("RGB").crop((0, 0, 48, 32))
    picture.save(path)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            with PIL.Image.open(path) as image:
                image.load()
            picture.save(path, quality=50)

    work(20)
    before = resident()
    with nothing_left_open():
        work(ROUNDS)
    assert resident() - before < MOST_GROWTH


@needs_proc
@pytest.mark.usefixtures("stand_in")
def test_memory_does_not_grow_with_opened_and_broken_files(lic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    damaged = lic[:-20] + bytes(20)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            with PIL.Image.open(path) as image:
                image.load()
            with contextlib.suppress(OSError), PIL.Image.open(io.BytesIO(damaged)) as image:
                image.load()
            PIL.Image.fromarray(pixels()).save(io.BytesIO(), "LIC", codec="stand-in")

    work(20)
    before = resident()
    work(ROUNDS)
    assert resident() - before < MOST_GROWTH


@needs_proc
def test_no_descriptor_stays_open_whatever_becomes_of_a_file(
    lic: bytes, stand_in: Path, tmp_path: Path
) -> None:
    path, broken, cut, later = (tmp_path / f"{name}.lic" for name in ("whole", "broken", "cut", "later"))
    path.write_bytes(lic)
    broken.write_bytes(lic[:-20] + bytes(20))
    cut.write_bytes(lic[:30])
    file = lic_format.read(lic)
    later.write_bytes(lic_format.write(replace(file, head=replace(file.head, codec="nonesuch"))))
    image = PIL.Image.fromarray(pixels())

    def loaded(source: Path) -> None:
        PIL.Image.open(source).load()

    def entered(source: Path) -> None:
        with PIL.Image.open(source) as unloaded:
            unloaded.load()

    def verified(source: Path) -> None:
        PIL.Image.open(source).verify()

    calls: list[Callable[[], Any]] = [
        lambda: loaded(path),
        lambda: verified(path),
        lambda: PIL.Image.open(cut),
        lambda: image.save(tmp_path / "out.lic", codec="stand-in"),
        lambda: image.save(tmp_path / "out.lic", quality="best"),
        lambda: licodec.save(image, tmp_path / "out.lic", codec="stand-in"),
        lambda: iio.imwrite(tmp_path / "out.lic", pixels(), codec="stand-in"),
    ]
    for source in (path, broken, cut, later):
        asks = (entered, iio.imread, iio.improps, iio.immeta, licodec.decode, licodec.inspect)
        calls += [lambda ask=ask, source=source: ask(source) for ask in asks]  # type: ignore[misc]
    for call in calls:
        with contextlib.suppress(OSError, licodec.LicError):
            call()
    with nothing_left_open():
        for call in calls:
            with contextlib.suppress(OSError, licodec.LicError):
                call()


# --- several threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_8_threads_that_load_one_image_all_get_its_pixels(rounds: int) -> None:
    for name in ("s-1-q5-order1", "s-1-alpha-order1"):
        data = (GOLDEN / f"{name}.lic").read_bytes()
        expected = licodec.decode(data, output="numpy")
        with ThreadPoolExecutor(8) as pool:
            for _ in range(rounds):
                shared = PIL.Image.open(io.BytesIO(data))
                for found in pool.map(np.asarray, [shared] * 8):
                    np.testing.assert_array_equal(found, expected)


# --- files that could not be written --------------------------------------------------------------


class Fails(Exception):
    """A bug, or whatever comes in the middle of coding."""


WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "quality": (pixels, {"quality": 101}),
    "target": (pixels, {"target_size": 1}),
    "codec": (pixels, {"codec": "nonesuch"}),
    "weights": (pixels, {"weights": "/nowhere"}),
    "empty": (lambda: np.zeros((0, 3, 3), np.uint8), {}),
    "depth": (lambda: np.zeros((3, 3), np.int32), {}),
    "interrupted": (pixels, {}),
    "breaks": (pixels, {}),
}
WRITE: dict[str, Callable[..., Any]] = {
    "Pillow": lambda array, path, **options: PIL.Image.fromarray(array).save(path, **options),
    "SDK": lambda array, path, **options: licodec.save(PIL.Image.fromarray(array), path, **options),
    "SDK, array": lambda array, path, **options: licodec.save(array, path, **options),
    "imageio": lambda array, path, **options: iio.imwrite(path, array, **options),
}


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_failed_write_leaves_no_new_file_and_the_old_one_as_it_was(
    wrong: str, write: str, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = WRONG[wrong]
    error: type[BaseException] = KeyboardInterrupt if wrong == "interrupted" else Fails
    if wrong in ("interrupted", "breaks"):

        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(codec.StandInModel, "encode", fail)
    folder = tmp_path / "out"
    folder.mkdir()
    given = {"codec": "stand-in", **options}
    expected = (error,) if wrong in ("interrupted", "breaks") else (OSError, ValueError, TypeError)
    with pytest.raises(expected):
        WRITE[write](source(), folder / "new.lic", **given)
    # Pillow opens the file before it asks us, and removes it after an Exception alone.
    if (write, wrong) != ("Pillow", "interrupted"):
        assert list(folder.iterdir()) == []
    if write != "Pillow":
        (folder / "old.lic").write_bytes(b"old")
        with pytest.raises(expected):
            WRITE[write](source(), folder / "old.lic", **given)
        assert (folder / "old.lic").read_bytes() == b"old"
        assert list(folder.iterdir()) == [folder / "old.lic"]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "options", [["-q", "101"], ["--target-size", "1"], ["-c", "nonesuch"], ["--threads", "0"]]
)
def test_a_failed_command_leaves_no_new_file_and_the_old_one_as_it_was(
    options: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "x.png"
    PIL.Image.fromarray(pixels()).save(source)
    old, new = tmp_path / "old.lic", tmp_path / "new.lic"
    old.write_bytes(b"old")
    for target in (old, new):
        assert run(["encode", str(source), "-c", "stand-in", *options, "-o", str(target)]) != 0
    assert old.read_bytes() == b"old"
    assert not new.exists()
    broken = tmp_path / "broken.lic"
    broken.write_bytes(b"\x89LIC\r\n\x1a\nHEAD")
    (tmp_path / "old.png").write_bytes(b"old")
    for name in ("old.png", "new.png"):
        assert run(["decode", str(broken), "-o", str(tmp_path / name)]) != 0
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert not (tmp_path / "new.png").exists()
