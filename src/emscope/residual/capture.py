"""Pooled residual-stream activations of every block in one forward pass.

No LM head, no autograd; the forward pass is emscope's own where the family allows (`organisms/direct.py`); batches fill
a token budget, on a CPU one that its caches hold; the prefix that all sequences share (the chat template's system
prompt) runs once and its keys and values are reused; pooling happens inside the hook, in float32; each batch crosses
to the host once. It knows nothing of questions, judges or directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.checks import at_least
from emscope.errors import UserError
from emscope.organisms.architecture import model_width
from emscope.organisms.blocks import Site, StopForward, check_blocks, find_blocks, visiting
from emscope.organisms.chat import EncodedChat, encode_chat, messages_of, prepare_prompt
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.device import OnEachDevice
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import TextBatch, text_batches, token_ids, worth_packing
from emscope.organisms.token_positions import prompts_end_at

Pooling = Literal["last", "prompt", "response", "thought"]
POOLINGS: tuple[Pooling, ...] = ("last", "prompt", "response", "thought")
WIDTH_STEP = 4  # tails of short questions are about 20 tokens long: rounding to 16 would pad a third


@dataclass(frozen=True)
class CaptureSettings:
    """What to read and how much at a time.

    Attributes:
        poolings: which tokens make one vector: the last prompt token, the prompt's mean, the answer's mean (without its
            thought), the thought's mean.
        site: resid_post (a block's output) or resid_pre (its input).
        blocks: blocks to read, kept in rising order without repeats; none given means all.
        token_budget: padded tokens in one forward pass.
        share_prefix: run the tokens common to all sequences once.
    """

    poolings: tuple[Pooling, ...] = ("last",)
    site: Site = "resid_post"
    blocks: tuple[int, ...] = ()
    token_budget: int = 4096
    share_prefix: bool = True

    def __post_init__(self) -> None:
        """Refuse unknown names; put the blocks in the order in which they are read."""
        object.__setattr__(self, "blocks", tuple(sorted({*self.blocks})))
        unknown = set(self.poolings) - set(POOLINGS)
        if unknown or not self.poolings:
            raise UserError(f"Poolings are {', '.join(POOLINGS)}; found {', '.join(sorted(unknown)) or 'none'}.")
        if self.site not in ("resid_post", "resid_pre"):
            raise UserError(f"The site is resid_post or resid_pre, not {self.site!r}.")
        at_least(1, token_budget=self.token_budget)


@dataclass(frozen=True)
class Activations:
    """Pooled activations: for each pooling a float32 array [n_examples, n_blocks, d_model]."""

    pooled: dict[str, np.ndarray]
    blocks: tuple[int, ...]
    site: Site


def encode_for_capture(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    system: str | Sequence[str | None] | None = None,
    *,
    thoughts: Sequence[str] | None = None,
    enable_thinking: bool | None = None,
) -> list[EncodedChat]:
    """Tokenise prompts, or prompts with answers, for reading.

    Args:
        tokenizer: the model's.
        prompts: what was asked.
        answers: what was answered; None reads the prompts alone.
        system: one system prompt for all, or one for each.
        thoughts: what was thought before each answer, '' for nothing.
        enable_thinking: tells the chat template to let the model think or not.
    """
    systems = [system] * len(prompts) if system is None or isinstance(system, str) else system
    if answers is None:
        asked = []
        for prompt, its_system in zip(prompts, systems, strict=True):
            asked.append(prepare_prompt(tokenizer, messages_of(prompt, system=its_system), enable_thinking))
        say_spelled("prompts", [prompt.spelled for prompt in asked])
        return [EncodedChat(prompt.ids, [False] * len(prompt.ids), spelled=prompt.spelled) for prompt in asked]
    rows = zip(prompts, answers, systems, thoughts or [""] * len(prompts), strict=True)
    chats = [encode_chat(tokenizer, messages_of(*row), enable_thinking) for row in rows]
    say_spelled("answers with their questions", [chat.spelled for chat in chats])
    return chats


_NEEDED = {"response": "answers", "thought": "thoughts"}


def pooling_weights(chat: EncodedChat, poolings: Sequence[Pooling]) -> np.ndarray:
    """Return the weight of each token in each pooled vector, float32 [n_poolings, n_tokens]; each row sums to 1.

    Raises:
        UserError: a `response` of a sequence without an answer, or a `thought` of one without a thought.
    """
    weights = np.zeros((len(poolings), len(chat.ids)), dtype=np.float32)
    answer = chat.response_positions
    thought = chat.thought_positions[:0] if chat.empty_thought else chat.thought_positions
    n_prompt = prompt_length(chat)
    for row, pooling in enumerate(poolings):
        if pooling == "last":
            weights[row, n_prompt - 1] = 1
        elif pooling == "prompt":
            weights[row, :n_prompt] = 1 / n_prompt
        elif pooling == "thought" and len(thought):
            weights[row, thought] = 1 / len(thought)
        elif pooling == "response" and len(answer):
            weights[row, answer] = 1 / len(answer)
        else:
            raise UserError(f"The pooling {pooling!r} needs {_NEEDED[pooling]}, but a sequence has none.")
    return weights


def prompt_length(chat: EncodedChat) -> int:
    """Return how many tokens come before the answer, all of them where there is none."""
    spoken = chat.answer_positions
    return int(spoken[0]) if len(spoken) else len(chat.ids)


def capture(
    organism: Organism, chats: Sequence[EncodedChat], settings: CaptureSettings, *, name: str = "reading activations"
) -> Activations:
    """Read the pooled activations of tokenised chats, in their order.

    Raises:
        UserError: no chats, an unknown block, or activations that are not finite.
    """
    n_blocks = len(find_blocks(organism.model))
    blocks = check_blocks(settings.blocks or range(n_blocks), n_blocks)
    out = np.empty((len(chats), len(settings.poolings), len(blocks), organism_width(organism)), dtype=np.float32)
    for batch, pooled_batch in read_batches(organism, chats, settings, name=name, keep=True):
        out[batch] = pooled_batch
    pooled: dict[str, np.ndarray] = {
        pooling: np.ascontiguousarray(out[:, index]) for index, pooling in enumerate(settings.poolings)
    }
    return Activations(pooled, tuple(blocks), settings.site)


def read_batches(
    organism: Organism,
    chats: Sequence[EncodedChat],
    settings: CaptureSettings,
    *,
    name: str = "reading activations",
    keep: bool = False,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield row numbers and their pooled activations, float32 [rows, n_poolings, n_blocks, d_model], batch by batch.

    With `keep` a batch that was read before a stop is not read again (see `parts`), at the cost of its room on disk.

    Raises:
        UserError: no chats, an unknown block, or activations that are not finite.
    """
    if not chats:
        raise UserError("There is nothing to read activations from: no prompts were given.")
    n_blocks = len(find_blocks(organism.model))
    blocks = check_blocks(settings.blocks or range(n_blocks), n_blocks)
    weights = [pooling_weights(chat, settings.poolings) for chat in chats]
    with progress.task(name, len(chats), "examples") as advance:
        with torch.inference_mode():
            reader = _Reader(organism, blocks, settings, chats)

        sequences = token_ids(chats)
        for batch in text_batches(reader.prefix, sequences, settings.token_budget, WIDTH_STEP):
            with torch.inference_mode():  # not around the yield: it would be in force where the batch is used
                pooled = _kept(reader, batch, sequences, weights) if keep else reader.read(batch, weights)
            _check_finite(pooled, blocks, organism)
            yield batch.rows, pooled
            advance(len(batch.rows))


def _kept(
    reader: _Reader, batch: TextBatch, sequences: Sequence[list[int]], weights: Sequence[np.ndarray]
) -> np.ndarray:
    """Read a batch, or take what an earlier, stopped attempt kept of it."""

    def inputs() -> Any:
        texts, pooled_by = [], []
        for row in batch.rows:
            texts.append(sequences[row])
            pooled_by.append(weights[row])
        return [reader.organism.placement.told, reader.site, reader.blocks, reader.shared, texts, pooled_by]

    return parts.kept_array("activations", inputs, lambda: reader.read(batch, weights))


def organism_width(organism: Organism) -> int:
    """Return d_model, which some models' embeddings do not have."""
    return model_width(organism.model)


def _check_finite(out: np.ndarray, blocks: list[int], organism: Organism) -> None:
    bad = ~np.isfinite(out).all(axis=(1, 3))
    if bad.any():
        block = blocks[int(np.flatnonzero(bad.any(axis=0))[0])]
        raise UserError(
            f"The activations of {organism.source.name} are not finite from block {block} on ({int(bad.any(1).sum())} "
            "examples): the weights are damaged, or the dtype overflows; try --dtype float32."
        )


class _Reader:
    """Pools batches of sequences that share their first tokens."""

    def __init__(
        self, organism: Organism, blocks: list[int], settings: CaptureSettings, chats: Sequence[EncodedChat]
    ) -> None:
        self.organism, self.blocks, self.site = organism, blocks, settings.site
        sequences = token_ids(chats)
        pack = worth_packing(sequences)
        self.prefix = SharedPrefix(organism, sequences, share=settings.share_prefix, pack=pack)
        self.shared = self.prefix.length
        self.prompt_lengths = [prompt_length(chat) for chat in chats]
        seen: dict[int, Tensor] = {}
        note = lambda block, hidden: seen.update({block: hidden[0].float()})  # noqa: E731
        with visiting(organism.model, blocks, note, self.site), prompts_end_at([min(self.prompt_lengths)]):
            self.prefix.run()
        if self.shared:
            home = organism.device  # a block may be on another device
            self.prefix_hidden = torch.stack([seen[block].to(home) for block in blocks])  # [n_blocks, shared, d_model]

    def read(self, batch: TextBatch, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Return pooled activations, float32 [rows, n_poolings, n_blocks, d_model]; `weights` are of all chats."""
        width = batch.padded.ids.shape[1]
        table = np.zeros((len(batch.rows), weights[0].shape[0], self.shared + width), dtype=np.float32)
        for place, row in enumerate(batch.rows):
            table[place, :, : weights[row].shape[1]] = weights[row]
        home = self.organism.device
        token_weights = torch.from_numpy(table).to(home)
        of_tails = OnEachDevice(token_weights[:, :, self.shared :])
        pooled: dict[int, Tensor] = {}

        def visit(block: int, hidden: Tensor) -> None:
            pooled[block] = torch.bmm(of_tails.on(hidden.device), hidden.float())
            if block == self.blocks[-1]:
                raise StopForward

        # StopForward comes when every block that was asked for has been read
        ends = [self.prompt_lengths[row] for row in batch.rows]
        with visiting(self.organism.model, self.blocks, visit, self.site), suppress(StopForward), prompts_end_at(ends):
            self.prefix.forward(batch.padded)
        result = torch.stack([pooled[block].to(home) for block in self.blocks], dim=2)
        if self.shared:
            result += torch.einsum("rpt,btd->rpbd", token_weights[:, :, : self.shared], self.prefix_hidden)
        return result.cpu().numpy()
