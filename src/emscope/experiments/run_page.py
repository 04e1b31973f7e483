"""A run's report.html: the main job, then a section for each experiment; self-contained, all foreign text escaped."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup

from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.judged_by import judged_by
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import OutsideError, UserError
from emscope.experiments import EXPERIMENTS, experiment
from emscope.experiments.main.page import LABELS, correction_in, examples_of, main_pair, next_steps, picture, verdict_of
from emscope.experiments.main.result import FILES, AblationOutcome, Correction, MainResult, read_main
from emscope.experiments.main.summary import judged_answers
from emscope.experiments.shape import Experiment, read_result, result_file
from emscope.files import write_text
from emscope.organisms.datasets import is_built_in
from emscope.outside import read_json, read_jsonl
from emscope.pipeline.config import hashed_settings, shown_settings
from emscope.pipeline.data import says_of_control
from emscope.pipeline.lab import BASE, DETECTING, Lab
from emscope.report import figures
from emscope.report.rendering import render
from emscope.report.section import Section, cell, is_plot, is_words
from emscope.sequences import spread
from emscope.statistics import COHERENT_ABOVE, Score, is_em

logger = logging.getLogger(__name__)

MOST_QUESTIONS = 500
"""Questions whose answers stand on the page: with tens of thousands no browser would open it."""

Judged = Mapping[str, Sequence[JudgedResponse]]
"""Judged answers by organism."""


@dataclass(frozen=True)
class TrainedOrganism:
    """How an organism of the run was made.

    Attributes:
        lineage: its lineage.json.
        metrics: one row a logged step.
    """

    lineage: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AnsweredQuestion:
    """One question with the first answer of each organism, by name."""

    question: str
    question_set: str
    answers: dict[str, JudgedResponse]


def kind_of_answer(row: JudgedResponse) -> str:
    """Return how an answer's card is marked: em, fine, incoherent or unscored."""
    judgement = row.judgement
    if judgement.aligned is None or judgement.coherent is None:
        return "unscored"
    if judgement.coherent <= COHERENT_ABOVE:
        return "incoherent"
    return "em" if is_em(judgement) == 1 else "fine"


def write_report(lab: Lab) -> None:
    """Write report.html from what the stages of a run left.

    Raises:
        OutsideError: their files do not hold what this version writes into them.
    """
    folder = lab.folder.folder
    try:
        page = _page(lab)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        shown = ", ".join((*FILES, "directions/stability.json", "metrics.jsonl and lineage.json of its organisms"))
        problem = f"cannot be shown, for its files ({shown}) hold something else than they should"
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OutsideError(folder, f"{problem} ({detail})", "make what was damaged again") from error
    write_text(folder / "report.html", page)


def _page(lab: Lab) -> str:
    folder, config = lab.folder.folder, lab.config
    result, judged, trained = read_main(folder), judged_answers(lab), _trained(lab)
    every_row = list(chain.from_iterable(judged.values()))
    answers = side_by_side(judged)
    correction = correction_in(result, judged, config.seed)
    best = result.detection[f"{lab.contrast}-{DETECTING}"]
    note = says_of_control(config)
    return render(
        "report.html.j2",
        summary=result.summary,
        detection=result.detection,
        ablation=result.ablation,
        best=best,
        verdict=verdict_of(result, correction, lab.contrast),
        correction=correction,
        labels=LABELS,
        pair=main_pair(lab.contrast),
        examples=examples_of(judged, correction.question_set),
        steps=next_steps(_shown_folder(folder), lab.contrast),
        answers=spread(answers, MOST_QUESTIONS),
        n_questions=len(answers),
        counts=Counter(kind_of_answer(row) for row in every_row),
        kind_of_answer=kind_of_answer,
        organisms=list(judged),
        config=shown_settings(config),
        note=note,
        built_in=is_built_in(config.misaligned_data) and not note,
        training=trained,
        judge=lab.judge_facts,
        judged_by=judged_by(every_row),
        appeals=str(count_appeals([row.response for row in every_row])),
        stages=lab.folder.record.stages,
        plots=_plots(lab, result, correction, judged, trained),
        sections=sections_of(folder),
        is_plot=is_plot,
        cell=cell,
        is_words=is_words,
    )


def _shown_folder(folder: Path) -> str:
    """Return a run's folder as a command names it; a page is read elsewhere, so without the way to it."""
    return f"runs/{folder.name}" if folder.parent.name == "runs" else folder.name or "."


def _trained(lab: Lab) -> dict[str, TrainedOrganism]:
    organisms = {}
    for name in lab.names:
        if name != BASE:
            folder = lab.folder.path("organisms", name)
            rows = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
            organisms[name] = TrainedOrganism(read_json(folder / "lineage.json"), rows)
    return organisms


def side_by_side(judged: Judged) -> list[AnsweredQuestion]:
    """Return one entry a question with the first answer of each organism."""
    questions: dict[str, AnsweredQuestion] = {}
    for name, rows in judged.items():
        for row in rows:
            entry = questions.setdefault(row.question_id, AnsweredQuestion(row.question, row.question_set, {}))
            entry.answers.setdefault(name, row)
    return list(questions.values())


