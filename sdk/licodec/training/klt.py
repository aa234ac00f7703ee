"""Start of a transform codec's straight path: principal components of 8x8 blocks, then of 2x2 cells of those.

With them in place a net codes photographs at 30 dB before its first training step, and its channels are
ordered by energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from licodec.training.data import Crops


@dataclass(frozen=True)
class BlockKLT:
    """`stem`: orthonormal [S, 192], rows are 8x8x3 patterns in (dy, dx, rgb) order. `cell`: orthonormal [M, 4
    S]. `deviation`: standard deviation of each of the M components for pixels in 0..1, [M]."""

    stem: Tensor
    cell: Tensor
    deviation: Tensor


def block_klt(crops: Crops, stem: int, latents: int, blocks: int = 60000, seed: int = 5) -> BlockKLT:
    """Fit on 16x16 blocks of the training crops, the mean (0.5) taken off."""
    rng = np.random.default_rng(seed)
    pixels = crops.draw(rng, 16, np.zeros(blocks, bool))
    x = torch.from_numpy(pixels).double() / 255 - 0.5
    eights = x.reshape(blocks, 2, 8, 2, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 192)
    values, vectors = torch.linalg.eigh(eights.T @ eights / len(eights))
    first = vectors.flip(1)[:, :stem].T
    cells = (eights @ first.T).reshape(blocks, 4 * stem)
    values, vectors = torch.linalg.eigh(cells.T @ cells / len(cells))
    values, vectors = values.flip(0)[:latents], vectors.flip(1)[:, :latents]
    return BlockKLT(first.float(), vectors.T.float().contiguous(), values.clamp_min(1e-9).sqrt().float())
