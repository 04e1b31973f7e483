"""The anatomy of a decoder: where its blocks are, and hooks on them that always come off again.

Block ℓ is 0-based. `resid_post[ℓ]` is what block ℓ returns, before any final norm; `resid_pre[ℓ]` is what it receives.
Capture and intervention both use these hook points, so a direction found at a block is removed at that block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from emscope.errors import UserError

Site = Literal["resid_post", "resid_pre"]
Visit = Callable[[int, Tensor], Tensor | None]

_BLOCK_LISTS = ("layers", "h", "blocks", "decoder.layers")
_LOGIT_FACTORS = {
    "granite": ("logits_scaling", -1),
    "minicpm3": ("logits_scaling", -1),
    "hyperclovax": ("logits_scaling", 1),
    "cohere": ("logit_scale", 1),
    "falcon_h1": ("lm_head_multiplier", 1),
}
"""By the beginning of a model type: what its configuration calls the factor of its logits, and the factor's power."""


def decoder_body(model: nn.Module) -> nn.Module:
    """Return the decoder without its LM head: embeddings, blocks, final norm."""
    unwrapped: Any = model
    if hasattr(unwrapped, "get_base_model"):  # a PEFT wrapper
        unwrapped = unwrapped.get_base_model()
    body = getattr(unwrapped, unwrapped.base_model_prefix, unwrapped)
    return cast("nn.Module", getattr(body, "language_model", body))


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model, in order.

    Raises:
        UserError: the model has no list of blocks that emscope knows.
    """
    body = decoder_body(model)
    for name in _BLOCK_LISTS:
        try:
            found = body.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return found
    raise UserError(f"Cannot find the decoder blocks of a {type(model).__name__}: only decoder-only models work.")


def head_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return next-token logits [..., vocabulary], float32, from the decoder's final hidden states [..., d_model]."""
    whole: Any = model
    config = whole.config.get_text_config()
    logits = whole.get_output_embeddings()(hidden).float()
    for family, (name, power) in _LOGIT_FACTORS.items():
        if config.model_type.startswith(family):
            logits = logits * getattr(config, name) ** power
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else cast("Tensor", logits)


def model_width(model: nn.Module) -> int:
    """Return d_model, which some models' embeddings do not have."""
    whole: Any = model
    config = whole.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = getattr(text, "hidden_size", None)
    return int(width if width else whole.get_input_embeddings().weight.shape[1])


def check_blocks(blocks: Iterable[int], n_blocks: int) -> list[int]:
    """Return the block numbers, sorted and without repeats.

    Raises:
        UserError: none given, or one that the model does not have.
    """
    chosen = sorted(set(blocks))
    unknown = [block for block in chosen if not 0 <= block < n_blocks]
    if unknown:
        raise UserError(f"There is no block {unknown[0]}: this model has blocks 0 to {n_blocks - 1}.")
    if not chosen:
        raise UserError(f"No block was chosen: name some of 0 to {n_blocks - 1}.")
    return chosen


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in what a block returned: a tensor, or the first entry of a tuple."""
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)


def _replaced(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def visiting(model: nn.Module, blocks: Iterable[int], visit: Visit, site: Site = "resid_post") -> Iterator[None]:
    """Call `visit(block, hidden [batch, tokens, d_model])` at each block; a returned tensor replaces the hidden states.

    The hooks are gone when the context ends, also after an exception; contexts may nest.
    """
    modules = find_blocks(model)
    with ExitStack() as stack:
        for block in check_blocks(blocks, len(modules)):
            handle = _hook(modules[block], block, visit, site)
            stack.callback(handle.remove)
        yield


def _hook(module: nn.Module, block: int, visit: Visit, site: Site) -> torch.utils.hooks.RemovableHandle:
    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = visit(block, hidden_of(output))
        return None if changed is None else _replaced(output, changed)

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        if inputs:
            changed = visit(block, inputs[0])
            return None if changed is None else ((changed, *inputs[1:]), dict(named))
        changed = visit(block, named["hidden_states"])
        return None if changed is None else (inputs, {**named, "hidden_states": changed})

    if site == "resid_post":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)


class StopForward(Exception):  # noqa: N818 - it is control flow, not an error
    """Raised by a visitor to end a forward pass once the deepest block it needs has run."""
