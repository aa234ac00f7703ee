"""Better latents of one picture by looks at what they would decode to, in compiled integers: efforts 2, 3.

`latent_descent` has the idea: a symbol whose value lies between n and n + 1 is taken for n + 1 with a
probability p that rises with the value, and latents go down the slope of bits + worth * squared error of
these expectations. What a look leaves out of it: means and tables are those of the last walk, and nothing is
known of how means follow from symbols; p is a polynomial; and nobody looks whether the result is better. So
it takes a tenth of the time (docs/effort.md). Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from licodec.codecs import checkerboard_compiled as nets
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs.checkerboard_compiled import Values
from licodec.codecs.checkerboard_elementwise import Places, Rows, Target
from licodec.codecs.checkerboard_layout import MEAN_STEP, QUARTER
from licodec.entropy.schedule import Pass
from licodec.entropy.tables import NOT_CODED
from licodec.exact.fixed_point import Floats, Map, address_of, distances
from licodec.exact.neighbours import Positions

LAMBDA_MIN: Final = 0.0009
LAMBDA_RATIO: Final = 400.0
"""Weights are trained for LAMBDA_MIN LAMBDA_RATIO^(r / 255) bits a pixel for one unit of 255^2 MSE."""
WORTH: Final = 0.45
"""Of that, what a search takes distortion to be worth. At about this rate the codec's own curve trades
bits for distortion, so that files and PSNR stay near what their quality means; with all of it files grow by
up to a fifth, and gain less at equal PSNR (docs/effort.md)."""
VARIANCE: Final = 0.7
"""What the variance of a symbol adds to the distortion, times what it would with an orthonormal synthesis."""
FARTHEST: Final = 0.5
"""No symbol goes farther than this times the reach at once."""
SEARCHES: Final[dict[int, tuple[tuple[float, ...], ...]]] = {
    1: (),
    2: ((0.3,), (0.25,)),
    3: ((0.3, 0.3), (0.3, 0.3), (0.3, 0.2)),
}
"""By effort, the looks after each walk: how far they go, 1 being where the distortion would have its minimum
with an orthonormal synthesis and nothing else to pay for."""
CHOICE: Final = 2.0
"""Worth of distortion in the choice of symbols after looks, times what is usual without: their values lie
near whole numbers already."""


def worth(rate: int) -> float:
    """Bits that a squared error of one level in one sample is worth to a search."""
    return WORTH * LAMBDA_MIN * float(LAMBDA_RATIO ** (rate / 255)) / 3


@dataclass(frozen=True)
class Known:
    """What a walk found out about the symbols at each position.

    Attributes:
        means: in steps of MEAN_STEP of a symbol, [h, w, M]. index: tables, of that shape; symbols of which
            nothing is found out are not coded.
    """

    means: Values[np.int16]
    index: Values[np.uint8]

    @classmethod
    def nothing(cls, height: int, width: int, latents: int) -> Known:
        shape = height, width + nets.ROOM, latents
        return cls(
            Values(width, np.zeros(shape, np.int16)), Values(width, np.full(shape, NOT_CODED, np.uint8))
        )

    def take(
        self, step: Pass, cells: Positions, means: Rows, per: Floats, index: npt.NDArray[np.uint8]
    ) -> None:
        """A pass: means as float32 rows in bounded units, symbols per unit [C], tables [C, n]."""
        memory = self.means.memory
        there = Places(address_of(memory) + 2 * step.first, distances(cells, *memory.strides[:2]))
        elementwise.settle(means, None, per, [Target(there, per * np.float32(1 / MEAN_STEP))], len(cells))
        rows, columns = np.divmod(cells.numbers, cells.width)
        self.index.memory[rows, columns, step.first : step.last] = index.T

    def part(self, rows: slice, columns: slice) -> Known:
        """Of a tile."""
        return Known(self.means.copied(rows, columns), self.index.copied(rows, columns))


@dataclass(frozen=True)
class Look:
    """At one rate.

    Attributes:
        inverse: coefficients per symbol, [M]. per_unit: symbols per bounded unit, [M]. savings:
            `symbol_savings` of the table set.
    """

    synthesis: nets.Synthesis
    pull: nets.Pull
    rate: int
    inverse: Floats
    per_unit: Floats
    savings: Floats

    def move(self, s: Values[np.float32], known: Known, planes: npt.NDArray[np.uint8], reach: float) -> None:
        """Latents in units of symbols, where one look takes them.

        Args:
            s: [h, w, M]. planes: the picture, uint8 [16 h, 16 w, 3].
        """
        h, w, m = s.height, s.width, s.memory.shape[2]
        coefficients, latents = (nets.empty_steps(h, w, m) for _ in range(2))
        rise, slope = (np.empty(s.rows.shape, np.float32) for _ in range(2))
        error = np.float32(worth(self.rate) * 255**2) * self.inverse * self.inverse
        elementwise.expected(
            s.rows,
            known.means.rows,
            known.index.rows,
            self.savings,
            (np.float32(VARIANCE) * error, np.reciprocal(2 * error)),
            (
                (self.inverse * self.synthesis.per_coefficient, coefficients.rows),
                (self.synthesis.per_latent * np.reciprocal(self.per_unit), latents.rows),
            ),
            rise,
            slope,
        )
        shown, passed = self.synthesis.passed(coefficients.whole, latents.whole, self.rate)
        missing = Map(4 * h, 4 * w, QUARTER, 4)
        to = missing.address, missing.row, missing.step
        elementwise.missing(planes, (shown.address, shown.row, shown.step), self.pull.per_pixel, to)
        found = self.pull(missing, passed, self.rate, self.inverse * self.per_unit)
        elementwise.moved(
            s.memory, nets.strided(found), np.reciprocal(self.inverse), rise, slope, FARTHEST, reach
        )
