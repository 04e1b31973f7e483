"""Transfer: its settings, stages and result.

Organisms are trained on several domains with several seeds, each beside a control organism. Their directions are
compared; each direction detects and corrects every organism; and what several organisms share is tried on one left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from emscope import parts, progress
from emscope.errors import UserError
from emscope.executors.tasks import together
from emscope.experiments.shape import experiment_stage, left_open
from emscope.experiments.transfer.ablation import (
    Correction,
    ablation_stages,
    corrected_file,
    corrections_of,
    least_restored,
    measure_behaviour,
    measure_corrections,
)
from emscope.experiments.transfer.detection import measure_detection
from emscope.experiments.transfer.directions import (
    POOLINGS,
    PairActivations,
    direction_files,
    direction_names,
    direction_stage,
    load_directions,
    measure_geometry,
)
from emscope.experiments.transfer.pairs import (
    OrganismPair,
    check_settings,
    given_config,
    organism_stages,
    organisms_of,
    pairs_of,
    training_config,
)
from emscope.experiments.transfer.result import (
    ANSWERS,
    PROMPTS,
    AurocBar,
    Bars,
    Behaviour,
    ComparedPair,
    Corrections,
    CosineBar,
    Detection,
    Geometry,
    QuestionCounts,
    RestoredBar,
    TransferResult,
)
from emscope.pipeline.lab import Lab
from emscope.pipeline.preflight import check_data
from emscope.pipeline.works import SHORT, answering, organism_works
from emscope.plain import fitted, plain

AUROC_BAR, RESTORED_BAR, COSINE_BAR = 0.9, 0.6, 0.8
"""What the worst case on another domain is held against."""
KEPT = "figures kept of a stopped experiment"
Figures = TypeVar("Figures")


@dataclass(frozen=True)
class TransferSettings:
    """Which organisms are compared, and how they are corrected.

    Attributes:
        domains: built-in domains that organisms are trained on: medical, finance, sport.
        seeds: pairs of organisms of each domain, from the run's seed on; the run's own pair is one of them. Two or
            three for angles between seeds, at about three minutes a pair on two CPU cores.
        questions: test questions on which each ablation is measured, spread over all of them evenly.
        block: block at which directions are subtracted; by default where the run's own ablation subtracts.
        strength: how many times a direction is subtracted; by default what the run's own ablation chose.
        own_domain: what the run's own data are about (medical, finance, sport or another word), where they are not
            built in; not said, its pair counts neither as the same nor as another domain.
        organisms: pairs of your own, each as name=misaligned,control: data files, or folders or hub ids of adapters or
            whole models; the name says what they are about. Without a control the run's own takes its place.
    """

    domains: tuple[str, ...] = ("medical", "finance", "sport")
    seeds: int = 1
    questions: int = 48
    block: int | None = None
    strength: float | None = None
    own_domain: str | None = left_open("")
    organisms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what makes no comparison on any run."""
        check_settings(self.domains, self.seeds, self.own_domain or "", self.organisms)
        if self.questions < 2:
            raise UserError("Ablations are measured on at least two test questions.")


def measure(lab: Lab, settings: TransferSettings) -> TransferResult:
    """Train what is missing, then write experiments/transfer.json and the directions beside it.

    Raises:
        UserError: settings that make no comparison on this run (see `pairs_of`), or a block that the model does not
            have.
    """
    pairs = pairs_of(lab.config, settings.domains, settings.seeds, settings.own_domain or "", settings.organisms)
    _check_handed_in(lab, pairs)
    correction = Correction.of(lab, settings.block, settings.strength, settings.questions)

    with progress.plan(_works(lab, pairs, correction)):
        together([partial(organism_stages, lab, pair) for pair in pairs])
        direction_stage(lab, pairs)
        ablation_stages(lab, pairs, correction)

        compare = partial(_compare, lab, pairs, correction)
        return experiment_stage(lab, "transfer", TransferResult, settings, _inputs(lab, pairs), compare)


