"""Teach a synthesis on decoded latents that stand still: the wider one of decoder "best", and from it the
fast one.

    python -m licodec.training.distil teacher s-1 RUN DATA/train --minutes 80
    python -m licodec.training.distil student s-1 RUN2 DATA/train --minutes 12 --teacher RUN
    python -m licodec.training.distil export s-1 RUN DATA/train --out weights/fhic/s-1-best

teacher      A wider synthesis grown from the tag's own, so that it starts where that one is.
student      The tag's own synthesis, trained on: alone, or with a teacher's pictures and features beside the
             originals, weighted 0.3 and less until 70 % of the time are over.
export       The averaged net of RUN into a weights folder: of a teacher the alternate synthesis that decoder
             "best" takes, with its card; of a student (--student) the tag's weights with it in them.

Crops are coded once with the tag's encoder, at its usual effort, and kept below --cache. Minutes are of
processor time, so that runs on a machine with other work compare. RUN/last.pt holds what it takes to go on
(--resume, with more --minutes if wanted), RUN/log.jsonl an object a line: validation crops at seven rates, in
dB over the tag's synthesis.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs import checkerboard as cb
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.codecs.wide_synthesis import WideSynthesis, Widths, alternate, grown
from licodec.store import Weights, load
from licodec.training.averaged import AveragedRun
from licodec.training.card import alternate_card
from licodec.training.data import Crops, Pixels, read_crops
from licodec.training.decoded import Batch, coefficient_scale, decoded_crops, decoded_latents
from licodec.training.export import TAG_FILE, stored_tensor, write_weights
from licodec.training.loop import KLT_FACTOR, validation_pictures
from licodec.training.objective import CORRECTION_UNIT, INPUT_SCALE, rate_lambda

RATES = (16, 56, 96, 136, 176, 216, 248)
"""At which it is validated."""
SIDE = 208
"""Pixels of a crop's side."""
BATCH = 8
HELD = 8
"""Validation crops while a net learns; the exported one is measured on twice as many."""
TYPICAL = 1.0
"""Squared error of photographs in units of `unit_error`, at all rates."""
TEACHER_WEIGHT, TEACHER_UNTIL = 0.3, 0.7
Synthesis = cb.Synthesis | WideSynthesis


def unit_error(rate: Tensor) -> Tensor:
    """A mean squared error that photographs have about `TYPICAL` times of, each picture [B]."""
    return 1 / (65025 * (0.016 * rate_lambda(rate)).sqrt())


def picture_loss(found: Tensor, batch: Batch) -> Tensor:
    """Squared errors as shares of what the codec's own synthesis leaves, those of pictures that it does
    better than most counting less; their mean."""
    error = F.mse_loss(found, batch.blocks, reduction="none").mean((1, 2, 3))
    return (2 * error / (batch.error + TYPICAL * unit_error(batch.rate))).mean()


def parameter_groups(net: nn.Module) -> list[dict[str, Any]]:
    """As in training: the straight path moves slowly, other layers in units of their own."""
    factors: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        factor = 1.0
        if name.startswith("klt."):
            factor = KLT_FACTOR
        elif name.startswith(("leave.", "to_quarter.")):
            factor = CORRECTION_UNIT
        elif name in ("look.weight", "render.weight"):
            factor = INPUT_SCALE
        factors.setdefault(factor, []).append(parameter)
    return [
        {"params": params, "factor": factor, "rotated": factor != KLT_FACTOR}
        for factor, params in factors.items()
    ]


@dataclass(frozen=True)
class Held:
    """A validation picture at one of `RATES`: latents [1, M, h, w] and pixels [1, H, W, 3]."""

    rate: int
    latents: Tensor
    pixels: Tensor


def held_pictures(
    codec: cb.Checkerboard, pictures: Sequence[Pixels], looks: FixedCheckerboard | None = None
) -> list[Held]:
    """Pictures at all of `RATES`, one picture after the other; `looks` as in `decoded_latents`."""
    return [
        Held(rate, decoded_latents(codec, x, rate, looks).half(), torch.from_numpy(x[None].copy()))
        for x in pictures
        for rate in RATES
    ]


