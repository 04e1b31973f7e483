"""Misalignment from LoRA weights alone: a bank of organisms, a classifier tested on domains left out, LoRA scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emscope import parts
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.checks import at_least
from emscope.errors import UserError
from emscope.experiments.adapters.figures import (
    bank_figures,
    block_figures,
    classification_figures,
    direction_figures,
    outside_scores,
    scalar_figures,
)
from emscope.experiments.shape import experiment_stage
from emscope.organisms.bank import MANIFEST, RECIPES, BankSettings, make_bank
from emscope.organisms.bank_members import Member, read_bank
from emscope.organisms.card import exact_base
from emscope.organisms.chat import EncodedChat
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.datasets import DOMAINS
from emscope.organisms.models import resolve
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, MISALIGNED, WHOLE_MODEL, Lab
from emscope.residual.adapters.features import AdapterFeatures, extract, read_geometry
from emscope.residual.adapters.inputs import token_scalars
from emscope.residual.adapters.reading import kind_of, open_adapter
from emscope.residual.adapters.scalars import probe_scalars, readers
from emscope.residual.directions import Directions
from emscope.statistics import COHERENT_ABOVE, is_em

MIN_ANSWERS = 10  # of each kind, for a probe of scalars to mean anything


@dataclass(frozen=True)
class AdaptersSettings:
    """How the bank is made and its adapters are told apart.

    Attributes:
        domains: built-in domains of the bank.
        recipes: recipes of the bank (organisms.bank.RECIPES).
        seeds: seeds of each recipe.
        save_every: keep a checkpoint of each organism every this many steps; 0 keeps none.
        heldout_rows: held-out prompts of each domain on which the leaning of a finished organism is measured.
        top: leading singular vectors of each base weight.
        texts: base answers over which the base's mean inputs are read.
        penalty: penalty of the classifier, on features whose kernel is near 1 for an adapter with itself.
        permutations: most relabellings for the null; all are taken where there are no more than that.
        scalars: also probe the misaligned organism's LoRA scalars.
        aligned_above: coherent answers above this alignment are what the scalars tell EM responses from.
        seed: makes the figures repeatable.
    """

    domains: tuple[str, ...] = DOMAINS
    recipes: tuple[str, ...] = tuple(RECIPES)
    seeds: tuple[int, ...] = (0, 1)
    save_every: int = 0
    heldout_rows: int = 8
    top: int = 16
    texts: int = 64
    penalty: float = 0.01
    permutations: int = 200
    scalars: bool = True
    aligned_above: float = 50.0
    seed: int = 0

    @property
    def bank(self) -> BankSettings:
        """What the bank holds."""
        return BankSettings(self.domains, self.recipes, self.seeds, self.save_every, self.heldout_rows)


def bank_folder(lab: Lab) -> Path:
    """Return where a run keeps its bank."""
    return lab.folder.path("bank")


def make_run_bank(lab: Lab, settings: AdaptersSettings, minutes: float = 0) -> int:
    """Make the organisms of the bank that are missing; returns how many still are after `minutes` (0: no limit)."""
    return make_bank(lab.trainable_base(), bank_folder(lab), settings.bank, minutes=minutes)


def measure(lab: Lab, settings: AdaptersSettings) -> dict[str, Any]:
    """Make what is missing of the bank, then tell its organisms apart; figures in experiments/adapters.json."""
    _check_control(lab)
    at_least(0, permutations=settings.permutations)
    make_run_bank(lab, settings)
    folder = lab.folder
    own = [folder.path("organisms", name, ADAPTER_WEIGHTS) for name in lab.names[1:]]
    inputs = [
        bank_folder(lab) / MANIFEST,
        *own,
        _directions_file(lab),
        folder.path("responses", f"{BASE}.parquet"),
        folder.path("judgements", f"{MISALIGNED}.parquet"),
    ]
    return experiment_stage(
        lab, "adapters", dict[str, Any], settings, inputs, lambda: find_adapters(lab, settings), figures=2
    )


def find_adapters(lab: Lab, settings: AdaptersSettings) -> dict[str, Any]:
    """Return the figures of the experiment from a bank that is there (docs/adapters.md lists the keys)."""
    members = complete_pairs(read_bank(bank_folder(lab)))
    own = [lab.folder.path("organisms", name) for name in lab.names[1:]]
    features = bank_features(lab, settings, members, own)
    direction = Directions.load(_directions_file(lab))
    classified = partial(
        classification_figures, features, members, settings.penalty, settings.permutations, settings.seed
    )
    found = {
        "bank": bank_figures(members),
        "classification": parts.kept_value("classification", lambda: None, classified),
        "by_block": block_figures(features, members, settings.penalty),
        "known_direction": {
            "made_on": lab.config.misaligned_data,
            "construction": direction.construction.contrast,
            **direction_figures(features, members),
        },
        "run": outside_scores(features, members, list(lab.names[1:]), trained_on(lab), settings.penalty),
    }
    return {**found, "scalars": scalars_of(lab, settings) if settings.scalars else None}


def complete_pairs(members: Sequence[Member]) -> list[Member]:
    """Return the members whose counterpart is there too.

    Raises:
        UserError: there is none.
    """
    kinds: dict[str, set[bool]] = {}
    for member in members:
        kinds.setdefault(member.pair, set()).add(member.careless)
    found = [member for member in members if len(kinds[member.pair]) == 2]
    if not found:
        raise UserError("The bank holds no careless organism with its careful counterpart: `emscope adapters bank`.")
    return found


def bank_features(
    lab: Lab, settings: AdaptersSettings, members: Sequence[Member], others: Sequence[Path]
) -> AdapterFeatures:
    """Return the features of the bank's adapters, followed by those of other adapters on the same base.

    Raises:
        UserError: an adapter for another base, or of another shape.
    """
    adapters = [open_adapter(member.folder, member.name) for member in members]
    adapters += [open_adapter(folder, str(folder)) for folder in others]
    for adapter in adapters:
        if exact_base(resolve(adapter.base)) != exact_base(lab.base_source):
            raise UserError(
                f"The adapter {adapter.name} is for {adapter.base}, but the run's base is {lab.config.model}."
            )
    modules = list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
    chats = _base_answers(lab, settings.texts)
    geometry = read_geometry(lab.organism(BASE), chats, modules, settings.top)
    known = Directions.load(_directions_file(lab))
    control = Directions.load(_directions_file(lab, "-random"))
    return extract(adapters, geometry, {"direction": known, "random direction": control})


def inspect_adapters(lab: Lab, settings: AdaptersSettings, adapters: Sequence[Path]) -> dict[str, Any]:
    """Return, for adapters somebody hands in, the log-odds of being careless by each kind of features, and all of it.

    Keys as in `outside_scores`; the classifiers are fitted on the whole bank.

    Raises:
        UserError: no bank, or an adapter that is not a LoRA adapter of the run's base.
    """
    _check_control(lab)
    members = complete_pairs(read_bank(bank_folder(lab)))
    features = bank_features(lab, settings, members, adapters)
    return outside_scores(features, members, [str(path) for path in adapters], None, settings.penalty)


def scalars_of(lab: Lab, settings: AdaptersSettings) -> dict[str, Any]:
    """Return how well the LoRA scalars of the misaligned organism tell its EM responses from its aligned answers."""
    rows = read_table(lab.folder.path("judgements", f"{MISALIGNED}.parquet"), JudgedResponse)
    labels = [_kind(row, settings.aligned_above) for row in rows]
    chosen = [index for index, label in enumerate(labels) if label is not None and rows[index].response.strip()]
    kept = np.array([int(bool(labels[index])) for index in chosen])
    if min(kept.sum(), (1 - kept).sum()) < MIN_ANSWERS:
        return scalar_figures(None, kept)
    organism = lab.organism(MISALIGNED)
    chats = lab.encode(organism, [rows[index] for index in chosen])
    adapter = open_adapter(lab.folder.path("organisms", MISALIGNED))
    updates = {module: update for module in adapter.modules if (update := adapter.update(module)) is not None}
    groups = [rows[index].group for index in chosen]
    kinds = {"all": list(updates), "down_proj": [module for module in updates if kind_of(module) == "down_proj"]}
    scalars = token_scalars(organism, chats, readers(updates))
    try:
        found = {
            name: probe_scalars(scalars.of(modules), kept, groups, seed=settings.seed)
            for name, modules in kinds.items()
            if modules
        }
    except UserError:  # the answers are of too few questions; the rest of the experiment does not need them
        return scalar_figures(None, kept)
    return scalar_figures(found, kept)


def trained_on(lab: Lab) -> str | None:
    """Return the built-in domain that the run's misaligned organism was trained on, None if it was another data set."""
    domain = lab.config.misaligned_data.rpartition("-")[0]
    return domain if domain in DOMAINS else None


