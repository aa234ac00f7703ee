"""Wheel and source distribution: what is in them, and that the wheel, installed into a clean environment
outside the tree, encodes and decodes what the tree does.

`make dist` runs this on what it has built: LICODEC_DIST is the folder. Otherwise they are built here.
"""

from __future__ import annotations

import configparser
import email
import email.message
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from licodec.codecs.registry import CODECS
from licodec.store.digests import FAST
from licodec.store.table import FILE_NAME, TABLE, read_table
from licodec.version import __version__

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DIST = "LICODEC_DIST"
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
WHEEL_BYTES = 9_500_000
"""At most: what every installation fetches. Other weights come through the store."""
SDIST_BYTES = 20_000_000

ROUND_TRIP = """
import sys
from pathlib import Path
import lic_format, licodec
import numpy as np
from PIL import Image

home = Path(sys.prefix).resolve()
for package in (lic_format, licodec):
    assert home in Path(package.__file__).resolve().parents, package.__file__
assert "torch" not in sys.modules
with Image.open(sys.argv[1]) as opened:
    image = opened.convert("RGB")
data = licodec.encode(image, quality=60)
assert licodec.inspect(data).codec == "fhic"
decoded = licodec.decode(data)
assert (decoded.size, decoded.mode) == (image.size, "RGB")
error = np.mean((np.asarray(decoded, np.float64) - np.asarray(image)) ** 2)
assert 10 * np.log10(255**2 / error) > 28, error
image.save("pillow.lic", quality=60)
assert Path("pillow.lic").read_bytes() == data
assert Image.open("pillow.lic").tobytes() == decoded.tobytes()
import imageio.v3 as iio
assert np.array_equal(iio.imread("pillow.lic"), np.asarray(decoded))
exact = iio.imwrite("<bytes>", np.asarray(image), extension=".lic", lossless=True)
assert licodec.inspect(exact).codec == "pilc"
assert np.array_equal(iio.imread(exact, extension=".lic"), np.asarray(image))
from licodec import store
assert home in store.load("fhic", licodec.inspect(data).tag).path.resolve().parents
image.save("picture.png")
from licodec.evaluation.page import Html, page, part
assert part("compare.js") in page("", Html(""), script=part("compare.js")).decode()
print(licodec.__version__, len(data))
"""

DECODE_GOLDEN = """
import json, sys, zlib
from pathlib import Path
import licodec
import numpy as np
from PIL import Image

decoded, missing = [], []
for path in sorted(Path(sys.argv[1]).glob("*/*.lic")):
    if path.parent.name not in sys.argv[2].split(","):
        continue
    name = f"{path.parent.name}/{path.stem}"
    try:
        found = licodec.decode(path, output="numpy", device="cpu")
    except licodec.WeightsError as error:
        assert licodec.inspect(path).tag in str(error) and "LICODEC_WEIGHTS" in str(error), error
        missing.append(name)
        continue
    facts = json.loads(path.with_suffix(".json").read_text())
    if "samples" in facts:
        little = found.astype(found.dtype.newbyteorder("<"))
        assert f"{zlib.crc32(little.tobytes()):08x}" == facts["samples"], name
    else:
        expected = np.asarray(Image.open(path.with_suffix(".png")), np.float64)
        pixels = np.asarray(licodec.decode(path, device="cpu"))
        assert pixels.shape == expected.shape, name
        assert np.mean((pixels - expected) ** 2) < 255**2 / 10**4.6, name
    decoded.append(name)
print(json.dumps([decoded, missing]))
"""


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    # Nothing of the tree may be found by accident: neither PYTHONPATH nor weights of the caller.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LICODEC_WEIGHTS", "PYTHONHOME")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(*what: str, source: Path, folder: Path) -> None:
    run(sys.executable, "-m", "build", *what, "--no-isolation", "--outdir", folder, source, cwd=folder)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution, and of the wheel that was built from it."""
    if built := os.environ.get(DIST):
        return Path(built).resolve()
    folder = tmp_path_factory.mktemp("dist")
    build(source=ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("licodec-*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> Path:
    (found,) = distributions.glob("licodec-*.tar.gz")
    return found


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


def tracked() -> set[str]:
    """The files of the tree that are in the repository; a tree that is none has no others."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository: nothing says which files belong to the tree")
    names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return {name for name in names if (ROOT / name).is_file()}


