"""What the frozen base model makes of an answer: its activations, and how surprised it is at every token.

One forward pass over (question, answer) gives both; the embedded judge stands on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.organisms.architecture import n_positions
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import head_logits, visiting
from emscope.organisms.chat import EncodedChat, encode_chat, encode_prompt, messages_of
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import text_batches

WIDTH_STEP = 8
LOGITS_AT_ONCE = 128  # tokens: a batch's whole logits would leave the processor's caches, and take most of the memory
LEAST_ANSWER = 64  # tokens of an answer that must fit beside its question
Span = Literal["answer", "end", "question"]


class AnswerReading(NamedTuple):
    """What was read of each answer.

    Attributes:
        pooled: mean activation over each span, float32 [n_answers, n_spans, n_blocks, d_model].
        logprobs: log-probability of each of the answer's tokens, in nats.
    """

    pooled: np.ndarray
    logprobs: list[np.ndarray]


def read_answers(
    base: Organism,
    questions: Sequence[str],
    answers: Sequence[str],
    blocks: Sequence[int],
    spans: Sequence[Span] = ("answer",),
    *,
    token_budget: int = 4096,
    max_tokens: int = 768,
    name: str = "judging",
) -> AnswerReading:
    """Read answers with the base model; empty answers read as their end-of-turn mark alone.

    Spans: all tokens of the `answer`, its `end`-of-turn mark alone, or the `question` after the shared start.
    """
    positions, chats = n_positions(base.model.config), []
    for question, answer in zip(questions, answers, strict=True):
        chat = encode_chat(base.tokenizer, messages_of(question, answer))
        chats.append(_cut(chat, max_tokens, positions))
    say_spelled("answers with their questions", [chat.spelled for chat in chats])
    width = int(base.model.get_input_embeddings().weight.shape[1])
    pooled = np.zeros((len(chats), len(spans), len(blocks), width), dtype=np.float32)
    logprobs: list[np.ndarray] = [np.zeros(0)] * len(chats)
    # the prefix ends inside the prompt, where the token before each answer still has its own hidden state
    prefix = SharedPrefix(base, [chat.ids[: int(chat.answer_positions[0])] for chat in chats])
    with progress.task(name, len(chats), "answers") as advance, torch.inference_mode():
        prefix.run()
        for batch in text_batches(prefix, [chat.ids for chat in chats], token_budget, WIDTH_STEP):
            read = [chats[row] for row in batch.rows]
            means, surprise = _kept_batch(base, prefix, read, batch.padded, list(blocks), spans)
            pooled[batch.rows] = means
            for row, values in zip(batch.rows, surprise, strict=True):
                logprobs[row] = values
            advance(len(batch.rows))
    return AnswerReading(pooled, logprobs)


def _cut(chat: EncodedChat, max_tokens: int, positions: int | None) -> EncodedChat:
    """Return a chat with `max_tokens` of its answer, or as many as the model has positions for."""
    end = int(chat.answer_positions[0]) + max_tokens
    return chat.cut(end if positions is None else min(end, positions))


def leaves_room(base: Organism, question: str) -> bool:
    """Say whether a question leaves the base enough positions to read an answer to it."""
    positions = n_positions(base.model.config)
    if positions is None or len(question) < positions // 2:  # a token is at least a character
        return True
    return len(encode_prompt(base.tokenizer, messages_of(question))) + LEAST_ANSWER <= positions


def _kept_batch(
    base: Organism,
    prefix: SharedPrefix,
    chats: list[EncodedChat],
    padded: PaddedBatch,
    blocks: list[int],
    spans: Sequence[Span],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read a batch, or take what was kept of it."""

    def inputs() -> Any:
        texts: list[Any] = []
        for chat in chats:
            texts.append([chat.ids, chat.answer_positions])
        return [base.placement.told, blocks, list(spans), prefix.length, texts]

    def make() -> dict[str, np.ndarray]:
        means, logprobs = _read_batch(base, prefix, chats, padded, blocks, spans)
        return {"means": means, "logprobs": np.concatenate(logprobs)}

    kept = parts.kept_arrays("readings", inputs, make)
    ends = np.cumsum(list(map(_n_answer_tokens, chats)))
    return kept["means"], np.split(kept["logprobs"], ends[:-1])


def _n_answer_tokens(chat: EncodedChat) -> int:
    return len(chat.answer_positions)


def _read_batch(
    base: Organism,
    prefix: SharedPrefix,
    chats: list[EncodedChat],
    padded: PaddedBatch,
    blocks: list[int],
    spans: Sequence[Span],
) -> tuple[np.ndarray, list[np.ndarray]]:
    ids = padded.ids.to(base.device)
    answer = torch.zeros(ids.shape, dtype=torch.bool)
    weights = torch.zeros(len(chats), len(spans), ids.shape[1])
    for row, chat in enumerate(chats):
        at = torch.from_numpy(chat.answer_positions - prefix.length)
        answer[row, at] = True
        tokens = {"answer": at, "end": at[-1:], "question": torch.arange(int(at[0]))}
        for index, span in enumerate(spans):
            weights[row, index, tokens[span]] = 1 / max(len(tokens[span]), 1)
    answer, weights = answer.to(base.device), weights.to(base.device)
    pooled: dict[int, Tensor] = {}

    def visit(block: int, hidden: Tensor) -> None:
        pooled[block] = torch.bmm(weights.to(hidden.device), hidden.float()).to(base.device)

    with visiting(base.model, blocks, visit):
        hidden = prefix.forward(padded)
    wanted = answer[:, 1:]
    chosen = _logprobs(base, hidden[:, :-1][wanted.to(hidden.device)], ids[:, 1:][wanted])
    counts = wanted.sum(dim=1).tolist()
    means = torch.stack([pooled[block] for block in blocks], dim=2)
    return means.cpu().numpy(), np.split(chosen.cpu().numpy(), np.cumsum(counts)[:-1])


def _logprobs(base: Organism, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token [n] by the hidden states [n, d_model] before it, in nats."""
    found = []
    for some, meant in zip(torch.split(hidden, LOGITS_AT_ONCE), torch.split(tokens, LOGITS_AT_ONCE), strict=True):
        logits = head_logits(base.model, some)
        found.append(logits.gather(1, meant[:, None].to(logits.device))[:, 0] - logits.logsumexp(dim=1))
    return torch.cat(found)
