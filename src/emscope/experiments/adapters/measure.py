"""The adapters experiment: organisms of a bank told apart by LoRA weights alone, on domains and recipes left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emscope import parts
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import read_table
from emscope.checks import at_least
from emscope.errors import UserError
from emscope.experiments.adapters.accuracy import along_direction, bank_figures, by_block, classify, score_adapters
from emscope.experiments.adapters.result import AdapterScores, AdaptersResult, KnownDirection, LeftOut
from emscope.experiments.adapters.scalars import probe_run
from emscope.experiments.openings import side_by_side
from emscope.experiments.shape import experiment_stage
from emscope.organisms.bank import MANIFEST, RECIPES, BankSettings, make_bank
from emscope.organisms.bank_members import Member, read_bank
from emscope.organisms.card import exact_base
from emscope.organisms.chat import EncodedChat
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.datasets import DOMAINS, built_in
from emscope.organisms.models import resolve
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, MISALIGNED, WHOLE_MODEL, Lab
from emscope.plain import fitted, plain
from emscope.residual.adapters.features import AdapterFeatures, extract, read_geometry
from emscope.residual.adapters.reading import open_adapter

DIRECTION, RANDOM_DIRECTION = "direction", "random direction"
"""Kinds of features: an update along the run's direction, and along a random one."""


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
        seed: makes the figures repeatable; not said, the run's.
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
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        at_least(0, permutations=self.permutations)

    @property
    def bank(self) -> BankSettings:
        """What the bank holds."""
        return BankSettings(self.domains, self.recipes, self.seeds, self.save_every, self.heldout_rows)


def measure(lab: Lab, settings: AdaptersSettings) -> AdaptersResult:
    """Make what is missing of the bank, then tell its organisms apart; figures in experiments/adapters.json.

    Raises:
        UserError: the run has no control organism, or a whole model for an organism.
    """
    check_run(lab)
    make_run_bank(lab, settings)

    inputs = [bank_folder(lab) / MANIFEST]
    inputs += [lab.folder.path("organisms", name, ADAPTER_WEIGHTS) for name in lab.names[1:]]
    inputs += [lab.direction_file(f"{CONTROL}-{CORRECTING}"), lab.responses_file(BASE), lab.judgements_file(MISALIGNED)]
    return experiment_stage(
        lab, "adapters", AdaptersResult, settings, inputs, partial(tell_apart, lab, settings), figures=2
    )


def check_run(lab: Lab) -> None:
    """Refuse a run that has no two adapters to tell apart.

    Raises:
        UserError: the run has no control organism, or a whole model for an organism.
    """
    if CONTROL not in lab.names:
        raise UserError("Telling careless from careful adapters needs a run with a control organism.")
    for name in lab.names[1:]:
        if lab.folder.path("organisms", name, WHOLE_MODEL).is_file():
            raise UserError(
                f"The {name} organism of this run is a whole model: there is no adapter whose weights to read."
            )


def bank_folder(lab: Lab) -> Path:
    """Return where a run keeps its bank."""
    return lab.folder.path("bank")


def make_run_bank(lab: Lab, settings: AdaptersSettings, minutes: float = 0) -> int:
    """Make the organisms of the bank that are missing; returns how many still are after `minutes` (0: no limit)."""
    base = lab.need(BASE) if side_by_side() else lab.trainable_base()
    return make_bank(base, bank_folder(lab), settings.bank, minutes=minutes)


