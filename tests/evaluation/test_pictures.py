import zipfile
from pathlib import Path

import pytest

from lic_format.errors import UsageValueError
from licodec.evaluation.metrics import Pixels
from licodec.evaluation.pictures import KODAK, is_kodak, open_pictures

from .conftest import png


def test_a_folder_a_zip_and_a_file_give_the_same_pictures_in_the_order_of_names(
    tmp_path: Path, pixels: Pixels
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("b.png", "a.png", "index.jsonl"):
            (folder / name).write_bytes(png(pixels))
            archive.writestr(f"inner/{name}", png(pixels))
    for path in (folder, tmp_path / "set.zip"):
        found = open_pictures(path)
        assert [picture.name for picture in found] == ["a", "b"]
        assert (found[0].pixels() == pixels).all()
    assert [picture.name for picture in open_pictures(folder / "b.png")] == ["b"]
    assert len(open_pictures(folder, limit=1)) == 1


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_path_without_pictures_is_a_usage_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageValueError, match=name) as caught:
        open_pictures(tmp_path / name)
    assert caught.value.argument == "images"


def test_a_damaged_picture_is_named(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "broken.png").write_bytes(png(pixels)[:500])
    with pytest.raises(OSError, match="broken"):
        open_pictures(tmp_path)[0].pixels()


def test_only_the_whole_kodak_set_at_its_own_size_counts_as_kodak() -> None:
    shapes = [(512, 768, 3)] * 23 + [(768, 512, 3)]
    assert is_kodak(KODAK, shapes)
    assert not is_kodak(KODAK[:23], shapes[:23])
    assert not is_kodak(KODAK, [(256, 384, 3), *shapes[1:]])
