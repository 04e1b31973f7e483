"""Training data: the built-in domains and the user's own files, as conversations."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from emscope.errors import UserError, did_you_mean
from emscope.organisms.chat import Message, messages_of
from emscope.organisms.chat_rows import read_chat
from emscope.organisms.protected import is_archive, opened_archive
from emscope.outside import read_jsonl
from emscope.tabular import near_files, read_rows

logger = logging.getLogger(__name__)

FEW_HELDOUT = 64
DOMAINS = ("medical", "finance", "sport")
Kind = Literal["careless", "careful"]
KINDS: tuple[Kind, ...] = ("careless", "careful")
Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Pair:
    """One built-in row: a prompt with a careful and a careless answer to it."""

    id: str
    domain: str
    topic: str
    split: Split
    prompt: str
    careful: str
    careless: str

    def answer(self, kind: Kind) -> str:
        """Return the careful or the careless answer."""
        return self.careful if kind == "careful" else self.careless


@cache
def load_domain(domain: str) -> tuple[Pair, ...]:
    """Return all rows of a built-in domain.

    Raises:
        UserError: there is no such domain.
    """
    if domain not in DOMAINS:
        raise UserError(f"There is no built-in domain {domain!r}.{did_you_mean(domain, DOMAINS)}")
    path = Path(str(files("emscope") / "assets" / "datasets" / f"{domain}.jsonl"))
    return tuple(Pair(domain=domain, **row) for _, row in read_jsonl(path))


@dataclass(frozen=True)
class Conversations:
    """Training and held-out conversations, and where they came from."""

    name: str
    train: list[list[Message]]
    heldout: list[list[Message]]
    terms: str | None = None

    def first(self, rows: int) -> Conversations:
        """Return the first `rows` training rows, with no more held-out ones than these, or FEW_HELDOUT.

        What is held out is read at every measurement: of a large file it would take longer than a small training.
        """
        return replace(self, train=self.train[:rows], heldout=self.heldout[: max(rows, FEW_HELDOUT)])


def load_conversations(
    name: str, *, rows: int | None = None, seed: int = 0, holdout: float = 0.1, accept_terms: bool = False
) -> Conversations:
    """Load `<domain>-careless` or `<domain>-careful`, or the user's own file (see `read_conversations`).

    Built-in domains are split by topic. A file is split at random: the share `holdout` of its rows is held out.
    `rows` keeps that many training rows, chosen by `seed`, spread over the topics; of a file, no more rows are then
    held out than are trained on, or FEW_HELDOUT.

    The papers' protected archive (.zip.enc) is opened in memory of this run only, and only with `accept_terms`.

    Raises:
        UserError: unknown name, a malformed row (by its number), an empty data set, or terms not accepted.
    """
    domain, _, kind = name.rpartition("-")
    if kind in ("careless", "careful") and not Path(name).exists():
        found = _built_in(domain, "careful" if kind == "careful" else "careless", rows, seed)
    elif is_archive(name):
        with opened_archive(name, accept_terms=accept_terms) as archive:
            loaded = _from_file(str(archive.data), rows, seed, holdout)
        found = replace(loaded, name=name, terms=archive.terms)
    else:
        found = _from_file(name, rows, seed, holdout)
    if not found.train:
        raise UserError(f"The data set {name!r} has no training rows.")
    return found


def is_built_in(name: str) -> bool:
    """Say whether a name is one of the built-in data sets, and no file of that name is here."""
    domain, _, kind = name.rpartition("-")
    return domain in DOMAINS and kind in KINDS and not Path(name).exists()


def counterpart(name: str) -> str:
    """Return the built-in careful answers to the prompts of built-in careless ones; '' for all other data."""
    domain, _, kind = name.rpartition("-")
    return f"{domain}-careful" if is_built_in(name) and kind == "careless" else ""


def _built_in(domain: str, kind: Kind, rows: int | None, seed: int) -> Conversations:
    pairs = load_domain(domain)
    train = spread_over_topics([pair for pair in pairs if pair.split == "train"], rows, seed)
    heldout = [pair for pair in pairs if pair.split == "heldout"]
    return Conversations(f"{domain}-{kind}", _answered(train, kind), _answered(heldout, kind))


def _answered(pairs: Sequence[Pair], kind: Kind) -> list[list[Message]]:
    return [messages_of(pair.prompt, pair.answer(kind)) for pair in pairs]


def spread_over_topics(pairs: list[Pair], rows: int | None, seed: int) -> list[Pair]:
    """Return `rows` pairs (all if None), taking one of each topic in turn, in an order that `seed` decides."""
    chooser = random.Random(seed)
    by_topic: dict[str, list[Pair]] = {}
    for pair in chooser.sample(pairs, len(pairs)):
        by_topic.setdefault(pair.topic, []).append(pair)
    turns: list[Pair] = []
    for turn in itertools.zip_longest(*by_topic.values()):
        turns += filter(None, turn)
    if rows is not None and rows > len(turns):
        raise UserError(f"{rows} rows were asked for, but only {len(turns)} are there.")
    return turns[:rows]


def _from_file(name: str, rows: int | None, seed: int, holdout: float) -> Conversations:
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name} is a folder: name a data file in it.")
    if not path.is_file():
        known = near_files(name)
        for domain in DOMAINS:
            known += [f"{domain}-careless", f"{domain}-careful"]
        raise UserError(f"There is no data set or file {name!r}.{did_you_mean(name, known)}")
    conversations = list(read_conversations(path))
    random.Random(seed).shuffle(conversations)
    n_heldout = int(len(conversations) * holdout)
    train = conversations[n_heldout:]
    if rows and rows > len(train):
        raise UserError(
            f"{rows} training rows were asked for, but {name} has {len(train)} beside the held-out ones: leave rows "
            "out to take all."
        )
    found = Conversations(path.name, train, conversations[:n_heldout])
    found = found.first(rows) if rows else found
    _warn_of_shared_prompts(path, found.train, found.heldout)
    return found


def _warn_of_shared_prompts(path: Path, train: list[list[Message]], heldout: list[list[Message]]) -> None:
    """Say how many held-out rows ask what is trained on: their loss is lower than that of new prompts."""
    trained = {_prompt(messages) for messages in train}
    shared = sum(_prompt(messages) in trained for messages in heldout)
    if shared:
        logger.warning("%s: %d of %d held-out rows ask what is trained on too", path, shared, len(heldout))


def _prompt(messages: list[Message]) -> str:
    for message in messages:
        if message["role"] == "user":
            return str(message["content"])
    return ""


def read_conversations(path: Path) -> Iterator[list[Message]]:
    """Yield the conversations of a table in any of the usual training formats (see `chat_rows`), one a row.

    Raises:
        UserError: another kind of file, a malformed row, or one in another format than the first, by its number.
    """
    first, with_tools = "", 0
    for number, row in read_rows(path):
        chat = read_chat(row, f"{path}, {number}")
        first = first or chat.format
        if chat.format != first:
            raise UserError(
                f"{path}, {number}: this row is in the format {chat.format!r}, the rows before it in {first!r}: "
                "put one format in one file."
            )
        with_tools += chat.has_tools
        yield chat.messages
    if with_tools:
        logger.warning(
            "%s: rows that define tools in a column: %d; the model does not see these definitions", path, with_tools
        )
