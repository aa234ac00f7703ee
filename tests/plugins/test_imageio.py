"""imageio reads and writes .lic: every kind of target, v2 and v3, and nobody else's files."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import imageio.v2
import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
from imageio.config import extension_list, known_extensions, known_plugins

import licodec
from licodec.plugins.imageio import LicPlugin
from tests.sdk.fixtures import pixels

pytestmark = pytest.mark.usefixtures("stand_in")
OPTIONS: dict[str, Any] = {"codec": "stand-in", "quality": 100}


def lic(array: Any = None, **options: Any) -> bytes:
    return licodec.encode(pixels() if array is None else array, device="cpu", **OPTIONS, **options)


# --- targets and sources --------------------------------------------------------------------------


@pytest.mark.parametrize("write", [iio.imwrite, imageio.v2.imwrite], ids=["v3", "v2"])
@pytest.mark.parametrize("name", ["x.lic", "X.LIC"])
def test_files_are_written_and_read_by_name(write: Any, name: str, tmp_path: Path) -> None:
    for target in (tmp_path / name, str(tmp_path / f"s{name}")):
        assert write(target, pixels(), **OPTIONS) is None
        assert Path(target).read_bytes() == lic()
        for read in (iio.imread, imageio.v2.imread):
            np.testing.assert_array_equal(read(target), pixels())


@pytest.mark.parametrize("extension", [".lic", ".LIC"])
def test_bytes_come_back_for_the_target_bytes(extension: str) -> None:
    data = iio.imwrite("<bytes>", pixels(), extension=extension, **OPTIONS)
    assert data == lic()
    np.testing.assert_array_equal(iio.imread(data), pixels())
    np.testing.assert_array_equal(iio.imread(data, extension=".lic"), pixels())
    np.testing.assert_array_equal(iio.imread(data, plugin="licodec"), pixels())


def test_file_objects_stay_open() -> None:
    sink = io.BytesIO()
    assert iio.imwrite(sink, pixels(), extension=".lic", **OPTIONS) is None
    assert sink.getvalue() == lic()
    source = io.BytesIO(lic())
    for ask in (iio.imread, iio.improps, iio.immeta):
        source.seek(0)
        ask(source)
    assert not source.closed and not sink.closed


def test_members_of_zip_files(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    iio.imwrite(archive / "x.lic", pixels(), **OPTIONS)
    assert zipfile.ZipFile(archive).read("x.lic") == lic()
    np.testing.assert_array_equal(iio.imread(archive / "x.lic"), pixels())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of plugins that imageio asks in vain
def test_the_signature_decides_not_the_name(tmp_path: Path) -> None:
    png = io.BytesIO()
    PIL.Image.fromarray(pixels()).save(png, "PNG")
    (tmp_path / "png.lic").write_bytes(png.getvalue())
    np.testing.assert_array_equal(iio.imread(tmp_path / "png.lic"), pixels())
    (tmp_path / "lic.png").write_bytes(lic())
    np.testing.assert_array_equal(iio.imread(tmp_path / "lic.png"), pixels())
    (tmp_path / "LICENSE.lic").write_text("You may do as you like.")
    with pytest.raises(OSError, match="backend"):
        iio.imread(tmp_path / "LICENSE.lic")


@pytest.mark.parametrize("plugin", ["licodec", LicPlugin])
def test_a_target_without_a_name_needs_no_extension_where_we_are_asked_for(
    plugin: Any, tmp_path: Path
) -> None:
    assert iio.imwrite("<bytes>", pixels(), plugin=plugin, **OPTIONS) == lic()
    sink = io.BytesIO()
    iio.imwrite(sink, pixels(), plugin=plugin, **OPTIONS)
    assert sink.getvalue() == lic()
    iio.imwrite(tmp_path / "nameless", pixels(), plugin=plugin, **OPTIONS)
    np.testing.assert_array_equal(iio.imread(tmp_path / "nameless"), pixels())
    with pytest.raises(OSError, match="can not handle") as caught:
        iio.imwrite(tmp_path / "x.png", pixels(), plugin=plugin, **OPTIONS)
    assert 'extension=".lic"' in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore:Can't determine file format:UserWarning")  # imageio's Pillow plugin
def test_a_target_without_a_name_is_nobodys_lic_file_by_accident(tmp_path: Path) -> None:
    for target in ("<bytes>", io.BytesIO(), tmp_path / "nameless"):
        with pytest.raises((OSError, ValueError)):
            iio.imwrite(target, pixels())


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_shapes_and_properties_agree(channels: int) -> None:
    array = pixels(channels=channels)
    array = array[:, :, 0] if channels == 1 else array
    data = iio.imwrite("<bytes>", array if channels > 1 else array[:, :, None], extension=".lic", **OPTIONS)
    indices: tuple[Any, ...] = (None, 0, ...)
    for index in indices:
        read, properties = iio.imread(data, index=index), iio.improps(data, index=index)
        np.testing.assert_array_equal(read, array[None] if index is ... else array)
        assert (properties.shape, properties.dtype) == (read.shape, read.dtype)
        assert (properties.is_batch, properties.n_images) == ((True, 1) if index is ... else (False, None))
    assert [each.shape for each in iio.imiter(data)] == [array.shape]


def test_one_image_in_a_batch_is_one_image_and_more_are_refused() -> None:
    for batch in ([pixels()], pixels()[None], (pixels(),)):
        assert iio.imwrite("<bytes>", batch, extension=".lic", **OPTIONS) == lic()
    for batch in ([pixels(), pixels()], np.stack([pixels()] * 2), []):
        with pytest.raises(ValueError, match="image"):
            iio.imwrite("<bytes>", batch, extension=".lic", **OPTIONS)


def test_masks_become_black_and_white() -> None:
    mask = pixels(channels=1)[:, :, 0] > 120
    data = iio.imwrite("<bytes>", mask, extension=".lic", **OPTIONS)
    np.testing.assert_array_equal(iio.imread(data), np.where(mask, 255, 0))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, np.int32])
def test_what_would_be_narrowed_is_refused_with_the_way_out(dtype: type, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"dtype {np.dtype(dtype)}.*scale it yourself"):
        iio.imwrite(tmp_path / "x.lic", pixels().astype(dtype), **OPTIONS)
    assert not (tmp_path / "x.lic").exists()


def test_an_existing_file_survives_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "x.lic").write_bytes(b"old")
    for options in ({"quality": 101}, {"qualty": 50}, {"codec": "nonsense"}):
        with pytest.raises((ValueError, TypeError)):
            iio.imwrite(tmp_path / "x.lic", pixels(), **{**OPTIONS, **options})
    assert (tmp_path / "x.lic").read_bytes() == b"old"


def test_pillows_limit_on_pixels_holds_here_too(lic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 40 * 56 // 2 - 1)
    for ask in (iio.imread, iio.improps, iio.immeta):
        with pytest.raises(PIL.Image.DecompressionBombError):
            ask(lic, plugin="licodec")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert iio.improps(lic).shape == (40, 56, 3)


def test_an_array_takes_writing_unless_nobody_wants_to(lic: bytes) -> None:
    free, tight = iio.imread(lic), iio.imread(lic, writeable_output=False)
    assert (free.flags.writeable, tight.flags.writeable) == (True, False)
    np.testing.assert_array_equal(free, tight)


@pytest.mark.parametrize("index", [1, -1, "0", 0.0, True])
def test_there_is_one_image(index: Any) -> None:
    for ask in (iio.imread, iio.improps, iio.immeta):
        with pytest.raises(ValueError, match="index"):
            ask(lic(), index=index, plugin="licodec")


def test_metadata_and_orientation() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = lic(exif=exif, icc_profile=b"profile", dpi=(300, 300))
    info = iio.immeta(data)
    assert (info["mode"], info["Orientation"], info["icc_profile"]) == ("RGB", 6, b"profile")
    assert info["dpi"] == (300, 300) and info["lic"]["codec"] == "stand-in"
    assert iio.improps(data).spacing == (300, 300)
    assert iio.immeta(lic())["Orientation"] == 1
    np.testing.assert_array_equal(iio.imread(data), pixels())
    np.testing.assert_array_equal(iio.imread(data, rotate=True), np.rot90(pixels(), 3))


def test_a_mode_and_a_device_can_be_asked_for() -> None:
    grey = iio.imread(lic(), mode="L", device="cpu")
    np.testing.assert_array_equal(grey, np.asarray(PIL.Image.fromarray(pixels()).convert("L")))
    with pytest.raises(ValueError, match="device"):
        iio.imread(lic(), device="abacus")


def test_a_resource_can_be_asked_again() -> None:
    with iio.imopen(lic(), "r", plugin=LicPlugin) as file:
        for _ in range(2):
            assert file.properties().shape == (40, 56, 3)
            np.testing.assert_array_equal(file.read(), pixels())
            assert file.metadata()["mode"] == "RGB"


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"extension": ".lic"}])
@pytest.mark.parametrize("cut", [9, 20, 60, -1])
def test_damage_is_an_oserror_that_says_what_it_is(options: dict[str, Any], cut: int) -> None:
    with pytest.raises(OSError, match="ends inside"):
        iio.imread(lic()[:cut], **options)


def test_properties_need_the_header_alone() -> None:
    data = lic()
    assert iio.improps(data[: data.index(b"DATA") + 4], plugin="licodec").shape == (40, 56, 3)


# --- registration ---------------------------------------------------------------------------------


def test_registering_twice_changes_nothing() -> None:
    before = (list(known_plugins), len(known_extensions[".lic"]), len(extension_list))
    licodec.register_imageio()
    licodec.register()
    assert (list(known_plugins), len(known_extensions[".lic"]), len(extension_list)) == before


FAILS_AT_FIRST = """
import licodec, sys
sys.modules["imageio.config.extensions"] = None
try:
    import imageio.config
except ImportError:
    del sys.modules["imageio.config.extensions"]
import imageio.config
"""


@pytest.mark.parametrize(
    "program",
    [
        "import licodec, sys; assert 'imageio' not in sys.modules; import imageio.v3 as iio",
        "import imageio.v3 as iio; import licodec",
        "import licodec, imageio; import imageio.v3 as iio",
        "import licodec; licodec.register(); licodec.register(); import imageio.config, imageio.v3 as iio",
        "import warnings; warnings.simplefilter('error'); import licodec, imageio.config",
        FAILS_AT_FIRST,
    ],
)
def test_the_order_of_imports_does_not_matter(program: str) -> None:
    check = """
from imageio.config import known_plugins, known_extensions, extension_list
assert known_plugins["licodec"].plugin_class.__name__ == "LicPlugin"
assert next(iter(known_plugins)) == "licodec-unnamed" and len(known_extensions[".lic"]) == 1
assert sum(each.extension == ".lic" for each in extension_list) == 1
import sys
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program + check], check=True)
