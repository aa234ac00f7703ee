"""Workers that are spawned decode, by themselves."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import licodec
from examples import torch_dataloader
from examples.torch_dataloader import LicCrops, collate
from tests.examples.page import masked, shown
from tests.examples.pillow_dataset import PillowDataset, register_in_the_first

# torch says so where there are fewer cores than workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def test_the_page_shows_what_it_prints(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = shown("python examples/torch_dataloader.py")
    assert torch_dataloader.main(command.arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert masked(printed) == masked(command.lines)
    assert all(line.startswith(f"epoch {number}: 7 of 8") for number, line in enumerate(printed, start=1))


def test_a_dataset_that_uses_pillow_needs_the_format_registered_in_the_workers(lics: Path) -> None:
    files = [lics / "crop-1.lic", lics / "crop-1.lic", lics / "round.lic", lics / "round.lic"]
    loader: DataLoader[str] = DataLoader(
        PillowDataset(files), num_workers=2, batch_size=None, multiprocessing_context="spawn",
        worker_init_fn=register_in_the_first,
    )  # fmt: skip
    error = "UnidentifiedImageError"  # of the second worker; they take turns
    assert list(loader) == ["RGB (256, 256)", error, "RGBA (256, 256)", error]


def test_crops_are_the_decoded_pixels(lics: Path, tmp_path: Path) -> None:
    decoder = licodec.Decoder(device="cpu")
    whole = decoder(lics / "crop-1.lic", output="torch")
    sample = LicCrops([lics / "crop-1.lic"], 256, decoder)[0]
    assert sample is not None and sample.worker == "this process"
    torch.testing.assert_close(sample.crop, whole / 255)
    licodec.save(whole[:1], tmp_path / "grey.lic")
    grey = LicCrops([tmp_path / "grey.lic"], 64, decoder)[0]
    assert grey is not None and grey.crop.shape == (3, 64, 64)
    assert (grey.crop[0] == grey.crop[2]).all()
    torch.manual_seed(1)
    one = LicCrops([lics / "crop-1.lic"], 64, decoder)
    several = [one[0] for _ in range(4)]
    assert len({sample.crop.numpy().tobytes() for sample in several if sample}) > 1  # random, in place


def test_what_cannot_be_used_is_left_out_with_its_name(lics: Path) -> None:
    dataset = LicCrops([lics / "damaged.lic", lics / "crop-1.lic"], 256, licodec.Decoder(device="cpu"))
    with pytest.warns(UserWarning, match=r"damaged\.lic is left out: damaged"):
        crops, workers = collate([dataset[0], dataset[1]])
    assert crops.shape == (1, 3, 256, 256) and workers == ["this process"]
    with pytest.warns(UserWarning, match=r"crop-1\.lic is left out: 256 x 256"):
        assert LicCrops([lics / "crop-1.lic"], 257, licodec.Decoder(device="cpu"))[0] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(collate([None])[0]) == 0
        with pytest.raises(FileNotFoundError):  # a mistake in the list is no damage
            LicCrops([lics / "none.lic"], 64, licodec.Decoder(device="cpu"))[0]
