"""Broken, hostile and foreign files through every host: one family of errors, at once, in little memory.

The stand-in codec makes hundreds of files quick; the last tests take the real one.
"""

from __future__ import annotations

import io
import os
import random
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import imageio.v2
import imageio.v3 as iio
import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

import lic_format
import licodec
from lic_format import Chunk, LicWarning
from lic_format.limits import MAX_METADATA
from tests import memory
from tests.format import corpus
from tests.sdk.fixtures import pixels

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "fhic"
ALLOWED = (OSError, PIL.Image.DecompressionBombError)
SECONDS = 1.0

pytestmark = [
    pytest.mark.usefixtures("stand_in"),
    pytest.mark.filterwarnings("ignore::licodec.LicWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def verified(data: bytes) -> None:
    with PIL.Image.open(io.BytesIO(data)) as image:
        image.verify()


def loaded(data: bytes) -> Any:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def parsed(data: bytes, size: int = 100) -> Any:
    parser = PIL.ImageFile.Parser()
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
    return np.asarray(parser.close())


PIXELS: dict[str, Callable[[bytes], Any]] = {
    "Image.load": loaded,
    "Parser": parsed,
    "Parser, all at once": lambda data: parsed(data, len(data)),
    "imageio.v3.imread": lambda data: iio.imread(data, plugin="licodec"),
    "imageio.v2.imread": lambda data: imageio.v2.imread(data, format="licodec"),
}
HEADERS: dict[str, Callable[[bytes], Any]] = {
    "Image.verify": verified,
    "improps": lambda data: iio.improps(data, plugin="licodec"),
    "immeta": lambda data: iio.immeta(data, plugin="licodec"),
}
WAYS = PIXELS | HEADERS


def outcome(way: Callable[[bytes], Any], data: bytes) -> Any:
    """What a way gives or raises, if that is allowed; anything else fails the test."""
    start = time.process_time()
    try:
        return way(data)
    except ALLOWED as error:
        return error
    finally:
        assert time.process_time() - start < SECONDS, data.hex()


@pytest.fixture
def small(stand_in: Path) -> bytes:
    """A file with everything in it that is small enough to be cut at every byte."""
    picture = PIL.Image.fromarray(pixels(5, 4, 4))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif, "icc_profile": b"a profile", "xmp": b"<x/>", "dpi": (72, 72)}
    return licodec.encode(picture, codec="stand-in", quality=100, **options)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_400_random_damages_give_oserrors_or_the_picture(way: str, lic: bytes, small: bytes) -> None:
    whole = {data: loaded(data) for data in (lic, small)}
    rng = random.Random(21)
    for number in range(400):
        original = (lic, small)[number % 2]
        damaged = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(8, len(damaged))] = rng.randrange(256)
        found = outcome(WAYS[way], bytes(damaged))
        if way in PIXELS and not isinstance(found, ALLOWED):
            np.testing.assert_array_equal(found, whole[original])


@pytest.mark.parametrize("way", WAYS)
def test_400_files_with_right_checksums_around_wrong_contents(way: str, lic: bytes, small: bytes) -> None:
    for seed in range(400):
        data = corpus.mutant(seed, (lic, small))
        if data[:8] == lic[:8]:
            outcome(WAYS[way], data)


@pytest.mark.parametrize("way", WAYS)
def test_every_truncation_is_an_oserror(way: str, small: bytes) -> None:
    header = small.index(b"ALPH") + 4
    for cut in range(8, len(small)):
        found = outcome(WAYS[way], small[:cut])
        if way in ("improps", "immeta") and cut >= header:
            assert not isinstance(found, ALLOWED)
        else:
            assert isinstance(found, OSError), cut


@pytest.mark.parametrize("way", ["Image.load", "imageio.v3.imread"])
@pytest.mark.parametrize("cut", range(8))
def test_less_than_a_signature_is_no_file_of_ours(way: str, cut: int, small: bytes) -> None:
    error = outcome(WAYS[way], small[:cut])
    assert isinstance(error, OSError) and not isinstance(error, lic_format.FormatError)


