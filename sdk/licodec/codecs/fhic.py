"""The models of fhic: compiled integers (`checkerboard_fixed`) where they run, else torch (`checkerboard`).

Compiled integers take an x86 processor with AVX2, llvmlite, and weights that say what steps their channels
have. Torch is imported where they don't run, and for what they leave to it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

from lic_format.errors import ExactnessError, LicWarning
from licodec.codecs.checkerboard_layout import STEPS, precision_asked_for
from licodec.codecs.contract import LossyModel, Model
from licodec.compiled import loops_here
from licodec.store import Weights

if TYPE_CHECKING:
    from licodec.codecs.checkerboard import Checkerboard
    from licodec.codecs.checkerboard_fixed import FixedCheckerboard

if loops_here() and precision_asked_for() in ("", "fixed16"):
    # At once, while somebody reads the weights.
    from licodec.codecs import checkerboard_fixed  # noqa: F401


def build(weights: Weights, device: str, *, exact: str = "auto") -> LossyModel:
    """The model of a weights file on a device. `exact` forces one path of `exact.paths.PATHS`, which is
    torch's.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds. ExactnessError: no
        exact path. UsageValueError: LICODEC_PRECISION says what it cannot.
    """
    wish = precision_asked_for()
    if wish in ("", "fixed16") and device == "cpu" and exact == "auto":
        if (model := _fixed(weights)) is not None:
            return model
        if wish:
            warnings.warn(
                f"LICODEC_PRECISION is fixed16, but {weights.path} runs in floats here: fixed16 needs a CPU "
                "with AVX2, llvmlite (pip install llvmlite) and weights with steps",
                LicWarning,
                stacklevel=2,
            )
    from licodec.codecs import checkerboard

    return checkerboard.build(weights, device, exact=exact)


def _fixed(weights: Weights) -> FixedCheckerboard | None:
    if STEPS not in weights.metadata or not loops_here():
        return None
    from licodec.codecs import checkerboard_fixed

    try:
        return checkerboard_fixed.build(weights)
    except ExactnessError as error:
        warnings.warn(f"{error}; torch's nets are used", LicWarning, stacklevel=3)
        return None


def in_torch(model: Model) -> Checkerboard:
    """A model of this module's in torch's nets, whatever it is."""
    return cast("Checkerboard", getattr(model, "in_torch", model))
