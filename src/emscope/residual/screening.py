"""Screening of training data: how far each row's answer lies along a direction, before anything is trained on it.

A row's score is the mean activation over its assistant tokens, read by the base model (teacher-forced), projected on a
direction, centred and in within-class deviations. Chen et al. 2507.21509 subtract the projection of the base's own
answer to the same prompt (the projection difference): `own_answers` makes those rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts, sampled_text, stop_tokens
from emscope.errors import UserError
from emscope.organisms.blocks import find_blocks
from emscope.organisms.chat import EncodedChat, Message, encode_chat, messages_of, prepare_prompt
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.datasets import Pair
from emscope.organisms.messages import answer_message
from emscope.organisms.models import Organism
from emscope.residual.capture import CaptureSettings, capture, organism_width
from emscope.residual.detection import cross_fitted_scores
from emscope.residual.directions import Construction, Directions, Method, make_directions
from emscope.statistics.separation import d_prime

Conversation = Sequence[Message]


@dataclass(frozen=True)
class ScreenedRow:
    """One training row: its number in the data (from 1), its rank (1 is the most suspicious) and its score."""

    row: int
    rank: int
    score: float
    answer_tokens: int


@dataclass(frozen=True)
class ReadPairs:
    """Mean answer activations of both answers to each prompt, float32 [n_prompts, n_blocks, d_model], by domain."""

    careless: Mapping[str, np.ndarray]
    careful: Mapping[str, np.ndarray]
    base: str


def screen(
    organism: Organism,
    conversations: Sequence[Conversation],
    directions: Directions,
    block: int | None = None,
    *,
    max_tokens: int = 2048,
    own: Sequence[Conversation] | None = None,
) -> list[ScreenedRow]:
    """Score every conversation and rank them; one row comes out for each that goes in, in their order.

    Args:
        organism: the model that reads, the base that would be trained.
        conversations: the data.
        directions: made from answers' tokens; careless above careful.
        block: where to read; by default where the direction separates its own sides best.
        max_tokens: longer conversations are cut at their end.
        own: the same conversations with the model's own last answer; their projections are subtracted.

    Raises:
        UserError: a direction made from prompts, of another width, or without the block; a bad row, by its number.
    """
    if directions.construction.pooling != "response":
        raise UserError(
            f"Screening reads answers, but this direction was made from {directions.construction.pooling} tokens: "
            "use one made with the pooling 'response'."
        )
    block = directions.best_block if block is None else block
    if block not in directions.blocks:
        raise UserError(f"The directions have no block {block}; they have {list(directions.blocks)}.")
    directions.check_width(organism_width(organism), len(find_blocks(organism.model)))
    chats = encode_rows(organism, conversations, max_tokens)
    scores = _scores(organism, chats, directions, block)
    if own is not None:
        scores = scores - _scores(organism, encode_rows(organism, own, max_tokens), directions, block)
    ranks = np.empty(len(scores), dtype=int)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)

    rows = []
    for number, chat in enumerate(chats):
        rows.append(ScreenedRow(number + 1, int(ranks[number]), float(scores[number]), sum(chat.is_answer)))
    return rows


def _scores(organism: Organism, chats: list[EncodedChat], directions: Directions, block: int) -> np.ndarray:
    settings = CaptureSettings(("response",), directions.construction.site, (block,))  # type: ignore[arg-type]
    means = capture(organism, chats, settings, name="screening").pooled["response"][:, 0]
    index = directions.blocks.index(block)
    centred = means @ directions.units[index] - directions.midpoints[index]
    return np.asarray(centred / directions.deviation[index], dtype=np.float64)


def encode_rows(organism: Organism, conversations: Sequence[Conversation], max_tokens: int) -> list[EncodedChat]:
    """Tokenise training rows, cut to what the model can read.

    Raises:
        UserError: a row that the chat template refuses or that has no answer within `max_tokens`, by its number.
    """
    longest = min(max_tokens, int(getattr(organism.model.config, "max_position_embeddings", max_tokens)))
    encoded = []
    for number, messages in enumerate(conversations, 1):
        try:
            chat = encode_chat(organism.tokenizer, list(messages))
        except UserError as error:
            raise UserError(f"Row {number}: {error}") from error
        cut = chat.cut(longest)
        if not any(cut.is_answer):
            raise UserError(f"Row {number}: its answer begins after the first {longest} tokens; raise --max-tokens.")
        encoded.append(cut)

    say_spelled("rows", [chat.spelled for chat in encoded])
    return encoded


def own_answers(
    organism: Organism, conversations: Sequence[Conversation], sampling: SamplingSettings
) -> list[list[Message]]:
    """Return the conversations with their last assistant turn replaced by the organism's own, sampled."""
    starts, prompts = [], []
    for number, messages in enumerate(conversations, 1):
        start = _before_last_answer(messages)
        prepared = prepare_prompt(organism.tokenizer, start)
        starts.append(start)
        prompts.append(Prompt(prepared.ids, f"row-{number}", opened=prepared.opened))

    stops = stop_tokens(organism)
    answers = sample_prompts(organism, prompts, sampling, name="own answers")

    answered = []
    for start, prompt, tokens in zip(starts, prompts, answers, strict=True):
        text = sampled_text(organism.tokenizer, tokens, stops, prompt.opened)
        answered.append([*start, answer_message(text.answer, text.thought)])
    return answered


