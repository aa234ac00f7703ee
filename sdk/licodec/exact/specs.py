"""What an integer layer is: its declaration, its numbers' bounds, and the inputs on which it proves itself.

Weights are int8, activations 0..127 (first inputs -127..127), sums stay below 2^24 in magnitude. After the
sum comes the one rule of requantisation, `floor(acc * m / 2^s + 1/2)`. SPEC.md, "Integer nets", states the
rules. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lic_format.errors import WeightsError

Integers = npt.NDArray[np.integer]

KNOTS = 17
"""Rate knots: rate index r lies between knots r // 16 and r // 16 + 1."""
ACTIVATION_MAX = 127
ACCUMULATOR_LIMIT = 2**24
TABLE_INDEX_MAX = 63


@dataclass(frozen=True)
class LayerSpec:
    """One layer as the topology declares it: names and sizes, no numbers that training finds.

    `in_unit` and `out_unit` matter to training and conversion only; the integer arithmetic never sees them.
    `signed`: inputs are -127..127, otherwise 0..127. `gathered`: computed at some positions only, as a
    product of matrices, and proved as such.
    """

    name: str
    inp: int
    out: int
    kernel: int
    in_unit: float = 1 / 16
    out_unit: float = 1 / 16
    last: bool = False
    signed: bool = False
    gathered: bool = False
    in_max: int = 127

    @property
    def high(self) -> int:
        """Largest output value; the smallest is 0."""
        return TABLE_INDEX_MAX if self.last else ACTIVATION_MAX

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of a stored layer's tensors."""
        return {
            "weight": ((self.out, self.inp, self.kernel, self.kernel), "int8"),
            "bias": ((KNOTS, self.out), "int32"),
            "multiplier": ((self.out,), "int32"),
            "shift": ((self.out,), "int32"),
        }


def refuse_unbounded(
    spec: LayerSpec, weight: Integers, bias: Integers, m: Integers, s: Integers, prefix: str = ""
) -> None:
    """Refuse a layer whose sums could leave the range in which float32 is exact, or whose multipliers break
    the rule."""
    name = f"{prefix}{spec.name}"
    if weight.min() < -127:
        raise WeightsError(f"tensor '{name}.weight' holds -128; integer weights are -127..127")
    magnitude = np.abs(weight).reshape(len(weight), -1).sum(axis=1, dtype=np.int64)
    bound = spec.in_max * magnitude + np.abs(bias, dtype=np.int64).max(axis=0)
    worst = int(bound.max())
    if worst >= ACCUMULATOR_LIMIT:
        raise WeightsError(
            f"integer layer {name!r}: output channel {int(bound.argmax())} can reach {worst}, "
            f"the limit is {ACCUMULATOR_LIMIT} (2^24); these weights can't be run exactly"
        )
    if m.min() < 2**14 or m.max() >= 2**15 or s.min() < 0 or s.max() > 30:
        raise WeightsError(
            f"integer layer {name!r}: multipliers {m.min()}..{m.max()} (expected 16384..32767), "
            f"shifts {s.min()}..{s.max()} (expected 0..30)"
        )
