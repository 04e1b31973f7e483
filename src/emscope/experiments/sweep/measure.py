"""Layer sweep: its settings, stages and result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from emscope import progress
from emscope.behaviour.questions import ids_of
from emscope.errors import UserError
from emscope.experiments.openings import OpenRun, held_by
from emscope.experiments.shape import experiment_stage, left_open
from emscope.experiments.sweep.ablation import compare_ablations
from emscope.experiments.sweep.constructions import (
    ConstructionWork,
    SweepSources,
    measured_constructions,
    measured_prompt_only,
)
from emscope.experiments.sweep.examples import (
    SWEEP,
    Source,
    check_contrast,
    collect_prompts,
    examples_of,
    load_sources,
    sample_more,
)
from emscope.experiments.sweep.result import SweepAblation, SweepResult, SweptConstruction
from emscope.pipeline.lab import BASE, CORRECTING, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import READ, answering
from emscope.residual.contrasts import CONTRASTS, EXAMPLE_POOLINGS
from emscope.residual.directions import Directions, Method
from emscope.residual.sweep import METHODS, SweepOptions, check_examples


@dataclass(frozen=True)
class SweepSettings:
    """What is swept.

    Attributes:
        contrasts: model, control, response; control needs a run with a control organism.
        poolings: last, prompt, response, token.
        methods: diff-in-means, probe.
        options: penalties, folds, halvings, relabellings, seed.
        answers: answers to each question sampled of the misaligned organism for the response contrast, which needs
            questions with good and bad ones; 0 takes the run's own answers.
        temperature: temperature of these answers; the papers' is 1.
        ablate: also subtract a direction at its best block and at all blocks, at the same disturbance.
        ablate_with: the construction that is subtracted; not said, the answers' mean difference.
        ablation_questions: test questions used for it.
        strength: how much of the mean difference is subtracted at one block.
    """

    contrasts: tuple[str, ...] = CONTRASTS
    poolings: tuple[str, ...] = EXAMPLE_POOLINGS
    methods: tuple[str, ...] = METHODS
    options: SweepOptions = field(default_factory=SweepOptions)
    answers: int = 3
    temperature: float = 1.0
    ablate: bool = False
    ablate_with: str | None = left_open("")
    ablation_questions: int = 36
    strength: float = 1.5

    def __post_init__(self) -> None:
        """Refuse unknown names, and an ablation that would do nothing."""
        _check_names("contrasts", self.contrasts, CONTRASTS)
        _check_names("poolings", self.poolings, EXAMPLE_POOLINGS)
        _check_names("methods", self.methods, METHODS)
        if self.ablate and (self.strength <= 0 or self.ablation_questions < 2):
            raise UserError("The sweep's ablation needs a strength above 0 and at least two questions.")

    @property
    def resamples(self) -> bool:
        """Whether more answers of the misaligned organism are sampled, for the response contrast."""
        return self.answers > 0 and "response" in self.contrasts

    @property
    def ordered_methods(self) -> list[Method]:
        """The methods, always in the same order."""
        return [method for method in METHODS if method in self.methods]


def _check_names(what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not given or set(given) - set(known):
        raise UserError(f"The sweep's {what} are {', '.join(known)}; found {', '.join(given) or 'none'}.")


def measure(lab: Lab, settings: SweepSettings) -> SweepResult:
    """Sweep a finished run: writes experiments/sweep.json, and directions in experiments/sweep/directions/.

    Raises:
        UserError: no contrast has enough examples.
    """
    with progress.plan(_works(lab, settings)):
        prompts = [collect_prompts(lab, name) for name in lab.names]
        more = sample_more(lab, settings.answers, settings.temperature) if settings.resamples else []

        answers = [lab.activation_files(name)[1] for name in lab.names]
        judged = map(lab.judgements_file, lab.names)
        inputs = [*prompts, *more, *answers, *judged, *adapter_files(lab, MISALIGNED)]
        folder = lab.folder.path(*SWEEP, "directions")

        def find() -> SweepResult:
            return _sweep_run(lab, settings, folder)

        return experiment_stage(lab, "sweep", SweepResult, settings, inputs, find, [folder])


def _works(lab: Lab, settings: SweepSettings) -> dict[str, float | None]:
    """Return the stages of the experiment with their work; a construction is about four seconds."""
    works: dict[str, float | None] = {}
    for name in lab.names:
        works[f"sweep-prompts-{name}"] = READ * len(lab.questions)
    if settings.resamples:
        works["sweep-answers"] = answering(len(lab.questions) * settings.answers, lab.config.sampling)

    constructions = 4.0 * len(settings.contrasts) * len(settings.poolings) * len(settings.methods)
    ablated = answering(5 * settings.ablation_questions, lab.config.sampling, altered=True) if settings.ablate else 0.0
    return {**works, "sweep": constructions + ablated}


def _sweep_run(lab: Lab, settings: SweepSettings, folder: Path) -> SweepResult:
    """Return the result from what the earlier stages stored; directions go into the folder."""
    options = replace(settings.options, seed=lab.seed(settings.options.seed))
    need = SweepSources(OpenRun.of(lab), settings.resamples)
    sources, held = load_sources(lab, resampled=settings.resamples), held_by(lab)
    held.put(need, sources)
    named, skipped = _constructions(lab, settings, sources)

    works: dict[str, ConstructionWork] = {}
    for contrast, pooling in named:
        for method in settings.ordered_methods:
            works[f"{contrast}-{pooling}-{method}"] = ConstructionWork(need, contrast, pooling, method, options)
    constructions: dict[str, SweptConstruction] = {}
    directions: dict[str, Directions] = {}
    prompts: dict[str, ConstructionWork] = {}
    found = measured_constructions(list(works.values()), held)
    for (name, work), measured in zip(works.items(), found, strict=True):
        if isinstance(measured, str):
            skipped[f"{work.contrast}-{work.pooling}"] = measured
            continue
        constructions[name], directions[name] = measured
        prompts.setdefault(work.contrast, replace(work, method=None))  # its first pooling stands for all
    if not constructions:
        raise _nothing_to_sweep(skipped)

    _store(directions, folder)
    prompt_only = measured_prompt_only(list(prompts.values()), held)
    return SweepResult(
        blocks=list(sources[BASE].prompts.activations.blocks),
        n_train_questions=len(lab.train_questions),
        n_test_questions=len(lab.test_questions),
        constructions=constructions,
        prompt_only=dict(zip(prompts, prompt_only, strict=True)),
        skipped=skipped,
        ablation=_ablation(lab, settings, constructions, directions) if settings.ablate else None,
    )


def _constructions(
    lab: Lab, settings: SweepSettings, sources: Mapping[str, Source]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the contrasts and poolings that have enough examples, and why others have not.

    Raises:
        UserError: none has enough.
    """
    train_questions, test_questions = ids_of(lab.train_questions), ids_of(lab.test_questions)
    named: list[tuple[str, str]] = []
    skipped: dict[str, str] = {}

    for contrast in settings.contrasts:
        for pooling in settings.poolings:
            try:
                check_contrast(contrast, lab.names)
                every = examples_of(sources, contrast, pooling, lab.config.model)
                check_examples(every.on(train_questions), every.on(test_questions))
            except UserError as reason:
                skipped[f"{contrast}-{pooling}"] = str(reason)
            else:
                named.append((contrast, pooling))

    if not named:
        raise _nothing_to_sweep(skipped)
    return named, skipped


def _nothing_to_sweep(skipped: Mapping[str, str]) -> UserError:
    reasons = dict.fromkeys(skipped.values())  # each reason once
    return UserError(f"There is nothing to sweep. {' '.join(reasons)}")


def _store(directions: Mapping[str, Directions], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # other settings left others
    for name, vectors in directions.items():
        vectors.save(folder / f"{name}.safetensors")


def _ablation(
    lab: Lab,
    settings: SweepSettings,
    constructions: Mapping[str, SweptConstruction],
    directions: Mapping[str, Directions],
) -> SweepAblation:
    """Subtract one of the constructions at its best block and at all blocks.

    Raises:
        UserError: there is no construction of the name that was asked for.
    """
    name = settings.ablate_with or f"{lab.contrast}-{CORRECTING}"
    if name not in directions:
        raise UserError(f"There is no construction {name!r} to ablate with; there are {', '.join(directions)}.")
    block = constructions[name].best.block
    return compare_ablations(lab, name, directions[name], block, settings.ablation_questions, settings.strength)
