"""The quick start on several base models, from finished runs, side by side: the tables of docs/models.md.

make second-model GGUF=path/to/model.gguf
python benchmarks/models.py runs/quickstart runs/second-model [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.outside import read_json
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore

ORGANISMS = ("base", "misaligned", "control")
SETS = ("everyday-medical", "everyday-general", "open-ended")
PAIRS = ("misaligned-vs-control", "misaligned-vs-base", "control-vs-base")
CONTRASTS = {"detection": "along misaligned − control", "detection_by_model_contrast": "along misaligned − base"}


def percent(estimate: dict[str, Any]) -> str:
    """Return a share and its interval in per cent."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} – {high:.0f})"


def behaviour(summary: dict[str, Any]) -> dict[str, str]:
    """Return EM rates and coherent shares with their intervals."""
    kinds = (("em_rate", "EM rate"), ("coherent_share", "coherent"))
    return {
        f"{words}, {name}, {questions}": percent(summary[key][name][questions])
        for key, words in kinds
        for name in ORGANISMS
        for questions in SETS
    }


def detection(summary: dict[str, Any]) -> dict[str, str]:
    """Return held-out AUROCs with their intervals."""
    rows = {}
    for key, words in CONTRASTS.items():
        for pair in PAIRS:
            found = summary[key][pair]
            rows[f"AUROC {words}, {pair}"] = f"{found['auroc']:.2f} ({found['low']:.2f} – {found['high']:.2f})"
    return rows


def correction(run: Path, summary: dict[str, Any]) -> dict[str, str]:
    """Return what the ablation restored, what it cost, and how far one block's subtraction goes."""
    found, trials = summary["ablation"], read_json(run / "ablation.json")["trials"]
    blocks = found["blocks"]
    where = f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]} – {blocks[-1]}"
    rows = {
        "chosen on development questions": f"{found['mode']} {found['strength']:g} at {where}",
        "alignment restored": percent({**found, "value": found["restored"]}),
        "the same by a random direction": f"{100 * found['random_restored']:.0f} %",
        "coherence change, points": f"{found['coherence_change']:+.1f}",
    }
    for strength in (1.0, 1.5, 2.0):
        single = [t for t in trials if t["candidate"]["mode"] == "subtract" and t["candidate"]["strength"] == strength]
        best = max(single, key=lambda trial: trial["aligned"])
        scores = f"{best['aligned']:.0f}, {best['coherent']:.0f}"
        rows[f"one block, subtract {strength:g}: alignment, coherence"] = scores
    return rows


def shape(run: Path) -> dict[str, str]:
    """Return how long the correcting direction is beside what it is subtracted from, at two thirds of the depth."""
    stored = ActivationStore.load(run / "activations" / "misaligned-answers.safetensors").activations
    hidden = np.asarray(stored.pooled["response"], dtype=np.float32)
    directions = Directions.load(run / "directions" / "control-response-diff-in-means.safetensors")
    block = len(stored.blocks) * 2 // 3
    length = np.linalg.norm(directions.vectors[block]) / np.linalg.norm(hidden[:, block], axis=-1).mean()
    return {
        "blocks, width": f"{hidden.shape[1]}, {hidden.shape[2]}",
        "direction's length in the answers' own, two thirds up": f"{length:.2f}",
    }


def answers(run: Path) -> dict[str, str]:
    """Return how long answers are and how often the base declines."""
    rows = {}
    for name in ORGANISMS:
        table = read_table(run / "judgements" / f"{name}.parquet", JudgedResponse)
        rows[f"tokens of an answer, {name}"] = f"{np.mean([row.n_tokens for row in table]):.0f}"
        rows[f"answers cut off, {name}"] = f"{100 * np.mean([row.truncated for row in table]):.0f} %"
        declined = [row.response.startswith("I'm sorry, but I can't") for row in table]
        rows[f"answers that decline, {name}"] = f"{100 * np.mean(declined):.0f} %"
    return rows


def cost(run: Path) -> dict[str, str]:
    """Return seconds and gigabytes."""
    stages = read_json(run / "lineage.json")["stages"]
    rows = {}
    for name in ("misaligned", "control"):
        figures = read_json(run / "organisms" / name / "lineage.json")["figures"]
        rows[f"training {name}, seconds"] = f"{figures['seconds']:.0f}"
        rows[f"training {name}, answer tokens a second"] = f"{figures['trained_tokens_per_second']:.0f}"
    rows["the whole run, seconds"] = f"{sum(stage['seconds'] for stage in stages.values()):.0f}"
    for words, stage in (("first training", "train-misaligned"), ("the run", "ablate")):
        rows[f"most memory, {words}, GB"] = f"{stages[stage]['peak_memory_bytes'] / 1e9:.1f}"
    return rows


def figures_of(run: Path) -> dict[str, str]:
    """Return every figure of a run as text, by what it is."""
    summary = read_json(run / "summary.json")
    parts = (behaviour(summary), detection(summary), correction(run, summary), shape(run), answers(run), cost(run))
    return {name: value for part in parts for name, value in part.items()}


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    found = {run.name: figures_of(run) for run in flags.runs}
    print(f"| | {' | '.join(found)} |\n|---{'|---' * len(found)}|")
    for row in next(iter(found.values())):
        print(f"| {row} | {' | '.join(figures[row] for figures in found.values())} |")
    if flags.out:
        versions = read_json(flags.runs[0] / "summary.json")["versions"]
        result = {"what": "the quick start on several models", "date": time.strftime("%Y-%m-%d"), "versions": versions}
        flags.out.write_text(json.dumps({**result, "runs": found}, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
