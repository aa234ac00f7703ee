"""Distortion and rate of one picture.

Both distortion metrics take the picture as a viewer gets it: uint8, H x W x 3, after rounding and clipping.
Float PSNR is a different (and at high rates better looking) figure; it is not offered.

    >>> import numpy as np
    >>> a = np.zeros((4, 4, 3), np.uint8)
    >>> round(psnr(a, a + 1), 2)
    48.13
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from licodec import images, threads

Pixels = NDArray[np.uint8]

PEAK = 255.0
# Five scales halve the picture four times and the 11-tap window must still fit: (11 - 1) * 2**4 = 160.
MS_SSIM_SMALLEST_SIDE = 161


def psnr(reference: Pixels, decoded: Pixels) -> float:
    """Return the PSNR in dB of one picture; infinite when both are equal.

    Both arguments are uint8, H x W x 3. The squared error is averaged over the three channels together.
    Raises ValueError when type or shape differ.
    """
    _check_pair(reference, decoded)
    return images.psnr(reference, decoded)


def ms_ssim(reference: Pixels, decoded: Pixels) -> float | None:
    """Return the multi-scale SSIM (0..1) of one picture, or None where it is not defined.

    Five scales, an 11-tap window and data range 255 (Wang, Simoncelli and Bovik 2003, the settings of the
    field's tables), the mean over the three channels. Pictures with a side under 161 pixels have no fifth
    scale, and a score of 0 or below has no meaning in dB.
    """
    _check_pair(reference, decoded)
    if min(reference.shape[:2]) < MS_SSIM_SMALLEST_SIDE:
        return None
    import torch
    from pytorch_msssim import ms_ssim as library_ms_ssim

    # Sums depend on how they are split: one thread gives the same score on machines of any width.
    with torch.inference_mode(), threads.limited(1):
        planes = [torch.tensor(p).permute(2, 0, 1).unsqueeze(0).float() for p in (reference, decoded)]
        return float(library_ms_ssim(planes[0], planes[1], data_range=PEAK, size_average=True))


def ms_ssim_db(value: float) -> float:
    """Return an MS-SSIM score (0..1) on the dB scale, -10 log10(1 - score); infinite at 1."""
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def bits_per_pixel(size: int, pixels: int) -> float:
    """Return the rate of a whole file of `size` bytes that holds `pixels` = width x height."""
    return 8 * size / pixels


def _check_pair(reference: Pixels, decoded: Pixels) -> None:
    for name, picture in (("reference", reference), ("decoded", decoded)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            found = f"{picture.dtype} of shape {picture.shape}"
            raise ValueError(f"{name}: expected uint8 of shape (H, W, 3), got {found}")
    if reference.shape != decoded.shape:
        raise ValueError(f"decoded: expected the reference's shape {reference.shape}, got {decoded.shape}")