def _check_handed_in(lab: Lab, pairs: Sequence[OrganismPair]) -> None:
    """Refuse organisms that cannot be made, before anything is trained."""
    for pair in pairs:
        for data in pair.made_of:
            check_data(Lab(given_config(lab.config), lab.folder), data)


def _works(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    works: dict[str, float | None] = {}
    for pair in pairs:
        for name, data in zip(pair.organisms, pair.sources, strict=False):
            if name not in lab.names:
                config = given_config(lab.config) if pair.made_of else training_config(lab.config, data, pair.seed)
                works |= organism_works(Lab(config, lab.folder), name, data)

    works["transfer-directions"] = SHORT
    ablated = answering(len(correction.questions), lab.config.sampling, altered=True)
    for pair in pairs:
        for name in corrections_of(pair, pairs):
            works[f"transfer-ablate-{pair.name}-less-{name}"] = ablated
    return {**works, "transfer": 20 * SHORT}


def _inputs(lab: Lab, pairs: Sequence[OrganismPair]) -> list[Path]:
    """Return the files that the result is made of."""
    organisms = organisms_of(pairs)
    inputs: list[Path] = []
    for name in organisms:
        inputs += lab.activation_files(name)
    for name in organisms:
        inputs.append(lab.judgements_file(name))
    for pooling in POOLINGS:
        inputs += direction_files(lab, direction_names(pairs), pooling).values()
    for pair in pairs:
        for name in corrections_of(pair, pairs):
            inputs.append(corrected_file(lab, pair, name))
    return inputs


def _compare(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> TransferResult:
    """Return the result from what the earlier stages stored; each of its pieces is kept if it is stopped later."""
    activations, seed = PairActivations.of(lab, pairs), lab.config.seed
    detectors = load_directions(lab, pairs, PROMPTS)

    behaviour = _kept(dict[str, Behaviour], "behaviour", partial(measure_behaviour, lab, pairs))
    geometry: dict[str, Geometry] = {}
    for pooling in POOLINGS:
        geometry[pooling] = _kept(
            Geometry, f"geometry {pooling}", partial(measure_geometry, activations, pooling, seed)
        )
    detection = _kept(Detection, "detection", partial(measure_detection, activations, detectors, seed))
    corrections = _kept(Corrections, "ablation", partial(measure_corrections, lab, pairs, correction))

    return TransferResult(
        pairs=[ComparedPair(name=pair.name, **asdict(pair)) for pair in pairs],
        blocks=list(activations.blocks),
        questions=QuestionCounts(len(activations.train), len(activations.test)),
        behaviour=behaviour,
        geometry=geometry,
        detection=detection,
        ablation=corrections,
        bars=bars(detection, corrections, geometry),
    )


def _kept(kind: type[Figures], name: str, make: Callable[[], Figures]) -> Figures:
    """Return figures that depend on the stage's files and settings alone, kept if the experiment is stopped later."""
    return fitted(kind, parts.kept_value(name, lambda: None, lambda: plain(make())), KEPT)


def bars(detection: Detection, corrections: Corrections, geometry: Mapping[str, Geometry]) -> Bars:
    """Return the worst case, the direction of one domain on the organism of another that it serves least.

    Empty with a single domain; a pair of unknown domain has no part in it.
    """
    other, cosines = detection.summary.get("other domain"), geometry[ANSWERS].other_domains
    if other is None or cosines is None:
        return Bars()

    pooled = corrections.summary["other domain"].restored
    least = least_restored(corrections.cells, "other domain")
    n_above = sum(cosine > COSINE_BAR for cosine in cosines)
    return Bars(
        auroc=AurocBar(other.least, AUROC_BAR, other.least >= AUROC_BAR),
        restored=RestoredBar(least, pooled, RESTORED_BAR, least.value >= RESTORED_BAR, pooled.value >= RESTORED_BAR),
        cosine=CosineBar(n_above, len(cosines), COSINE_BAR),
    )
