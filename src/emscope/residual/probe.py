"""Regularised logistic regression of all blocks at once, exact: Newton's method on a rotated, smaller problem.

It minimises ½‖w‖² + C Σ log(1 + exp(−y(w·x + b))) with a free intercept, the objective of scikit-learn's
LogisticRegression, on standardised activations. For fewer examples than dimensions the weights lie in the span of the
examples, so each block is first rotated into that span (an exact change of variables).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Probes:
    """One probe a block, in activation space: score = activations · weights + intercept.

    `weights` float32 [n_blocks, d_model], `intercepts` float32 [n_blocks].
    """

    weights: np.ndarray
    intercepts: np.ndarray

    def scores(self, activations: np.ndarray) -> np.ndarray:
        """Return log-odds [n_examples, n_blocks] for activations [n_examples, n_blocks, d_model]."""
        return np.asarray(np.einsum("nbd,bd->nb", activations, self.weights) + self.intercepts)


def fit_probes(
    activations: np.ndarray, labels: np.ndarray, penalty: float = 1.0, *, standardise: bool = True
) -> Probes:
    """Fit one probe a block on [n_examples, n_blocks, d_model] with labels 0/1; `penalty` is 1/C.

    Standardisation is undone, so the weights apply to raw activations.
    """
    x = torch.from_numpy(np.ascontiguousarray(activations.transpose(1, 0, 2))).double()
    mean = x.mean(dim=1, keepdim=True)
    scale = x.std(dim=1, keepdim=True, correction=0).clamp(min=1e-8) if standardise else torch.ones_like(mean)
    signs = torch.from_numpy(np.where(labels > 0, 1.0, -1.0))
    weights, intercepts = _newton_rotated((x - mean) / scale, signs, penalty)
    raw = weights / scale[:, 0]
    shifted = intercepts - (raw * mean[:, 0]).sum(dim=-1)
    return Probes(raw.float().numpy(), shifted.float().numpy())


def _newton_rotated(x: Tensor, signs: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    n, d = x.shape[1:]
    if d <= n:
        return _newton(x, signs, penalty)
    basis, triangle = torch.linalg.qr(x.transpose(1, 2))  # x = triangleᵀ basisᵀ
    reduced, intercepts = _newton(triangle.transpose(1, 2), signs, penalty)
    return (basis @ reduced[:, :, None])[:, :, 0], intercepts


def _newton(
    x: Tensor, signs: Tensor, penalty: float, steps: int = 60, tolerance: float = 1e-9
) -> tuple[Tensor, Tensor]:
    """Minimise the regularised logistic loss for each block of x [n_blocks, n, d]; the intercept is the last column."""
    blocks, n, d = x.shape
    design = torch.cat([x, x.new_ones(blocks, n, 1)], dim=2)
    ridge = torch.full((d + 1,), penalty, dtype=x.dtype)
    ridge[-1] = 1e-10
    theta = x.new_zeros(blocks, d + 1)

    def loss_of(candidate: Tensor) -> Tensor:
        margins = signs * (design @ candidate[:, :, None])[:, :, 0]
        return torch.nn.functional.softplus(-margins).sum(dim=1) + 0.5 * (ridge * candidate**2).sum(dim=1)

    loss = loss_of(theta)
    for _ in range(steps):
        margins = signs * (design @ theta[:, :, None])[:, :, 0]
        wrong = torch.sigmoid(-margins)
        gradient = ridge * theta - (design.transpose(1, 2) @ (signs * wrong)[:, :, None])[:, :, 0]
        if gradient.abs().max() < tolerance:
            break
        curvature = (wrong * (1 - wrong))[:, :, None] * design
        hessian = design.transpose(1, 2) @ curvature + torch.diag(ridge)
        step = torch.linalg.solve(hessian, gradient)
        theta, loss = _backtrack(loss_of, theta, loss, step)
    return theta[:, :-1], theta[:, -1]


def _backtrack(loss_of: Callable[[Tensor], Tensor], theta: Tensor, loss: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the step of each block until its loss does not rise."""
    size = torch.ones_like(loss)
    candidate, new_loss = theta, loss
    for _ in range(30):
        candidate = theta - size[:, None] * step
        new_loss = loss_of(candidate)
        worse = new_loss > loss + 1e-12 * loss.abs()
        if not worse.any():
            break
        size = torch.where(worse, size / 2, size)
    return candidate, new_loss
