"""The wheel, built and installed into a clean environment outside the tree, encodes and decodes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from licodec.codecs.registry import CODECS

ROOT = Path(__file__).resolve().parents[2]

WEB = ROOT / "sdk" / "licodec" / "evaluation" / "web"

ROUND_TRIP = """
import sys
from pathlib import Path
import lic_format, licodec
from PIL import Image

home = Path(sys.prefix).resolve()
for package in (lic_format, licodec):
    assert home in Path(package.__file__).resolve().parents, package.__file__
assert "torch" not in sys.modules
image = Image.radial_gradient("L").resize((49, 35)).convert("RGB")
data = licodec.encode(image, quality=60)
assert licodec.inspect(data).codec == "fhic"
decoded = licodec.decode(data)
assert (decoded.size, decoded.mode) == (image.size, "RGB")
image.save("pillow.lic", quality=60)
assert Path("pillow.lic").read_bytes() == data
assert Image.open("pillow.lic").tobytes() == decoded.tobytes()
from licodec import store
assert home in store.load("fhic", licodec.inspect(data).tag).path.resolve().parents
image.save("picture.png")
from licodec.evaluation.page import Html, page, part
assert part("compare.js") in page("", Html(""), script=part("compare.js")).decode()
print(len(data))
"""


def run(*command: str | Path, cwd: Path) -> str:
    # Nothing of the tree may be found by accident: neither PYTHONPATH nor weights of the caller.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LICODEC_WEIGHTS", "PYTHONHOME")
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("licodec-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment with the wheel, and with this one's packages for its dependencies.

    The dependencies come by a line in a .pth file: packages are found there, but the .pth files beside them
    (such as that of an editable install of this project) are not processed.
    """
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    run(sys.executable, *install, cwd=home)
    here = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (here / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_the_wheel_holds_both_packages_their_types_the_weights_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lic_format", "licodec"}
    for needed in (
        "lic_format/py.typed",
        "licodec/py.typed",
        "licodec/LicImagePlugin.py",
        "licodec/store/known.json",
        *(f"licodec/evaluation/web/{path.name}" for path in WEB.iterdir()),
        "licodec/weights/fhic/s-1/model.safetensors",
        "licodec/weights/pilc/l-1/model.safetensors",
    ):
        assert needed in names
    embedded = {"/".join(name.split("/")[2:4]) for name in names if name.startswith("licodec/weights/")}
    assert embedded == {f"{entry.token}/{entry.default_tag}" for entry in CODECS.values()}
    assert [name for name in names if "test" in name.lower() or name.endswith(".pyc")] == []
    assert "License-Expression: Apache-2.0" in metadata
    marker = 'constriction<0.6,>=0.5; sys_platform != "linux" or platform_machine == "x86_64"'
    assert marker in metadata.replace("'", '"')
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 12e6


def test_the_installed_wheel_encodes_and_decodes_outside_the_tree(environment: Path, tmp_path: Path) -> None:
    assert int(run(environment / "python", "-c", ROUND_TRIP, cwd=tmp_path)) > 100
    run(environment / "licodec", "encode", "picture.png", "-o", "command.lic", "-q", "60", cwd=tmp_path)
    assert (tmp_path / "command.lic").read_bytes() == (tmp_path / "pillow.lic").read_bytes()
    run(environment / "licodec", "decode", "command.lic", "-o", "back.png", cwd=tmp_path)
    assert '"fhic"' in run(environment / "licodec", "inspect", "--json", "command.lic", cwd=tmp_path)
    assert run(environment / "licodec", "weights", "verify", cwd=tmp_path).endswith(": whole\n")
