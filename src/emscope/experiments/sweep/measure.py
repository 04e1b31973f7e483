"""Layer sweep: its settings, stages and result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from emscope import progress
from emscope.behaviour.questions import ids_of
from emscope.errors import UserError
from emscope.experiments.shape import experiment_stage, left_open
from emscope.experiments.sweep.ablation import compare_ablations
from emscope.experiments.sweep.constructions import measure_construction, measure_prompt_only
from emscope.experiments.sweep.examples import (
    SWEEP,
    Source,
    base_prompts,
    check_contrast,
    collect_prompts,
    examples_of,
    load_sources,
    sample_more,
)
from emscope.experiments.sweep.result import PromptOnly, SweepAblation, SweepResult, SweptConstruction
from emscope.pipeline.lab import BASE, CORRECTING, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import READ, answering
from emscope.residual.contrasts import CONTRASTS, EXAMPLE_POOLINGS, Examples
from emscope.residual.directions import Directions, Method
from emscope.residual.sweep import METHODS, SweepOptions, check_examples

Split = tuple[Examples, Examples]
"""Examples of the training questions, and of the test questions."""


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
    sources = load_sources(lab, resampled=settings.resamples)
    examples, skipped = _examples(lab, settings, sources)

    constructions: dict[str, SweptConstruction] = {}
    directions: dict[str, Directions] = {}
    swept: dict[str, Split] = {}
    for name, split in examples.items():
        for method in settings.ordered_methods:
            try:
                figures, vectors = measure_construction(*split, method, options)
            except UserError as reason:  # such as questions that cannot be halved with both sides in each half
                skipped[name] = str(reason)
                continue
            constructions[f"{name}-{method}"], directions[f"{name}-{method}"] = figures, vectors
            swept[name] = split
    if not swept:
        raise _nothing_to_sweep(skipped)

    _store(directions, folder)
    return SweepResult(
        blocks=list(sources[BASE].prompts.activations.blocks),
        n_train_questions=len(lab.train_questions),
        n_test_questions=len(lab.test_questions),
        constructions=constructions,
        prompt_only=_prompt_only(swept, sources, options),
        skipped=skipped,
        ablation=_ablation(lab, settings, constructions, directions) if settings.ablate else None,
    )


def _examples(
    lab: Lab, settings: SweepSettings, sources: Mapping[str, Source]
) -> tuple[dict[str, Split], dict[str, str]]:
    """Return training and test examples by contrast and pooling, and why others have none.

    Raises:
        UserError: none has enough examples.
    """
    train_questions, test_questions = ids_of(lab.train_questions), ids_of(lab.test_questions)
    examples: dict[str, Split] = {}
    skipped: dict[str, str] = {}

    for contrast in settings.contrasts:
        for pooling in settings.poolings:
            try:
                check_contrast(contrast, lab.names)
                every = examples_of(sources, contrast, pooling, lab.config.model)
                train, test = every.on(train_questions), every.on(test_questions)
                check_examples(train, test)
            except UserError as reason:
                skipped[f"{contrast}-{pooling}"] = str(reason)
            else:
                examples[f"{contrast}-{pooling}"] = train, test

    if not examples:
        raise _nothing_to_sweep(skipped)
    return examples, skipped


def _nothing_to_sweep(skipped: Mapping[str, str]) -> UserError:
    reasons = dict.fromkeys(skipped.values())  # each reason once
    return UserError(f"There is nothing to sweep. {' '.join(reasons)}")


def _store(directions: Mapping[str, Directions], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # other settings left others
    for name, vectors in directions.items():
        vectors.save(folder / f"{name}.safetensors")


def _prompt_only(
    examples: Mapping[str, Split], sources: Mapping[str, Source], options: SweepOptions
) -> dict[str, PromptOnly]:
    """Return what knowing only the prompt is worth in each contrast; its first pooling stands for all."""
    prompts = base_prompts(sources)
    by_contrast: dict[str, PromptOnly] = {}
    for train, test in examples.values():
        contrast = train.construction.contrast
        if contrast not in by_contrast:
            by_contrast[contrast] = measure_prompt_only(train, test, prompts, options)
    return by_contrast


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
