"""What a lossless picture needs on a CPU, by every way to it: not torch, which takes seconds to import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pilc"

API = """
golden, folder = map(Path, sys.argv[1:])
for path in sorted(golden.glob("*.lic")):
    data = path.read_bytes()
    small = licodec.decode(data, output="numpy")[:40, :50]
    if path.stem in ("l-1-alpha", "l-1-deep", "l-1-palette"):
        again = licodec.encode(small, lossless=True, digest=True)
        assert (licodec.decode(again, output="numpy") == small).all(), path
data = licodec.Encoder("pilc", threads=1)([small])[0]
decoder = licodec.Decoder()
region = decoder(golden / "l-1-tiles.lic", output="numpy", region=(8, 8, 24, 16))
assert (region == decoder(golden / "l-1-tiles.lic", output="numpy")[8:16, 8:24]).all()
assert decoder(data, reduce=4).size == tuple(-(-side // 4) for side in small.shape[1::-1])
assert len(licodec.Decoder(threads=2)([data, data])) == 2
licodec.save(small, folder / "x.lic", lossless=True, threads=2)
"""
PILLOW = """
import PIL.Image
golden, folder = map(Path, sys.argv[1:])
with PIL.Image.open(golden / "l-1-photo.lic") as image, PIL.Image.open(golden / "l-1-photo.png") as expected:
    assert image.tobytes() == expected.tobytes()
    image.save(folder / "y.lic", lossless=True)
    assert PIL.Image.open(folder / "y.lic").tobytes() == expected.tobytes()
"""
IMAGEIO = """
import imageio.v3 as iio
golden, folder = map(Path, sys.argv[1:])
samples = iio.imread(golden / "l-1-photo.lic")
iio.imwrite(folder / "y.lic", samples, lossless=True)
assert (iio.imread(folder / "y.lic") == samples).all()
"""
COMMANDS = """
from licodec.cli.program import run
golden, folder = map(Path, sys.argv[1:])
for command in (
    ["decode", golden / "l-1-photo.lic", "-o", folder / "z.png", "--quiet"],
    ["encode", folder / "z.png", "-o", folder / "z.lic", "--lossless", "--quiet", "--threads", "1"],
    ["inspect", folder / "z.lic"],
    ["weights", "list"],
    ["weights", "path", "fhic/s-1"],
    ["weights", "bundle", folder / "all", "fhic/s-1", "pilc/l-1"],
    ["weights", "verify", folder / "all"],
):
    assert run(list(map(str, command))) == 0, command
"""


@pytest.mark.parametrize(
    "way", [API, PILLOW, IMAGEIO, COMMANDS], ids=["api", "pillow", "imageio", "commands"]
)
def test_lossless_pictures_are_coded_without_torch(way: str, tmp_path: Path) -> None:
    code = f"""
import sys, licodec
from pathlib import Path
{way}
assert "torch" not in sys.modules
"""
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}", "LICODEC_DEVICE": "cpu"}
    arguments = [str(GOLDEN), str(tmp_path)]
    subprocess.run([sys.executable, "-c", code, *arguments], env={**os.environ, **paths}, check=True)
