"""What people do with an image that was opened and not loaded yet: the same for PNG and `.lic`.

The ideas are those of the suites of Pillow's own formats and of pillow-heif.
"""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import os
import pickle
import socket
import tarfile
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageFile
import PIL.ImageFilter
import PIL.ImageOps
import PIL.ImageStat
import pytest

import licodec
from tests.peers.formats import FORMATS, Format
from tests.peers.probes import opened, photo, saved

SIZE = (96, 64)


@pytest.fixture(params=["png", "lic"], scope="module")
def format(request: pytest.FixtureRequest) -> Format:
    found = FORMATS[request.param]
    found.prepare()
    return found


@pytest.fixture(scope="module")
def data(format: Format) -> bytes:
    return saved(format, photo(SIZE))


@pytest.fixture(scope="module")
def pixels(data: bytes) -> bytes:
    return opened(data).tobytes()


@pytest.fixture
def path(format: Format, data: bytes, tmp_path: Path) -> Path:
    found = tmp_path / f"x{format.suffix}"
    found.write_bytes(data)
    return found


# --- operations on an image that is not loaded yet ------------------------------------------------

OPERATIONS: dict[str, Callable[[PIL.Image.Image], Any]] = {
    "array": np.asarray,
    "blend": lambda image: PIL.Image.blend(image, PIL.Image.new(image.mode, image.size), 0.5),
    "box of content": lambda image: image.getbbox(),
    "channel": lambda image: image.getchannel(1),
    "colours": lambda image: image.getcolors(1 << 16),
    "convert": lambda image: image.convert("YCbCr"),
    "copy": lambda image: image.copy(),
    "crop": lambda image: image.crop((10, 5, 40, 33)),
    "crop outside": lambda image: image.crop((-5, -5, 200, 10)),
    "deepcopy": copy.deepcopy,
    "difference": lambda image: PIL.ImageChops.invert(image),
    "entropy": lambda image: image.entropy(),
    "exif_transpose": PIL.ImageOps.exif_transpose,
    "extrema": lambda image: image.getextrema(),
    "filter": lambda image: image.filter(PIL.ImageFilter.GaussianBlur(2)),
    "fit": lambda image: PIL.ImageOps.fit(image, (20, 20)),
    "histogram": lambda image: image.histogram(),
    "merge": lambda image: PIL.Image.merge("RGB", image.split()[::-1]),
    "palette": lambda image: image.quantize(16),
    "pixel": lambda image: image.getpixel((3, 4)),
    "point": lambda image: image.point(lambda level: 255 - level),
    "projection": lambda image: image.getprojection(),
    "reduce": lambda image: image.reduce(2),
    "resize": lambda image: image.resize((31, 17), box=(1.5, 2, 80, 60), reducing_gap=2.0),
    "rotate": lambda image: image.rotate(30, expand=True),
    "save as BMP": lambda image: _bytes(image, "BMP"),
    "split": lambda image: image.split(),
    "statistics": lambda image: PIL.ImageStat.Stat(image).mean,
    "transform": lambda image: image.transform((40, 30), PIL.Image.Transform.EXTENT, (5, 5, 90, 60)),
    "transpose": lambda image: image.transpose(PIL.Image.Transpose.ROTATE_90),
}


