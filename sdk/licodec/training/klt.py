"""Start of a transform codec's straight path: principal components of 16x16 blocks.

With them in place a net codes photographs at 30 dB before its first training step, and its channels are
ordered by energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from licodec.codecs.checkerboard import unshuffle
from licodec.training.data import Crops


@dataclass(frozen=True)
class BlockKLT:
    """`components`: orthonormal [M, 768], rows are 16x16x3 patterns in the order of `unshuffle` by 4, twice:
    (cell row, cell column, dy, dx, rgb). `deviation`: standard deviation of each for pixels in 0..1, [M]."""

    components: Tensor
    deviation: Tensor


def block_klt(crops: Crops, latents: int, blocks: int = 60000, seed: int = 5) -> BlockKLT:
    """Fit on 16x16 blocks of the training crops, the mean (0.5) taken off."""
    rng = np.random.default_rng(seed)
    pixels = crops.draw(rng, 16, np.zeros(blocks, bool))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255 - 0.5
    x = unshuffle(unshuffle(x, 4), 4).flatten(1)
    values, vectors = torch.linalg.eigh(x.T @ x / blocks)
    values, vectors = values.flip(0)[:latents], vectors.flip(1)[:, :latents]
    return BlockKLT(vectors.T.float().contiguous(), values.clamp_min(1e-9).sqrt().float())
