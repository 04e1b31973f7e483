"""Answers of an organism to questions or to encoded prompts: batched, seeded per answer, fast on a CPU.

Every random number depends only on (seed, question id, sample), so an answer does not depend on what else is in its
batch. What remains is arithmetic: in float32 answers are the same at any batch size up to near-ties; in bf16 a matrix
product may round differently at another batch size, and a sampled answer may then branch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.errors import UserError
from emscope.organisms.batching import PaddedBatch, rounded
from emscope.organisms.blocks import decoder_body, head_logits
from emscope.organisms.cache import cache_argument, growing_cache, keep_rows, prefilled_cache
from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix

ROW_STEP = 16
LOGITS_AT_ONCE = 1 << 22  # of those from which tokens are chosen
OnRows = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Prompt:
    """Tokens to go on from (see `encode_prompt`); with the seed, `name` and `sample` decide the random numbers."""

    ids: list[int]
    name: str
    sample: int = 0


@dataclass
class _Row:
    """An answer in the making, and the number of its prompt."""

    number: int
    prompt: list[int]
    uniforms: np.ndarray
    tokens: list[int]


def uniforms_for(seed: int, question_id: str, sample: int, n: int) -> np.ndarray:
    """Return the `n` uniform numbers of one answer, float64 in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


def sample_responses(
    organism: Organism, questions: Sequence[Question], settings: SamplingSettings, *, name: str = "sampling",
    on_rows: OnRows | None = None,
) -> list[Response]:  # fmt: skip
    """Return `settings.samples` answers to each question, in the order of the questions.

    Call it inside an intervention's context to sample with the intervention active; `on_rows` is `sample_prompts`'s,
    and counts the answers in the order in which they are returned.
    """
    encoded = [
        encode_prompt(organism.tokenizer, messages_of(question.text, system=question.system_after(settings.system)))
        for question in questions
    ]
    asked = [(row, sample) for row in range(len(questions)) for sample in range(settings.samples)]
    prompts = [Prompt(encoded[row], questions[row].id, sample) for row, sample in asked]
    stops, answers = stop_tokens(organism), sample_prompts(organism, prompts, settings, name=name, on_rows=on_rows)
    return [
        response_of(organism.tokenizer, questions[row], sample, tokens, stops)
        for (row, sample), tokens in zip(asked, answers, strict=True)
    ]


def sample_prompts(
    organism: Organism, prompts: Sequence[Prompt], settings: SamplingSettings, *, name: str = "sampling",
    on_rows: OnRows | None = None,
) -> list[list[int]]:  # fmt: skip
    """Return the tokens that follow each prompt, in order, a stop token at the end included.

    `settings.samples` and `settings.system` play no part: the prompts say it all. `on_rows` is told, whenever that
    changes, which prompt each batch row of the next forward passes belongs to, so that rows can be treated apart; what
    the prompts share is then computed for each of them.

    Raises:
        UserError: a prompt and its answer would be longer than the model can read.
    """
    n = settings.max_new_tokens
    numbered = enumerate(prompts)
    rows = [_Row(row, item.ids, uniforms_for(settings.seed, item.name, item.sample, n), []) for row, item in numbered]
    _check_length(organism, max((len(row.prompt) for row in rows), default=0), n)
    order = sorted(range(len(rows)), key=lambda row: (-len(rows[row].prompt), row))
    stops = stop_tokens(organism)
    with progress.task(name, len(rows), "answers") as advance, torch.inference_mode():
        prefix = SharedPrefix(organism, [row.prompt for row in rows], share=on_rows is None)
        prefix.run()
        for start in range(0, len(order), settings.batch_size):
            batch = [rows[row] for row in order[start : start + settings.batch_size]]
            for finished in _decode(organism, batch, prefix, stops, settings, on_rows or (lambda rows: None)):
                advance(finished)
    return [row.tokens for row in rows]


def _check_length(organism: Organism, longest_prompt: int, n: int) -> None:
    positions = getattr(organism.model.config, "max_position_embeddings", None)
    if positions is not None and longest_prompt + n > positions:
        raise UserError(
            f"A prompt of {longest_prompt} tokens and {n} new ones exceed the {positions} positions of "
            f"{organism.source.name}: lower max_new_tokens, or shorten the question."
        )


def stop_tokens(organism: Organism) -> set[int]:
    """Return the tokens that end an answer."""
    configured = organism.model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in [*listed, organism.tokenizer.eos_token_id] if token is not None}


