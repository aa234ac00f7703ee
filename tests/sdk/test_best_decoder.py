"""`decoder="best"`: other pixels of the same file, with a synthesis that the package need not have."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
import torch

import licodec
from lic_format import UsageError, WeightsError
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.wide_synthesis import Widths, grown
from licodec.training.distil import export_alternate
from tests.cli.conftest import licodec_command
from tests.codecs.fixtures import pixels, psnr

__all__ = ["licodec_command"]

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "weights" / "fhic" / "s-1-best" / "model.safetensors"
Command = Callable[..., tuple[int, bytes, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wide synthesis for s-1 that gives other pixels."""
    folder = tmp_path_factory.mktemp("best")
    whole = store.load("fhic", "s-1")
    codec = cb.build(whole, "cpu")
    widths = Widths(sixteenth=129, sixteenth_blocks=1, eighth=97, eighth_blocks=3, features=1, quarter=49)
    torch.manual_seed(0)
    net = grown(codec.lapped, widths).requires_grad_(False)
    net.leave.bias.add_(0.05)
    export_alternate(whole, net, widths, folder / "fhic" / "s-1-best")
    return folder


@pytest.fixture
def best(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """LICODEC_WEIGHTS names the folder, and nothing else has such a synthesis."""
    hide_real(monkeypatch)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(made))
    licodec.clear_cache()
    yield made
    licodec.clear_cache()


