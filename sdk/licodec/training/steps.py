"""Steps of compiled transforms: what the nets give on training pictures, into a weights file.

    python -m licodec.training.steps weights/fhic/s-1 DATA/train

Every channel gets a power of two, of which `fixed_point.LARGEST` are twice what was seen, or more. They go
into the file's metadata, which no digest knows: old files stay what they are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_compiled import step_counts, suit
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.exact.fixed_point import LARGEST
from licodec.exact.layers import interpolate_knots
from licodec.training.data import Pixels, drawn, read_crops
from licodec.training.export import TAG_FILE, write_weights

RATES = (0, 24, 60, 100, 140, 180, 220, 255)
PICTURES = 64
HEADROOM = 2.0
LEAST = 1 / 256
"""Of the largest channel of a map: channels that are nearly always silent get as much as that."""
Seen = dict[str, npt.NDArray[np.float32]]


@contextmanager
def noted(net: nn.Module, inputs: Seen, outputs: Seen) -> Iterator[None]:
    """While inside, the largest magnitudes in each channel of what convolutions take and give, by name."""

    def note(into: Seen, name: str, x: Tensor) -> None:
        largest = x.detach().float().abs().amax((0, 2, 3)).numpy()
        into[name] = np.maximum(into.get(name, np.float32(0)), largest)

    def hook(name: str) -> Callable[..., None]:
        def called(_: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
            note(inputs, name, taken[0])
            note(outputs, name, given)

        return called

    hooks = [
        layer.register_forward_hook(hook(name))
        for name, layer in net.named_modules()
        if isinstance(layer, cb.Conv)
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def measured(
    model: cb.Checkerboard, pictures: Iterable[Pixels], rates: Sequence[int] = RATES
) -> dict[str, dict[str, list[int]]]:
    """Powers of two for every map of `step_counts`, from pictures uint8 [H, W, 3] at several rates; a model
    in float32, whose mean nets note from now on what they give."""
    nets: dict[str, nn.Module] = {"synthesis": model.synthesis, "analysis": model.analysis}
    nets |= {"refinement": model.refinement, "hyper": model.hyper_analysis, "means": model.means}
    model.means.__class__ = NotedMeans
    means = cast("NotedMeans", model.means)
    means.noted = {}
    inputs: dict[str, Seen] = {name: {} for name in nets}
    outputs: dict[str, Seen] = {name: {} for name in nets}
    for picture in pictures:
        blocks = model._to_input(picture)
        two_blocks = torch.cat([blocks, blocks])
        for rate in rates:
            with (
                noted(means, inputs["means"], outputs["means"]),
                noted(nets["hyper"], inputs["hyper"], outputs["hyper"]),
            ):
                proposal = model.proposed(blocks, rate, Order.CHECKERBOARD, Timer(None))
                v = model.walked(proposal, Timer(None), whole=True).decoded
            scale = proposal.per_unit * proposal.inverse
            two = torch.tensor([rate, rate])  # of one picture the factors of rates go into weights
            gain, inverse = (
                torch.exp(interpolate_knots(knots, two))[:, :, None, None]
                for knots in (model.gain, model.inverse_gain)
            )
            with torch.inference_mode(), _all_noted(nets, inputs, outputs):
                y = model.analysis(two_blocks, two) * gain
                model.refinement(y, two_blocks, gain, inverse, two, model.synthesis)
                model.synthesis(torch.cat([v, v]), scale, two)
    inputs["means"] |= means.noted
    return _powers(model.preset, inputs, outputs)


@contextmanager
def _all_noted(
    nets: Mapping[str, nn.Module], inputs: Mapping[str, Seen], outputs: Mapping[str, Seen]
) -> Iterator[None]:
    with (
        noted(nets["synthesis"], inputs["synthesis"], outputs["synthesis"]),
        noted(nets["analysis"], inputs["analysis"], outputs["analysis"]),
        noted(nets["refinement"], inputs["refinement"], outputs["refinement"]),
    ):
        yield


def _powers(
    p: layout.Preset, inputs: Mapping[str, Seen], outputs: Mapping[str, Seen]
) -> dict[str, dict[str, list[int]]]:
    synthesis, analysis = dict(inputs["synthesis"]), dict(inputs["analysis"])
    _also(synthesis, "render", synthesis["look"])
    _also(synthesis, "eighth_blocks.0.around", outputs["synthesis"]["from_sixteenth"])
    analysis["pixels"] = analysis["first"]
    _also(analysis, "pixels", analysis["klt"])
    _also(analysis, "to_quarter", analysis["to_eighth"])
    _also(analysis, "from_eighth", analysis["to_sixteenth"])
    analysis["latents"] = outputs["analysis"]["to_latents"]
    seen_means = dict(inputs["means"])
    for number in (1, 2):
        seen_means[f"hyper.{number}"] = seen_means[f"hyper_layers.{number}"]
    for group in range(1, len(p.groups)):
        if (name := f"digest.{group - 1}") in outputs["means"]:
            seen_means[f"digest.{group}"] = outputs["means"][name]
    hyper = {
        name: inputs["hyper"][name].reshape(-1, count).max(0)
        for name, count in step_counts(p)["hyper"].items()
    }
    missing = inputs["refinement"]["adjoint"].reshape(-1, layout.QUARTER).max(0)
    seen = {"synthesis": synthesis, "analysis": analysis, "refinement": {"missing": missing}}
    seen |= {"hyper": hyper, "means": seen_means}
    return {net: {name: _power(seen[net][name]) for name in maps} for net, maps in step_counts(p).items()}


class NotedMeans(cb.MeanNets):
    """Mean nets that note the largest magnitudes of what goes from layer to layer, by the names of
    `checkerboard_compiled.mean_counts`."""

    noted: Seen

    def _note(self, name: str, x: Tensor, channels: slice = slice(None)) -> None:
        largest = x.detach().abs().amax(tuple(range(x.ndim - 1))).numpy()[channels]
        self.noted[name] = np.maximum(self.noted.get(name, np.float32(0)), largest)

    def head(self, step: Pass, seen: Tensor) -> Tensor:
        w, name = self.preset.mean, self._name(step)
        self._note("features", seen, slice(0, w))
        if step.group:
            self._note(f"context.{step.group}", seen, slice(w, 2 * w))
        if step.number:
            self._note(f"taps.{name}", seen, slice(-layout.TAPS, None))
        first, leaky, _ = cast("tuple[cb.Conv, nn.Module, cb.Conv]", self.heads[name])
        self._note(f"hidden.{name}", leaky(cb.pointwise(first, seen)))
        return super().head(step, seen)

    def look(self, step: Pass, parts: list[Tensor], place: cb.Place) -> Tensor:
        if isinstance(squeeze := self.squeeze[step.group], cb.Conv):
            for part in parts:
                self._note(f"squeeze.{step.group}", cb.pointwise(squeeze, part))
        return super().look(step, parts, place)

    def walk(self, features: Tensor, settle: cb.Settle, passes: Sequence[Pass] = ()) -> Tensor:
        values = super().walk(features, settle, passes)
        self._note("values", cb.rows_of(values))
        return values


def _also(seen: Seen, name: str, others: npt.NDArray[np.float32]) -> None:
    """The map of that name is also what `unshuffle` makes others of."""
    seen[name] = np.maximum(seen[name], others.reshape(-1, len(seen[name])).max(0))


def _power(largest: npt.NDArray[np.float32]) -> list[int]:
    least = np.maximum(np.maximum(largest, largest.max() * LEAST), 1e-5)
    powers: list[int] = np.ceil(np.log2(least * HEADROOM / LARGEST)).astype(int).tolist()
    return powers


def extremes(side: int) -> list[Pixels]:
    """Pictures that no photograph is like: noise, checkers of saturated colours, drawn ones."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:side, :side]
    out = [rng.integers(0, 256, (side, side, 3), np.uint8)]
    out.append(rng.integers(0, 2, (side, side, 3), np.uint8) * 255)
    for cell in (1, 2, 4, 8):
        board = ((y // cell + x // cell) % 2)[..., None] * np.array([255, 255, 255])
        out.append(board.astype(np.uint8))
        out.append(np.where(board > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8))
    return [*out, *(drawn(rng, side) for _ in range(6))]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Steps of compiled transforms, into a weights file.")
    parser.add_argument("weights", type=Path, help="folder of the weights")
    parser.add_argument("data", type=Path, help="folder with index.jsonl and its zip files")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    wish = parser.parse_args(arguments)
    os.environ["LICODEC_PRECISION"] = "float32"
    from licodec.store.weights import load_file

    tag = wish.weights.name
    weights = load_file(wish.weights / TAG_FILE, "fhic", tag, as_named=True)
    if not suit(layout.read_preset(weights)):
        parser.error(f"there are no compiled loops for the nets of {wish.weights}")
    crops = read_crops(wish.data, "index.jsonl", wish.pictures)
    powers = measured(cb.build(weights, "cpu"), [*crops, *extremes(192)])
    write_weights(weights.tensors, with_steps(weights.metadata, powers), wish.weights)
    print(f"{sum(len(maps) for maps in powers.values())} maps in {wish.weights / TAG_FILE}")


def with_steps(metadata: Mapping[str, str], powers: Mapping[str, Mapping[str, list[int]]]) -> dict[str, str]:
    """The metadata of a weights file with steps in it."""
    return {**metadata, layout.STEPS: json.dumps(powers, sort_keys=True, separators=(",", ":"))}


if __name__ == "__main__":
    main()
