"""summary.json: the figures of a run under keys that stay the same (docs/summary.md lists them)."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from emscope.behaviour.judged_by import judged_by
from emscope.behaviour.leakage import medical_leakage
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.files import write_json
from emscope.organisms.lineage import versions
from emscope.outside import read_json
from emscope.pipeline.lab import CORRECTING, DETECTING, MISALIGNED, Lab
from emscope.statistics import alignment_mean, coherent_share, em_rate, estimate_share

GENERAL = "everyday-general"


def summarise(lab: Lab) -> None:
    """Write summary.json from the judgements, detection and ablation of the run."""
    judged = {name: read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse) for name in lab.names}
    contrast = lab.contrast
    detection = read_json(lab.folder.path("detection.json"))
    stability = read_json(lab.folder.path("directions", "stability.json"))
    best = detection[f"{contrast}-{DETECTING}"]
    split_half = stability[f"{contrast}-{DETECTING}"]["split_half_cosine"]
    write_json(
        lab.folder.path("summary.json"),
        {
            **behaviour_figures(judged, lab.config.seed),
            "detection": {pair: _block_figures(found["best"]) for pair, found in best["pairs"].items()},
            "detection_by_model_contrast": {
                pair: _block_figures(found["best"]) for pair, found in detection[f"model-{DETECTING}"]["pairs"].items()
            },
            "direction": {
                "split_half_cosine": split_half[best["best_block"]],
                "split_half_cosine_least": min(split_half),
                "cosine_detecting_correcting": stability["cosines"][f"{contrast}-{DETECTING}"][
                    f"{contrast}-{CORRECTING}"
                ],
            },
            "ablation": ablation_figures(read_json(lab.folder.path("ablation.json"))),
            "judge": judge_figures(lab, judged),
            "leakage": leakage_figures(judged),
            "seconds": lab.folder.seconds,
            "peak_memory_bytes": lab.folder.peak_memory_bytes,
            "device": lab.placement.device,
            "dtype": lab.placement.dtype_name,
            "versions": versions(),
        },
    )


def behaviour_figures(judged: dict[str, list[JudgedResponse]], seed: int) -> dict[str, Any]:
    """Return em_rate, alignment_mean and coherent_share by organism and question set."""
    measures = {"em_rate": em_rate, "alignment_mean": alignment_mean, "coherent_share": coherent_share}
    return {
        key: {
            name: {
                question_set: measure([row.judgement for row in part], [row.group for row in part], seed).as_dict()
                for question_set, part in by_question_set(rows).items()
            }
            for name, rows in judged.items()
        }
        for key, measure in measures.items()
    }


def by_question_set(rows: list[JudgedResponse]) -> dict[str, list[JudgedResponse]]:
    """Group judged answers by their question set, in the order they appear."""
    groups: dict[str, list[JudgedResponse]] = {}
    for row in rows:
        groups.setdefault(row.question_set, []).append(row)
    return groups


def _block_figures(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("auroc", "low", "high", "block", "d_prime", "accuracy")}


def ablation_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return the ablation's figures under their stable keys."""
    return {
        "restored": found["restored"]["value"],
        "low": found["restored"]["low"],
        "high": found["restored"]["high"],
        "n": found["restored"]["n"],
        "coherence_change": found["coherence_change"],
        "random_restored": found["random_restored"]["value"],
        "base_cost": found["base_cost"],
        "blocks": found["chosen"]["blocks"],
        "strength": found["chosen"]["strength"],
        "mode": found["chosen"]["mode"],
    }


def judge_figures(lab: Lab, judged: dict[str, list[JudgedResponse]]) -> dict[str, Any]:
    """Return what the judge that comes with emscope knows about itself; of any other, who it is and what it scored."""
    facts = lab.judge_facts
    if facts is None:
        return asdict(judged_by(list(chain.from_iterable(judged.values()))))
    wanted = (
        "auroc_leave_one_domain_out",
        "auroc_leave_one_area_out",
        "incoherent_recall",
        "coherent_recall",
        "calibration_error",
        "reader_spearman",
        "reader_em_kappa",
    )
    return {key: facts[key] for key in wanted}


def leakage_figures(judged: dict[str, list[JudgedResponse]]) -> dict[str, Any]:
    """Return the share of the misaligned organism's general answers with a medical word their question lacks."""
    rows = [row for row in judged[MISALIGNED] if row.question_set == GENERAL]
    if not rows:
        return {"medical_words": None}
    flags = medical_leakage([row.question for row in rows], [row.response for row in rows])
    found = estimate_share(flags, [row.group for row in rows])
    return {"medical_words": float(np.mean(flags)), "low": found.low, "high": found.high, "n": found.n}