def content_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel: Path) -> email.message.Message:
    (text,) = (data for name, data in content_of(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


# --- what is in them --------------------------------------------------------------------------------------


def test_the_wheel_holds_the_packages_and_the_embedded_weights_of_the_tree_and_nothing_else(
    wheel: Path,
) -> None:
    """Neither what tests or training leave in the tree nor what nobody has committed."""
    roots = {f"{name}/": f"{PurePosixPath(name).name}/" for name in BUILD["wheel"]["packages"]}
    roots |= {f"{place}/": f"{inside}/" for place, inside in BUILD["wheel"]["force-include"].items()}
    expected = {
        inside + name.removeprefix(place)
        for name in tracked()
        for place, inside in roots.items()
        if name.startswith(place)
    }
    about = f"licodec-{__version__}.dist-info/"
    expected |= {
        about + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    found = content_of(wheel)
    assert set(found) == expected
    assert {"lic_format/py.typed", "licodec/py.typed", "licodec/LicImagePlugin.py"} <= set(found)
    assert found[f"{about}licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_embeds_the_tags_that_codecs_encode_with(wheel: Path) -> None:
    found = {
        name.removeprefix("licodec/weights/").removesuffix(f"/{FILE_NAME}"): hashlib.sha256(data).hexdigest()
        for name, data in content_of(wheel).items()
        if name.endswith(FILE_NAME)
    }
    usual = {f"{entry.token}/{entry.default_tag}" for entry in CODECS.values()}
    assert found == {entry.name: entry.sha256 for entry in read_table(TABLE) if entry.name in usual}
    assert set(found) == usual


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"licodec-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= WHEEL_BYTES
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("licodec", __version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    needs = "\n".join(metadata.get_all("Requires-Dist", [])).replace("'", '"')
    assert 'constriction<0.6,>=0.5; sys_platform != "linux" or platform_machine == "x86_64"' in needs
    (text,) = (d for name, d in content_of(wheel).items() if name.endswith("entry_points.txt"))
    entry_points = configparser.ConfigParser()
    entry_points.read_string(text.decode())
    assert {name: dict(entry_points[name]) for name in entry_points.sections()} == {
        "console_scripts": {"licodec": "licodec.cli:main"}
    }


def test_the_source_distribution_holds_the_tree_and_of_weights_those_of_the_wheel(sdist: Path) -> None:
    assert sdist.name == f"licodec-{__version__}.tar.gz"
    assert sdist.stat().st_size <= SDIST_BYTES
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    def inside(name: str, patterns: list[str]) -> bool:
        path = PurePosixPath("/", name)
        return any(path.match(each) or path.is_relative_to(each) for each in patterns)

    expected = {name for name in tracked() if inside(name, BUILD["sdist"]["include"])}
    always = {"PKG-INFO", "pyproject.toml", ".gitignore", "LICENSE", "README.md"}
    assert names == expected | always
    weights = {str(PurePosixPath(name).parent) for name in names if name.startswith("weights/")}
    assert weights == set(BUILD["wheel"]["force-include"])


def test_the_wheel_of_the_source_distribution_is_that_of_the_tree(wheel: Path, tmp_path: Path) -> None:
    build("--wheel", source=ROOT, folder=tmp_path)
    (direct,) = tmp_path.glob("*.whl")
    assert content_of(direct) == content_of(wheel)


def test_what_is_built_passes_the_checks_of_package_indices(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    said = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist, cwd=tmp_path)
    assert len(re.findall("PASSED", said)) == 2


# --- what the wheel does ----------------------------------------------------------------------------------


def test_the_installed_wheel_encodes_and_decodes_outside_the_tree(environment: Path, tmp_path: Path) -> None:
    photo = shutil.copy(ROOT / "examples" / "photo.png", tmp_path / "photo.png")
    version, size = run(environment / "python", "-c", ROUND_TRIP, photo, cwd=tmp_path).split()
    assert version == __version__
    assert 1000 < int(size) < 100_000
    run(environment / "licodec", "encode", "picture.png", "-o", "command.lic", "-q", "60", cwd=tmp_path)
    assert (tmp_path / "command.lic").read_bytes() == (tmp_path / "pillow.lic").read_bytes()
    run(environment / "licodec", "decode", "command.lic", "-o", "back.png", cwd=tmp_path)
    assert '"fhic"' in run(environment / "licodec", "inspect", "--json", "command.lic", cwd=tmp_path)
    assert run(environment / "licodec", "weights", "verify", cwd=tmp_path).endswith(": whole\n")


def test_the_installed_wheel_decodes_every_golden_file(environment: Path, tmp_path: Path) -> None:
    """Those of tags that it does not embed with the weights of the tree, and without them it says so."""
    golden = shutil.copytree(GOLDEN, tmp_path / "golden", ignore=shutil.ignore_patterns("*.py"))
    files = {f"{codec}/{path.stem}" for codec in CODECS for path in (GOLDEN / codec).glob("*.lic")}
    usual = {entry.default_tag for entry in CODECS.values()}
    digests = {entry.ref.decode_digest.hex() for entry in read_table(TABLE) if entry.ref.tag in usual}
    others = {
        name
        for name in files
        if json.loads((GOLDEN / f"{name}.json").read_text())["decode_digest"] not in digests
    }
    command = (environment / "python", "-c", DECODE_GOLDEN, golden, ",".join(CODECS))
    offline = {"LICODEC_DOWNLOAD": "never"}
    decoded, missing = json.loads(run(*command, cwd=tmp_path, **offline))
    assert (set(decoded), set(missing)) == (files - others, others)
    if all((ROOT / "weights" / e.name / FILE_NAME).exists() for e in read_table(TABLE) if e.decoder == FAST):
        weights = {"LICODEC_WEIGHTS": str(ROOT / "weights")}
        decoded, missing = json.loads(run(*command, cwd=tmp_path, **offline, **weights))
        assert (set(decoded), missing) == (files, [])