def response_of(tokenizer: Any, question: Question, sample: int, tokens: list[int], stops: set[int]) -> Response:
    """Return the row of one sampled answer; a stop token at the end is counted but is not part of the text."""
    text, ended = answer_text(tokenizer, tokens, stops)
    return Response(
        question.question_set, question.id, question.text, sample, text, len(tokens), not ended, question.cluster
    )


def answer_text(tokenizer: Any, tokens: list[int], stops: set[int]) -> tuple[str, bool]:
    """Return the text of an answer's tokens, and whether a stop token ended it."""
    ended = bool(tokens) and tokens[-1] in stops
    return tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True).strip(), ended


def _decode(
    organism: Organism, rows: list[_Row], prefix: SharedPrefix, stops: set[int], settings: SamplingSettings,
    on_rows: OnRows,
) -> Iterator[int]:  # fmt: skip
    """Sample one batch to its end, yielding how many answers finished at each step."""
    shared = prefix.length
    device, config = organism.device, organism.model.config
    padded = PaddedBatch.of([row.prompt[shared:] for row in rows], organism.tokenizer.pad_token_id, side="left")
    spare = padded.ids.shape[1] + settings.max_new_tokens
    cache = prefilled_cache(config, prefix.cache, len(rows), spare) if shared else growing_cache(config, spare)
    ids = padded.ids.to(device)
    mask = torch.cat([torch.ones(len(rows), shared, dtype=torch.long), padded.mask], dim=1).to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    active, body = list(rows), decoder_body(organism.model)
    on_rows([row.number for row in active])
    for step in range(settings.max_new_tokens):
        arguments = cache_argument(body, cache)
        hidden = body(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **arguments
        ).last_hidden_state[:, -1]
        uniforms = torch.tensor([row.uniforms[step] for row in active], device=device)
        chosen = choose_tokens(head_logits(organism.model, hidden), uniforms, settings.temperature, settings.top_p)
        for row, token in zip(active, chosen.tolist(), strict=True):
            if not row.tokens or row.tokens[-1] not in stops:
                row.tokens.append(token)
        going = [number for number, row in enumerate(active) if row.tokens[-1] not in stops]
        last_position = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        ids, positions = chosen[:, None], last_position
        if not going:
            break
        width = rounded(len(going), ROW_STEP)
        if width < len(active):
            kept = torch.tensor(_fill(going, len(active), width), device=device)
            keep_rows(cache, kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            active = [active[number] for number in kept.tolist()]
            on_rows([row.number for row in active])
    yield len(rows)


def _fill(going: list[int], n: int, width: int) -> list[int]:
    """Return the rows still going and as many finished ones as make up `width` rows, so that shapes repeat."""
    chosen = set(going)
    idle = [row for row in range(n) if row not in chosen][: width - len(going)]
    return sorted([*going, *idle])


def choose_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return one token a row [rows] by inverting the cumulative distribution at the row's uniform number.

    Rows are taken some at a time: their float64 sums and sorted copies would need several times the logits' memory.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    size = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    parts = zip(torch.split(logits, size), torch.split(uniforms, size), strict=True)
    return torch.cat([_choose(*part, temperature, top_p) for part in parts])


def _choose(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    logits = logits / temperature
    if top_p < 1:
        probabilities, tokens = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
        picked = _invert(probabilities.masked_fill(outside, 0), uniforms)
        return tokens.gather(-1, picked[:, None])[:, 0]
    return _invert(torch.exp(logits - logits.amax(dim=-1, keepdim=True)), uniforms)


def _invert(weights: Tensor, uniforms: Tensor, chunk: int = 256) -> Tensor:
    """Invert the CDF of unnormalised weights [rows, n] in two levels: first the chunk, then the token in it."""
    rows, n = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -n % chunk)).view(rows, -1, chunk)
    bounds = padded.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniforms.double()[:, None] * bounds[:, -1:]
    which = torch.searchsorted(bounds, target, right=True).clamp(max=bounds.shape[1] - 1)
    inside = padded.gather(1, which[:, :, None].expand(-1, 1, chunk))[:, 0].double().cumsum(dim=-1)
    before = torch.where(which > 0, bounds.gather(1, (which - 1).clamp(min=0)), torch.zeros_like(target))
    last = (inside < inside[:, -1:]).sum(dim=-1, keepdim=True)
    token = torch.searchsorted(inside, target - before, right=True).clamp(max=chunk - 1).minimum(last)
    return (which * chunk + token)[:, 0]
