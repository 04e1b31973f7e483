"""The texts that features are learned from and measured on, and their tokens' activations in every organism.

Every organism reads the same built-in conversations and its own answers to the run's questions. Training questions and
training topics go to the fitting part; test questions and held-out topics to the other, which only measures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from emscope.behaviour.responses import Response
from emscope.behaviour.tables import read_table
from emscope.organisms.batching import shared_prefix_length
from emscope.organisms.chat import EncodedChat
from emscope.organisms.datasets import DOMAINS, Kind, load_domain
from emscope.pipeline.lab import Lab
from emscope.residual.capture import encode_for_capture
from emscope.residual.features.tokens import TokenActivations, capture_tokens

CHUNK = 16  # conversations tokenised at a time
KINDS: tuple[Kind, ...] = ("careful", "careless")
HELD_OUT = 8  # the held-out part has one token of built-in text for this many tokens of the fitting part


@dataclass(frozen=True)
class Text:
    """A conversation that an organism reads: its own answer to a `question`, or a built-in one of a `kind`."""

    organism: str
    chat: EncodedChat
    question: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Part:
    """Texts and the activations of their tokens; chat numbers are places in `texts`."""

    texts: list[Text]
    tokens: TokenActivations

    @cached_property
    def sources(self) -> np.ndarray:
        """Which organism read each token, [n_tokens]."""
        return np.asarray(np.array([text.organism for text in self.texts])[self.tokens.chat])

    def answer_means(self, organism: str, questions: Sequence[str], per_token: csr_matrix | np.ndarray) -> np.ndarray:
        """Return the mean over an organism's own answer to each question, [n_questions, n_columns].

        Tokens count equally within an answer, answers equally within a question. Every question needs an answer.
        """
        row_of = {question: row for row, question in enumerate(questions)}
        own = [text.organism == organism and text.question in row_of for text in self.texts]
        wanted = self.tokens.is_answer & np.array(own)[self.tokens.chat]
        places, chats = np.flatnonzero(wanted), self.tokens.chat[wanted]
        lengths = np.bincount(chats, minlength=len(self.texts))
        rows = np.array([row_of.get(text.question, 0) for text in self.texts])
        answers = np.bincount(rows[np.unique(chats)], minlength=len(questions))
        weights = 1 / (lengths[chats] * answers[rows[chats]])
        pool = csr_matrix((weights, (rows[chats], places)), shape=(len(questions), len(self.tokens.values)))
        means = pool @ per_token
        return np.asarray(means.toarray() if isinstance(per_token, csr_matrix) else means)

    def kind_means(self, organism: str, kind: str, codes: csr_matrix) -> np.ndarray:
        """Return the mean codes over the answers' tokens of built-in texts of a kind, [n_features]; 0 without any."""
        own = np.array([text.organism == organism and text.kind == kind for text in self.texts])
        rows = np.flatnonzero(self.tokens.is_answer & own[self.tokens.chat])
        return np.asarray(codes[rows].sum(axis=0)).ravel() / max(len(rows), 1)

    def answered(self, organisms: Sequence[str]) -> list[str]:
        """Return the questions that all of the organisms have answered, in order."""
        sides = [{text.question for text in self.texts if text.organism == name} for name in organisms]
        first = dict.fromkeys(text.question for text in self.texts if text.question)
        return [question for question in first if all(question in side for side in sides)]


def read_corpus(lab: Lab, block: int, n_tokens: int) -> tuple[Part, Part]:
    """Return the fitting part, of about `n_tokens` tokens, and the held-out part.

    Own answers come first; built-in conversations fill the fitting part up.
    """
    train = {question.id for question in lab.train_questions}
    texts = [text for name in lab.names for text in _own(lab, name)]
    fitted, measured = ([text for text in texts if (text.question in train) is side] for side in (True, False))
    room = n_tokens - _n_tokens([text.chat for text in fitted])
    parts = []
    for own, split, tokens in ((fitted, "train", room), (measured, "heldout", n_tokens // HELD_OUT)):
        chosen = _built_in(lab, split, tokens // len(lab.names))
        given = [Text(name, chat, kind=kind) for name in lab.names for kind, chat in chosen]
        parts.append(_read(lab, [*own, *given], block))
    return parts[0], parts[1]


def _own(lab: Lab, name: str) -> Iterator[Text]:
    rows = read_table(lab.folder.path("responses", f"{name}.parquet"), Response)
    kept = [row for row in rows if row.response]
    chats = lab.encode(lab.organism(name), kept)
    return (Text(name, chat, row.question_id) for row, chat in zip(kept, chats, strict=True))


def _built_in(lab: Lab, split: str, n_tokens: int) -> list[tuple[str, EncodedChat]]:
    """Return built-in conversations with their kind, in random order, as many as have `n_tokens` tokens in all."""
    pairs = [pair for domain in DOMAINS for pair in load_domain(domain) if pair.split == split]
    rows = [(kind, pair.prompt, pair.answer(kind)) for pair in pairs for kind in KINDS]
    random.Random(lab.config.seed).shuffle(rows)
    tokenizer = lab.organism(lab.names[0]).tokenizer
    chosen: list[tuple[str, EncodedChat]] = []
    for start in range(0, len(rows), CHUNK):
        kinds, prompts, answers = zip(*rows[start : start + CHUNK], strict=True)
        chats = encode_for_capture(tokenizer, prompts, answers, system=lab.config.sampling.system)
        chosen.extend(zip(kinds, chats, strict=True))
        if _n_tokens([chat for _, chat in chosen]) > n_tokens:
            break
    while chosen and _n_tokens([chat for _, chat in chosen]) > n_tokens:
        chosen.pop()
    return chosen


def _n_tokens(chats: Sequence[EncodedChat]) -> int:
    """Return how many tokens chats have after the ones they share."""
    return sum(len(chat.ids) for chat in chats) - len(chats) * shared_prefix_length([chat.ids for chat in chats])


def _read(lab: Lab, texts: list[Text], block: int) -> Part:
    """Read texts, those of one organism after the other."""
    ordered: list[Text] = []
    parts: list[TokenActivations] = []
    for name in lab.names:
        own = [text for text in texts if text.organism == name]
        found = capture_tokens(lab.organism(name), [text.chat for text in own], block, name=f"{name} reads texts")
        parts.append(TokenActivations(found.values, found.ids, found.chat + len(ordered), found.is_answer))
        ordered.extend(own)
    fields = ("values", "ids", "chat", "is_answer")
    return Part(ordered, TokenActivations(*(np.concatenate([getattr(part, key) for part in parts]) for key in fields)))
