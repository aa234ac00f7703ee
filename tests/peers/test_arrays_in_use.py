"""What imageio's own plugins are tested for, with PNG and `.lic` side by side."""

from __future__ import annotations

import functools
import gc
import http.server
import io
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio.v2
import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest

import licodec
from tests.peers.probes import photo

SIZE = (64, 48)
Array = np.ndarray[Any, Any]


@pytest.fixture(params=[".png", ".lic"], scope="module")
def extension(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def data(extension: str) -> bytes:
    return encoded(np.asarray(photo(SIZE)), extension)


@pytest.fixture(scope="module")
def pixels(data: bytes) -> Array:
    return np.asarray(iio.imread(data))


def encoded(array: Any, extension: str) -> bytes:
    data = iio.imwrite("<bytes>", array, extension=extension)
    assert isinstance(data, bytes)
    return data


LAYOUTS: dict[str, Any] = {
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "columns first": np.asfortranarray,
    "every other": lambda array: np.repeat(np.repeat(array, 2, 0), 2, 1)[::2, ::2],
    "from channels first": lambda array: np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 2, 0)), 0, 2),
    "mirrored": lambda array: array[:, ::-1],
    "part": lambda array: array[5:30, 7:50],
    "read-only": lambda array: _locked(array.copy()),
    "reversed channels": lambda array: array[:, :, ::-1],
    "subclass": lambda array: array.view(np.recarray),
    "turned": lambda array: np.rot90(array),
}


def _locked(array: Array) -> Array:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_is_coded_by_its_values_however_it_lies_in_memory(layout: str, extension: str) -> None:
    array = LAYOUTS[layout](np.asarray(photo(SIZE)))
    before = array.copy()
    expected = encoded(np.ascontiguousarray(np.array(array)), extension)
    assert encoded(array, extension) == expected
    np.testing.assert_array_equal(array, before)


def test_what_is_read_is_an_array_of_ones_own(data: bytes, pixels: Array) -> None:
    first, second = iio.imread(data), iio.imread(data)
    assert first.flags.writeable and first.flags.c_contiguous and first.dtype == np.uint8
    first[:] = 0
    np.testing.assert_array_equal(second, pixels)


def test_grey_stays_two_dimensional(extension: str) -> None:
    grey = np.asarray(photo(SIZE).convert("L"))
    data = encoded(grey, extension)
    assert iio.imread(data).shape == iio.improps(data).shape == grey.shape


def test_every_way_of_reading_gives_the_same(
    data: bytes, pixels: Array, extension: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{extension}"
    path.write_bytes(data)
    with iio.imopen(path, "r") as file:
        opened, (iterated,) = file.read(index=0), list(file.iter())
    batch: Any = ...
    with path.open("rb") as source:
        from_file = iio.imread(source)
    ways = {
        "path": iio.imread(path),
        "text": iio.imread(str(path)),
        "bytes": iio.imread(data),
        "bytearray in a file": iio.imread(io.BytesIO(bytearray(data))),
        "file": from_file,
        "uri": iio.imread(path.as_uri()),
        "imopen": opened,
        "iter": iterated,
        "imiter": next(iio.imiter(path)),
        "batch": iio.imread(path, index=batch)[0],
        "v2": imageio.v2.imread(path),
        "v2 reader": imageio.v2.get_reader(path).get_data(0),
        "v2 all": imageio.v2.mimread(path)[0],
        "Pillow": np.asarray(PIL.Image.open(path)),
    }
    for way, found in ways.items():
        np.testing.assert_array_equal(found, pixels, err_msg=way)


def test_every_way_of_writing_gives_the_same_file(extension: str, data: bytes, tmp_path: Path) -> None:
    array = np.asarray(photo(SIZE))
    paths = [tmp_path / f"{number}{extension}" for number in range(5)]
    iio.imwrite(paths[0], array)
    imageio.v2.imwrite(paths[1], array)
    with iio.imopen(paths[2], "w") as file:
        file.write(array)
    writer: Any = imageio.v2.get_writer(paths[3])
    with writer:
        writer.append_data(array)
    with paths[4].open("wb") as sink:
        iio.imwrite(sink, array, extension=extension)
    for path in paths:
        assert path.read_bytes() == data, path.name


def test_a_file_in_use_is_freed_when_the_block_ends(data: bytes, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{extension}"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            iio.imread(path), iio.improps(path), iio.immeta(path)
            with iio.imopen(path, "r"):
                pass
            iio.imwrite(path, np.asarray(photo(SIZE)))
        gc.collect()
    assert not [each for each in caught if issubclass(each.category, ResourceWarning)]
    path.unlink()
    if Path("/proc/self/fd").exists():
        assert not any(str(path) in name for name in _open_files())


def _open_files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the listing's own
            continue


def test_threads_read_and_write_at_once(data: bytes, pixels: Array, extension: str) -> None:
    def work(turn: int) -> bool:
        if turn % 3 == 0:
            return encoded(np.asarray(photo(SIZE)), extension) == data
        return np.array_equal(iio.imread(data), pixels)

    photo(SIZE)
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(24)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_pictures_are_read_over_http(
    server: str, data: bytes, pixels: Array, extension: str, tmp_path: Path
) -> None:
    (tmp_path / f"x{extension}").write_bytes(data)
    np.testing.assert_array_equal(iio.imread(f"{server}/x{extension}"), pixels)
    assert iio.improps(f"{server}/x{extension}").shape == pixels.shape


def test_properties_are_those_of_what_is_read(extension: str) -> None:
    for mode in ("L", "LA", "RGB", "RGBA"):
        image = photo(SIZE).convert(mode)
        if mode.endswith("A"):
            image.putalpha(PIL.Image.linear_gradient("L").resize(SIZE))
        data = encoded(np.asarray(image), extension)
        indices: tuple[Any, ...] = (None, 0, ...)
        for index in indices:
            read, properties = iio.imread(data, index=index), iio.improps(data, index=index)
            assert (properties.shape, properties.dtype) == (read.shape, read.dtype), mode
        assert iio.immeta(data)["mode"] == mode


def test_what_is_written_by_one_host_is_read_by_the_others() -> None:
    array = np.asarray(photo(SIZE))
    by_imageio = encoded(array, ".lic")
    assert by_imageio == licodec.encode(array) == licodec.encode(photo(SIZE))
    buffer = io.BytesIO()
    photo(SIZE).save(buffer, "LIC")
    assert buffer.getvalue() == by_imageio