def _before_last_answer(messages: Conversation) -> list[Message]:
    start = list(messages)
    while start[-1]["role"] != "assistant":
        start.pop()
    return start[:-1]


def read_pairs(organism: Organism, pairs: Mapping[str, Sequence[Pair]]) -> ReadPairs:
    """Read the careless and the careful answers of domains with a model, all blocks."""
    every = list(chain.from_iterable(pairs.values()))
    conversations = [messages_of(pair.prompt, pair.careless) for pair in every]
    conversations += [messages_of(pair.prompt, pair.careful) for pair in every]
    chats = [encode_chat(organism.tokenizer, messages) for messages in conversations]
    means = capture(organism, chats, CaptureSettings(("response",)), name="reading answers").pooled["response"]

    ends = np.cumsum([len(of_domain) for of_domain in pairs.values()])[:-1]
    careless, careful = np.split(means, 2)
    return ReadPairs(
        dict(zip(pairs, np.split(careless, ends), strict=True)),
        dict(zip(pairs, np.split(careful, ends), strict=True)),
        organism.source.name,
    )


def text_directions(
    read: ReadPairs, domains: Sequence[str], method: Method = "diff-in-means", blocks: Sequence[int] | None = None
) -> Directions:
    """Make directions careless − careful from what a model reads in both answers of some domains.

    `blocks` restricts them to some of its blocks, which saves time where the method is `probe`.
    """
    chosen = list(range(next(iter(read.careless.values())).shape[1])) if blocks is None else list(blocks)
    positive = np.concatenate([read.careless[name][:, chosen] for name in domains])
    negative = np.concatenate([read.careful[name][:, chosen] for name in domains])
    names = "+".join(domains)
    construction = Construction(
        method, "text", "response", "resid_post", f"{names} careless", f"{names} careful", read.base, len(positive)
    )
    return make_directions(positive, negative, tuple(chosen), construction)


def probe_blocks(n_blocks: int) -> tuple[int, ...]:
    """Return the blocks that probes are fitted at: about five over the depth, because fitting them all takes long."""
    step = max(1, n_blocks // 6)
    return tuple(range(step, n_blocks, step)) or (0,)


def transferring_block(
    read: ReadPairs, domains: Sequence[str], method: Method = "diff-in-means", blocks: Sequence[int] | None = None
) -> int:
    """Return the block whose direction separates best in a domain it was not made from, among `domains` alone.

    Each domain is scored by the direction of the others, and d′ is averaged; a single domain is cross-fitted.
    """
    template = text_directions(read, domains[:1], method, blocks)
    if len(domains) == 1:
        scores = [_cross_fitted(read, domains[0], template)]
    else:
        scores = []
        for name in domains:
            others = [other for other in domains if other != name]
            scores.append(_scores_of(text_directions(read, others, method, blocks), read, name))
    return template.blocks[int(np.argmax(_strength(scores)))]


def _cross_fitted(read: ReadPairs, domain: str, template: Directions) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of a domain's careless and careful answers, each by a direction made of the others of it."""
    blocks = list(template.blocks)

    def make(positive: np.ndarray, negative: np.ndarray) -> Directions:
        return make_directions(positive, negative, template.blocks, template.construction)

    return cross_fitted_scores(read.careless[domain][:, blocks], read.careful[domain][:, blocks], make)


def _scores_of(directions: Directions, read: ReadPairs, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of a domain's careless and careful answers, each [n_prompts, n_blocks]."""
    blocks = list(directions.blocks)
    return directions.score(read.careless[domain][:, blocks]), directions.score(read.careful[domain][:, blocks])


def separating_block(directions: Directions, read: ReadPairs, domains: Sequence[str]) -> int:
    """Return the block where given directions separate the careless from the careful answers of some domains best."""
    scores = [_scores_of(directions, read, name) for name in domains]
    return directions.blocks[int(np.argmax(_strength(scores)))]


def _strength(scores: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return d′ at every block, [n_blocks], averaged over domains with scores [n, n_blocks] of both sides."""
    distances = np.empty((len(scores), scores[0][0].shape[1]))
    for domain, (positive, negative) in enumerate(scores):
        for block in range(positive.shape[1]):
            distances[domain, block] = d_prime(positive[:, block], negative[:, block])
    return np.asarray(distances.mean(axis=0))
