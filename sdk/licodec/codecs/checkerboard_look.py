"""Better latents of one picture by looks at what they would decode to, in compiled integers: efforts 2 to 5.

`latent_descent` has the idea: a symbol whose value lies between n and n + 1 is taken for n + 1 with a
probability p that rises with the value, and latents go down the slope of bits + worth * squared error of
these expectations, means following from them as from symbols. What a look leaves out: tables are those of
the last walk, p is a polynomial, and nobody looks whether the result is better. So it takes a tenth of the
time (docs/effort.md). Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from licodec.codecs import checkerboard_compiled as nets
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs.checkerboard_compiled import Values
from licodec.codecs.checkerboard_elementwise import Places, Rows
from licodec.codecs.checkerboard_layout import QUARTER, seen_of, tiles
from licodec.codecs.checkerboard_means import Goal, Means, Trail
from licodec.codecs.checkerboard_means_back import MeansBack
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.entropy.tables import NOT_CODED
from licodec.exact.fixed_point import Board, Floats, Map, address_of, distances
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


class Step(NamedTuple):
    """A look and what follows from it.

    Attributes:
        reach: how far it goes, 1 being where the distortion would have its minimum with an orthonormal
            synthesis and nothing else to pay for. steepness: of the probability that a value between two
            symbols is taken for the upper one, in the middle between them, over that of the value itself.
    """

    reach: float
    steepness: float


def _steps(looks: int, walks: int) -> tuple[tuple[Step, ...], ...]:
    """Looks after each of so many walks, shorter and steeper from one to the next."""
    along = [(n + 0.5) / looks for n in range(looks)]
    steps = [Step(0.45 - 0.35 * x, 1.5 + 1.3 * x) for x in along]
    each = -(-looks // walks)
    return tuple(tuple(steps[first : first + each]) for first in range(0, looks, each))


SEARCHES: Final = {1: (), 2: _steps(2, 1), 3: _steps(4, 1), 4: _steps(8, 2), 5: _steps(16, 3)}
"""By effort, the looks after each walk."""
USUAL_EFFORT: Final = 4
"""Where the curve of what a file loses by time bends (docs/effort.md)."""
LARGE: Final = 1 << 22
"""Pixels above which one less is usual: time grows with them."""
CHOICE: Final = 3.0
"""Worth of distortion in the choice of symbols after looks, times what is usual without: their values lie
near whole numbers already."""


def worth(rate: int) -> float:
    """Bits that a squared error of one level in one sample is worth to a search."""
    return WORTH * LAMBDA_MIN * float(LAMBDA_RATIO ** (rate / 255)) / 3


class Tables(Values[np.uint8]):
    """Tables of symbols as a walk finds them, [h, w, M]; symbols of which nothing is found out are not
    coded."""

    def __init__(self, height: int, width: int, latents: int) -> None:
        super().__init__(width, np.full((height, width + nets.ROOM, latents), NOT_CODED, np.uint8))

    def take(self, step: Pass, cells: Positions, index: npt.NDArray[np.uint8]) -> None:
        """Those of a pass, [C, n]."""
        rows, columns = np.divmod(cells.numbers, cells.width)
        self.memory[rows, columns, step.first : step.last] = index.T


@dataclass(frozen=True)
class Looks:
    """At one picture, at one rate.

    Attributes:
        planes: the picture, uint8 [16 h, 16 w, 3]. seen: what the mean nets see of its hyper-latents.
        inverse: coefficients per symbol, [M]. per_unit: symbols per bounded unit, [M]. savings:
            `symbol_savings` of the table set.
    """

    synthesis: nets.Synthesis
    pull: nets.Pull
    means: Means
    means_back: MeansBack
    planes: npt.NDArray[np.uint8]
    seen: Board
    rate: int
    inverse: Floats
    per_unit: Floats
    savings: Floats
    timer: Timer

    def moved(self, s: Values[np.float32], tables: Tables, steps: Iterable[Step]) -> Values[np.float32]:
        """Latents in units of symbols [h, w, M], where looks take them."""
        s = Values(s.width, s.memory.copy())
        for step in steps:
            self._move(s, tables, step)
        return s

    def _move(self, s: Values[np.float32], tables: Tables, step: Step) -> None:
        h, w, m = s.height, s.width, s.memory.shape[2]
        coefficients, latents = (nets.empty_steps(h, w, m) for _ in range(2))
        rise, slope = np.empty_like(s.memory), np.empty_like(s.memory)
        trail = Trail()
        self._expect(s, tables, step.steepness, coefficients, latents, rise, slope, trail)
        with self.timer("network"):
            lacking = self._lacking(coefficients, latents)
            self.means_back(lacking, rise, slope, trail, self.rate, self.per_unit)
            found = nets.strided(lacking.memory)
            inverse = np.reciprocal(self.inverse)
            elementwise.moved(s.memory, found, inverse, rise, slope, FARTHEST, step.reach)

    def _expect(
        self,
        s: Values[np.float32],
        tables: Tables,
        steepness: float,
        coefficients: Values[np.int16],
        latents: Values[np.int16],
        rise: Floats,
        slope: Floats,
        trail: Trail,
    ) -> None:
        """What latents are expected to decode to, in steps; how expectations and their prices rise; and how
        means came to be."""
        error = np.float32(worth(self.rate) * 255**2) * self.inverse * self.inverse
        prices = np.float32(VARIANCE) * error, np.reciprocal(2 * error)
        scale = self.inverse * self.per_unit
        factors = scale * self.synthesis.per_coefficient, self.synthesis.per_latent
        goals = [
            Goal(*nets.strided(of.memory), few)
            for of, few in zip((coefficients, latents), factors, strict=True)
        ]
        row, apart, _ = s.memory.strides
        at = [address_of(array) for array in (s.memory, rise, slope, tables.memory)]

        def settle(step: Pass, cells: Positions, means: Rows, goals: Sequence[Goal]) -> None:
            part = slice(step.first, step.last)
            with self.timer("network"):
                elementwise.expected(
                    Places(at[0] + 4 * step.first, distances(cells, row, apart)),
                    means,
                    at[3] + step.first,
                    self.savings,
                    self.per_unit[part],
                    (prices[0][part], prices[1][part]),
                    [goal.of(step, cells) for goal in goals],
                    at[1] + 4 * step.first,
                    at[2] + 4 * step.first,
                    steepness,
                    len(cells),
                )

        passes = self.means.preset.passes
        self.means.walk(self.seen, (s.height, s.width), settle, passes, self.timer, goals, trail)

    def _lacking(self, coefficients: Values[np.int16], latents: Values[np.int16]) -> Values[np.float32]:
        """What coefficients should be moved by, [h, w, M]; computed in tiles."""
        h, w = latents.height, latents.width
        parts = list(tiles(h, w, self.means.preset.halo))
        if len(parts) == 1:
            return Values(w, self._pulled(coefficients.whole, latents.whole, self.planes))
        out = Values(w, np.zeros(latents.memory.shape, np.float32))
        for tile in parts:
            seen = tile.outer_rows, tile.outer_columns
            found = self._pulled(coefficients.part(*seen), latents.part(*seen), seen_of(self.planes, tile))
            out.inner[tile.rows, tile.columns] = found[tile.inner_rows, tile.inner_columns]
        return out

    def _pulled(self, coefficients: nets.Part, latents: nets.Part, planes: npt.NDArray[np.uint8]) -> Floats:
        """The same of a tile, [h, w + .., M]."""
        shown, passed = self.synthesis.passed(coefficients, latents, self.rate)
        missing = Map(4 * latents.height, 4 * latents.width, QUARTER, 4)
        to = missing.address, missing.row, missing.step
        elementwise.missing(planes, (shown.address, shown.row, shown.step), self.pull.per_pixel, to)
        return self.pull(missing, passed, self.rate, self.inverse * self.per_unit)
