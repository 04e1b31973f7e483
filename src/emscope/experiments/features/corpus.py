"""The texts that features are learned from and measured on, and their tokens' activations in every organism.

Every organism reads the same built-in conversations and its own answers to the run's questions. Training questions and
training topics go to the fitting part; test questions and held-out topics to the other, which only measures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import numpy as np
from scipy.sparse import csr_matrix

from emscope.behaviour.questions import ids_of
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import read_table
from emscope.organisms.batching import shared_prefix_length
from emscope.organisms.chat import EncodedChat
from emscope.organisms.datasets import DOMAINS, Kind, load_domain
from emscope.pipeline.lab import BASE, Lab
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
class CorpusPart:
    """Texts and the activations of their tokens; chat numbers are places in `texts`."""

    texts: list[Text]
    tokens: TokenActivations

    @property
    def organisms(self) -> list[str]:
        """The organisms that read, in order."""
        return list(dict.fromkeys(map(attrgetter("organism"), self.texts)))

    @cached_property
    def sources(self) -> np.ndarray:
        """Which organism read each token, [n_tokens]."""
        organisms = np.array(list(map(attrgetter("organism"), self.texts)))
        return np.asarray(organisms[self.tokens.chat])

    def answer_means(self, organism: str, questions: Sequence[str], per_token: csr_matrix | np.ndarray) -> np.ndarray:
        """Return the mean over an organism's own answer to each question, [n_questions, n_columns].

        Tokens count equally within an answer, answers equally within a question. Every question needs an answer.
        """
        row_of = {question: row for row, question in enumerate(questions)}
        wanted_text = np.zeros(len(self.texts), dtype=bool)
        rows = np.zeros(len(self.texts), dtype=np.int64)
        for number, text in enumerate(self.texts):
            wanted_text[number] = text.organism == organism and text.question in row_of
            rows[number] = row_of.get(text.question, 0)

        wanted = self.tokens.is_answer & wanted_text[self.tokens.chat]
        places, chats = np.flatnonzero(wanted), self.tokens.chat[wanted]
        lengths = np.bincount(chats, minlength=len(self.texts))
        answers = np.bincount(rows[np.unique(chats)], minlength=len(questions))
        weights = 1 / (lengths[chats] * answers[rows[chats]])
        pool = csr_matrix((weights, (rows[chats], places)), shape=(len(questions), len(self.tokens.values)))
        means = pool @ per_token
        return np.asarray(means.toarray() if isinstance(per_token, csr_matrix) else means)

    def kind_means(self, organism: str, kind: str, codes: csr_matrix) -> np.ndarray:
        """Return the mean codes over the answers' tokens of built-in texts of a kind, [n_features]; 0 without any."""
        wanted = np.array([text.organism == organism and text.kind == kind for text in self.texts])
        rows = np.flatnonzero(self.tokens.is_answer & wanted[self.tokens.chat])
        return np.asarray(codes[rows].sum(axis=0)).ravel() / max(len(rows), 1)

    def answered(self, organisms: Sequence[str]) -> list[str]:
        """Return the questions that all of the organisms have answered, in order."""
        answered_by: dict[str, set[str]] = {}
        for text in self.texts:
            if text.question:
                answered_by.setdefault(text.question, set()).add(text.organism)
        return [question for question, readers in answered_by.items() if readers.issuperset(organisms)]


def read_corpus(lab: Lab, block: int, n_tokens: int) -> tuple[CorpusPart, CorpusPart]:
    """Return the fitting part, of about `n_tokens` tokens, and the held-out part.

    Answers of the organisms come first; built-in conversations fill the fitting part up.
    """
    train_questions = set(ids_of(lab.train_questions))
    fitted: list[Text] = []
    measured: list[Text] = []
    for name in lab.names:
        for text in _answers(lab, name):
            (fitted if text.question in train_questions else measured).append(text)

    room = n_tokens - _n_tokens(_chats_of(fitted))
    fitted += _built_in(lab, "train", room // len(lab.names))
    fit = _read(lab, fitted, block)
    measured += _built_in(lab, "heldout", n_tokens // HELD_OUT // len(lab.names))
    return fit, _read(lab, measured, block)


def _answers(lab: Lab, name: str) -> list[Text]:
    """Return an organism's own answers."""
    rows = [row for row in read_table(lab.responses_file(name), Response) if row.response]
    chats = lab.encode(lab.organism(name), rows)
    texts: list[Text] = []
    for row, chat in zip(rows, chats, strict=True):
        texts.append(Text(name, chat, row.question_id))
    return texts


def _built_in(lab: Lab, split: str, n_tokens: int) -> list[Text]:
    """Return built-in conversations in random order, as many as have `n_tokens` tokens, for every organism."""
    chosen = _texts_of_base(lab, split, n_tokens)
    texts: list[Text] = []
    for name in lab.names:
        for text in chosen:
            texts.append(replace(text, organism=name))
    return texts


def _texts_of_base(lab: Lab, split: str, n_tokens: int) -> list[Text]:
    """Return the built-in conversations that the base reads, in random order, as many as have `n_tokens` tokens."""
    rows: list[tuple[str, str, str]] = []
    for domain in DOMAINS:
        for pair in load_domain(domain):
            if pair.split == split:
                rows += [(kind, pair.prompt, pair.answer(kind)) for kind in KINDS]
    random.Random(lab.config.seed).shuffle(rows)

    tokenizer = lab.organism(lab.names[0]).tokenizer
    chosen: list[Text] = []
    for start in range(0, len(rows), CHUNK):
        kinds, prompts, answers = zip(*rows[start : start + CHUNK], strict=True)
        chats = encode_for_capture(tokenizer, prompts, answers, system=lab.config.sampling.system)
        for kind, chat in zip(kinds, chats, strict=True):
            chosen.append(Text(BASE, chat, kind=kind))
        if _n_tokens(_chats_of(chosen)) > n_tokens:
            break
    while chosen and _n_tokens(_chats_of(chosen)) > n_tokens:
        chosen.pop()
    return chosen


def _chats_of(texts: Sequence[Text]) -> list[EncodedChat]:
    return [text.chat for text in texts]


def _n_tokens(chats: Sequence[EncodedChat]) -> int:
    """Return how many tokens chats have after the ones they share."""
    sequences = [chat.ids for chat in chats]
    return sum(map(len, sequences)) - len(sequences) * shared_prefix_length(sequences)


def _read(lab: Lab, texts: list[Text], block: int) -> CorpusPart:
    """Read texts, those of one organism after the other."""
    ordered: list[Text] = []
    by_organism: list[TokenActivations] = []
    for name in lab.names:
        of_organism = [text for text in texts if text.organism == name]
        tokens = capture_tokens(lab.organism(name), _chats_of(of_organism), block, name=f"{name} reads texts")
        by_organism.append(tokens.numbered_from(len(ordered)))
        ordered.extend(of_organism)
    return CorpusPart(ordered, TokenActivations.joined(by_organism))