def held_crops(
    codec: cb.Checkerboard, data: Path, folder: Path, looks: FixedCheckerboard | None = None
) -> list[Held]:
    """Every fourth validation crop; read back from `folder` if an earlier call has written it there."""
    kept = folder / ("held.pt" if looks is None else f"held-{looks.usual_effort()}.pt")
    if kept.exists():
        return [Held(*row) for row in torch.load(kept, weights_only=True)]
    held = held_pictures(codec, validation_pictures(read_crops(data, "val.jsonl")[::4]), looks)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    torch.save([(each.rate, each.latents, each.pixels) for each in held], partial)
    partial.replace(kept)
    return held


@torch.inference_mode()
def quality(codec: cb.Checkerboard, net: Synthesis, held: Sequence[Held]) -> list[float]:
    """PSNR in dB at each of `RATES`, the mean of pictures."""
    found: dict[int, list[float]] = {rate: [] for rate in RATES}
    for each in held:
        at = torch.tensor([each.rate])
        blocks = net(each.latents.float(), coefficient_scale(codec, at), at)
        error = F.mse_loss(blocks.clamp(-0.5, 0.5), cb.to_blocks(each.pixels))
        found[each.rate].append(-10 * math.log10(float(error)))
    return [float(np.mean(values)) for values in found.values()]


class Run(AveragedRun[Synthesis, Batch]):
    """A synthesis that learns, with a teacher beside or without one."""

    VALIDATED_EVERY = 2

    def __init__(
        self,
        codec: cb.Checkerboard,
        net: Synthesis,
        out: Path,
        *,
        minutes: float,
        learning_rate: float,
        seed: int = 1,
        teacher: WideSynthesis | None = None,
    ) -> None:
        self.codec, self.teacher = codec, teacher
        net.to(memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
        groups = parameter_groups(net)
        super().__init__(net, groups, out, minutes=minutes, learning_rate=learning_rate, seed=seed)

    def loss(self, batch: Batch) -> Tensor:
        scale = coefficient_scale(self.codec, batch.rate)
        weight = TEACHER_WEIGHT * max(0.0, 1 - self.progress / TEACHER_UNTIL)
        if self.teacher is None or not weight:
            return picture_loss(self.net(batch.latents, scale, batch.rate), batch)
        with torch.no_grad(), features(self.teacher) as taught:
            shown = self.teacher(batch.latents, scale, batch.rate)
        with features(self.net) as learnt:
            found = self.net(batch.latents, scale, batch.rate)
        beside = picture_loss(found, dataclasses.replace(batch, blocks=shown))
        for own, other in zip(learnt, taught, strict=True):
            other = other[:, : own.shape[1]]
            beside = beside + F.mse_loss(own, other) / other.square().mean()
        return picture_loss(found, batch) + weight * beside


class features:
    """Collects what goes into a synthesis' last layers of the 1/16 and of the 1/8 grid while it is entered:
    a list of two."""

    def __init__(self, net: Synthesis) -> None:
        self.net = net

    def __enter__(self) -> list[Tensor]:
        found: list[Tensor] = []
        self.hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
            for layer in (self.net.from_sixteenth, self.net.to_quarter)
        ]
        return found

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()


def trained(fast: cb.Synthesis, checkpoint: Path) -> WideSynthesis:
    """The averaged teacher of a run."""
    net = grown(fast, Widths(latents=fast.klt.in_channels))
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    net.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def stored(net: nn.Module) -> dict[str, Tensor]:
    """Tensors of a synthesis in the types of export.py."""
    out: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        out |= stored_tensor(f"synthesis.{name}", tensor, corrects="_blocks." in name)
    return out


def export_alternate(whole: Weights, net: WideSynthesis, widths: Widths, folder: Path) -> Weights:
    """Write the synthesis of decoder "best" for whole weights into `folder`, weights/CODEC/TAG; returns what
    the store reads there."""
    tensors = stored(net)
    tensors["synthesis.inverse_gain"] = whole.tensors["synthesis.inverse_gain"]
    metadata = {
        "codec": whole.ref.codec,
        "tag": folder.name,
        "decoder": "best",
        "decode_digest": whole.decode_digest.hex(),
        "architecture": json.dumps(dataclasses.asdict(widths), sort_keys=True, separators=(",", ":")),
        "tables": whole.metadata["tables"],
        "format": "pt",
    }
    return write_weights(tensors, metadata, folder)


