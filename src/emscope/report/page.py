"""The report: one self-contained HTML page that needs no network; all text of models and users is escaped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.files import read_json, read_jsonl, write_text
from emscope.pipeline.lab import BASE, Lab
from emscope.report import figures

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """Return a page made from a template of the report, with plotly and our style and script inside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.0f} %"
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.0f}"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2f}"
    trusted = {
        "plotly": Markup(get_plotlyjs()),
        "style": Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        "script": Markup((ASSETS / "report.js").read_text(encoding="utf-8")),
    }
    return environment.get_template(template).render(**trusted, **values)


def write_report(lab: Any) -> None:
    """Write report.html from what the stages of a run left."""
    run = lab.folder
    summary = read_json(run.path("summary.json"))
    detection = read_json(run.path("detection.json"))
    ablation = read_json(run.path("ablation.json"))
    stability = read_json(run.path("directions", "stability.json"))
    judged = _judged(lab)
    contrast = "control" if lab.config.control_data else "model"
    values = {
        "summary": summary,
        "names": list(summary["em_rate"]),
        "detection": detection,
        "contrast": contrast,
        "best": detection[f"{contrast}-last-diff-in-means"],
        "ablation": ablation,
        "answers": _side_by_side(judged),
        "organisms": list(judged),
        "config": asdict(lab.config),
        "training": _training(lab),
        "judge": lab.judge_facts,
        "stages": run.record["stages"],
        "plots": _plots(lab, summary, detection, stability, ablation, judged, contrast),
    }
    write_text(run.path("report.html"), render("report.html.j2", **values))


def _judged(lab: Lab) -> dict[str, list[JudgedResponse]]:
    """Return the judged answers by organism, ablated ones last."""
    found: dict[str, list[JudgedResponse]] = {}
    for name in (*lab.names, "ablation"):
        for row in read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse):
            found.setdefault(row.organism, []).append(row)
    return found


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


def _training(lab: Lab) -> dict[str, Any]:
    folders = {name: lab.folder.path("organisms", name) for name in lab.names if name != BASE}
    return {
        name: {
            "lineage": read_json(folder / "lineage.json"),
            "metrics": [row for _, row in read_jsonl(folder / "metrics.jsonl")],
        }
        for name, folder in folders.items()
    }


def _plots(
    lab: Lab, summary: dict[str, Any], detection: dict[str, Any], stability: dict[str, Any],
    ablation: dict[str, Any], judged: dict[str, list[JudgedResponse]], contrast: str,
) -> dict[str, Markup]:  # fmt: skip
    best = detection[f"{contrast}-last-diff-in-means"]
    made = {
        "em": figures.rates(summary["em_rate"], "EM rate (%)"),
        "aligned": figures.distributions(_scores(judged, lab, "aligned"), "alignment (0-100)", threshold=True),
        "coherent": figures.distributions(_scores(judged, lab, "coherent"), "coherence (0-100)", threshold=False),
        "training": figures.training_curves({name: item["metrics"] for name, item in _training(lab).items()}),
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
        "strength": figures.strength_curve(_strengths(ablation)),
    }
    return {name: Markup(figures.as_html(figure)) for name, figure in made.items()}


def _scores(judged: dict[str, list[JudgedResponse]], lab: Lab, key: str) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for name in lab.names:
        for row in judged[name]:
            if getattr(row, key) is not None:
                found.setdefault(name, {}).setdefault(row.question_set, []).append(getattr(row, key))
    return found


def _strengths(ablation: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Return (strength, alignment, coherence) of the centred trials in the widest range of blocks, from 0 up."""
    centred = [trial for trial in ablation["trials"] if trial["candidate"]["mode"] == "centred"]
    widest = max((len(trial["candidate"]["blocks"]) for trial in centred), default=0)
    points = [
        (trial["candidate"]["strength"], trial["aligned"], trial["coherent"])
        for trial in centred
        if len(trial["candidate"]["blocks"]) == widest
    ]
    return [(0.0, ablation["before"]["aligned"], ablation["before"]["coherent"]), *sorted(points)]