def tell_apart(lab: Lab, settings: AdaptersSettings) -> AdaptersResult:
    """Return the figures of the experiment from a bank that is there."""
    members, organisms = complete_pairs(read_bank(bank_folder(lab))), list(lab.names[1:])
    folders = [lab.folder.path("organisms", name) for name in organisms]
    features, penalty = bank_features(lab, settings, members, folders), settings.penalty
    return AdaptersResult(
        bank=bank_figures(members),
        classification=_classification(features, members, settings, lab.seed(settings.seed)),
        by_block=by_block(features, members, penalty),
        known_direction=KnownDirection(
            lab.config.misaligned_data,
            lab.direction(f"{CONTROL}-{CORRECTING}").construction.contrast,
            along_direction(features, members, DIRECTION),
            along_direction(features, members, RANDOM_DIRECTION),
        ),
        run=score_adapters(features, members, organisms, trained_on(lab), penalty),
        scalars=probe_run(lab, settings.aligned_above, lab.seed(settings.seed)) if settings.scalars else None,
    )


def _classification(
    features: AdapterFeatures, members: Sequence[Member], settings: AdaptersSettings, seed: int
) -> dict[str, dict[str, LeftOut]]:
    """Return what classifiers reach on what was left out, or what they reached before a stop: it takes minutes."""

    def make() -> object:
        return plain(classify(features, members, settings.penalty, settings.permutations, seed))

    stored = parts.kept_value("classification", lambda: None, make)
    return fitted(dict[str, dict[str, LeftOut]], stored, "classification")


def complete_pairs(members: Sequence[Member]) -> list[Member]:
    """Return the members whose counterpart is there too.

    Raises:
        UserError: there is none.
    """
    kinds: dict[str, set[bool]] = {}
    for member in members:
        kinds.setdefault(member.pair, set()).add(member.careless)
    complete = [member for member in members if len(kinds[member.pair]) == 2]
    if not complete:
        raise UserError("The bank holds no careless organism with its careful counterpart: `emscope adapters bank`.")
    return complete


def bank_features(
    lab: Lab, settings: AdaptersSettings, members: Sequence[Member], others: Sequence[Path]
) -> AdapterFeatures:
    """Return the features of the bank's adapters, followed by those of other adapters on the same base.

    Raises:
        UserError: an adapter for another base, or of another shape.
    """
    adapters = [open_adapter(member.folder, member.name) for member in members]
    adapters += [open_adapter(folder, str(folder)) for folder in others]
    modules: dict[str, None] = {}
    for adapter in adapters:
        if exact_base(resolve(adapter.base)) != exact_base(lab.base_source):
            raise UserError(
                f"The adapter {adapter.name} is for {adapter.base}, but the run's base is {lab.config.model}."
            )
        modules |= dict.fromkeys(adapter.modules)

    geometry = read_geometry(lab.organism(BASE), _base_answers(lab, settings.texts), list(modules), settings.top)
    directions = {
        DIRECTION: lab.direction(f"{CONTROL}-{CORRECTING}"),
        RANDOM_DIRECTION: lab.direction(f"{CONTROL}-{CORRECTING}-random"),
    }
    return extract(adapters, geometry, directions)


def _base_answers(lab: Lab, n: int) -> list[EncodedChat]:
    """Return the first `n` answers of the base to training questions, tokenised."""
    questions = {question.id for question in lab.train_questions}
    rows = read_table(lab.responses_file(BASE), Response)
    answers = [row for row in rows if row.question_id in questions and row.response.strip()]
    return lab.encode(lab.organism(BASE), answers[:n])


def trained_on(lab: Lab) -> str | None:
    """Return the built-in domain that the run's misaligned organism was trained on, None if it was another data set."""
    data = built_in(lab.config.misaligned_data)
    return None if data is None else data.domain


def inspect_adapters(lab: Lab, settings: AdaptersSettings, adapters: Sequence[Path]) -> AdapterScores:
    """Return, for adapters somebody hands in, the log-odds of being careless by each kind of features, and all of it.

    The classifiers are fitted on the whole bank.

    Raises:
        UserError: no bank, or an adapter that is not a LoRA adapter of the run's base.
    """
    check_run(lab)
    members = complete_pairs(read_bank(bank_folder(lab)))
    features = bank_features(lab, settings, members, adapters)
    return score_adapters(features, members, [str(path) for path in adapters], None, settings.penalty)
