"""The stage that writes report.html, again whenever something that it shows has changed."""

from __future__ import annotations

import json
from pathlib import Path

from emscope.pipeline.config import hashed_settings
from emscope.pipeline.lab import BASE, Lab
from emscope.report.page import write_report
from emscope.report.sections import EXPERIMENTS, experiment_file


def judged_files(lab: Lab) -> list[Path]:
    """Return the main job's judgements: of each organism, and of the ablation's answers."""
    return [lab.folder.path("judgements", f"{name}.parquet") for name in (*lab.names, "ablation")]


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
        *(experiment_file(run.folder, name) for name in EXPERIMENTS),
    ]
    settings = json.loads(json.dumps(hashed_settings(lab.config)))
    run.stage("report", settings, inputs, [run.path("report.html")], lambda: write_report(lab.products()), again=again)
