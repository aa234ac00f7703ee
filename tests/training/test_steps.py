from __future__ import annotations

from dataclasses import replace

import numpy as np

from licodec import store
from licodec.codecs.checkerboard_compiled import read_steps, step_counts
from licodec.codecs.checkerboard_fixed import FixedCheckerboard
from licodec.evaluation.metrics import psnr
from licodec.exact import fixed_point
from licodec.exact.fixed_point import LARGEST
from licodec.training.steps import HEADROOM, extremes, measured, with_steps
from tests.codecs.fixtures import built, encoded, pixels


def test_what_is_measured_on_a_picture_is_enough_for_it() -> None:
    weights, picture = store.load("fhic", "s-1"), pixels(48, 64)
    powers = measured(built(weights), [picture], (40, 200))
    counts = step_counts(built(weights).preset)
    assert {net: {name: len(each) for name, each in maps.items()} for net, maps in powers.items()} == counts
    again = replace(weights, metadata=with_steps(weights.metadata, powers))
    steps = read_steps(again, counts)
    of_pixels = steps["analysis"]["pixels"] * LARGEST
    assert (of_pixels > HEADROOM * 0.3).all() and (of_pixels < 4 * HEADROOM).all(), (
        "pixels are within half a unit"
    )
    if fixed_point.has_pairs():
        fixed, model = FixedCheckerboard(again), built(weights)
        for rate in (40, 200):
            file = encoded(fixed, weights.ref, picture, rate=rate)
            assert psnr(fixed.decode(file).planes, model.decode(file).planes) > 52


def test_extremes_are_pictures_and_no_two_alike() -> None:
    found = extremes(48)
    assert all(each.shape == (48, 48, 3) and each.dtype == np.uint8 for each in found)
    assert len({each.tobytes() for each in found}) == len(found) > 12
    assert {int(level) for each in found for level in (each.min(), each.max())} >= {0, 255}
