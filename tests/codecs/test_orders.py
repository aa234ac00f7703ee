"""Files of one decode order that declare another, with every checksum put right: the seal tells."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import lic_format
import licodec
from lic_format.errors import LicError
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from tests.codecs.fixtures import ORDERS, coded, encoded, pixels

PAIRS = [pair for pair in itertools.product(ORDERS, Order) if pair[0] != pair[1]]


@pytest.mark.parametrize(("order", "declared"), PAIRS)
@pytest.mark.parametrize(
    ("size", "channels", "rate"),
    [((1, 1), 3, 255), ((1, 1), 1, 0), ((17, 23), 3, 20), ((70, 50), 1, 130), ((65, 64), 3, 255)],
)
def test_a_file_that_declares_another_order_is_refused(
    order: int,
    declared: Order,
    size: tuple[int, int],
    channels: int,
    rate: int,
    model: cb.Checkerboard,
    weights: store.Weights,
) -> None:
    file = encoded(model, weights.ref, pixels(*size, channels), rate=rate, order=order)
    licodec.decode(lic_format.write(file), device="cpu")
    lying = replace(file, head=replace(file.head, order=declared))
    with pytest.raises(LicError) as caught:
        licodec.decode(lic_format.write(lying), device="cpu")
    if int(declared) in ORDERS:
        assert "verify" in str(caught.value) or "escape" in str(caught.value)


def test_a_file_that_leaves_out_all_channels_is_the_same_in_every_order(
    model: cb.Checkerboard, weights: store.Weights
) -> None:
    """It has hyper-latents alone, so there is no order that it could lie about."""
    z = np.arange(96, dtype=np.int16).reshape(96, 1, 1) % 5 - 2
    q = np.zeros((320, 4, 4), np.int16)
    skipped = np.ones(320, np.bool_)
    files = [coded(model, weights.ref, z, q, rate=9, order=order, skipped=skipped) for order in ORDERS]
    pictures = [licodec.decode(lic_format.write(file), output="numpy", device="cpu") for file in files]
    assert len({file.units for file in files}) == 1
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
