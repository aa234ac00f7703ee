"""The digest of a picture: stored on request, the same for the same samples, verified by decoding."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import lic_format
import licodec
from lic_format import FormatError, UsageError
from licodec.codecs.registry import PILC_SIDE_INFO
from tests.sdk.fixtures import pixels


def digest_of(data: bytes) -> str:
    side_info = licodec.inspect(data).side_info
    assert side_info is not None
    found: str = side_info["digest"]
    return found


def picture(channels: int) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = pixels(70, 90, channels)
    return found


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_digest_is_that_of_the_bytes_of_the_picture(channels: int) -> None:
    samples = picture(channels)
    data = licodec.encode(samples, lossless=True, digest=True)
    assert digest_of(data) == hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()
    decoded = licodec.decode(data)
    assert digest_of(data) == hashlib.blake2b(decoded.tobytes(), digest_size=16).hexdigest()
    plain = licodec.encode(samples, lossless=True)
    assert len(data) == len(plain) + 16 and digest_of(plain) == ""


def test_every_host_stores_it(tmp_path: Any) -> None:
    samples = picture(3)
    image, sink = PIL.Image.fromarray(samples), io.BytesIO()
    expected = licodec.encode(image, codec="pilc", digest=True)
    image.save(sink, "LIC", lossless=True, digest=True)
    assert sink.getvalue() == expected
    assert iio.imwrite("<bytes>", samples, extension=".lic", lossless=True, digest=True) == expected
    assert licodec.Encoder("pilc")([image], digest=True) == [expected]


@pytest.mark.parametrize("channels", [3, 4])
def test_another_digest_gives_no_pixels(channels: int) -> None:
    samples = picture(channels)
    file = lic_format.read(licodec.encode(samples, lossless=True, digest=True))
    side = PILC_SIDE_INFO.read_whole(file.head.side_info, where="HEAD")
    for bit in (0, 77, 127):
        other = int.from_bytes(side["digest"], "big") ^ 1 << bit
        fields = PILC_SIDE_INFO.write(side | {"digest": other.to_bytes(16, "big")})
        data = lic_format.write(
            dataclasses.replace(file, head=dataclasses.replace(file.head, side_info=fields))
        )
        for more in ({}, {"reduce": 4}, {"output": "numpy"}):
            with pytest.raises(FormatError, match=f"BLAKE2b-128 {side['digest'].hex()}, the file says"):
                licodec.decode(data, **more)
        assert np.array_equal(
            licodec.decode(data, output="numpy", region=(3, 4, 60, 50)), samples[4:50, 3:60]
        ), "a part says nothing of the whole"


def test_a_forged_tile_is_seen_by_the_digest_alone() -> None:
    """Of other samples, with a check that fits them."""
    samples, other = picture(3), picture(3)[::-1]
    for digest in (False, True):
        file = lic_format.read(licodec.encode(samples, lossless=True, digest=digest))
        forged = lic_format.read(licodec.encode(other, lossless=True))
        data = lic_format.write(dataclasses.replace(file, units=forged.units))
        if digest:
            with pytest.raises(FormatError, match="BLAKE2b"):
                licodec.decode(data)
        else:
            assert np.array_equal(licodec.decode(data, output="numpy"), other)


def test_alpha_is_part_of_it() -> None:
    samples = picture(4)
    file = lic_format.read(licodec.encode(samples, lossless=True, digest=True))
    samples[:, :, 3] = 255
    opaque = lic_format.read(licodec.encode(samples, lossless=True))
    with pytest.raises(FormatError, match="BLAKE2b"):
        licodec.decode(lic_format.write(dataclasses.replace(file, metadata=opaque.metadata)))


def test_a_lossy_codec_refuses_it_by_name() -> None:
    image = PIL.Image.fromarray(picture(3))
    calls: Any = (
        lambda: licodec.encode(image, digest=True),
        lambda: licodec.Encoder(device="cpu")(image, digest=True),
        lambda: image.save(io.BytesIO(), "LIC", digest=True),
    )
    for call in calls:
        with pytest.raises(UsageError, match="digest: fhic is lossy") as caught:
            call()
        assert caught.value.argument == "digest"
    with pytest.raises(UsageError, match="digest: expected True or False"):
        licodec.encode(image, lossless=True, digest="yes")  # type: ignore[arg-type]
