"""How far an intervention moves a model: the KL divergence of its next-token distributions, in nats a token.

The same answers are put to both models (teacher forcing), so one pass measures every token. Strengths at different
blocks, of different directions or on different models are comparable at equal divergence, not at equal length of the
vector. Final hidden states are kept, never distributions: logits exist for a few hundred tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts
from emscope.errors import UserError
from emscope.interventions.operators import Intervention, applied, told_of
from emscope.organisms.blocks import head_logits
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import Organism, finite_logits
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import text_batches
from emscope.organisms.token_positions import prompts_end_at
from emscope.statistics import Estimate, bootstrap_questions

LOGITS_AT_A_TIME = 1 << 23  # 32 MB in float32


class ForcedText:
    """Answers that models are made to read, batched once for every pass over them.

    `where` holds, while a batch is in a model, the batch rows and the positions in them whose next token belongs to an
    answer, and `answers` those of the answers' tokens themselves, in the same order; hooks may use both. They are None
    while the prefix that all chats share is computed.
    """

    def __init__(self, chats: Sequence[EncodedChat], groups: Sequence[str], token_budget: int = 4096) -> None:
        """Take tokenised chats and the question of each.

        Raises:
            UserError: no chats, or one without an answer.
        """
        if not chats or any(not len(chat.answer_positions) for chat in chats):
            raise UserError("A KL divergence needs answers to measure it on, and found none.")
        self.chats, self.groups = list(chats), tuple(groups)
        # a shared prefix is looked for in the prompts alone: the token that predicts an answer's first stays out of it
        self.beginnings = [chat.ids[: int(chat.answer_positions[0])] for chat in self.chats]
        self.sizes = np.array([len(chat.answer_positions) for chat in self.chats])
        self.token_budget = token_budget
        self.where: tuple[Tensor, Tensor] | None = None
        self.answers: tuple[Tensor, Tensor] | None = None

    def states(self, organism: Organism) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, the chat of each predicted token and the final hidden states [n_tokens, d_model]."""
        prefix = SharedPrefix(organism, self.beginnings)
        self.where = self.answers = None
        with prompts_end_at([prefix.length]):
            prefix.run()

        for batch in text_batches(prefix, [chat.ids for chat in self.chats], self.token_budget):
            predictors, prompt_lengths = [], []
            for row in batch.rows:
                predictors.append(self.chats[row].answer_positions - 1 - prefix.length)
                prompt_lengths.append(len(self.beginnings[row]))
            sizes = self.sizes[batch.rows]
            rows = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(organism.device)
            before = torch.from_numpy(np.concatenate(predictors)).to(organism.device)
            self.where, self.answers = (rows, before), (rows, before + 1)
            with prompts_end_at(prompt_lengths):
                hidden = prefix.forward(batch.padded)
            yield np.repeat(batch.rows, sizes).tolist(), hidden[rows.to(hidden.device), before.to(hidden.device)]
        self.where = self.answers = None


@dataclass(frozen=True)
class Disturbance:
    """A divergence on some answers: nats summed over each answer's tokens, and how many tokens these are.

    Attributes:
        nats: float64 [n_answers].
        tokens: int64 [n_answers].
        groups: the question of each answer.
    """

    nats: np.ndarray
    tokens: np.ndarray
    groups: tuple[str, ...]

    @property
    def per_token(self) -> float:
        """Mean over tokens, in nats."""
        return float(self.nats.sum() / self.tokens.sum())

    def estimate(self, seed: int = 0) -> Estimate:
        """Return the mean over tokens with its interval from resampling questions; `n` counts answers."""
        low, high = bootstrap_questions(
            self.groups, lambda weights: np.asarray((weights @ self.nats) / (weights @ self.tokens)), seed
        )
        return Estimate(self.per_token, low, high, len(self.nats))


class Undisturbed:
    """A model without interventions, read once on answers of its own: what every divergence is measured from."""

    def __init__(self, organism: Organism, text: ForcedText) -> None:
        self.organism, self.text = organism, text
        with torch.inference_mode():
            self._read = list(text.states(organism))

    def divergence(self, intervention: Intervention | None = None, other: Organism | None = None) -> Disturbance:
        """Return KL(undisturbed ‖ disturbed) of the next token, at every answer token.

        Disturbed is this model under the intervention, or `other`, a model with the same vocabulary, if it is given.
        """
        return self.divergences([intervention], other)[0]

    def divergences(
        self, interventions: Sequence[Intervention | None], other: Organism | None = None
    ) -> list[Disturbance]:
        """Return the divergence of each intervention; the undisturbed distributions are computed once for all."""
        organism = other or self.organism

        def inputs() -> Any:
            texts = [[chat.ids, chat.answer_positions] for chat in self.text.chats]
            told = list(map(told_of, interventions))
            return [organism.placement.told, other is None, texts, self.text.token_budget, told]

        nats = parts.kept_array("divergences", inputs, lambda: self._nats_of_each(organism, interventions))
        return [Disturbance(row, self.text.sizes, self.text.groups) for row in nats]

    def _nats_of_each(self, organism: Organism, interventions: Sequence[Intervention | None]) -> np.ndarray:
        """Return the nats of each intervention on each answer, float64 [n_interventions, n_answers]."""
        nats = np.zeros((len(interventions), len(self.text.chats)))
        with torch.inference_mode():
            disturbed: list[list[Tensor]] = [[] for _ in self._read]  # by batch those of each intervention
            for intervention in interventions:
                with applied(organism, intervention):
                    for batch, (_, states) in enumerate(self.text.states(organism)):
                        disturbed[batch].append(states)
            for (chats, undisturbed), states_of_each in zip(self._read, disturbed, strict=True):
                nats_of_tokens = self._nats(undisturbed, organism, states_of_each)
                for row, tokens in zip(nats, nats_of_tokens, strict=True):
                    np.add.at(row, chats, tokens)
        return nats

    def _nats(self, undisturbed: Tensor, organism: Organism, disturbed: Sequence[Tensor]) -> np.ndarray:
        """Return the divergence at each token, float64 [n_disturbed, n_tokens]."""
        step = max(1, LOGITS_AT_A_TIME // vocabulary_size(organism.model))
        some_tokens = []
        for start in range(0, len(undisturbed), step):
            logits = finite_logits(self.organism, undisturbed[start : start + step])
            weights = logits.softmax(dim=-1)
            best = expected_log_probability(weights, logits)
            nats = []
            for states in disturbed:
                other_logits = head_logits(organism.model, states[start : start + step])
                nats.append(best - expected_log_probability(weights, other_logits.to(logits.device)))
            some_tokens.append(torch.stack(nats).cpu().double().numpy())
        return np.concatenate(some_tokens, axis=1)


def expected_log_probability(weights: Tensor, logits: Tensor) -> Tensor:
    """Return Σ p log q for each row, p the weights and q the softmax of the logits [rows, vocabulary], in nats."""
    expected: Tensor = torch.linalg.vecdot(weights, logits)
    return expected - logits.logsumexp(dim=-1)


def vocabulary_size(model: Any) -> int:
    """Return how many logits the model's head gives."""
    return int(model.get_output_embeddings().weight.shape[0])
