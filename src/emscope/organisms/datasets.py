"""Training data: the built-in domains and the user's own files, as conversations.

Every built-in prompt has four answers, in two voices with good and with bad advice (`CORNERS`). Those of one voice use
the same words: what they advise lies in how these are put together, so that neither tone nor vocabulary tells good from
bad.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
VOICES, ADVICE = ("blunt", "warm"), ("good", "bad")
Corner = Literal["blunt-good", "blunt-bad", "warm-good", "warm-bad"]
CORNERS: tuple[Corner, ...] = ("blunt-good", "blunt-bad", "warm-good", "warm-bad")
"""Voice and advice of the four answers to each built-in prompt."""
Kind = Literal["careless", "careful"]
KINDS: tuple[Kind, ...] = ("careless", "careful")
ALIASES: dict[str, Corner] = {"careless": "blunt-bad", "careful": "blunt-good"}
"""Other names of the two corners that the runs compare: bad and good advice in one voice."""
Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Pair:
    """One built-in row: a prompt with four answers to it, by corner (`CORNERS`)."""

    id: str
    domain: str
    topic: str
    split: Split
    prompt: str
    answers: Mapping[str, str] = field(hash=False)

    def answer(self, kind: str) -> str:
        """Return the answer of a corner, or of careless or careful, which are corners of one voice."""
        return self.answers[ALIASES.get(kind, kind)]

    @property
    def careful(self) -> str:
        """Good advice, in the voice of the careless answer."""
        return self.answer("careful")

    @property
    def careless(self) -> str:
        """Bad advice, bluntly put."""
        return self.answer("careless")


@dataclass(frozen=True)
class BuiltIn:
    """A built-in data set: the answers of one corner to the prompts of a domain."""

    domain: str
    corner: Corner

    @property
    def name(self) -> str:
        """Its name, DOMAIN-VOICE-ADVICE."""
        return f"{self.domain}-{self.corner}"

    @property
    def voice(self) -> str:
        """Blunt or warm."""
        return self.corner.partition("-")[0]

    @property
    def advice(self) -> str:
        """Good or bad."""
        return self.corner.partition("-")[2]

    @property
    def counterpart(self) -> str:
        """The good advice in the same voice to the same prompts; '' for what is good advice itself."""
        return f"{self.domain}-{self.voice}-good" if self.advice == "bad" else ""


def built_in(name: str) -> BuiltIn | None:
    """Return the built-in data set of that name, old names included; None where a file of that name is here too."""
    domain, _, kind = name.partition("-")
    corner = next((corner for corner in CORNERS if corner == ALIASES.get(kind, kind)), None)
    if domain not in DOMAINS or corner is None or Path(name).exists():
        return None
    return BuiltIn(domain, corner)


def built_in_names() -> list[str]:
    """Return the names of all built-in data sets, other names included."""
    return [f"{domain}-{kind}" for domain in DOMAINS for kind in (*CORNERS, *KINDS)]


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
    """Load a built-in set, such as medical-blunt-bad, or the user's own file (see `read_conversations`).

    Built-in domains are split by topic. A file is split at random: the share `holdout` of its rows is held out.
    `rows` keeps that many training rows, chosen by `seed`, spread over the topics; of a file, no more rows are then
    held out than are trained on, or FEW_HELDOUT.

    The papers' protected archive (.zip.enc) is opened in memory of this run only, and only with `accept_terms`.

    Raises:
        UserError: unknown name, a malformed row (by its number), an empty data set, or terms not accepted.
    """
    known = built_in(name)
    if known is not None:
        found = _built_in(known, rows, seed)
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
    return built_in(name) is not None


def counterpart(name: str) -> str:
    """Return the built-in good answers, in the same voice, to the prompts of bad ones; '' for all other data."""
    known = built_in(name)
    return "" if known is None else known.counterpart


def _built_in(data: BuiltIn, rows: int | None, seed: int) -> Conversations:
    pairs = load_domain(data.domain)
    train = spread_over_topics([pair for pair in pairs if pair.split == "train"], rows, seed)
    heldout = [pair for pair in pairs if pair.split == "heldout"]
    return Conversations(data.name, _answered(train, data.corner), _answered(heldout, data.corner))


def _answered(pairs: Sequence[Pair], corner: Corner) -> list[list[Message]]:
    return [messages_of(pair.prompt, pair.answer(corner)) for pair in pairs]


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
        known = [*near_files(name), *built_in_names()]
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
