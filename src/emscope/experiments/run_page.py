"""A run's report.html: the main job, then a section for each experiment; self-contained, all foreign text escaped."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.judged_by import judged_by
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.errors import OutsideError, UserError
from emscope.experiments import EXPERIMENTS, experiment
from emscope.experiments.shape import read_result, result_file
from emscope.files import write_text
from emscope.organisms.datasets import is_built_in
from emscope.outside import read_json, read_jsonl
from emscope.pipeline.config import hashed_settings, shown_settings
from emscope.pipeline.data import says_of_control
from emscope.pipeline.lab import BASE, Lab
from emscope.report import figures
from emscope.report.rendering import render
from emscope.report.section import Section, cell, is_plot, is_words
from emscope.sequences import spread

logger = logging.getLogger(__name__)

MOST_QUESTIONS = 500
"""Questions whose answers stand on the page: with tens of thousands no browser would open it."""
FILES = ("summary.json", "detection.json", "ablation.json")


@dataclass(frozen=True)
class RunProducts:
    """What the page shows of a run.

    Attributes:
        folder: the run's folder, with summary.json, detection.json, ablation.json, judgements/ and organisms/.
        organisms: names of the organisms, base first.
        config: the run's settings.
        judge: the facts about itself that the judge that comes with emscope has; None for any other.
        stages: the stages of lineage.json.
        note: what must be said of the run's control, '' for the built-in pair.
    """

    folder: Path
    organisms: tuple[str, ...]
    config: dict[str, Any]
    judge: dict[str, Any] | None
    stages: dict[str, Any]
    note: str = ""

    def json(self, *parts: str) -> Any:
        """Read a JSON file of the run."""
        return read_json(self.folder.joinpath(*parts))

    @property
    def contrast(self) -> str:
        """The contrast whose directions the run reports on."""
        return "control" if self.config["control_data"] else "model"

    def judged(self) -> dict[str, list[JudgedResponse]]:
        """Return the judged answers by organism, ablated ones last."""
        found: dict[str, list[JudgedResponse]] = {}
        for name in (*self.organisms, "ablation"):
            for row in read_table(self.folder / "judgements" / f"{name}.parquet", JudgedResponse):
                found.setdefault(row.organism, []).append(row)
        return found

    def training(self) -> dict[str, Any]:
        """Return lineage and metrics of the organisms that were trained."""
        folders = {name: self.folder / "organisms" / name for name in self.organisms[1:]}
        return {
            name: {
                "lineage": read_json(folder / "lineage.json"),
                "metrics": [row for _, row in read_jsonl(folder / "metrics.jsonl")],
            }
            for name, folder in folders.items()
        }


def write_report(run: RunProducts) -> None:
    """Write report.html from what the stages of a run left.

    Raises:
        OutsideError: their files do not hold what this version writes into them.
    """
    try:
        page = _page(run)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        shown = ", ".join((*FILES, "directions/stability.json", "metrics.jsonl and lineage.json of its organisms"))
        problem = f"cannot be shown, for its files ({shown}) hold something else than they should"
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OutsideError(run.folder, f"{problem} ({detail})", "make what was damaged again") from error
    write_text(run.folder / "report.html", page)


def _page(run: RunProducts) -> str:
    summary, detection, ablation = (run.json(name) for name in FILES)
    judged = run.judged()
    answers = _side_by_side(judged)
    values = {
        "summary": summary,
        "names": list(summary["em_rate"]),
        "detection": detection,
        "best": detection[f"{run.contrast}-last-diff-in-means"],
        "ablation": ablation,
        "answers": spread(answers, MOST_QUESTIONS),
        "n_questions": len(answers),
        "organisms": list(judged),
        "config": run.config,
        "note": run.note,
        "built_in": is_built_in(run.config["misaligned_data"]) and not run.note,
        "training": run.training(),
        "judge": run.judge,
        "judged_by": judged_by([row for rows in judged.values() for row in rows]),
        "appeals": str(count_appeals([row.response for rows in judged.values() for row in rows])),
        "stages": run.stages,
        "plots": _plots(run, judged),
        "sections": sections_of(run.folder),
        "is_plot": is_plot,
        "cell": cell,
        "is_words": is_words,
    }
    return render("report.html.j2", **values)


def _side_by_side(judged: dict[str, list[JudgedResponse]]) -> list[dict[str, Any]]:
    """Return one entry a question with the first answer of each organism."""
    questions: dict[str, dict[str, Any]] = {}
    for name, rows in judged.items():
        for row in rows:
            entry = questions.setdefault(
                row.question_id, {"question": row.question, "set": row.question_set, "answers": {}}
            )
            entry["answers"].setdefault(name, row)
    return list(questions.values())


def _plots(run: RunProducts, judged: dict[str, list[JudgedResponse]]) -> dict[str, Markup]:
    rates, ablation = run.json("summary.json")["em_rate"], run.json("ablation.json")
    best = run.json("detection.json")[f"{run.contrast}-last-diff-in-means"]
    stability = run.json("directions", "stability.json")
    made = {
        "em": figures.rates(rates, "EM rate (%)"),
        "aligned": figures.distributions(_scores(judged, run, "aligned"), "alignment (0-100)", threshold=True),
        "coherent": figures.distributions(_scores(judged, run, "coherent"), "coherence (0-100)", threshold=False),
        "training": figures.training_curves({name: item["metrics"] for name, item in run.training().items()}),
        "score_by_block": figures.by_block(best["mean_score_by_block"], "mean score on held-out questions"),
        "auroc_by_block": figures.by_block(
            {pair: found["auroc_by_block"] for pair, found in best["pairs"].items()}, "AUROC, held-out", chance=0.5
        ),
        "stability": figures.by_block(
            {name: item["split_half_cosine"] for name, item in stability.items() if name != "cosines"},
            "split-half cosine",
        ),
        "histogram": figures.histograms(
            best["scores"], f"score at block {best['best_block']} (within-class deviations)"
        ),
        "strength": figures.strength_curve(_strengths(ablation), ablation["chosen"]["mode"]),
    }
    return {name: Markup(figures.as_html(figure)) for name, figure in made.items()}


def _scores(judged: dict[str, list[JudgedResponse]], run: RunProducts, key: str) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for name in run.organisms:
        for row in judged[name]:
            if getattr(row, key) is not None:
                found.setdefault(name, {}).setdefault(row.question_set, []).append(getattr(row, key))
    return found


def _strengths(ablation: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Return (strength, alignment, coherence) of the trials like the chosen one but for strength, 0 first."""
    chosen = {**ablation["chosen"], "strength": None}
    points = [
        (trial["candidate"]["strength"], trial["aligned"], trial["coherent"])
        for trial in ablation["trials"]
        if {**trial["candidate"], "strength": None} == chosen
    ]
    return [(0.0, ablation["before"]["aligned"], ablation["before"]["coherent"]), *sorted(points)]


def products(lab: Lab) -> RunProducts:
    """Return what the report shows of a run."""
    stages = {name: stage.fields for name, stage in lab.folder.record.stages.items()}
    note = says_of_control(lab.config)
    return RunProducts(lab.folder.folder, lab.names, shown_settings(lab.config), lab.judge_facts, stages, note)


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
        return kind.section(read_result(folder, kind))
    except Exception as error:
        told = logger.isEnabledFor(logging.DEBUG)
        logger.warning("the report's section on %s could not be made from %s (%s)", name, file, error, exc_info=told)
        what = f"This section could not be made from the figures in {file.name} ({type(error).__name__}: {error})."
        again = f"If they come from another version of emscope, run `emscope {name}` on this run again."
        return Section(name, name.capitalize(), [f"{what} {again}"])


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
        *(run.path(name) for name in ("summary.json", "detection.json", "ablation.json")),
        run.path("directions"),
        *trained,
        *_results(run.folder),
    ]
    settings = json.loads(json.dumps(hashed_settings(lab.config)))
    run.stage("report", settings, inputs, [run.path("report.html")], lambda: write_report(products(lab)), again=again)
