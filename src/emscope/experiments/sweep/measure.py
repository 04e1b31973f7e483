"""The sweep: every block, contrast, pooling and method on one run, with held-out figures and controls."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emscope import parts, progress
from emscope.errors import UserError
from emscope.experiments.shape import experiment_stage
from emscope.experiments.sweep.ablation import compare_ablations
from emscope.experiments.sweep.examples import (
    SWEEP,
    Source,
    available,
    base_prompts,
    collect_prompts,
    examples_of,
    load_sources,
    sample_more,
)
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import READ, answering
from emscope.residual.contrasts import CONTRASTS, EXAMPLE_POOLINGS, Examples
from emscope.residual.directions import Construction, Directions, Method
from emscope.residual.sweep import METHODS, SweepOptions, Swept, check_examples, prompt_leak, prompt_only, sweep

ARRAYS = ("vectors", "positive_mean", "negative_mean", "deviation")
"""What directions consist of."""


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
        ablate_with: the construction that is subtracted; empty takes the answers' mean difference.
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
    ablate_with: str = ""
    ablation_questions: int = 36
    strength: float = 1.5

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        for what, given, known in (
            ("contrasts", self.contrasts, CONTRASTS),
            ("poolings", self.poolings, EXAMPLE_POOLINGS),
            ("methods", self.methods, METHODS),
        ):
            if not given or set(given) - set(known):
                raise UserError(f"The sweep's {what} are {', '.join(known)}; found {', '.join(given) or 'none'}.")
        if self.ablate and (self.strength <= 0 or self.ablation_questions < 2):
            raise UserError("The sweep's ablation needs a strength above 0 and at least two questions.")


def measure(lab: Lab, settings: SweepSettings) -> dict[str, Any]:
    """Sweep a finished run: experiments/sweep.json, directions in experiments/sweep/, and a section of the report."""
    with progress.plan(_works(lab, settings)):
        return _run_stages(lab, settings)


def _works(lab: Lab, settings: SweepSettings) -> dict[str, float | None]:
    """Return the stages of the experiment with their work; a construction is about four seconds."""
    works: dict[str, float | None] = {f"sweep-prompts-{name}": READ * len(lab.questions) for name in lab.names}
    if settings.answers and "response" in settings.contrasts:
        works["sweep-answers"] = answering(len(lab.questions) * settings.answers, lab.config.sampling)
    constructions = 4.0 * len(settings.contrasts) * len(settings.poolings) * len(settings.methods)
    ablated = answering(5 * settings.ablation_questions, lab.config.sampling, altered=True) if settings.ablate else 0.0
    return {**works, "sweep": constructions + ablated}


def _run_stages(lab: Lab, settings: SweepSettings) -> dict[str, Any]:
    prompts = [collect_prompts(lab, name) for name in lab.names]
    more = sample_more(lab, settings.answers, settings.temperature) if "response" in settings.contrasts else []
    run = lab.folder
    answers = [run.path("activations", f"{name}-answers.safetensors") for name in lab.names]
    judged = [run.path("judgements", f"{name}.parquet") for name in lab.names]
    inputs = [*prompts, *more, *answers, *judged, *adapter_files(lab, MISALIGNED)]
    folder = run.path(*SWEEP, "directions")
    return experiment_stage(
        lab, "sweep", dict[str, Any], settings, inputs, partial(_find, lab, settings, folder), [folder]
    )


def _find(lab: Lab, settings: SweepSettings, folder: Path) -> dict[str, Any]:
    resampled = settings.answers > 0 and "response" in settings.contrasts
    sources = load_sources(lab, resampled=resampled)
    train, test = ([question.id for question in part] for part in (lab.train_questions, lab.test_questions))
    examples, skipped = _examples(lab, settings, sources, (train, test))
    constructions: dict[str, Any] = {}
    made: dict[str, Directions] = {}
    for name, sides in examples.items():
        for method in METHODS:
            if method in settings.methods:
                try:
                    found = _swept(*sides, method, settings.options)
                except UserError as reason:  # such as questions that cannot be halved with both sides in each half
                    skipped[name] = str(reason)
                    continue
                constructions[f"{name}-{method}"], made[f"{name}-{method}"] = found
    if not made:
        raise UserError(f"There is nothing to sweep. {' '.join(dict.fromkeys(skipped.values()))}")
    swept = {name: sides for name, sides in examples.items() if any(one.startswith(f"{name}-") for one in made)}
    shutil.rmtree(folder, ignore_errors=True)  # other settings made others
    for name, directions in made.items():
        directions.save(folder / f"{name}.safetensors")
    return {
        "blocks": list(sources[BASE].prompts.activations.blocks),
        "n_train_questions": len(train),
        "n_test_questions": len(test),
        "constructions": constructions,
        "prompt_only": _baselines(swept, base_prompts(sources), settings.options),
        "skipped": skipped,
        "ablation": _ablation(lab, settings, constructions, made) if settings.ablate else None,
    }


def _swept(train: Examples, test: Examples, method: Method, options: SweepOptions) -> tuple[dict[str, Any], Directions]:
    """Measure one construction: its figures as plain values, and its directions."""

    def inputs() -> Any:
        return [
            [vars(side) | {"construction": asdict(side.construction)} for side in (train, test)],
            method,
            asdict(options),
        ]

    def make() -> tuple[dict[str, Any], Directions]:
        found = sweep(train, test, method, options)
        return _plain(found, train, test), found.directions

    def write(found: tuple[dict[str, Any], Directions]) -> parts.Part:
        figures, made = found
        arrays = {name: getattr(made, name) for name in ARRAYS}
        return parts.Part([figures, list(made.blocks), asdict(made.construction)], arrays)

    def read(part: parts.Part) -> tuple[dict[str, Any], Directions]:
        figures, blocks, construction = part.value
        return figures, Directions(**part.arrays, blocks=tuple(blocks), construction=Construction(**construction))

    return parts.kept("swept", inputs, make, write, read)


def _examples(
    lab: Lab, settings: SweepSettings, sources: Mapping[str, Source], parts: tuple[list[str], list[str]]
) -> tuple[dict[str, tuple[Examples, Examples]], dict[str, str]]:
    """Return training and test examples by contrast and pooling, and why others have none.

    Raises:
        UserError: none has enough examples.
    """
    found: dict[str, tuple[Examples, Examples]] = {}
    skipped: dict[str, str] = {}
    for contrast in settings.contrasts:
        for pooling in settings.poolings:
            try:
                available(contrast, lab.names)
                examples = examples_of(sources, contrast, pooling, lab.config.model)
                train, test = (examples.on(questions) for questions in parts)
                check_examples(train, test)
                found[f"{contrast}-{pooling}"] = train, test
            except UserError as reason:
                skipped[f"{contrast}-{pooling}"] = str(reason)
    if not found:
        raise UserError(f"There is nothing to sweep. {' '.join(dict.fromkeys(skipped.values()))}")
    return found, skipped


def _plain(found: Swept, train: Examples, test: Examples) -> dict[str, Any]:
    """Return the figures of one construction as plain values."""
    null = found.null_accuracy
    best = {
        "block": found.directions.blocks[found.best],
        **found.held_out.at(found.best),
        "train_d_prime": float(found.train_d_prime[found.best]),
        "split_half_cosine": float(found.split_half_cosine[found.best]),
        "null_accuracy": float(null[:, found.best].mean()),
        "null_range": [float(value) for value in np.quantile(null[:, found.best], (0.025, 0.975))],
        "p_value": found.p_value,
    }
    return {
        "construction": asdict(found.directions.construction),
        "n": {"train": train.counts(), "test": test.counts()},
        "best": best,
        **found.held_out.as_dict(),
        "train_d_prime": found.train_d_prime.tolist(),
        "split_half_cosine": found.split_half_cosine.tolist(),
        "null_accuracy": null.mean(axis=0).tolist(),
        "penalties": None if found.penalties is None else found.penalties.tolist(),
    }


def _baselines(
    examples: Mapping[str, tuple[Examples, Examples]], prompts: dict[str, np.ndarray], options: SweepOptions
) -> dict[str, Any]:
    """Return what knowing only the prompt is worth in each contrast.

    The leak exists only where one organism gave all answers: two that answer the same questions share every prompt.
    """
    found: dict[str, Any] = {}
    for train, test in examples.values():
        made = train.construction
        if made.contrast not in found:
            found[made.contrast] = parts.kept_value(
                "prompt only", partial(asdict, made), partial(_prompt_only, train, test, prompts, options)
            )
    return found


def _prompt_only(
    train: Examples, test: Examples, prompts: dict[str, np.ndarray], options: SweepOptions
) -> dict[str, Any]:
    made = train.construction
    leak = prompt_leak((train, test), prompts, options).tolist() if made.positive == made.negative else None
    return {**prompt_only(train, test, prompts, options).as_dict(), "ungrouped_auroc": leak}


def _ablation(
    lab: Lab, settings: SweepSettings, constructions: dict[str, Any], made: dict[str, Directions]
) -> dict[str, Any]:
    contrast = lab.contrast
    name = settings.ablate_with or f"{contrast}-response-diff-in-means"
    if name not in made:
        raise UserError(f"There is no construction {name!r} to ablate with; there are {', '.join(made)}.")
    block = int(constructions[name]["best"]["block"])
    found = compare_ablations(lab, made[name], block, settings.ablation_questions, settings.strength)
    return {"construction": name, **found}
