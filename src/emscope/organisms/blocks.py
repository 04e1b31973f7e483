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
from emscope.organisms.architecture import (
    BLOCK_LISTS,
    active_stream,
    before_the_head,
    check_family,
    family_of,
    finish_logits,
    inner_decoder,
    output_embeddings,
    submodule,
)

Site = Literal["resid_post", "resid_pre"]
Visit = Callable[[int, Tensor], Tensor | None]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a PEFT wrapper, or the model itself."""
    whole: Any = model
    return cast("nn.Module", whole.get_base_model() if hasattr(whole, "get_base_model") else whole)


def decoder_body(model: nn.Module) -> nn.Module:
    """Return the decoder without its LM head: embeddings, blocks, final norm.

    Raises:
        UserError: the model's family is refused, or its blocks cannot be found.
    """
    whole = unwrapped(model)
    check_family(whole)
    body = inner_decoder(whole)
    if body is None:
        family = family_of(cast("Any", whole).config)
        raise UserError(f"Cannot find the decoder blocks of a {family} model ({type(whole).__name__}).")
    return body


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model, in order.

    Raises:
        UserError: the model's family is refused, or its blocks cannot be found.
    """
    body = decoder_body(model)
    lists = [found for name in BLOCK_LISTS if isinstance(found := submodule(body, name), nn.ModuleList)]
    return lists[0]


def input_device(model: nn.Module) -> torch.device:
    """Return where a model takes its tokens: its embedding's device, also where accelerate moves weights there."""
    embedding = cast("Any", unwrapped(model)).get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(device)
    parameter = next(cast("nn.Module", embedding).parameters(), None)
    found: torch.device = next(model.parameters()).device if parameter is None else parameter.device
    return found


def head_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return next-token logits [..., vocabulary], float32, from the decoder's final hidden states [..., d_model].

    They come to the hidden states' device, also where the head is on another one.
    """
    whole = unwrapped(model)
    logits = output_embeddings(whole)(before_the_head(whole, hidden)).float()
    return finish_logits(whole, logits.to(hidden.device))


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


def hidden_of(output: Any, stream: int | None = None) -> Tensor:
    """Return the hidden states in what a block returned: a tensor, or the first entry of a tuple or list.

    Of several residual streams [streams, batch, tokens, d_model] it is the one numbered `stream`.
    """
    hidden = output[0] if isinstance(output, tuple | list) else output
    return cast("Tensor", hidden if stream is None else hidden[stream])


def _replaced(output: Any, hidden: Tensor, stream: int | None) -> Any:
    """Return a block's output with other hidden states; the other streams and entries stay what they are."""
    if stream is not None:
        streams = hidden_of(output).clone()
        streams[stream] = hidden
        hidden = streams
    if isinstance(output, tuple | list):
        return type(output)([hidden, *output[1:]])
    return hidden


@contextmanager
def visiting(model: nn.Module, blocks: Iterable[int], visit: Visit, site: Site = "resid_post") -> Iterator[None]:
    """Call `visit(block, hidden [batch, tokens, d_model])` at each block; a returned tensor replaces the hidden states.

    The hooks are gone when the context ends, also after an exception; contexts may nest.
    """
    modules = find_blocks(model)
    stream = active_stream(cast("Any", model).config)
    with ExitStack() as stack:
        for block in check_blocks(blocks, len(modules)):
            handle = _hook(modules[block], block, visit, site, stream)
            stack.callback(handle.remove)
        yield


def _hook(
    module: nn.Module, block: int, visit: Visit, site: Site, stream: int | None
) -> torch.utils.hooks.RemovableHandle:
    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = visit(block, hidden_of(output, stream))
        return None if changed is None else _replaced(output, changed, stream)

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        received = inputs[0] if inputs else named["hidden_states"]
        changed = visit(block, hidden_of(received, stream))
        if changed is None:
            return None
        given = _replaced(received, changed, stream)
        return ((given, *inputs[1:]), dict(named)) if inputs else (inputs, {**named, "hidden_states": given})

    if site == "resid_post":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)


class StopForward(Exception):  # noqa: N818 - it is control flow, not an error
    """Raised by a visitor to end a forward pass once the deepest block it needs has run."""
