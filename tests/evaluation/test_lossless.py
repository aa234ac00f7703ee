"""The table of lossless codecs: whole files, every sample compared, stages of our own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from licodec.evaluation import lossless
from licodec.evaluation.pictures import Source, halved

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"


@pytest.fixture
def sources() -> list[Source]:
    with Image.open(PHOTO) as photo:
        parts = [photo.convert("RGB").crop((x, 40, x + 120, 130)) for x in (0, 150)]
    out = []
    for number, part in enumerate(parts):
        sink = io.BytesIO()
        part.save(sink, "PNG")
        out.append(Source(str(number), sink.getvalue))
    return out


def test_every_codec_is_measured_on_whole_files(sources: list[Source]) -> None:
    rows = {row.title: row for row in lossless.compare(sources, repeat=1)}
    assert {"pilc l-1", "QOI", "PNG optimize", "WebP m4", "JPEG XL e7"} <= set(rows)
    for row in rows.values():
        assert row.least <= row.bits <= row.most
        assert row.encode > 0 and row.decode > 0
    assert rows["pilc l-1"].bits < rows["WebP m4"].bits < rows["PNG optimize"].bits < rows["QOI"].bits
    stages = rows["pilc l-1"].stages
    assert stages["encode"]["networks"] > 0 and stages["encode"]["lanes"] > 0
    assert stages["decode"]["networks"] > 0 and stages["decode"]["lanes"] > 0
    table = lossless.markdown(list(rows.values()))
    assert table.count("\n| ") >= len(rows) and "pilc l-1, decode, nanoseconds a sample" in table
    again = [lossless.Row(**row) for row in lossless.to_json(list(rows.values()))]
    assert lossless.markdown(again) == table


def test_halved_pictures_are_measured_as_such(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
        seen.append(pixels)
        return pixels.tobytes()

    def decode(data: bytes) -> npt.NDArray[np.uint8]:
        return np.frombuffer(data, np.uint8).reshape(seen[-1].shape)

    monkeypatch.setattr(lossless, "_subjects", lambda *_: [lossless._Subject("raw", encode, decode)])
    (row,) = lossless.compare(sources, repeat=1, halve=True)
    assert row.bits == 8
    assert [each.shape for each in seen] == [(45, 60, 3)] * 2
    np.testing.assert_array_equal(seen[1], halved(sources[1].pixels()))


def test_a_codec_that_changes_a_sample_is_named(
    sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = lossless._Subject("odd", lambda pixels: b"", lambda data: np.zeros((90, 120, 3), np.uint8))
    monkeypatch.setattr(lossless, "_subjects", lambda *_: [changed])
    with pytest.raises(ValueError, match="odd: 0 came back with other samples"):
        lossless.compare(sources, repeat=1)