def _bytes(image: PIL.Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()


CHANGES: dict[str, Callable[[PIL.Image.Image], Any]] = {
    "paste": lambda image: image.paste((1, 2, 3), (4, 4, 20, 20)),
    "paste its own": lambda image: image.paste(image, (10, 10)),
    "putalpha": lambda image: image.putalpha(7),
    "putdata": lambda image: image.putdata([(1, 2, 3)] * (image.width * image.height)),
    "putpixel": lambda image: image.putpixel((0, 0), (9, 8, 7)),
    "thumbnail": lambda image: image.thumbnail((90, 60)),
}


def comparable(result: Any) -> Any:
    if isinstance(result, PIL.Image.Image):
        return result.mode, result.size, result.tobytes()
    if isinstance(result, tuple) and result and isinstance(result[0], PIL.Image.Image):
        return [comparable(each) for each in result]
    return result.tolist() if isinstance(result, np.ndarray) else result


@pytest.fixture(scope="module")
def plain(data: bytes) -> PIL.Image.Image:
    """The picture as an image that has no file behind it."""
    return opened(data).copy()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_load_the_image_by_themselves(name: str, data: bytes, plain: PIL.Image.Image) -> None:
    operation = OPERATIONS[name]
    assert comparable(operation(opened(data))) == comparable(operation(plain.copy()))


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_an_unloaded_image_change_its_pixels(
    name: str, data: bytes, plain: PIL.Image.Image
) -> None:
    changed, expected = opened(data), plain.copy()
    CHANGES[name](changed)
    CHANGES[name](expected)
    assert comparable(changed) == comparable(expected)
    assert opened(data).tobytes() == plain.tobytes(), "the file's bytes are not the image's memory"


def test_an_unloaded_image_can_be_pasted_and_be_a_mask(data: bytes, plain: PIL.Image.Image) -> None:
    for source in (opened(data), plain):
        canvas = PIL.Image.new("RGB", (120, 80))
        canvas.paste(source, (3, 3))
        canvas.paste((255, 0, 0), (3, 3), source.convert("L"))
        assert comparable(canvas) == comparable(canvas.copy())
    unloaded, loaded = (PIL.Image.new("RGB", SIZE) for _ in range(2))
    unloaded.paste(opened(data))
    loaded.paste(plain)
    assert unloaded.tobytes() == loaded.tobytes() == plain.tobytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("loaded", [False, True], ids=["unloaded", "loaded"])
def test_images_pickle_in_every_protocol(protocol: int, loaded: bool, path: Path, pixels: bytes) -> None:
    with PIL.Image.open(path) as image:
        if loaded:
            image.load()
        sent = pickle.dumps(image, protocol)
    path.unlink()
    found = pickle.loads(sent)
    assert (found.tobytes(), found.size, found.mode) == (pixels, SIZE, "RGB")
    found.putpixel((0, 0), (1, 2, 3))
    assert pickle.loads(pickle.dumps(found, protocol)).getpixel((0, 0)) == (1, 2, 3)


def test_what_the_header_tells_costs_no_decoding(format: Format, data: bytes) -> None:
    image = opened(data)
    assert (image.size, image.width, image.height, image.mode) == (SIZE, *SIZE, "RGB")
    assert (image.getbands(), image.tell(), image.format) == (("R", "G", "B"), 0, format.name)
    assert "96x64" in repr(image)
    if format.name != "PNG":  # whose EXIF may stand behind the pixels
        image.getexif()
    assert image._im is None


# --- where files come from and go to --------------------------------------------------------------


@contextmanager
def _zip_member(path: Path) -> Iterator[IO[bytes]]:
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(path, "x")
    with zipfile.ZipFile(archive) as source, source.open("x") as member:
        yield member


@contextmanager
def _tar_member(path: Path) -> Iterator[IO[bytes]]:
    archive = path.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as target:
        target.add(path, "x")
    with tarfile.open(archive) as source:
        member = source.extractfile("x")
        assert member is not None
        yield member


@contextmanager
def _spooled(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile() as file:
        file.write(path.read_bytes())
        yield file


@contextmanager
def _pipe(path: Path) -> Iterator[IO[bytes]]:
    reading, writing = os.pipe()
    sender = threading.Thread(target=lambda: os.fdopen(writing, "wb").write(path.read_bytes()))
    sender.start()
    with open(reading, "rb") as file:
        yield file
    sender.join()


@contextmanager
def _socket(path: Path) -> Iterator[IO[bytes]]:
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            theirs.sendall(path.read_bytes())

    sender = threading.Thread(target=send)
    sender.start()
    with ours, ours.makefile("rb") as file:
        yield file
    sender.join()


@contextmanager
def _path(path: Path) -> Iterator[Path]:
    yield path


@contextmanager
def _text(path: Path) -> Iterator[str]:
    yield str(path)


@contextmanager
def _bytes_path(path: Path) -> Iterator[bytes]:
    yield os.fsencode(path)


@contextmanager
def _unbuffered(path: Path) -> Iterator[Any]:
    with path.open("rb", buffering=0) as file:
        yield file


@contextmanager
def _at_the_end(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        file.read()
        yield file


SOURCES = [
    _path, _text, _bytes_path, _unbuffered, _at_the_end, _zip_member, _tar_member, _spooled, _pipe, _socket,
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__.strip("_"))
def test_files_are_read_wherever_they_come_from(source: Any, path: Path, pixels: bytes) -> None:
    with source(path) as file, PIL.Image.open(file) as image:
        assert image.tobytes() == pixels


@pytest.mark.parametrize("kind", [str, Path, os.fsencode], ids=["text", "Path", "bytes"])
def test_files_are_written_by_every_kind_of_path(
    kind: Any, format: Format, data: bytes, tmp_path: Path
) -> None:
    target = kind(str(tmp_path / f"Ä ö.{format.suffix[1:].upper()}"))
    photo(SIZE).save(target)
    assert Path(os.fsdecode(target)).read_bytes() == data


def test_files_are_written_into_archives_and_sockets(format: Format, data: bytes) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target, target.open("x", "w") as member:
        photo(SIZE).save(member, format.name)
    assert zipfile.ZipFile(archive).read("x") == data
    ours, theirs = socket.socketpair()
    with theirs:
        with ours, ours.makefile("wb") as sink:
            photo(SIZE).save(sink, format.name)
        with theirs.makefile("rb") as source:
            assert source.read() == data


@pytest.mark.parametrize("flavour", ["closed", "text", "folder", "missing", "empty", "write only"])
def test_what_is_no_readable_file_is_a_plain_error(flavour: str, format: Format, path: Path) -> None:
    closed = io.BytesIO(b"")
    closed.close()
    source: Any = {
        "closed": closed,
        "text": io.StringIO("x"),
        "folder": path.parent,
        "missing": path.with_name("nothing" + format.suffix),
        "empty": io.BytesIO(),
        "write only": (path.parent / "w").open("wb"),
    }[flavour]
    with pytest.raises((OSError, ValueError)):
        PIL.Image.open(source)


def test_saving_to_a_closed_file_or_a_folder_is_a_plain_error(format: Format, tmp_path: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    folder = tmp_path / f"folder{format.suffix}"
    folder.mkdir()
    for target in (closed, folder, tmp_path / "none" / f"x{format.suffix}"):
        with pytest.raises((OSError, ValueError)):
            photo(SIZE).save(target, format.name)


def test_several_images_stand_in_one_file(format: Format, data: bytes, pixels: bytes) -> None:
    """A reader that hands over parts of a larger file."""
    whole = io.BytesIO(b"before" + data)

    class Part(io.BytesIO):
        def __init__(self) -> None:
            super().__init__(whole.getvalue()[6:])

    assert PIL.Image.open(Part()).tobytes() == pixels


# --- what is left behind --------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_no_descriptor_stays_open(format: Format, data: bytes, path: Path) -> None:
    path.with_name("cut").write_bytes(data[: len(data) // 2])
    PIL.Image.open(path).load()
    before = descriptors()
    alive = []
    for _ in range(5):
        alive.append(PIL.Image.open(path))
        alive[-1].load()
        PIL.Image.open(path).close()
        with PIL.Image.open(path):
            pass
        PIL.Image.open(path).verify()
        with pytest.raises(OSError), PIL.Image.open(path.with_name("cut")) as broken:
            broken.load()
        photo(SIZE).save(path)
        with pytest.raises(Exception):  # noqa: B017
            photo(SIZE).save(path.with_name("failed"), format.name, **format.wrong)
    gc.collect()
    assert descriptors() == before


def test_nothing_is_left_for_the_collector_to_close(format: Format, data: bytes, path: Path) -> None:
    path.with_name("cut").write_bytes(data[:20])
    with warnings.catch_warnings(record=True) as caught:  # an error would be lost: nobody calls a destructor
        warnings.simplefilter("always")
        PIL.Image.open(path).load()
        with PIL.Image.open(path):
            pass
        PIL.Image.open(path).verify()
        with pytest.raises(OSError):
            PIL.Image.open(path.with_name("cut")).load()
        photo(SIZE).save(path)
        gc.collect()
    assert not [each for each in caught if issubclass(each.category, ResourceWarning)]


def test_a_loaded_image_lets_its_file_go(format: Format, data: bytes, path: Path) -> None:
    image = PIL.Image.open(path)
    image.load()
    path.replace(path.with_name("moved"))
    photo(SIZE).save(path)
    assert image.tobytes() == opened(data).tobytes()


# --- several at once ------------------------------------------------------------------------------


def test_threads_open_load_and_save_at_once(format: Format, data: bytes, pixels: bytes) -> None:
    def work(turn: int) -> bool:
        if turn % 3 == 0:
            return saved(format, photo(SIZE)) == data
        if turn % 3 == 1:
            opened(data).verify()
            return True
        return opened(data).tobytes() == pixels

    photo(SIZE)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))


def test_a_thread_that_meets_damage_does_not_disturb_the_others(data: bytes, pixels: bytes) -> None:
    cut = data[: len(data) // 2]

    def work(turn: int) -> bool:
        if turn % 2:
            return opened(data).tobytes() == pixels
        with pytest.raises(OSError):
            opened(cut).load()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(32)))


def test_every_thread_that_loads_a_damaged_image_gets_the_error(data: bytes) -> None:
    shared = opened(data[: 3 * len(data) // 4])
    outcomes = []

    def work(_: int) -> None:
        with pytest.raises(OSError):
            shared.load()
        outcomes.append(True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert outcomes == [True] * 4


def flipped(image: PIL.Image.Image) -> PIL.Image.Image:
    return PIL.ImageOps.flip(image)


@pytest.mark.parametrize("format", ["lic"], indirect=True)
def test_unloaded_images_are_sent_to_spawned_workers_and_back(data: bytes, pixels: bytes) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        (back,) = pool.map(flipped, [opened(data)])
    assert PIL.ImageOps.flip(back).tobytes() == pixels


# --- chains of formats ----------------------------------------------------------------------------


def test_a_gif_goes_through(format: Format) -> None:
    """Frames with a palette, a background and a transparent index, as programs convert them."""
    frames = [photo(SIZE).quantize(32), PIL.ImageOps.mirror(photo(SIZE)).quantize(32)]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], transparency=0, background=3, loop=0)
    animation = PIL.Image.open(gif)
    for index in range(2):
        animation.seek(index)
        found = opened(saved(format, animation, **format.best)).convert("RGBA")
        shown = animation.convert("RGBA")
        assert found.getchannel("A").tobytes() == shown.getchannel("A").tobytes()


def test_an_image_of_another_format_saves_straight_from_its_file(format: Format) -> None:
    for source in ("JPEG", "WEBP", "TIFF", "BMP"):
        other = opened(_bytes(photo(SIZE), source))
        expected = saved(format, other.copy(), exif=None, icc_profile=None, dpi=None)
        straight = saved(format, opened(_bytes(photo(SIZE), source)))
        assert opened(straight).tobytes() == opened(expected).tobytes()


def test_a_higher_quality_is_larger_and_closer() -> None:
    given = np.asarray(photo((192, 128))).astype(float)
    errors, sizes = [], []
    for quality in (5, 30, 60, 90):
        data = saved(FORMATS["lic"], photo((192, 128)), quality=quality)
        sizes.append(len(data))
        errors.append(float(np.mean((np.asarray(opened(data)) - given) ** 2)))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_decoding_twice_and_in_every_way_gives_the_same_pixels() -> None:
    data = saved(FORMATS["lic"], photo(SIZE))
    expected = opened(data).tobytes()
    assert licodec.decode(data).tobytes() == expected
    assert licodec.decode(data, output="numpy").tobytes() == expected
    for _ in range(3):
        assert opened(data).tobytes() == expected
