"""fhic beside CompressAI's bmshj2018-hyperprior, the hyperprior of most papers: times by turns, and rates.

    python -m venv other && other/bin/pip install compressai
    python tools/compressai_speed.py DIR --python other/bin/python --threads 2
    python tools/compressai_speed.py DIR --bench out/bench.json

Every third picture of DIR is coded and decoded by both, each in a process of its own (CompressAI needs an
older NumPy than ours), while the other one waits. Whole calls: pixels to bytes, and bytes to uint8 pixels.
Prints medians and means of the least in milliseconds, and how many times as long CompressAI takes. Its nets
are as they are initialised, unless `--pretrained` lets it fetch weights: convolutions take as long with any
weights, and its entropy coder has next to nothing to do then, which is in its favour.

With --bench, a result of `licodec bench` on the Kodak pictures, also prints the BD-rate of s-1 against the
curve that CompressAI publishes.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TURNS = 4
EVERY = 3


def peer(settings: dict[str, Any]) -> None:
    """The other process: a path a line comes in, [ms to encode, ms to decode] goes out."""
    import numpy as np
    import torch
    from PIL import Image

    zoo = importlib.import_module("compressai.zoo")

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    net = zoo.bmshj2018_hyperprior(
        settings["quality"], metric="mse", pretrained=settings["pretrained"]
    ).eval()
    net.update()
    print("ready", flush=True)
    for line in sys.stdin:
        pixels = np.asarray(Image.open(line.rstrip("\n")).convert("RGB"))
        times = [time.perf_counter()]
        with torch.inference_mode():
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            coded = net.compress(x)
            times.append(time.perf_counter())
            shown = net.decompress(coded["strings"], coded["shape"])["x_hat"]
            image = (255 * shown[0]).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
            assert image.shape == pixels.shape, "sides must be multiples of 64"
        times.append(time.perf_counter())
        print(json.dumps([1e3 * (b - a) for a, b in itertools.pairwise(times)]), flush=True)


def times(wish: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    import licodec

    settings = {"threads": wish.threads, "quality": wish.peer_quality, "pretrained": wish.pretrained}
    command = [wish.python, __file__, "--peer", json.dumps(settings)]
    spent: dict[str, dict[Path, list[float]]] = {}
    files = sorted(wish.folder.glob("*.png"))[::EVERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        if other.stdout.readline() != "ready\n":
            sys.exit(f"{wish.python} does not run CompressAI (its message is above)")
        for turn in range(TURNS + 1):
            for path in files:
                pixels = np.asarray(Image.open(path).convert("RGB"))
                start = time.perf_counter()
                data = licodec.encode(pixels, quality=wish.quality, effort=1, threads=wish.threads)
                middle = time.perf_counter()
                licodec.decode(data, output="numpy", threads=wish.threads)
                end = time.perf_counter()
                print(path, file=other.stdin, flush=True)
                encode, decode = json.loads(other.stdout.readline())
                row = {
                    "fhic, encode (effort 1)": 1e3 * (middle - start),
                    "CompressAI, encode": encode,
                    "fhic, decode": 1e3 * (end - middle),
                    "CompressAI, decode": decode,
                }
                for name, took in row.items() if turn else ():
                    spent.setdefault(name, {}).setdefault(path, []).append(took)
        other.stdin.close()
    median = {
        name: statistics.median(itertools.chain.from_iterable(of.values())) for name, of in spent.items()
    }
    for name, of in spent.items():
        print(f"{name}: {median[name]:.1f} ({statistics.mean(min(each) for each in of.values()):.1f}) ms")
    first, second, third, fourth = median.values()
    print(f"CompressAI takes {second / first:.1f} times as long to encode, {fourth / third:.1f} to decode")


def rates(result: Path) -> None:
    from licodec.evaluation import rate_distortion as rd

    codecs = json.loads(result.read_text())["codecs"].values()
    ours = next(each for each in codecs if each["title"] == "fhic s-1")
    curve = rd.Curve("fhic s-1", tuple(ours["bpp"]), tuple(ours["psnr"]))
    delta = rd.bd_rate(rd.anchor("bmshj2018-hyperprior"), curve)
    assert delta is not None
    print(
        f"BD-rate of s-1 against its published curve: {delta.value:+.1f} % ({delta.lo:.1f}-{delta.hi:.1f} dB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has compressai")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quality", type=int, default=50, help="of fhic")
    parser.add_argument(
        "--peer-quality", type=int, default=4, help="1..5 have the narrower nets, 6..8 the wider"
    )
    parser.add_argument("--pretrained", action="store_true", help="let CompressAI fetch its weights")
    parser.add_argument("--bench", type=Path, help="bench.json of the 24 Kodak pictures")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.peer:
        peer(json.loads(wish.peer))
        return
    if wish.folder is None and wish.bench is None:
        parser.error("nothing to do: give a folder of pictures, or --bench")
    if wish.folder is not None:
        times(wish)
    if wish.bench is not None:
        rates(wish.bench)


if __name__ == "__main__":
    main()
