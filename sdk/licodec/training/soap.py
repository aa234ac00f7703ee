"""SOAP: Adam in the eigenvectors' basis of each weight's gradient covariances.

After N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (arXiv 2409.11321). Rate and
distortion pull at the same weights in different directions; in a basis in which these are coordinates of
their own, one no longer sets the other's step.

What is ours: a side of a weight that is long keeps the basis that it has, covariances take in every second
gradient, and bases are turned in another step for each weight, so that no step waits for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

SIDE_MAX = 512
"""Longest side of a weight that gets a basis; products for longer ones would cost more than they bring."""
COLUMNS_MIN = 10
"""Convolutions inside channels have fewer: there is nothing to turn."""
TURN_EVERY = 20
State = dict[str, Tensor]


class Soap(torch.optim.Optimizer):
    """Weights of convolutions [out, in, k, k] are matrices of `out` rows here; all other parameters, and
    groups with `rotated` False, get Adam.

    Args:
        params: groups of parameters, as dicts.
        lr: learning rate, in Adam's unit: a turned step is as long as one that isn't.
        betas: decay of the mean gradient and of its square.
        covariance: decay of the covariances.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        covariance: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "covariance": covariance, "eps": eps}
        super().__init__(params, {**defaults, "rotated": True, "steps": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that the parameters hold."""
        number = 0
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group, group["steps"] + number)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], turn: int) -> None:
        state: State = self.state[parameter]
        rotated = group["rotated"] and parameter.ndim == 4 and parameter[0].numel() >= COLUMNS_MIN
        if rotated:
            gradient = gradient.contiguous().flatten(1)
        if not state:
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            if rotated:
                _start(state, gradient)
        if rotated and turn % 2 == 0:
            for side, part in (("rows", gradient), ("columns", gradient.T)):
                if side in state:
                    state[side].lerp_(part @ part.T, 1 - group["covariance"])
        if rotated and turn % TURN_EVERY == 0:
            _turn(state)
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        turned = _into(state, gradient)
        state["square"].mul_(second).addcmul_(turned, turned, value=1 - second)
        size = (state["square"] / (1 - second ** group["steps"])).sqrt_().add_(group["eps"])
        change = _out_of(state, _into(state, state["mean"]).div_(1 - first ** group["steps"]).div_(size))
        parameter.add_(change.view(parameter.shape), alpha=-group["lr"])


def _start(state: State, gradient: Tensor) -> None:
    """Covariances of rows and columns from a first gradient, and their eigenvectors, the largest first."""
    for side, part in (("rows", gradient), ("columns", gradient.T)):
        if len(part) <= SIDE_MAX:
            state[side] = part @ part.T
            spread = state[side].double()  # and a little more: many zero eigenvalues can defeat the solver
            spread.diagonal().add_(1e-12 * spread.trace() + 1e-300)
            basis = torch.linalg.eigh(spread).eigenvectors.flip(1)
            state[f"{side}_basis"] = basis.to(gradient.dtype).contiguous()


def _turn(state: State) -> None:
    """Bases after the covariances, by one round of the power method; squares go with their directions."""
    for axis, side in enumerate(("rows", "columns")):
        if side in state:
            basis = state[f"{side}_basis"]
            product = state[side] @ basis
            order = torch.argsort((basis * product).sum(0), descending=True)
            state["square"] = state["square"].index_select(axis, order)
            state[f"{side}_basis"] = torch.linalg.qr(product[:, order]).Q.contiguous()


def _into(state: State, x: Tensor) -> Tensor:
    """A matrix in the bases."""
    x = state["rows_basis"].T @ x if "rows" in state else x.clone()
    return x @ state["columns_basis"] if "columns" in state else x


def _out_of(state: State, x: Tensor) -> Tensor:
    """The inverse of `_into`."""
    x = state["rows_basis"] @ x if "rows" in state else x
    return x @ state["columns_basis"].T if "columns" in state else x