def lies(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The file with every chunk lost, twice, moved, of another type, or of another length than it says."""
    chunks = corpus.pieces(data)
    whole = [corpus.frame(*chunk) for chunk in chunks]
    for index, (name, payload) in enumerate(chunks):
        before, after = whole[:index], whole[index + 1 :]

        def file(*inner: bytes, before: list[bytes] = before, after: list[bytes] = after) -> bytes:
            return b"".join((corpus.SIGNATURE, *before, *inner, *after))

        yield f"{name} lost", file()
        yield f"{name} twice", file(whole[index], whole[index])
        yield f"{name} empty", file(corpus.frame(name, b""))
        yield f"{name} unknown and critical", file(corpus.frame("QQQQ", payload))
        for other in range(index + 1, len(chunks)):
            moved = list(whole)
            moved[index], moved[other] = moved[other], moved[index]
            yield f"{name} and {chunks[other][0]} swapped", corpus.SIGNATURE + b"".join(moved)
        size = len(payload)
        for length in (0, 1, size - 1, size + 1, size + 1000, 1 << 24, 1 << 31, (1 << 32) - 1, 1 << 34):
            if length not in (size, -1):
                framed = corpus.frame(name, payload, length=corpus.leb128(length))
                yield f"{name} says {length} instead of {size} bytes", file(framed)
        yield f"{name} says so in too many bytes", file(corpus.frame(name, payload, length=b"\x80" * 9))


@pytest.mark.parametrize("way", WAYS)
def test_every_lie_about_chunks_is_an_oserror(way: str, small: bytes) -> None:
    harmless = {"DONE empty", *(f"{name} lost" for name in ("iccp", "exif", "xmpd", "dpix"))}
    for lie, data in lies(small):
        found = outcome(WAYS[way], data)
        if way in ("improps", "immeta"):  # which read no further than to the alpha plane
            assert isinstance(found, OSError) or "HEAD" not in lie, lie
        elif lie != "DATA twice":  # how many units there are is for the codec to judge
            assert isinstance(found, OSError) != (lie in harmless), lie


@pytest.mark.parametrize("way", WAYS)
def test_claims_are_not_believed_with_memory(way: str, lic: bytes) -> None:
    """Sizes of pictures and chunks of gigabytes in files of kilobytes."""
    outcome(WAYS[way], lic)  # imports
    file = lic_format.read(lic)
    claims = [
        lic_format.write(replace(file, head=replace(file.head, width=width, height=height)))
        for width, height in ((1 << 24, 1 << 24), (1 << 14, 1 << 13), (1 << 24, 1), (9000, 9000))
    ]
    start = lic[: lic.index(b"DATA")]
    names = (b"DATA", b"iccp", b"exif", b"prev", b"ALPH")
    claims += [start + name + corpus.leb128((1 << 32) - 1) + bytes(50) for name in names]
    for data in claims:
        with memory.bounded(1 << 21):
            found = outcome(WAYS[way], data)
        if way in PIXELS:
            assert isinstance(found, ALLOWED)


@pytest.mark.parametrize("chunk_type", ["iccp", "exif", "xmpd"])
def test_metadata_bombs(chunk_type: str, lic: bytes) -> None:
    bomb = Chunk(chunk_type, b"\x01" + zlib.compress(bytes(4 * MAX_METADATA), 1))
    data = lic_format.write(replace(lic_format.read(lic), metadata=(bomb,)))
    assert len(data) < MAX_METADATA // 20
    for name, way in WAYS.items():
        outcome(way, lic)  # imports
        if name != "Parser":  # which opens the file again for every piece that comes
            with memory.bounded(3 * MAX_METADATA):
                found = outcome(way, data)
            assert isinstance(found, OSError)


def test_exif_that_is_rubbish_is_kept_and_leaves_the_picture_alone(
    lic: bytes, image: PIL.Image.Image
) -> None:
    rng = random.Random(3)
    for _ in range(30):
        exif = b"II*\0" + rng.randbytes(rng.randrange(4, 90))
        chunk = lic_format.pack_metadata("exif", exif)
        data = lic_format.write(replace(lic_format.read(lic), metadata=(chunk,)))
        for way in PIXELS.values():
            np.testing.assert_array_equal(way(data), np.asarray(image))


# --- truncated files, wanted ----------------------------------------------------------------------


@pytest.fixture
def truncated_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@pytest.mark.usefixtures("truncated_wanted")
@pytest.mark.parametrize("way", PIXELS)
def test_truncated_files_give_the_whole_picture_or_an_error_never_a_blank_one(way: str, small: bytes) -> None:
    whole = loaded(small)
    end = len(small) - len(corpus.frame("DONE", b""))
    for cut in range(8, len(small)):
        if cut < end:
            assert isinstance(outcome(WAYS[way], small[:cut]), OSError), cut
        else:
            with pytest.warns(LicWarning, match="the picture is whole, its file is not"):
                np.testing.assert_array_equal(outcome(WAYS[way], small[:cut]), whole)
    for tail in (b"\0", small):
        with pytest.warns(LicWarning, match="follow the end"):
            np.testing.assert_array_equal(outcome(WAYS[way], small + tail), whole)


@pytest.mark.usefixtures("truncated_wanted")
def test_whole_files_load_without_a_warning_where_truncated_ones_are_wanted(small: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(small).shape == (5, 4, 4)


@pytest.mark.usefixtures("truncated_wanted")
def test_damage_is_still_found_where_truncated_files_are_wanted(lic: bytes, small: bytes) -> None:
    rng = random.Random(4)
    for original in (lic, small):
        whole = loaded(original)
        for at in rng.sample(range(8, len(original)), 150):
            damaged = bytearray(original)
            damaged[at] ^= 1 << at % 8
            found = outcome(loaded, bytes(damaged))
            if not isinstance(found, ALLOWED):
                np.testing.assert_array_equal(found, whole)
            with pytest.raises(OSError):
                verified(bytes(damaged))


# --- what is no file of ours, or no file ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of plugins that imageio asks in vain
def test_names_do_not_decide(lic: bytes, tmp_path: Path, image: PIL.Image.Image) -> None:
    (tmp_path / "LICENSE.lic").write_text("You may do as you like.")
    (tmp_path / "empty.lic").write_bytes(b"")
    image.save(tmp_path / "png.lic", "PNG")
    (tmp_path / "lic.png").write_bytes(lic)
    (tmp_path / "lic").write_bytes(lic)
    for name in ("LICENSE.lic", "empty.lic"):
        for ask in (PIL.Image.open, iio.imread, iio.improps, iio.immeta):
            with pytest.raises(OSError):
                ask(tmp_path / name)
        with pytest.raises((OSError, ValueError)):  # imageio's own choice
            imageio.v2.imread(tmp_path / name)
        with pytest.raises(lic_format.FormatError):
            licodec.decode(tmp_path / name)
    for name, known in (("png.lic", "PNG"), ("lic.png", "LIC"), ("lic", "LIC")):
        with PIL.Image.open(tmp_path / name) as found:
            assert (found.format, found.tobytes()) == (known, image.tobytes())
        np.testing.assert_array_equal(iio.imread(tmp_path / name), np.asarray(image))
        assert iio.improps(tmp_path / name).shape == (40, 56, 3)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels_are_refused_and_leave_no_file(size: tuple[int, int], tmp_path: Path) -> None:
    empty, target = PIL.Image.new("RGB", size), tmp_path / "x.lic"
    array = np.zeros((*size[::-1], 3), np.uint8)
    saves: tuple[Callable[[], Any], ...] = (
        lambda: empty.save(target, codec="stand-in"),
        lambda: licodec.save(empty, target, codec="stand-in"),
        lambda: licodec.encode(array, codec="stand-in"),
        lambda: iio.imwrite(target, array, codec="stand-in"),
        lambda: imageio.v2.imwrite(target, array, codec="stand-in"),
    )
    for save in saves:
        with pytest.raises(ValueError, match="empty"):
            save()
    assert list(tmp_path.glob("*.lic")) == []


def test_folders_and_what_is_not_there(tmp_path: Path, image: PIL.Image.Image) -> None:
    folder = tmp_path / "folder.lic"
    folder.mkdir()
    for missing in (folder, tmp_path / "missing.lic", tmp_path / "no" / "folder.lic"):
        for ask in (PIL.Image.open, iio.imread, licodec.decode, licodec.inspect):
            with pytest.raises(OSError):
                ask(missing)
        with pytest.raises((OSError, ValueError)):  # imageio's own choice
            imageio.v2.imread(missing)
    for target in (folder, tmp_path / "no" / "x.lic"):
        for save in (image.save, lambda path, **options: licodec.save(image, path, **options)):
            with pytest.raises(OSError):
                save(target, codec="stand-in")
        with pytest.raises(OSError):
            iio.imwrite(target, np.asarray(image), codec="stand-in")
    assert list(folder.iterdir()) == []


def test_closed_files(lic: bytes, image: PIL.Image.Image, tmp_path: Path) -> None:
    closed = io.BytesIO(lic)
    closed.close()
    for use in (PIL.Image.open, lambda file: image.save(file, "LIC", codec="stand-in")):
        with pytest.raises(ValueError, match="closed"):
            use(closed)
    for ask in (iio.imread, iio.improps):
        with pytest.raises((ValueError, OSError)):
            ask(closed, plugin="licodec")
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    calls: tuple[Callable[[PIL.Image.Image], Any], ...] = (
        lambda unloaded: unloaded.load(),
        lambda unloaded: unloaded.verify(),
    )
    for work in calls:
        with open(path, "rb") as file:
            unloaded = PIL.Image.open(file)
        with pytest.raises(ValueError, match="closed"):
            work(unloaded)


def test_streams_of_one_direction(lic: bytes, image: PIL.Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    with open(path, "wb") as sink:
        image.save(sink, "LIC", codec="stand-in", quality=100)
        with pytest.raises(OSError):
            PIL.Image.open(sink)
        with pytest.raises(OSError):
            licodec.decode(sink)
    assert path.read_bytes() == lic
    with open(path, "rb") as source:
        assert PIL.Image.open(source).tobytes() == image.tobytes()
        with pytest.raises(OSError):
            image.save(source, "LIC", codec="stand-in")
        with pytest.raises(OSError):
            iio.imwrite(source, np.asarray(image), extension=".lic", codec="stand-in")
    assert path.read_bytes() == lic


def sent(write: Callable[[BinaryIO], Any], read: Callable[[BinaryIO], Any]) -> Any:
    """What one end of a pair of sockets reads while the other writes."""
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(30)

        def work() -> None:
            with near.makefile("wb") as sink:
                write(sink)
            near.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=work)
        thread.start()
        with far.makefile("rb") as source:
            found = read(source)
        thread.join()
        return found


def test_sockets(lic: bytes, image: PIL.Image.Image) -> None:
    array = np.asarray(image)
    options: dict[str, Any] = {"codec": "stand-in", "quality": 100}
    writes: tuple[Callable[[BinaryIO], Any], ...] = (
        lambda sink: image.save(sink, "LIC", **options),
        lambda sink: iio.imwrite(sink, array, extension=".lic", **options),
    )
    for write in writes:
        assert sent(write, lambda source: source.read()) == lic
    reads: tuple[Callable[[BinaryIO], Any], ...] = (
        lambda source: np.asarray(PIL.Image.open(source)),
        lambda source: licodec.decode(source, output="numpy"),
    )
    for read in reads:
        np.testing.assert_array_equal(sent(lambda sink: sink.write(lic), read), array)
        with pytest.raises((OSError, lic_format.FormatError), match="ends inside"):
            sent(lambda sink: sink.write(lic[:-30]), read)
    assert sent(lambda sink: sink.write(lic), licodec.inspect).width == 56


def test_a_sink_that_breaks_off_raises_its_own_error(image: PIL.Image.Image) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    for save in (
        lambda: image.save(Full(), "LIC", codec="stand-in"),  # type: ignore[arg-type]
        lambda: iio.imwrite(Full(), np.asarray(image), extension=".lic", codec="stand-in"),  # type: ignore[call-overload]
    ):
        with pytest.raises(OSError, match="No space left"):
            save()


# --- the real codec -------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.delenv("LICODEC_WEIGHTS")
    return (GOLDEN / "s-1-alpha-order1.lic").read_bytes()


def test_a_damaged_file_of_the_real_codec_is_an_oserror(real: bytes) -> None:
    whole = loaded(real)
    rng = random.Random(8)
    chunks = corpus.pieces(real)
    for number in range(24):
        if number % 2:
            damaged = bytearray(real)
            damaged[rng.randrange(8, len(real))] ^= 1 << rng.randrange(8)
        else:  # past the checksum of its chunk: the seal of the stream is left
            at = [name for name, _ in chunks].index("DATA")
            body = bytearray(chunks[at][1])
            body[rng.randrange(2, len(body))] ^= 1 << rng.randrange(8)
            damaged = bytearray(corpus.join([*chunks[:at], ("DATA", bytes(body)), *chunks[at + 1 :]]))
        assert isinstance(outcome(loaded, bytes(damaged)), OSError)
    for cut in rng.sample(range(8, len(real)), 24):
        for way in WAYS.values():
            found = outcome(way, real[:cut])
            assert isinstance(found, OSError) or way in (WAYS["improps"], WAYS["immeta"])
    for lie, data in lies(real):
        assert isinstance(outcome(loaded, data), OSError) != (lie == "DONE empty"), lie
    np.testing.assert_array_equal(loaded(real), whole)


@pytest.mark.usefixtures("truncated_wanted")
def test_a_truncated_file_of_the_real_codec_is_an_oserror_where_truncated_ones_are_wanted(
    real: bytes,
) -> None:
    whole = loaded(real)
    for cut in (len(real) // 4, len(real) // 2, 9 * len(real) // 10, len(real) - 10):
        assert isinstance(outcome(loaded, real[:cut]), OSError)
    np.testing.assert_array_equal(loaded(real[:-1]), whole)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_to_its_end(lic: bytes, tmp_path: Path, image: PIL.Image.Image) -> None:
    pipe = tmp_path / "pipe.lic"
    os.mkfifo(pipe)
    reads: tuple[Callable[[Path], bytes], ...] = (
        lambda path: licodec.decode(path).tobytes(),
        lambda path: PIL.Image.open(path).tobytes(),
    )
    for read in reads:
        thread = threading.Thread(target=lambda: pipe.write_bytes(lic))
        thread.start()
        assert read(pipe) == image.tobytes()
        thread.join()
