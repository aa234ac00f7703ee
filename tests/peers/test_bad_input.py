"""Files that lie or end too early, on every way in that hosts have: an OSError, soon, or the whole picture.

The ideas are those of Pillow's crash corpora and of its tests for AVIF and JPEG 2000.
"""

from __future__ import annotations

import io
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

import licodec
from licodec import LicWarning
from tests.format import corpus
from tests.peers.formats import FORMATS
from tests.peers.probes import photo, saved

SIZE = (24, 16)


def _loaded(data: bytes) -> bytes:
    return PIL.Image.open(io.BytesIO(data)).tobytes()


def _verified(data: bytes) -> None:
    PIL.Image.open(io.BytesIO(data)).verify()


def _parsed(data: bytes) -> bytes:
    parser = PIL.ImageFile.Parser()
    for start in range(0, len(data), 61):
        parser.feed(data[start : start + 61])
    return parser.close().tobytes()


def _read(data: bytes) -> bytes:
    return np.asarray(iio.imread(data)).tobytes()


def _asked(data: bytes) -> None:
    iio.improps(data)
    iio.immeta(data)


WAYS: dict[str, Callable[[bytes], Any]] = {
    "load": _loaded,
    "verify": _verified,
    "Parser": _parsed,
    "imread": _read,
    "improps, immeta": _asked,
}
HEADER_ONLY = "improps, immeta"


@pytest.fixture(scope="module")
def lic() -> bytes:
    """With alpha and metadata, so that there are chunks of every kind."""
    image = photo(SIZE)
    image.putalpha(PIL.Image.linear_gradient("L").resize(SIZE))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return saved(FORMATS["lic"], image, exif=exif, icc_profile=b"profile", xmp=b"<x/>", dpi=(72, 72))


def outcome(way: Callable[[bytes], Any], data: bytes) -> Any:
    """What came out, or the OSError; anything else, and what takes a second, fails the test."""
    start = time.process_time()
    try:
        return way(data)
    except OSError as error:
        return error
    finally:
        assert time.process_time() - start < 1


@pytest.mark.parametrize("way", WAYS)
def test_every_truncation_is_an_oserror(way: str, lic: bytes) -> None:
    header = lic.index(b"ALPH")
    step = 1 if way == "load" else 7
    for length in range(0, len(lic), step):
        found = outcome(WAYS[way], lic[:length])
        assert isinstance(found, OSError) or (way == HEADER_ONLY and length > header), length


def lies(lic: bytes) -> Iterator[tuple[str, bytes]]:
    """A chunk that lies, with every checksum right."""
    chunks = corpus.pieces(lic)
    rng = random.Random(3)
    for at, (name, payload) in enumerate(chunks):
        yield f"no {name}", corpus.join(chunks[:at] + chunks[at + 1 :])
        yield f"{name} twice", corpus.join(chunks[: at + 1] + chunks[at:])
        yield f"empty {name}", corpus.join([*chunks[:at], (name, b""), *chunks[at + 1 :]])
        yield f"{name} first", corpus.join([chunks[at], *chunks[:at], *chunks[at + 1 :]])
        for length in (0, len(payload) + 1, 2**40, 2**63 - 1):
            wrong = corpus.frame(name, payload, corpus.leb128(length))
            yield (
                f"{name} of {length} bytes",
                corpus.SIGNATURE
                + b"".join(corpus.frame(*each) for each in chunks[:at])
                + wrong
                + b"".join(corpus.frame(*each) for each in chunks[at + 1 :]),
            )
        changed = bytearray(payload)
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        yield f"{name} changed", corpus.join([*chunks[:at], (name, bytes(changed)), *chunks[at + 1 :]])
    yield "unknown critical", corpus.join([chunks[0], ("ABCD", b"x"), *chunks[1:]])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::licodec.LicWarning")
def test_every_lie_of_a_chunk_is_an_oserror_or_no_lie(way: str, lic: bytes) -> None:
    expected = WAYS[way](lic)
    refused = 0
    for what, data in lies(lic):
        found = outcome(WAYS[way], data)
        refused += isinstance(found, OSError)
        if isinstance(found, bytes):
            assert len(found) == len(expected), what
    assert refused > (20 if way == HEADER_ONLY else 40)


@pytest.mark.parametrize("way", WAYS)
def test_a_huge_picture_in_a_small_file_is_refused_before_it_costs_memory(way: str, lic: bytes) -> None:
    chunks = corpus.pieces(lic)
    name, head = chunks[0]
    assert name == "HEAD" and head[1:3] == bytes(SIZE)
    for side in (20_000, 65_535, 2**24 - 1):
        sides = corpus.leb128(side) * 2
        data = corpus.join([(name, head[:1] + sides + head[3:]), *chunks[1:]])
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            try:
                found = outcome(WAYS[way], data)
            except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
                continue
        assert isinstance(found, OSError), side


@pytest.mark.parametrize("content", [b"", b"\x89LIC", b"You may do as you like.\n" * 40, bytes(2000)])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_picture_is_an_oserror_under_our_name_too(
    way: str, content: bytes, tmp_path: Path
) -> None:
    found = outcome(WAYS[way], content)
    assert isinstance(found, OSError)
    (tmp_path / "LICENSE.lic").write_bytes(content)
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(tmp_path / "LICENSE.lic")
    with pytest.raises(licodec.FormatError):
        licodec.decode(tmp_path / "LICENSE.lic")


def test_newer_content_warns_and_shows_the_picture(lic: bytes) -> None:
    chunks = [(name, b"\x07newer" if name == "iccp" else payload) for name, payload in corpus.pieces(lic)]
    with pytest.warns(LicWarning):
        assert _loaded(corpus.join(chunks)) == _loaded(lic)
