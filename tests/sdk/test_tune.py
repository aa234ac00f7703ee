"""What files are made good by: an option that picks weights, in every host."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import licodec
from lic_format.errors import UsageValueError, WeightsError
from licodec import store
from licodec.cli.program import run
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import fhic
from licodec.codecs.contract import LossyWish
from tests.codecs.fixtures import encoded, pixels

PICTURE = pixels(40, 56)


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Weights:
    """Weights under the name of those for MS-SSIM: s-1's, with other gains."""
    source = store.load("fhic", "s-1").path
    tensors = load_file(source)
    tensors["gain"] = tensors["gain"] - 0.3
    header = json.loads(source.read_bytes()[8 : 8 + int.from_bytes(source.read_bytes()[:8], "little")])
    metadata = header["__metadata__"] | {"tag": "s-msssim-1", layout.DISTORTION: "ms-ssim"}
    target = tmp_path / "weights" / "fhic" / "s-msssim-1" / "model.safetensors"
    target.parent.mkdir(parents=True)
    save_file(tensors, target, metadata)
    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path / "weights"))
    return store.load("fhic", "s-msssim-1")


def test_every_host_takes_the_weights(tuned: store.Weights, tmp_path: Path) -> None:
    import imageio.v3 as iio
    from PIL import Image

    data = licodec.encode(PICTURE, tune="ms-ssim")
    assert licodec.inspect(data).decode_digest == tuned.decode_digest.hex()
    assert data != licodec.encode(PICTURE) == licodec.encode(PICTURE, tune="psnr")
    assert licodec.decode(data, output="numpy").shape == PICTURE.shape
    encoder = licodec.Encoder(tune="ms-ssim")
    assert encoder(PICTURE) == encoder(PICTURE, tune="ms-ssim") == data
    assert pickle.loads(pickle.dumps(encoder))(PICTURE) == data
    sink = io.BytesIO()
    Image.fromarray(PICTURE).save(sink, "LIC", tune="ms-ssim")
    assert sink.getvalue() == data
    iio.imwrite(tmp_path / "a.lic", PICTURE, tune="ms-ssim")
    assert (tmp_path / "a.lic").read_bytes() == data
    Image.fromarray(PICTURE).save(tmp_path / "b.png")
    assert run(["encode", str(tmp_path / "b.png"), "--tune", "ms-ssim", "--quiet"]) == 0
    assert (tmp_path / "b.lic").read_bytes() == data


def test_a_search_is_refused(tuned: store.Weights) -> None:
    for effort in (2, 4):
        with pytest.raises(UsageValueError, match=r"effort: .*s-msssim-1, expected 1: .* ms-ssim"):
            licodec.encode(PICTURE, tune="ms-ssim", effort=effort)
    ref = replace(tuned.ref)
    model = fhic.in_torch(fhic.build(tuned, "cpu"))
    with pytest.raises(UsageValueError, match="effort"):
        encoded(model, ref, PICTURE, rate=100, wish=LossyWish(2))


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageValueError, match="tune: expected psnr or ms-ssim, or None"):
        licodec.encode(PICTURE, tune="ssim")
    with pytest.raises(UsageValueError, match="tune: there are no weights for ms-ssim in"):
        licodec.encode(PICTURE, tune="ms-ssim", order="serial")
    with pytest.raises(UsageValueError, match="tune: pilc has nothing to tune"):
        licodec.encode(PICTURE, tune="psnr", lossless=True)
    with pytest.raises(UsageValueError, match="tune: this encoder is one for psnr"):
        licodec.Encoder()(PICTURE, tune="ms-ssim")


def test_weights_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a wheel, which has those for PSNR."""
    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path))
    places = store.weights._places
    monkeypatch.setattr(
        "licodec.store.weights._places",
        lambda *given: [place for place in places(*given) if "s-msssim-1" not in str(place)],
    )
    with pytest.raises(WeightsError, match="s-msssim-1"):
        licodec.encode(PICTURE, tune="ms-ssim", download="never")
