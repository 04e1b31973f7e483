"""Interventions in vLLM's own copy of a model, through vllm-lens.

The same code computes them as under transformers, on the residual stream of one request at a time, so every kind acts
exactly: those along directions, and functions that vLLM's workers can be sent. (vllm-lens's own steering vectors are
not used: it adds them in the model's number format to one half of the stream.) Before answers count, a short text is
read by vLLM with and without the intervention, and the change is compared with transformers'; afterwards the tokens
that each hook saw are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from emscope import parts
from emscope.behaviour.vllm_backend import VllmEngine
from emscope.behaviour.vllm_check import (
    Agreement,
    check,
    check_prompt,
    check_text,
    compare,
    log_probabilities,
    reference_organism,
)
from emscope.behaviour.vllm_lens import BlockCalls, Read, Watch, check_seen, layers_of
from emscope.errors import UserError
from emscope.interventions.operators import (
    AlongDirections,
    Change,
    Custom,
    Intervention,
    applied,
    as_intervention,
    changed_by,
    described,
    does_nothing,
    told_of,
)
from emscope.organisms.architecture import active_stream
from emscope.organisms.blocks import check_blocks
from emscope.organisms.models import ModelSource
from emscope.organisms.token_positions import ForwardPass, prompts_end_at


@dataclass(frozen=True)
class StreamHook:
    """What a worker of vLLM calls at a block: an intervention on the tokens of one request.

    Attributes:
        intervention: what is done.
        ahead: 1 where it acts on what the next block is given, else 0.
        prompt: tokens of the prompt; None takes all tokens of the request's first call.
    """

    intervention: Intervention
    ahead: int = 0
    prompt: int | None = None

    def __call__(self, context: Any, hidden: Tensor) -> Tensor | None:
        """Return the hidden states [tokens, d_model] as they are to be; None where none is changed.

        It raises nothing: vllm-lens would go on without it.
        """
        before = Watch.enter(context, hidden)
        try:
            current = ForwardPass()
            current.places = torch.arange(before, before + len(hidden), device=hidden.device)[None]
            end = context.saved[Watch.FIRST] if self.prompt is None else self.prompt
            current.ends = torch.tensor([[end]], device=hidden.device)
            changed = changed_by(self.intervention, context.layer_idx + self.ahead, hidden[None], current)
            return None if changed is None else changed[0]
        except Exception as error:
            Watch.failed(context, error)
            return None


@contextmanager
def applied_in_vllm(
    engine: VllmEngine,
    intervention: Intervention | Change | None,
    *,
    sources: Sequence[ModelSource] | None = None,
    blocks: Sequence[int] | None = None,
) -> Iterator[dict[ModelSource, Agreement]]:
    """Have an intervention act on all that a vLLM engine samples inside this context, proven for each source.

    Yields how far vLLM and transformers agree on its change, for each source; at strength 0 nothing is done and nothing
    compared.

    Args:
        engine: an engine that was made with hooks.
        intervention: an intervention, or a function (block, hidden [1, tokens, d_model]) → hidden of the same shape;
            None changes nothing.
        sources: the engine's sources that are to be sampled; None means all.
        blocks: where a function is called; None is at every block.

    Raises:
        UserError: it does not fit the model, vLLM cannot be sent it, or does not run it as transformers does.
    """
    asked = list(engine.agreements) if sources is None else list(sources)
    chosen = None if intervention is None else _fitting(engine, intervention, blocks)
    if chosen is None or does_nothing(chosen):
        yield {}
        return
    proofs = {source: _proven(engine, source, chosen) for source in asked}
    with _in_force(engine, chosen, asked, None):
        yield proofs


def _fitting(engine: VllmEngine, intervention: Intervention | Change, blocks: Sequence[int] | None) -> Intervention:
    """Return the intervention, fit for the engine's model and to be sent to its workers.

    Raises:
        UserError: directions of another width, a block that the model does not have, or several residual streams.
    """
    config = engine.model_config
    if active_stream(config) is not None:
        raise UserError(
            f"vLLM cannot run an intervention on a {config.model_type} model, which has several residual streams: use "
            "--backend transformers."
        )
    n_blocks = engine.n_blocks
    chosen = as_intervention(intervention, n_blocks, blocks)
    if isinstance(chosen, AlongDirections):
        chosen.directions.check_width(engine.width, n_blocks)
    check_blocks(chosen.blocks, n_blocks)
    return chosen


@contextmanager
def _in_force(
    engine: VllmEngine, intervention: Intervention, sources: Sequence[ModelSource], prompt: int | None
) -> Iterator[None]:
    layers, first = layers_of(intervention.blocks, intervention.site)
    ahead = 1 if intervention.site == "resid_pre" else 0
    # a copy, without the tensors that an intervention keeps in this process
    sent = replace(intervention) if isinstance(intervention, (AlongDirections, Custom)) else intervention
    calls = BlockCalls(StreamHook(sent, ahead, prompt), layers, StreamHook(sent, 0, prompt) if first else None)
    whole = prompt is None and intervention.positions in ("prompt", "answer")
    seen = partial(_check_seen, _named(intervention), layers, first, whole)
    with engine.hooked(calls, parts.sha256_of(told_of(intervention)), seen, sources):
        yield


def _check_seen(what: str, layers: Sequence[int], first: bool, whole: bool, read: Read) -> None:
    check_seen(what, read, layers, first, whole_prompt=whole)


def _proven(engine: VllmEngine, source: ModelSource, intervention: Intervention) -> Agreement:
    """Compare what an intervention changes in vLLM with what it changes in transformers.

    Raises:
        UserError: it does not act, or not as in transformers, or the engine's number format cannot tell.
    """
    tokenizer = engine.tokenizer_of(source)
    ids, n_prompt = check_text(tokenizer), len(check_prompt(tokenizer))
    plain = engine.log_probabilities(source, ids)
    with _in_force(engine, intervention, [source], n_prompt):
        changed = engine.log_probabilities(source, ids)
    agreement = compare(changed, plain, _expected(engine, source, intervention, ids, n_prompt))
    check(source, agreement, engine.dtype, change=_named(intervention))
    return agreement


def _expected(
    engine: VllmEngine, source: ModelSource, intervention: Intervention, ids: list[int], n_prompt: int
) -> tuple[Tensor, Tensor] | None:
    """Return transformers' log-probabilities without and with an intervention; None where the model does not fit."""
    organism = reference_organism(source, engine.trusts_remote_code)
    if organism is None:
        return None
    plain = log_probabilities(organism.model, ids)
    with applied(organism, intervention), prompts_end_at([n_prompt]):
        return plain, log_probabilities(organism.model, ids)


def _named(intervention: Intervention) -> str:
    return f"the intervention {described(intervention)!r}"