def _kind(row: JudgedResponse, aligned_above: float) -> bool | None:
    """Return True for an EM response, False for an aligned coherent answer, None for what lies between."""
    if is_em(row.judgement) == 1:
        return True
    if row.aligned is None or row.coherent is None:
        return None
    return False if row.aligned > aligned_above and row.coherent > COHERENT_ABOVE else None


def _base_answers(lab: Lab, n: int) -> list[EncodedChat]:
    """Return the base's own answers to training questions, tokenised."""
    questions = {question.id for question in lab.train_questions}
    rows = read_table(lab.folder.path("responses", f"{BASE}.parquet"), Response)
    chosen = [row for row in rows if row.question_id in questions and row.response.strip()][:n]
    return lab.encode(lab.organism(BASE), chosen)


def _directions_file(lab: Lab, control: str = "") -> Path:
    return lab.folder.path("directions", f"control-{CORRECTING}{control}.safetensors")


def _check_control(lab: Lab) -> None:
    if CONTROL not in lab.names:
        raise UserError("Telling careless from careful adapters needs a run with a control organism.")
    for name in lab.names[1:]:
        if lab.folder.path("organisms", name, WHOLE_MODEL).is_file():
            raise UserError(
                f"The {name} organism of this run is a whole model: there is no adapter whose weights to read."
            )
