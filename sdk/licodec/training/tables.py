"""Shifts of scale indices, pass by pass, that suit what an encoder with a search chooses.

    python -m licodec.training.tables weights/fhic/s-1 DATA/train

`licodec.training.export` measures tables by channel, on what is coded without a search. Here training crops
are coded at every rate knot with the looks of an effort, and each channel's scale index is moved, in every
pass by as much as is cheapest there. Shifts go into biases of the last layers, so weights get another decode
digest. Families stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lic_format.header import Order
from licodec.atomic import write_atomic
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.codecs.checkerboard_layout import read_known_answers
from licodec.codecs.checkerboard_look import USUAL_EFFORT
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.entropy.tables import NOT_CODED, load_set
from licodec.exact import fixed_point
from licodec.exact.layers import StoredLayer
from licodec.exact.paths import ExactNet
from licodec.store import Weights
from licodec.store.weights import FACTS, load_file
from licodec.training.data import Crops, Pixels
from licodec.training.export import (
    INDEX_SHIFTS,
    KNOT_RATES,
    MAGNITUDES,
    TAG_FILE,
    measured_crops,
    shift_index,
    write_weights,
)

CROPS_MEASURED = 24
"""As stored, and as many again at half size."""
NEIGHBOUR = 0.5
"""What a neighbouring knot counts for one; two knots on the square of it, and so on."""
LOST = 40.0
"""Bits that a symbol counts for that could no longer be coded."""
Costs = dict[Pass, npt.NDArray[np.float64]]


def shift_costs(
    codec: FixedCheckerboard, pictures: Iterable[Pixels], rate: int, effort: int
) -> Iterator[tuple[Pass, npt.NDArray[np.float64]]]:
    """Bits of all symbols of order 1 with scale indices shifted, [shift, channel of the pass] a pass.

    What is not coded has index 0, whatever its net said below; it counts as just there, so that a shift
    upwards costs at most what is counted. Channels that are left out don't count.
    """
    counts = {
        step: np.zeros((step.last - step.first, layout.SCALES, MAGNITUDES), np.int32)
        for step in codec.preset.passes
    }
    for pixels in pictures:
        with fixed_point.helped():
            planes, order, timer = np.ascontiguousarray(pixels), Order.CHECKERBOARD, Timer(None)
            found = codec._searched(planes, rate, order, timer, None, effort)
            _, passes = codec._walked(found, rate, order, timer)
        for part in passes[1:]:
            there = ~found.skipped[part.step.first : part.step.last]
            channel = np.broadcast_to(np.flatnonzero(there)[:, None], part.index[there].shape)
            coded = part.index[there] != NOT_CODED
            scale = np.where(coded, part.index[there] % layout.SCALES, 0)
            magnitude = np.minimum(np.abs(part.symbols[there].astype(np.int64)), MAGNITUDES - 1)
            np.add.at(counts[part.step], (channel, scale, magnitude), 1)
    bits = load_set(1).bits().reshape(3, layout.SCALES, -1)[:, :, MAGNITUDES - 1 :].astype(np.float64)
    bits[:, 0] = LOST  # index 0 is not coded
    bits[:, 0, 0] = 0
    rows = [np.clip(np.arange(layout.SCALES) + shift, 0, layout.SCALES - 1) for shift in INDEX_SHIFTS]
    family = codec.families[Order.CHECKERBOARD]
    for step, count in counts.items():
        prices = bits[family[step.first : step.last]]
        yield step, np.stack([(count * prices[:, row]).sum((1, 2)) for row in rows])


def cheapest_shifts(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Shifts [17, C] of costs [17, shift, C]; a knot's neighbours count for it too, the less the further.
    Where nothing tells shifts apart there is none."""
    knots = np.arange(len(costs))
    near = NEIGHBOUR ** np.abs(knots[:, None] - knots[None])
    spread = np.einsum("ksc,kl->lsc", costs, near)
    best = np.array(INDEX_SHIFTS)[spread.argmin(1)]
    return np.where(spread.min(1) < spread[:, INDEX_SHIFTS.index(0)], best, 0)


def shifted(weights: Weights, pictures: list[Pixels], effort: int, folder: Path) -> float:
    """Write weights with shifts for these pictures; the share of bits that they save there.

    Raises ValueError where this processor or these nets have no compiled loops.
    """
    codec = build(weights)
    if codec is None:
        raise ValueError("looks need the compiled loops, which this processor or these nets don't suit")
    preset = codec.preset
    costs: Costs = {
        step: np.zeros((len(KNOT_RATES), len(INDEX_SHIFTS), step.last - step.first)) for step in preset.passes
    }
    for knot, rate in enumerate(KNOT_RATES):
        for step, found in shift_costs(codec, pictures, rate, effort):
            costs[step][knot] = found
    layers = {
        spec.name: StoredLayer.from_tensors(spec, "exact.", weights.tensors)
        for spec in layout.exact_layers(preset)
    }
    before = after = 0.0
    for step, cost in costs.items():
        shifts = cheapest_shifts(cost)
        at = shifts - INDEX_SHIFTS[0]
        after += float(np.take_along_axis(cost, at[:, None], 1).sum())
        before += float(cost[:, INDEX_SHIFTS.index(0)].sum())
        last = f"scale.{step.group}.{step.number}.1"
        layers[last] = shift_index(layers[last], shifts)
    tensors = dict(weights.tensors)
    for layer in layers.values():
        tensors |= layer.tensors("exact.")
    net = ExactNet(list(layers.values()), None, paths=("int64",))
    answers = {name: net.known_answer(name, "int64") for name in net.layers}
    answers = {**read_known_answers(weights), **answers}
    said = json.dumps(answers, sort_keys=True, separators=(",", ":"))
    write_weights(tensors, {**weights.metadata, "known_answers": said}, folder)
    return 1 - after / before


def note(folder: Path, facts: dict[str, Any], saved: float, effort: int) -> None:
    """Write export.json: which weights these are now, and what shifts have saved."""
    weights = load_file(folder / TAG_FILE, "fhic", folder.name, as_named=True)
    facts = facts | {
        "shifts_by_pass": {"effort": effort, "bits_saved": round(saved, 5)},
        "decode_digest": weights.decode_digest.hex(),
        "synthesis_digest": weights.synthesis_digest.hex(),
        "bytes": (folder / TAG_FILE).stat().st_size,
    }
    write_atomic(folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="folder of the weights, which it changes")
    parser.add_argument("data", type=Path, help="training crops")
    parser.add_argument("--effort", type=int, default=USUAL_EFFORT)
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    wish = parser.parse_args(arguments)
    weights = load_file(wish.weights / TAG_FILE, "fhic", wish.weights.name, as_named=True)
    facts = json.loads((wish.weights / FACTS).read_text())
    pictures = measured_crops(Crops.load(wish.data, wish.cache), 3, CROPS_MEASURED)
    try:
        saved = shifted(weights, pictures, wish.effort, wish.weights)
    except ValueError as error:
        parser.error(str(error))
    note(wish.weights, facts, saved, wish.effort)
    print(f"{100 * saved:.2f} % less for latents of {len(pictures)} training crops")


if __name__ == "__main__":
    main()
