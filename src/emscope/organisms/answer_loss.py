"""The training loss: cross-entropy of the answers' tokens, with as little arithmetic as that needs.

Logits are computed where an answer's token is predicted and nowhere else, and the tokens that all rows of a batch begin
with (the chat template's system prompt) run once: their keys and values serve every row, and gradients flow through
them. Both leave the loss and its gradient what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from emscope.organisms.architecture import longest_sequence, takes_a_prefix
from emscope.organisms.batching import MIN_SHARED
from emscope.organisms.blocks import decoder_body
from emscope.organisms.cache import cache_argument, can_share_prefix, repeat_rows
from emscope.organisms.chat import IGNORED
from emscope.organisms.head_loss import head_losses
from emscope.organisms.packed_blocks import WIDEST, PackedBlocks
from emscope.organisms.packed_rows import PackedRows


def answer_loss(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    *,
    share_prefix: bool = True,
    packed: PackedBlocks | None = None,
) -> tuple[Tensor, int]:
    """Return the summed cross-entropy (nats) of the labelled tokens [rows, tokens] and their number.

    Rows are padded on the right. `share_prefix` runs common first tokens once, which is exact only without dropout.
    `packed` are the model's blocks as `packed_model` prepares them, which compute the same in less time.
    """
    if packed is not None and ids.shape[1] <= WIDEST:
        rows = PackedRows.of(ids, mask, labels, _shared_untrained(ids, mask, labels), packed.heads)
        losses = head_losses(model, packed.hidden_of_predicting(rows), rows.targets)
        return losses.sum(), len(losses)
    losses, trained = _token_losses(model, ids, mask, labels, share_prefix)
    return losses.sum(), int(trained.sum())


def row_losses(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) of each row's labelled tokens, float32 [rows]; padded on the right."""
    with torch.inference_mode():
        losses, trained = _token_losses(model, ids, mask, labels, share_prefix=True)
    table = torch.zeros(trained.shape, device=losses.device).masked_scatter(trained.to(losses.device), losses)
    return table.sum(dim=1) / trained.to(losses.device).sum(dim=1)


def _token_losses(model: Any, ids: Tensor, mask: Tensor, labels: Tensor, share_prefix: bool) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of the labelled tokens, row by row, [n_labelled], and where they are predicted."""
    cache = DynamicCache(config=model.config)
    limit = longest_sequence(model.config)
    can_share = share_prefix and takes_a_prefix(model.config) and can_share_prefix(cache)
    can_share = can_share and (limit is None or ids.shape[1] <= limit)
    shared = _shared_untrained(ids, mask, labels) if can_share else 0
    hidden = _hidden(model, ids, mask, shared, cache)[:, :-1]
    targets = labels[:, shared + 1 :]
    trained = targets != IGNORED
    wanted = hidden[trained.to(hidden.device)]
    return head_losses(model, wanted, targets[trained]), trained


def _hidden(model: Any, ids: Tensor, mask: Tensor, shared: int, cache: DynamicCache) -> Tensor:
    """Return the final hidden states [rows, tokens - shared, d_model] of what follows the shared tokens."""
    body = decoder_body(model)
    if not shared:
        return body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
    body(input_ids=ids[:1, :shared], use_cache=True, **cache_argument(body, cache))
    repeat_rows(cache, len(ids))
    tail = ids[:, shared:]
    positions = torch.arange(shared, ids.shape[1], device=ids.device).expand(len(ids), -1)
    outputs = body(
        input_ids=tail, attention_mask=mask, position_ids=positions, use_cache=True, **cache_argument(body, cache)
    )
    return outputs.last_hidden_state  # type: ignore[no-any-return]


def _shared_untrained(ids: Tensor, mask: Tensor, labels: Tensor) -> int:
    """Return how many first tokens all rows share, none of them needed to predict a trained token."""
    same = (ids == ids[:1]).all(dim=0) & mask.bool().all(dim=0)
    needed = torch.zeros_like(same)
    needed[:-1] = (labels[:, 1:] != IGNORED).any(dim=0)
    shared = int((same & ~needed).long().cumprod(dim=0).sum())
    return shared if len(ids) > 1 and shared >= MIN_SHARED else 0
