"""Voices: its settings, stages and result.

For every domain and seed four organisms are trained on the same prompts: blunt and warm answers with good and with bad
advice. So what the voice does and what the advice does are told apart: in behaviour, directions, detection, corrections
and weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from emscope import parts, progress
from emscope.behaviour.judges.settings import JudgeSettings
from emscope.behaviour.questions import Question, ids_of
from emscope.checks import at_least
from emscope.executors.tasks import together
from emscope.experiments.openings import side_by_side
from emscope.experiments.shape import experiment_stage
from emscope.experiments.voices.behaviour import (
    by_every_judge,
    judge_settings,
    rejudge_stages,
    rejudged_file,
)
from emscope.experiments.voices.corrections import Intervening, alter_all, altered_file, measure_altered
from emscope.experiments.voices.detection import detect_unseen
from emscope.experiments.voices.directions import (
    POOLINGS,
    CornerActivations,
    direction_files,
    direction_stage,
    measure_geometry,
)
from emscope.experiments.voices.organisms import (
    Quartet,
    asked_questions,
    asked_test_questions,
    check_domains,
    check_own,
    check_prompts,
    config_of,
    organism_stages,
    organisms_of,
    quartets_of,
)
from emscope.experiments.voices.result import TrainedCorner, UnseenAdvice, VoiceGeometry, VoicesResult
from emscope.experiments.voices.weights import read_weights, weights_file, weights_stage
from emscope.experiments.voices.words import voice_reader
from emscope.organisms.datasets import CORNERS, DOMAINS
from emscope.pipeline.lab import Lab
from emscope.pipeline.works import SHORT, answering, training
from emscope.plain import fitted, plain
from emscope.sequences import spread

KEPT = "figures kept of a stopped experiment"
Figures = TypeVar("Figures")


@dataclass(frozen=True)
class VoicesSettings:
    """Which organisms are made, who judges them, and how they are corrected.

    Attributes:
        domains: built-in domains; each has four organisms a seed.
        seeds: quartets of each domain, from the run's seed on.
        corners: data of your own in place of the domains: four names or files, in the order blunt-good, blunt-bad,
            warm-good, warm-bad, all with the same prompts in the same order.
        test_set: the question set whose test questions every organism is asked, beside the training questions; all test
            questions where the run has none of this set.
        judges: further judges that score the same answers: openai:MODEL, hf:MODEL, inspect:PROVIDER/MODEL.
        questions: test questions on which directions are taken out and added, spread evenly.
        weights: also tell the adapters apart by their weights.
        permutations: relabellings that accuracies on weights are held against.
    """

    domains: tuple[str, ...] = DOMAINS
    seeds: int = 3
    corners: tuple[str, ...] = ()
    test_set: str = "everyday-general"
    judges: tuple[str, ...] = ()
    questions: int = 48
    weights: bool = True
    permutations: int = 100

    def __post_init__(self) -> None:
        """Refuse what makes no factorial on any run."""
        check_domains(self.domains, self.seeds, self.corners)
        at_least(2, questions=self.questions)
        at_least(0, permutations=self.permutations)


@dataclass(frozen=True)
class Plan:
    """What the settings mean on a run.

    Attributes:
        quartets: the organisms.
        asked: questions that every organism is asked.
        test: the test questions among them.
        judges: further judges.
        corrected: the quartet whose organisms are corrected.
        intervened: the questions on which that is measured.
    """

    quartets: list[Quartet]
    asked: list[Question]
    test: list[Question]
    judges: list[JudgeSettings]
    corrected: Quartet
    intervened: list[Question]

    @classmethod
    def of(cls, lab: Lab, settings: VoicesSettings) -> Plan:
        """Work out the settings; the quartet with the run's own organisms is corrected, if there is one."""
        quartets = quartets_of(lab.config, settings.domains, settings.seeds, settings.corners)
        corrected = next((one for one in quartets if set(one.organisms) & set(lab.names)), quartets[0])
        test = asked_test_questions(lab, settings.test_set)
        return cls(
            quartets,
            asked_questions(lab, settings.test_set),
            test,
            judge_settings(lab, settings.judges),
            corrected,
            spread(test, settings.questions),
        )