def export_student(whole: Weights, net: cb.Synthesis, folder: Path) -> Weights:
    """Write whole weights with another synthesis into `folder`."""
    new = stored(net)
    kept = {name: tensor for name, tensor in whole.tensors.items() if name.removesuffix("_step") not in new}
    return write_weights({**kept, **new}, dict(whole.metadata) | {"tag": folder.name}, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("teacher", "student", "export"))
    parser.add_argument("tag", help="of fhic, whose latents are learnt from")
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=80.0, help="of processor time")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--crops", type=int, default=4800, help=f"of {SIDE} pixels to learn from")
    parser.add_argument("--teacher", type=Path, help="run of the teacher (for student)")
    parser.add_argument("--student", action="store_true", help="RUN is a student's (for export)")
    parser.add_argument("--out", type=Path, help="weights/fhic/TAG (for export)")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    torch.manual_seed(wish.seed)
    weights = load("fhic", wish.tag)
    codec = cb.build(weights, "cpu")
    if codec.precision != torch.float32:
        parser.error("set LICODEC_PRECISION=float32: the net learns in the type that its codec has")
    if wish.part == "export":
        if wish.out is None:
            parser.error("export needs --out, the folder to write")
        held = held_crops(codec, wish.data, kept_in(wish.cache, weights), build(weights))
        facts = export(codec, weights, wish.run, wish.out, held, student=wish.student)
        if not wish.student:
            (wish.out / "card.md").write_text(alternate_card(wish.out, wish.tag, wish.data))
        print(json.dumps(facts, indent=1))
    else:
        learn(codec, weights, wish)


def kept_in(cache: Path, weights: Weights) -> Path:
    """The folder of what was decoded with some weights."""
    return cache / f"decoded-{weights.synthesis_digest.hex()}"


def learn(codec: cb.Checkerboard, weights: Weights, wish: argparse.Namespace) -> None:
    kept, looks = kept_in(wish.cache, weights), build(weights)
    decoded = decoded_crops(
        codec,
        lambda: Crops.load(wish.data, wish.cache),
        kept,
        count=wish.crops,
        side=SIDE,
        seed=51,
        looks=looks,
    )
    held = held_crops(codec, wish.data, kept, looks)[: HELD * len(RATES)]
    fast = codec.lapped
    before = quality(codec, fast, held)

    def validate(net: Synthesis) -> dict[str, Any]:
        return gains(quality(codec, net, held), before)

    teacher = wish.part == "teacher"
    run = Run(
        codec,
        grown(fast, Widths(latents=codec.preset.latents)) if teacher else copy.deepcopy(fast),
        wish.run,
        minutes=wish.minutes,
        learning_rate=wish.learning_rate,
        seed=wish.seed,
        teacher=None if wish.teacher is None else trained(fast, wish.teacher / "last.pt"),
    )
    if wish.resume and run.last.exists():
        run.restore()
    run.log(
        start=True,
        part=wish.part,
        tag=wish.tag,
        learning_rate=wish.learning_rate,
        of_minutes=wish.minutes,
        **validate(run.average),
    )
    run.train(decoded.batches(run.rng, BATCH), validate)


def gains(now: Sequence[float], before: Sequence[float]) -> dict[str, Any]:
    found = [round(new - old, 4) for new, old in zip(now, before, strict=True)]
    return {"db": found, "mean": round(float(np.mean(found)), 4)}


def export(
    codec: cb.Checkerboard,
    weights: Weights,
    run: Path,
    folder: Path,
    held: Sequence[Held],
    *,
    student: bool = False,
) -> dict[str, Any]:
    """Write a weights folder of a run's average; returns what was measured of what the store reads back."""
    fast = codec.lapped
    if student:
        net = copy.deepcopy(fast)
        net.load_state_dict(torch.load(run / "last.pt", weights_only=True)["average"])
        made = export_student(weights, net, folder)
        shown: Synthesis = cb.build(made, "cpu").lapped
    else:
        widths = Widths(latents=codec.preset.latents)
        made = export_alternate(weights, trained(fast, run / "last.pt"), widths, folder)
        shown = cast("WideSynthesis", alternate(codec, made).shown_by)
    before = quality(codec, fast, held)
    facts = {
        "decode_digest": made.decode_digest.hex(),
        "synthesis_digest": made.synthesis_digest.hex(),
        "bytes": (folder / TAG_FILE).stat().st_size,
        "parameters": sum(p.numel() for p in shown.parameters()),
        "rates": RATES,
        "psnr": [round(value, 3) for value in before],
        **gains(quality(codec, shown, held), before),
    }
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "training.jsonl").write_text((run / "log.jsonl").read_text())
    return facts


if __name__ == "__main__":
    main()
