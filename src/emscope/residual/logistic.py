"""Many regularised logistic regressions on the same examples at once: quasi-Newton steps made of matrix products.

Every fit minimises ½ λ‖w‖² + Σᵢ aᵢ log(1 + exp(−yᵢ(w·xᵢ + b))) with its own labels y, example weights a and penalty λ.
The axes of x are its principal ones, so a diagonal preconditioner is nearly the inverse Hessian; limited-memory BFGS
(Liu & Nocedal 1989) corrects it. A step costs two products with x for all fits together, and the line search none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 8
MAX_STEPS = 300
LINE_STEPS = 2
DONE_SHARE = 0.2  # finished fits are taken out when there are enough of them to be worth the copying


@dataclass
class _State:
    """The fits still running; tensors are [n_blocks, n or d, n_fits] or [n_blocks, n_fits]."""

    theta: Tensor
    margins: Tensor
    gradient: Tensor
    curvature: Tensor
    signs: Tensor
    weights: Tensor
    ridge: Tensor
    columns: Tensor
    history: list[tuple[Tensor, Tensor, Tensor]]

    def keep(self, running: Tensor) -> None:
        """Go on with some of the fits."""
        for name in ("theta", "margins", "gradient", "curvature", "signs", "weights", "ridge"):
            setattr(self, name, getattr(self, name)[..., running].contiguous())
        self.columns = self.columns[running]
        self.history = [(s[..., running], y[..., running], rho[..., running]) for s, y, rho in self.history]


def fit_logistic(
    x: Tensor, signs: Tensor, weights: Tensor, penalties: Tensor, tolerance: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Return weights with the intercept last [n_blocks, d + 1, n_fits], and margins [n_blocks, n, n_fits].

    Args:
        x: examples [n_blocks, n, d] whose columns are orthogonal within each block.
        signs: labels as ±1, [n, n_fits].
        weights: how much each example counts in each fit, [n, n_fits]; 0 leaves it out, but its margin is given too.
        penalties: λ, [n_blocks, n_fits].
        tolerance: a fit is done when the length of its (preconditioned) step falls to this share of its weights.
    """
    design = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
    transposed = design.transpose(1, 2)
    squares = (design**2).sum(dim=1)[:, :, None]
    state = _start(design, transposed, signs, weights, penalties)
    theta, margins = torch.zeros_like(state.theta), torch.zeros_like(state.margins)
    for _ in range(MAX_STEPS):
        step = _descent(state, squares)
        _advance(state, step, design @ step, transposed)
        done = _done(state, squares, tolerance)
        if done.all() or done.float().mean() > DONE_SHARE:
            theta[..., state.columns[done]] = state.theta[..., done]
            margins[..., state.columns[done]] = state.margins[..., done]
            state.keep(~done)
        if not len(state.columns):
            break
    theta[..., state.columns], margins[..., state.columns] = state.theta, state.margins
    return theta, margins


def _done(state: _State, squares: Tensor, tolerance: float) -> Tensor:
    """Say which fits are done in every block, [n_fits]: the step that is left is small against the weights.

    Or it is lost in rounding: where labels contradict each other the weights are 0, and no step is small against that.
    """
    wanted = state.gradient / (squares * state.curvature[:, None] + state.ridge)
    small = wanted[:, :-1].norm(dim=1) <= tolerance * state.theta[:, :-1].norm(dim=1)
    gain = (wanted * state.gradient).sum(dim=1)
    rounding = (100 * torch.finfo(gain.dtype).eps) ** 2 * state.weights.sum(dim=1)
    done: Tensor = small | (gain <= rounding)
    return done.all(dim=0)


def _start(design: Tensor, transposed: Tensor, signs: Tensor, weights: Tensor, penalties: Tensor) -> _State:
    blocks, n, d = design.shape
    n_fits = signs.shape[1]
    ridge = penalties[:, None, :].repeat(1, d, 1)
    ridge[:, -1] = 0
    margins = design.new_zeros(blocks, n, n_fits)
    state = _State(
        design.new_zeros(blocks, d, n_fits),
        margins,
        margins,
        margins,
        signs.expand(blocks, -1, -1),
        weights.expand(blocks, -1, -1),
        ridge,
        torch.arange(n_fits),
        [],
    )
    _differentiate(state, transposed)
    return state


def _differentiate(state: _State, transposed: Tensor) -> None:
    """Set the gradient, and the curvature: the mean over examples of the loss's second derivative."""
    wrong = torch.sigmoid(-state.signs * state.margins)
    pull = state.weights * wrong
    state.curvature = (pull * (1 - wrong)).mean(dim=1)
    state.gradient = state.ridge * state.theta - transposed @ (state.signs * pull)


def _descent(state: _State, squares: Tensor) -> Tensor:
    """Return the descent step of limited-memory BFGS (its two loops) from the preconditioned gradient."""
    step, pulls = state.gradient, []
    for moved, change, rho in reversed(state.history):
        pull = rho * (moved * step).sum(dim=1)
        pulls.append(pull)
        step = torch.addcmul(step, -pull[:, None], change)
    step = step / (squares * state.curvature[:, None] + state.ridge)
    for (moved, change, rho), pull in zip(state.history, reversed(pulls), strict=True):
        step = torch.addcmul(step, (pull - rho * (change * step).sum(dim=1))[:, None], moved)
    return -step


def _advance(state: _State, step: Tensor, margin_step: Tensor, transposed: Tensor) -> None:
    """Move along the step as far as the loss falls, and remember what that taught about the curvature."""
    length = _line_search(state, step, margin_step)[:, None]
    before = state.gradient
    moved = length * step
    state.theta = state.theta + moved
    state.margins = state.margins + length * margin_step
    _differentiate(state, transposed)
    change = state.gradient - before
    product = (moved * change).sum(dim=1)
    least = torch.finfo(product.dtype).eps * moved.norm(dim=1) * change.norm(dim=1)  # below it there is only rounding
    rho = torch.where(product > least, 1 / product, torch.zeros_like(product))
    state.history = [*state.history[1 - MEMORY :], (moved, change, rho)]


def _line_search(state: _State, step: Tensor, margin_step: Tensor) -> Tensor:
    """Return how much of the step to go, [n_blocks, n_fits]: Newton's method on the loss along it, which is convex."""
    along, start = state.signs * margin_step, state.signs * state.margins
    own = (state.ridge * step * step).sum(dim=1)
    shared = (state.ridge * state.theta * step).sum(dim=1)
    length = torch.ones_like(own)
    for _ in range(LINE_STEPS):
        wrong = torch.sigmoid(-start - length[:, None] * along)
        pull = state.weights * wrong * along
        slope = shared + length * own - pull.sum(dim=1)
        bend = own + (pull * (1 - wrong) * along).sum(dim=1)
        length = (length - slope / bend.clamp(min=1e-30)).clamp(min=length / 4, max=length * 4)
    return length