def hide_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a wheel, which has whole weights only."""
    shipped = [entry for entry in store.known() if entry.decoder == "fast"]
    monkeypatch.setattr("licodec.store.table._shipped", lambda: tuple(shipped))
    places = store.weights._places

    def without(*arguments: Any) -> list[Path]:
        return [place for place in places(*arguments) if place != REAL]

    monkeypatch.setattr("licodec.store.weights._places", without)


@pytest.fixture(scope="module")
def file() -> bytes:
    return licodec.encode(pixels(70, 90), quality=60)


def test_best_gives_other_pixels_of_the_same_file_without_a_warning(best: Path, file: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = licodec.decode(file, output="numpy")
        found = licodec.decode(file, output="numpy", decoder="best")
    assert found.shape == fast.shape
    assert 5 < (found.astype(int) - fast).mean() < 20
    assert np.array_equal(licodec.load(file, output="numpy", decoder="best"), found)
    assert np.array_equal(licodec.decode(file, output="numpy", decoder="fast"), fast)


def test_a_decoder_holds_it_and_pickles_with_it(best: Path, file: bytes) -> None:
    expected = licodec.decode(file, output="numpy", decoder="best")
    decoder = licodec.Decoder(decoder="best")
    decoder.warm_up()
    licodec.clear_cache()
    assert np.array_equal(decoder(file, output="numpy"), expected)
    copied = pickle.loads(pickle.dumps(decoder))
    assert [len(each) for each in (copied([file], output="numpy"), [file])] == [1, 1]
    assert np.array_equal(copied(file, output="numpy"), expected)
    assert not np.array_equal(licodec.Decoder()(file, output="numpy"), expected)


def test_threads_that_want_either_get_theirs(best: Path, file: bytes) -> None:
    expected = {name: licodec.decode(file, output="numpy", decoder=name) for name in ("fast", "best")}
    licodec.clear_cache()
    wanted = ["best", "fast"] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda name: licodec.decode(file, output="numpy", decoder=name, threads=1), wanted)
        )
    assert all(np.array_equal(expected[name], each) for name, each in zip(wanted, found, strict=True))


def test_regions_are_those_of_the_whole_picture(best: Path, file: bytes) -> None:
    whole = licodec.decode(file, output="numpy", decoder="best")
    part = licodec.decode(file, output="numpy", decoder="best", region=(5, 9, 60, 40))
    assert np.array_equal(part, whole[9:40, 5:60])


def test_reduced_and_lossless_pictures_need_no_such_weights(
    file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_real(monkeypatch)
    small = licodec.decode(file, output="numpy", reduce=8, decoder="best")
    assert np.array_equal(small, licodec.decode(file, output="numpy", reduce=8))
    planes = pixels(40, 30)
    exact = licodec.encode(planes, lossless=True, effort=1)
    assert np.array_equal(licodec.decode(exact, output="numpy", decoder="best"), planes)


def test_missing_weights_are_named(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_real(monkeypatch)
    with pytest.raises(WeightsError, match=r"fhic/s-1-best of decode digest .* for decoder 'best'"):
        licodec.decode(file, decoder="best")
    with pytest.raises(WeightsError, match="s-1-best"):
        licodec.Decoder(decoder="best").warm_up()
    licodec.decode(file)


@pytest.mark.parametrize("decoder", ["better", "", "Best", None, 3, True])
def test_an_unknown_decoder_is_refused_by_name(decoder: Any, file: bytes) -> None:
    for call in (
        lambda: licodec.decode(file, decoder=decoder),
        lambda: licodec.Decoder(decoder=decoder),
        lambda: licodec.load(file, decoder=decoder),
    ):
        with pytest.raises(UsageError, match=r"^decoder: expected fast or best"):
            call()


def test_a_codec_without_one_says_so(lic: bytes) -> None:
    with pytest.raises(UsageError, match="decoder: stand-in has fast only, got 'best'"):
        licodec.decode(lic, decoder="best")


def test_it_lies_beside_weights_that_a_caller_names(made: Path, file: bytes, tmp_path: Path) -> None:
    expected = licodec.decode(file, output="numpy", decoder="best", weights=_both(made, tmp_path))
    for part in ("fhic/s-1", "fhic/s-1/model.safetensors"):
        found = licodec.decode(file, output="numpy", decoder="best", weights=tmp_path / part)
        assert np.array_equal(found, expected)
    licodec.clear_cache()
    (tmp_path / "fhic" / "s-1-best" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights fhic/s-1-best; looked at"):
        licodec.decode(file, decoder="best", weights=tmp_path)


def _both(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder, dirs_exist_ok=True)
    shutil.copytree(store.load("fhic", "s-1").path.parent, folder / "fhic" / "s-1")
    return folder


def test_hosts_and_the_command_line_take_it(
    best: Path, file: bytes, tmp_path: Path, licodec_command: Command
) -> None:
    expected = licodec.decode(file, output="numpy", decoder="best")
    source = tmp_path / "a.lic"
    source.write_bytes(file)
    status, _, error = licodec_command("decode", str(source), "--decoder", "best")
    assert status == 0, error
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), expected)
    status, _, error = licodec_command("decode", str(source), "--decoder", "bets")
    assert status == 2 and "fast or best" in error
    licodec.register()
    image = PIL.Image.open(source)
    assert isinstance(image, licodec.plugins.pillow.LicImageFile)
    image.decoder = "best"
    assert np.array_equal(np.asarray(image), expected)
    assert np.array_equal(iio.imread(source, plugin="licodec", decoder="best"), expected)
    part = iio.imread(source, plugin="licodec", decoder="best", region=(1, 2, 30, 40))
    assert np.array_equal(part, expected[2:40, 1:30])


@pytest.mark.skipif(not REAL.is_file(), reason="the published synthesis is not in this checkout")
def test_the_real_one_is_closer_to_the_picture() -> None:
    """In the middle of the rates; at the ends this picture gains nothing, or loses a little."""
    planes = np.asarray(PIL.Image.open(ROOT / "examples" / "photo.png").convert("RGB"))
    gained = []
    for quality in (20, 40, 50):
        data = licodec.encode(planes, quality=quality)
        fast, best = (licodec.decode(data, output="numpy", decoder=name) for name in ("fast", "best"))
        gained.append(psnr(planes, best) - psnr(planes, fast))
    assert np.mean(gained) > 0.01
