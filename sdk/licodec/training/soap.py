"""SOAP: Adam in the eigenvectors' basis of each weight's gradient covariances.

After N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (arXiv 2409.11321). Rate and
distortion pull at the same weights in different directions; in a basis in which these are coordinates of
their own, one no longer sets the other's step.

What is ours: a side of a weight that is long keeps the basis that it has, covariances take in every fourth
gradient, bases are turned in another step for each weight, so that no step waits for all of them, and means
stay in the bases that they were taken in until these turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

SIDE_MAX = 512
"""Longest side of a weight that gets a basis; products for longer ones would cost more than they bring."""
COLUMNS_MIN = 10
"""Convolutions inside channels have fewer: there is nothing to turn."""
TURN_EVERY = 20
COVER_EVERY = 4
"""Steps from one gradient that goes into the covariances to the next."""
State = dict[str, Tensor]


class Soap(torch.optim.Optimizer):
    """Weights of convolutions [out, in, k, k] are matrices of `out` rows here; all other parameters, and
    groups with `rotated` False, get Adam.

    Args:
        params: groups of parameters, as dicts.
        lr: learning rate, in Adam's unit: a turned step is as long as one that isn't.
        betas: decay of the mean gradient and of its square.
        covariance: decay of the covariances in a step.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        covariance: float = 0.975,
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
            plain: list[tuple[Tensor, Tensor, State]] = []
            turned: list[tuple[Tensor, Tensor, State]] = []
            for parameter in group["params"]:
                number += 1
                if parameter.grad is None:
                    continue
                state: State = self.state[parameter]
                if group["rotated"] and parameter.ndim == 4 and parameter[0].numel() >= COLUMNS_MIN:
                    gradient = _turned(state, parameter.grad, group, group["steps"] + number)
                    turned.append((parameter, gradient, state))
                else:
                    plain.append((parameter, parameter.grad, state))
            changes = [torch.zeros_like(gradient) for _, gradient, _ in turned]
            moved = [parameter for parameter, _, _ in plain] + changes
            _adam(moved, [(gradient, state) for _, gradient, state in plain + turned], group)
            for (parameter, _, state), change in zip(turned, changes, strict=True):
                parameter.add_(_out_of(state, change).view(parameter.shape))


def _adam(moved: list[Tensor], found: list[tuple[Tensor, State]], group: dict[str, Any]) -> None:
    """Adam's step of `moved` along gradients with their states."""
    for gradient, state in found:
        if "mean" not in state:
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    if moved:
        adam(
            moved,
            [gradient for gradient, _ in found],
            [state["mean"] for _, state in found],
            [state["square"] for _, state in found],
            [],
            list(torch.full((len(found),), group["steps"] - 1.0, device=moved[0].device).unbind()),
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def _turned(state: State, gradient: Tensor, group: dict[str, Any], turn: int) -> Tensor:
    """A weight's gradient in the bases of its sides, which learn from it."""
    gradient = gradient.contiguous().flatten(1)
    if not state:
        _start(state, gradient)
    if turn % COVER_EVERY == 0:
        for side, part in (("rows", gradient), ("columns", gradient.T)):
            if side in state:
                state[side].lerp_(part @ part.T, 1 - group["covariance"] ** COVER_EVERY)
    if turn % TURN_EVERY == 0 and "mean" in state:
        _turn(state)
    return _into(state, gradient)


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
    """Bases after the covariances, by one round of the power method; means are turned with them, squares go
    with their directions."""
    mean = _out_of(state, state["mean"])
    for axis, side in enumerate(("rows", "columns")):
        if side in state:
            basis = state[f"{side}_basis"]
            product = state[side] @ basis
            order = torch.argsort((basis * product).sum(0), descending=True)
            state["square"] = state["square"].index_select(axis, order)
            state[f"{side}_basis"] = torch.linalg.qr(product[:, order]).Q.contiguous()
    state["mean"] = _into(state, mean)


def _into(state: State, x: Tensor) -> Tensor:
    """A matrix in the bases."""
    x = state["rows_basis"].T @ x if "rows" in state else x.clone()
    return x @ state["columns_basis"] if "columns" in state else x


def _out_of(state: State, x: Tensor) -> Tensor:
    """The inverse of `_into`."""
    x = state["rows_basis"] @ x if "rows" in state else x
    return x @ state["columns_basis"].T if "columns" in state else x