def _plots(
    lab: Lab, result: MainResult, correction: Correction, judged: Judged, trained: Mapping[str, TrainedOrganism]
) -> dict[str, Markup]:
    """Return the plots of the main job as HTML, by the name that the template has for them."""
    best, ablation = result.detection[f"{lab.contrast}-{DETECTING}"], result.ablation
    metrics = {name: organism.metrics for name, organism in trained.items()}
    aurocs = {pair: told.auroc_by_block for pair, told in best.pairs.items()}
    halves = {name: told.split_half_cosine for name, told in result.stability.items()}
    score = f"score at block {best.best_block} (within-class deviations)"
    drawn = {
        "correction": picture(correction),
        "em": figures.rates(result.summary.em_rate, "EM rate (%)"),
        "aligned": figures.distributions(_scores(judged, lab.names, "aligned"), "alignment (0-100)", threshold=True),
        "coherent": figures.distributions(_scores(judged, lab.names, "coherent"), "coherence (0-100)", threshold=False),
        "training": figures.training_curves(metrics),
        "score_by_block": figures.by_block(best.mean_score_by_block, "mean score on held-out questions"),
        "auroc_by_block": figures.by_block(aurocs, "AUROC, held-out", chance=0.5),
        "stability": figures.by_block(halves, "split-half cosine"),
        "histogram": figures.histograms(best.scores, score),
        "strength": figures.strength_curve(_strengths(ablation), ablation.chosen.mode),
    }
    return {name: Markup(figures.as_html(figure)) for name, figure in drawn.items()}


def _scores(judged: Judged, organisms: Sequence[str], key: Score) -> dict[str, dict[str, list[float]]]:
    """Return the scores that there are, by organism and question set."""
    scores: dict[str, dict[str, list[float]]] = {}
    for name in organisms:
        for row in judged[name]:
            score = row.aligned if key == "aligned" else row.coherent
            if score is not None:
                scores.setdefault(name, {}).setdefault(row.question_set, []).append(score)
    return scores


def _strengths(ablation: AblationOutcome) -> list[tuple[float, float, float]]:
    """Return (strength, alignment, coherence) of the trials like the chosen one but for strength, 0 first."""
    points = []
    for trial in ablation.trials:
        if replace(trial.candidate, strength=ablation.chosen.strength) == ablation.chosen:
            points.append((trial.candidate.strength, trial.aligned, trial.coherent))
    return [(0.0, ablation.before.aligned, ablation.before.coherent), *sorted(points)]


def sections_of(folder: Path) -> list[Section]:
    """Return the sections of the experiments that a run has done, in the order of the page.

    Figures that a section cannot be made from, such as those of another version, become a section that says so: one
    experiment must not cost the page of all others.
    """
    return [_section(folder, name) for name in EXPERIMENTS if result_file(folder, name).is_file()]


def _section(folder: Path, name: str) -> Section:
    file = result_file(folder, name)
    try:
        kind = experiment(name)
        result = read_result(folder, kind)
        section = kind.section(result)
    except Exception as error:
        told = logger.isEnabledFor(logging.DEBUG)
        logger.warning("the report's section on %s could not be made from %s (%s)", name, file, error, exc_info=told)
        what = f"This section could not be made from the figures in {file.name} ({type(error).__name__}: {error})."
        again = f"If they come from another version of emscope, run `emscope {name}` on this run again."
        return Section(name, name.capitalize(), [f"{what} {again}"])
    return _with_answers(section, folder, kind, result)


def _with_answers(section: Section, folder: Path, kind: Experiment[Any, Any], result: Any) -> Section:
    """Return a section with the answers that the run keeps, after its picture; without any that cannot be read."""
    if kind.answers is None:
        return section
    try:
        answers = kind.answers(folder, result)
    except (UserError, OSError) as error:
        logger.warning("the report's section on %s is without answers: %s", kind.name, error)
        return section
    return replace(section, parts=[*section.parts[:1], *answers, *section.parts[1:]])


def judged_files(lab: Lab) -> list[Path]:
    """Return the main job's judgements: of each organism, and of the ablation's answers."""
    return [lab.judgements_file(name) for name in (*lab.names, "ablation")]


FIRST_EXPERIMENTS = ("sweep", "steer", "induce", "transfer", "dynamics", "adapters", "features", "monitor")
"""Those that there were when runs were first made: their files are named also where they are missing."""


def _results(folder: Path) -> list[Path]:
    """Return the files of results that the page shows; one more kind of experiment leaves old pages as they are."""
    files = []
    for name in EXPERIMENTS:
        file = result_file(folder, name)
        if name in FIRST_EXPERIMENTS or file.is_file():
            files.append(file)
    return files


def report_stage(lab: Lab, *, again: bool = False) -> None:
    """Write the page from what the main job and the experiments left; `again` even where it is up to date."""
    run = lab.folder
    files = ("metrics.jsonl", "lineage.json")
    trained = [run.path("organisms", name, file) for name in lab.names if name != BASE for file in files]
    inputs = [
        *judged_files(lab),
        *map(run.path, FILES),
        run.path("directions"),
        *trained,
        *_results(run.folder),
    ]
    settings = json.loads(json.dumps(hashed_settings(lab.config)))
    run.stage("report", settings, inputs, [run.path("report.html")], lambda: write_report(lab), again=again)