def measure(lab: Lab, settings: VoicesSettings) -> VoicesResult:
    """Train what is missing, then write experiments/voices.json and the directions beside it.

    Raises:
        UserError: corners with different prompts, a run made of other text than the built-in data have now, or a judge
            that cannot be had or is the run's own.
    """
    plan = Plan.of(lab, settings)
    check_prompts(lab, plan.quartets)
    check_own(lab, plan.quartets)
    for judge in plan.judges:
        lab.check_judge(judge)

    with progress.plan(_works(lab, plan, settings)):
        together([partial(organism_stages, lab, quartet, plan.asked, plan.test) for quartet in plan.quartets])
        for judge in plan.judges:
            rejudge_stages(lab, judge, plan.quartets, plan.test)
        direction_stage(lab, plan.quartets, plan.corrected, ids_of(plan.test))
        _alter(lab, plan)
        if settings.weights:
            weights_stage(lab, plan.quartets, settings.permutations)

        return experiment_stage(
            lab, "voices", VoicesResult, settings, _inputs(lab, plan, settings), partial(_find, lab, plan, settings)
        )


def _alter(lab: Lab, plan: Plan) -> None:
    stages = alter_all(lab, Intervening.of(lab, plan.corrected, plan.intervened))
    if side_by_side():
        together(stages)
        return
    for stage in stages:
        stage()


def _works(lab: Lab, plan: Plan, settings: VoicesSettings) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    works: dict[str, float | None] = {}
    asked = answering(len(plan.asked), lab.config.sampling)
    for quartet in plan.quartets:
        for name, data in zip(quartet.organisms, quartet.data, strict=True):
            if name not in lab.names:
                config = config_of(lab.config, quartet, data)
                works[f"train-{name}"] = training(Lab(config, lab.folder), data, config)
                works |= {f"generate-{name}": asked / 2, f"judge-{name}": asked / 4, f"collect-{name}": asked / 4}
    for judge in plan.judges:
        for name in organisms_of(plan.quartets):
            works[f"voices-judge-{lab.name_of(judge)}-{name}"] = asked / 4

    works["voices-directions"] = 5 * SHORT
    intervening = Intervening.of(lab, plan.corrected, plan.intervened)
    altered = answering(3 * len(plan.intervened), lab.config.sampling, altered=True)
    for corner in intervening.corners:
        works[f"voices-alter-{plan.corrected.name}-{corner}"] = altered
    if settings.weights:
        works["voices-weights"] = 60 * SHORT
    return {**works, "voices": 20 * SHORT}


def _inputs(lab: Lab, plan: Plan, settings: VoicesSettings) -> list[Path]:
    """Return the files that the result is made of."""
    inputs: list[Path] = []
    for name in organisms_of(plan.quartets):
        inputs += [*lab.activation_files(name), lab.judgements_file(name)]
        inputs += [rejudged_file(lab, judge, name) for judge in plan.judges]
    inputs += direction_files(lab, plan.corrected)
    intervening = Intervening.of(lab, plan.corrected, plan.intervened)
    inputs += [altered_file(lab, intervening, corner) for corner in intervening.corners]
    return [*inputs, weights_file(lab)] if settings.weights else inputs


def _find(lab: Lab, plan: Plan, settings: VoicesSettings) -> VoicesResult:
    """Return the result from what the earlier stages stored; its slower pieces are kept if it is stopped later."""
    quartets, seed, test = plan.quartets, lab.config.seed, ids_of(plan.test)
    reader = voice_reader(lab, quartets)
    geometry: dict[str, VoiceGeometry] = {}
    for pooling in POOLINGS:
        geometry[pooling] = _kept(
            VoiceGeometry,
            f"geometry {pooling}",
            lambda pooling=pooling: measure_geometry(  # type: ignore[misc]
                CornerActivations.of(lab, quartets, pooling, test), quartets, seed
            ),
        )
    read = CornerActivations.of(lab, quartets, "last", test)
    detection = _kept(UnseenAdvice, "detection by both voices too", partial(detect_unseen, read, quartets, seed))
    ablation, steering = measure_altered(lab, Intervening.of(lab, plan.corrected, plan.intervened), reader)
    return VoicesResult(
        organisms=_trained(quartets),
        questions=dict(Counter(question.question_set for question in plan.test)),
        train_questions=read.n_train,
        by_judge=by_every_judge(lab, plan.judges, quartets, plan.test, reader),
        voices=reader.figures,
        blocks=list(read.blocks),
        geometry=geometry,
        detection=detection,
        ablation=ablation,
        steering=steering,
        weights=read_weights(lab) if settings.weights else [],
    )


def _trained(quartets: Sequence[Quartet]) -> list[TrainedCorner]:
    found = []
    for quartet in quartets:
        for corner, organism, data in zip(CORNERS, quartet.organisms, quartet.data, strict=True):
            found.append(TrainedCorner(organism, quartet.name, corner, data))
    return found


def _kept(kind: type[Figures], name: str, make: Callable[[], Figures]) -> Figures:
    """Return figures that depend on the stage's files and settings alone, kept if the experiment is stopped later."""
    return fitted(kind, parts.kept_value(name, lambda: None, lambda: plain(make())), KEPT)
