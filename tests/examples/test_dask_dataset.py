"""A folder is encoded on a cluster that Dask starts here."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

import licodec
from examples import dask_dataset
from tests.examples.page import masked, shown


def test_the_page_shows_what_it_prints(
    here: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = shown("python examples/dask_dataset.py")
    assert dask_dataset.main([*command.arguments[:-1], "1"]) == 1  # one is damaged; one worker is enough here
    assert masked(capsys.readouterr().out.splitlines()) == masked(command.lines)
    out = here / "out" / "dask"
    assert len(list(out.rglob("*.lic"))) == 6
    with PIL.Image.open(pictures / "more" / "crop-2.jpg") as picture:
        assert (out / "more" / "crop-2.lic").read_bytes() == licodec.encode(picture, device="cpu")


def test_a_partition_goes_on_after_a_failure(tmp_path: Path, pictures: Path) -> None:
    paths = [str(pictures / name) for name in ("damaged.png", "crop-1.png", "none.png")]
    outcomes = dask_dataset.encode_all(paths, str(pictures), str(tmp_path), 50)
    assert [path for path, *_ in outcomes] == paths
    assert [bool(size) for _, size, _ in outcomes] == [False, True, False]
    assert [bool(reason) for *_, reason in outcomes] == [True, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["crop-1.lic"]


def test_an_empty_folder_is_a_wrong_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        dask_dataset.main([str(tmp_path), str(tmp_path / "out")])
    assert caught.value.code == 2 and "there is no picture" in capsys.readouterr().err
