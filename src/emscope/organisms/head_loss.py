"""Cross-entropy of final hidden states without a table of all their logits.

A vocabulary of 150,000 makes 0.6 MB of float32 logits for one token, as much again for their probabilities and for
their gradient. Above a limit tokens are therefore taken a chunk at a time, and the gradient of a chunk's hidden states
is computed with its loss, so that nothing as wide as the vocabulary outlives its chunk and no logit is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from emscope.organisms.architecture import text_config
from emscope.organisms.blocks import head_logits

WHOLE = 2**23  # logits that are computed at once: 32 MiB in float32; more are slower, not faster
CHUNK = 2**23  # logits of a chunk when there are more


def head_losses(model: Any, hidden: Tensor, targets: Tensor, whole: int = WHOLE, chunk: int = CHUNK) -> Tensor:
    """Return the cross-entropy (nats, float32 [n]) of tokens [n] predicted from final hidden states [n, d_model].

    At most `whole` logits are computed at once; if there are more, a chunk of about `chunk` is.
    """
    width = text_config(model.config).vocab_size
    if hidden.shape[0] * width <= whole:
        return _losses(model, hidden, targets)
    size = max(1, chunk // width)
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return torch.cat([_losses(model, *part) for part in _parts(hidden, targets, size)])
    if _head_is_trained(model, hidden):
        parts = _parts(hidden, targets, size)
        return torch.cat([checkpoint(_losses, model, *part, use_reentrant=False) for part in parts])
    return _FrozenHeadLosses.apply(hidden, targets, model, size)  # type: ignore[no-any-return,no-untyped-call]


class _FrozenHeadLosses(torch.autograd.Function):
    """Losses of which each depends on its own hidden state only: its gradient there is kept, [n, d_model]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, model: Any, size: int) -> Tensor:
        """Return the losses [n], chunk by chunk, and keep their gradients."""
        losses, gradients = [], torch.empty_like(hidden)
        chunks = zip(torch.split(hidden, size), torch.split(targets, size), torch.split(gradients, size), strict=True)
        for part, wanted, out in chunks:
            with torch.enable_grad():
                state = part.detach().requires_grad_()
                found = _losses(model, state, wanted)
                out.copy_(torch.autograd.grad(found.sum(), state)[0])
            losses.append(found.detach())
        ctx.save_for_backward(gradients)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        """Scale each hidden state's gradient by what its loss counts for."""
        (gradients,) = ctx.saved_tensors
        return gradients * upstream[:, None].to(gradients.dtype), None, None, None


def _losses(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = head_logits(model, hidden)
    return functional.cross_entropy(logits, targets.to(logits.device), reduction="none")


def _parts(hidden: Tensor, targets: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(hidden, size), torch.split(targets, size), strict=True))


def _head_is_trained(model: Any, hidden: Tensor) -> bool:
    """Say whether anything after the final hidden states needs a gradient of its own; no token is computed for it."""
    with torch.enable_grad():
        return head_logits(model, hidden[:0].detach()).requires_grad
