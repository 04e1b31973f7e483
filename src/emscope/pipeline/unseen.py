"""Organisms on which a run's detection is tried, and which its directions are never made from.

A direction is used on models that had no part in it, so that is how it is scored: on organisms of another domain, seed
and recipe, misaligned ones and harmless fine-tunes that sound the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from emscope.organisms.datasets import DOMAINS, VOICES, BuiltIn, built_in, load_conversations
from emscope.pipeline.config import AUTO, RunConfig
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import Lab
from emscope.pipeline.steps import in_shards
from emscope.pipeline.training import adapter_files, train_stage
from emscope.residual.capture import CaptureSettings
from emscope.residual.sharded import TextToRead, captured_in_shards
from emscope.residual.store import ActivationStore

UNSEEN_ROWS = 96
"""Training rows of a built-in organism that detection is tried on."""
OTHER_SEED = 1000
"""Added to the run's seed: other rows, another order and other first values."""


@dataclass(frozen=True)
class UnseenOrganism:
    """An organism that no direction of the run is made from.

    Attributes:
        name: its name in the run.
        data: what it is made of, or the adapter or model that it is.
        misaligned: whether it is misaligned, by what it was made of.
    """

    name: str
    data: str
    misaligned: bool

    @property
    def voice(self) -> str:
        """The voice of the built-in data it is made of; '' for others."""
        known = built_in(self.data)
        return "" if known is None else known.voice


def unseen_organisms(config: RunConfig) -> list[UnseenOrganism]:
    """Return the organisms on which a run tries its detection, misaligned ones first."""
    found: list[UnseenOrganism] = []
    taken: set[str] = set()
    for misaligned, listed in ((True, config.unseen_misaligned), (False, config.unseen_harmless)):
        for data in _said(listed, config, misaligned):
            name = _name(data, taken)
            taken.add(name)
            found.append(UnseenOrganism(f"unseen/{name}", data, misaligned))
    return found


def _said(listed: Sequence[str], config: RunConfig, misaligned: bool) -> list[str]:
    """Return the data that are listed; auto stands for built-in ones, and for none beside data of one's own."""
    data: list[str] = []
    for item in listed:
        data += _automatic(config, misaligned) if item == AUTO else [item]
    return data


def _automatic(config: RunConfig, misaligned: bool) -> list[str]:
    """Return another domain in both voices; of the harmless ones also the run's own domain in the other voice."""
    own = built_in(config.misaligned_data)
    if own is None or own.advice != "bad":
        return []
    other = DOMAINS[(DOMAINS.index(own.domain) + 1) % len(DOMAINS)]
    data = [f"{other}-{voice}-{'bad' if misaligned else 'good'}" for voice in VOICES]
    return data if misaligned else [*data, in_other_voice(own)]


def in_other_voice(data: BuiltIn) -> str:
    """Return the good advice to the same prompts in the other voice."""
    return f"{data.domain}-{next(voice for voice in VOICES if voice != data.voice)}-good"


def _name(data: str, taken: set[str]) -> str:
    """Return a name for a file or folder name, one that is not taken."""
    plain = re.sub(r"[^\w.-]+", "-", Path(data).name).strip("-.") or "organism"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def unseen_config(config: RunConfig, data: str) -> RunConfig:
    """Return how an unseen organism is trained: half the rank, twice the learning rate, few rows, another seed."""
    seed, train = config.seed + OTHER_SEED, config.train
    other = replace(
        train, seed=seed, rank=max(1, train.rank // 2), alpha=train.alpha / 2, learning_rate=2 * train.learning_rate
    )
    if built_in(data) is None:
        return replace(config, rows=0, seed=seed, train=other)
    available = len(load_conversations(data).train)
    return replace(config, rows=min(UNSEEN_ROWS, config.rows or available, available), seed=seed, train=other)


def train_unseen(lab: Lab, organism: UnseenOrganism) -> None:
    """Train an unseen organism, or take over what was trained elsewhere."""
    config = lab.config if is_trained_elsewhere(organism.data) else unseen_config(lab.config, organism.data)
    train_stage(Lab(config, lab.folder), organism.name, organism.data)


def prompts_file(lab: Lab, organism: UnseenOrganism) -> Path:
    """Return where the activations of an unseen organism's prompts are kept."""
    return lab.activation_files(organism.name)[0]


def read_unseen(lab: Lab, organism: UnseenOrganism) -> None:
    """Store the last prompt token of every question, as an unseen organism reads it."""
    out = prompts_file(lab, organism)
    questions = lab.questions

    def make() -> None:
        found = captured_in_shards(
            lab.need(organism.name),
            [TextToRead(question.text, system=lab.config.sampling.system) for question in questions],
            CaptureSettings(("last",)),
            enable_thinking=lab.config.sampling.enable_thinking,
            rows_per_shard=lab.config.rows_per_shard,
            name=f"reading {organism.name}",
            held=lab.held,
        )
        ActivationStore(organism.name, tuple(question.id for question in questions), found).save(out)
        lab.release(organism.name)

    settings = {"model": lab.config.model, "questions": [asdict(question) for question in questions]}
    inputs = adapter_files(lab, organism.name)
    lab.folder.stage(f"read-{organism.name}", in_shards(lab, settings), inputs, [out], make)
