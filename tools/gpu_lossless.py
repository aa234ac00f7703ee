"""Speed of pilc's tile mode 4 on a CUDA device: GB/s of samples, and where the time goes.

    python tools/gpu_lossless.py                     64 pictures of 2048 x 2048, and one of 768 x 512
    python tools/gpu_lossless.py --pictures 8 --tag l-1

Samples are made on the device and stay there; bodies start and end as bytes on the host. 1 GB is 10^9 samples
of 8 bits. Tiles say nothing of themselves, so all of the work is the device's. Each figure is the best of
several runs, after one that compiles the kernels. What is decoded is compared with what was encoded. The
stages are measured in a run of their own, by events on the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from licodec import store
from licodec.codecs import lossless
from licodec.codecs.registry import tile_exponents, tiles

if TYPE_CHECKING:
    from licodec.codecs.lossless_cuda import DeviceLattices

SINGLE = (512, 768)


def pictures_of(count: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Shapes, texture and grain of about the entropy of photographs: uint8 [count, height, width, 3]."""
    generator = torch.Generator(device).manual_seed(1)
    y = torch.arange(height, device=device)[:, None, None] / 29
    x = torch.arange(width, device=device)[None, :, None] / 17
    colour = torch.arange(3, device=device)[None, None, :] * 0.6
    out = torch.empty((count, height, width, 3), dtype=torch.uint8, device=device)
    for number in range(count):
        shapes = 120 + 70 * torch.sin(x + colour + number) * torch.cos(y - x / 3) + 30 * torch.cos(y * 4)
        grain = torch.randn((height, width, 1), generator=generator, device=device) * 3
        tint = torch.randn((height, width, 3), generator=generator, device=device)
        out[number] = (shapes + grain + tint).clamp(0, 255).to(torch.uint8)
    return out


def cut(pictures: torch.Tensor) -> list[torch.Tensor]:
    """Their tiles, those of one shape together: uint8 [T, h, w, 3] each."""
    _, height, width, _ = pictures.shape
    by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for rows, columns in tiles(width, height, *tile_exponents(width, height)):
        part = pictures[:, rows, columns]
        by_shape.setdefault(tuple(part.shape), []).append(part)
    return [torch.cat(parts) for parts in by_shape.values()]


def encode(batches: DeviceLattices, groups: list[torch.Tensor]) -> list[list[bytes]]:
    return [batches.encode_batch(group) for group in groups]


def decode(
    batches: DeviceLattices, bodies: list[list[bytes]], groups: list[torch.Tensor]
) -> list[torch.Tensor]:
    return [
        batches.decode_batch(each, tuple(group.shape[1:])) for each, group in zip(bodies, groups, strict=True)
    ]


def best(call: Callable[[], object], runs: int) -> float:
    """Seconds of the quickest of several runs, all of the device's work included."""
    least = float("inf")
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least


class Stages:
    """A `Mark` that adds up what the device does between two marks, in milliseconds by name."""

    def __init__(self) -> None:
        self._events = [self._event()]
        self._names: list[str] = []

    def __call__(self, name: str) -> None:
        self._names.append(name)
        self._events.append(self._event())

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def milliseconds(self) -> dict[str, float]:
        torch.cuda.synchronize()
        out: dict[str, float] = {}
        for name, before, after in zip(self._names, self._events, self._events[1:], strict=False):
            out[name] = out.get(name, 0.0) + before.elapsed_time(after)
        return out


def measure(name: str, batches: DeviceLattices, pictures: torch.Tensor, runs: int) -> None:
    groups = cut(pictures)
    bodies = encode(batches, groups)
    for found, group in zip(decode(batches, bodies, groups), groups, strict=True):
        if not torch.equal(found, group):
            sys.exit(f"{name}: decoded samples are not those that were encoded")
    count = pictures.numel()
    bits = 8 * sum(len(body) for each in bodies for body in each) / count
    print(f"\n{name}: {sum(len(group) for group in groups)} tiles, {bits:.2f} bits a sample")
    ways: tuple[tuple[str, Callable[[], object]], ...] = (
        ("encode", lambda: encode(batches, groups)),
        ("decode", lambda: decode(batches, bodies, groups)),
    )
    print(f"  {'':8}{'ms':>10}{'GB/s':>8}   ms of the device by stage")
    for way, call in ways:
        seconds = best(call, runs)
        stages = Stages()
        for group, each in zip(groups, bodies, strict=True):
            if way == "encode":
                batches.encode_batch(group, mark=stages)
            else:
                batches.decode_batch(each, tuple(group.shape[1:]), mark=stages)
        parts = "  ".join(f"{stage} {ms:.2f}" for stage, ms in stages.milliseconds().items())
        print(f"  {way:8}{seconds * 1e3:10.2f}{count / seconds / 1e9:8.2f}   {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=64, help="how many of the large ones")
    parser.add_argument("--side", type=int, default=2048, help="of a large one, in pixels")
    parser.add_argument("--runs", type=int, default=5, help="for each figure")
    parser.add_argument("--tag", default="l-1", help="of pilc's weights")
    parser.add_argument("--device", default="cuda")
    wish = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This needs a CUDA device and a torch that can use it; there is none here.")
    if importlib.util.find_spec("triton") is None:
        sys.exit("This needs Triton: pip install 'licodec[triton]'.")
    from licodec.codecs.lossless_cuda import LosslessOnDevice

    start = time.perf_counter()
    model = lossless.build(store.load("pilc", wish.tag), wish.device)
    if not isinstance(model, LosslessOnDevice):
        sys.exit("The device did not pass its trial; the warning above says why.")
    device = model.batches.device
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, pilc {wish.tag}")
    print(f"loaded, compiled and tried in {time.perf_counter() - start:.1f} s")
    with torch.cuda.device(device):
        measure("one picture of 768 x 512", model.batches, pictures_of(1, *SINGLE, device), wish.runs * 4)
        large = pictures_of(wish.pictures, wish.side, wish.side, device)
        measure(f"{wish.pictures} pictures of {wish.side} x {wish.side}", model.batches, large, wish.runs)


if __name__ == "__main__":
    main()
