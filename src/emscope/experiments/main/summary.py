"""The figures of a run: summary.json, whose keys stay the same, and the organisms before and after the correction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import numpy as np

from emscope.behaviour.judged_by import JudgedBy, judged_by
from emscope.behaviour.leakage import medical_leakage
from emscope.behaviour.tables import JudgedResponse, judgements_and_groups
from emscope.experiments.main.result import (
    AFTER,
    AFTER_RANDOM,
    AblationFigures,
    AblationOutcome,
    AnswerFigures,
    Behaviour,
    BlockFigures,
    BySet,
    Correction,
    DirectionDetection,
    DirectionFigures,
    JudgeQuality,
    LeakageFigures,
    Summary,
    UnseenDetection,
)
from emscope.files import write_json
from emscope.organisms.lineage import versions
from emscope.outside import read_json
from emscope.pipeline.anchoring import anchored_in
from emscope.pipeline.lab import CORRECTING, DETECTING, MISALIGNED, Lab
from emscope.plain import fitted, plain
from emscope.statistics import (
    Estimate,
    Judgement,
    alignment_mean,
    coherent_share,
    em_rate,
    estimate_share,
)

GENERAL = "everyday-general"
Measure = Callable[[Sequence[Judgement], Sequence[str], int], Estimate]


def summarise(lab: Lab) -> None:
    """Write summary.json from the judgements, detection and ablation of the run."""
    every = judged_answers(lab)
    judged = {name: every[name] for name in lab.names}
    folder = lab.folder
    detection_file, ablation_file = folder.path("detection.json"), folder.path("ablation.json")
    detection = fitted(dict[str, DirectionDetection], read_json(detection_file), detection_file)
    ablation = fitted(AblationOutcome, read_json(ablation_file), ablation_file)
    seed, unseen_file = lab.config.seed, folder.path("unseen.json")
    unseen = read_json(unseen_file)

    summary = Summary(
        em_rate=measured_by_set(judged, em_rate, seed),
        alignment_mean=measured_by_set(judged, alignment_mean, seed),
        coherent_share=measured_by_set(judged, coherent_share, seed),
        detection=_best_blocks(detection[f"{lab.contrast}-{DETECTING}"]),
        detection_by_model_contrast=_best_blocks(detection[f"model-{DETECTING}"]),
        direction=_direction_figures(lab, detection),
        ablation=_ablation_figures(ablation),
        judge=judge_figures(lab, judged),
        leakage=_leakage_figures(judged[MISALIGNED]),
        seconds=folder.seconds,
        peak_memory_bytes=folder.peak_memory_bytes,
        device=lab.placement.device,
        dtype=lab.placement.dtype_name,
        versions=versions(),
        correction=correction_of(every, seed),
        unseen=None if unseen is None else fitted(UnseenDetection, unseen, unseen_file),
        anchored=anchored_in(lab),
    )
    write_json(folder.path("summary.json"), plain(summary))


def judged_answers(lab: Lab) -> dict[str, list[JudgedResponse]]:
    """Return the judged answers of the main job by organism, those under an ablation last."""
    judged: dict[str, list[JudgedResponse]] = {}
    for name in (*lab.names, "ablation"):
        for row in lab.judged(name):
            judged.setdefault(row.organism, []).append(row)
    return judged


def by_question_set(rows: Sequence[JudgedResponse]) -> dict[str, list[JudgedResponse]]:
    """Group judged answers by their question set, in the order they appear."""
    groups: dict[str, list[JudgedResponse]] = {}
    for row in rows:
        groups.setdefault(row.question_set, []).append(row)
    return groups


def measured_by_set(judged: Mapping[str, Sequence[JudgedResponse]], measure: Measure, seed: int) -> BySet:
    """Return a rate or mean of judged answers by organism and question set, questions of a group drawn together."""
    figures: dict[str, dict[str, Estimate]] = {}
    for name, rows in judged.items():
        figures[name] = {}
        for question_set, part in by_question_set(rows).items():
            figures[name][question_set] = measure(*judgements_and_groups(part), seed)
    return figures


def _best_blocks(detection: DirectionDetection) -> dict[str, BlockFigures]:
    figures = {}
    for pair, told in detection.pairs.items():
        best = told.best
        figures[pair] = BlockFigures(best.auroc, best.low, best.high, best.block, best.d_prime, best.accuracy)
    return figures


def _direction_figures(lab: Lab, detection: Mapping[str, DirectionDetection]) -> DirectionFigures:
    stability: Any = read_json(lab.folder.path("directions", "stability.json"))
    detecting, correcting = f"{lab.contrast}-{DETECTING}", f"{lab.contrast}-{CORRECTING}"
    split_half = stability[detecting]["split_half_cosine"]
    return DirectionFigures(
        split_half[detection[detecting].best_block], min(split_half), stability["cosines"][detecting][correcting]
    )


def _ablation_figures(ablation: AblationOutcome) -> AblationFigures:
    restored, chosen = ablation.restored, ablation.chosen
    return AblationFigures(
        restored=restored.value,
        low=restored.low,
        high=restored.high,
        n=restored.n,
        coherence_change=ablation.coherence_change,
        random_restored=ablation.random_restored.value,
        base_cost=ablation.base_cost,
        blocks=chosen.blocks,
        strength=chosen.strength,
        mode=chosen.mode,
    )


def judge_figures(lab: Lab, judged: Mapping[str, Sequence[JudgedResponse]]) -> JudgeQuality | JudgedBy:
    """Return what the judge that comes with emscope knows about itself; of any other, who it is and what it scored."""
    facts = lab.judge_facts
    if facts is None:
        return judged_by(list(chain.from_iterable(judged.values())))
    known = {field.name: facts[field.name] for field in fields(JudgeQuality) if field.name in facts}
    return JudgeQuality(**known)


def _leakage_figures(misaligned: Sequence[JudgedResponse]) -> LeakageFigures:
    rows = by_question_set(misaligned).get(GENERAL)
    if not rows:
        return LeakageFigures(None)
    flags = medical_leakage([row.question for row in rows], [row.response for row in rows])
    share = estimate_share(flags, [row.group for row in rows])
    return LeakageFigures(float(np.mean(flags)), share.low, share.high, share.n)


SHOWN = ("base", "control", MISALIGNED, AFTER, AFTER_RANDOM)


def correction_of(judged: Mapping[str, Sequence[JudgedResponse]], seed: int) -> Correction:
    """Return the organisms before and after the correction on the general test questions, or on the first set's.

    Args:
        judged: judged answers by organism, those under an ablation by their names in judgements/ablation.parquet.
        seed: of the intervals.
    """
    asked = by_question_set(judged[AFTER])
    question_set = GENERAL if GENERAL in asked else next(iter(asked))
    test = {row.question_id for row in asked[question_set]}
    organisms = {}
    for name in SHOWN:
        rows = [row for row in judged.get(name, ()) if row.question_id in test]
        if rows:
            organisms[name] = behaviour_of(rows, seed)
    return Correction(question_set, organisms)


def answer_figures(rows: Sequence[JudgedResponse], seed: int) -> AnswerFigures:
    """Return how these answers behave."""
    judgements, groups = judgements_and_groups(rows)
    return AnswerFigures(
        em=em_rate(judgements, groups, seed),
        coherent=coherent_share(judgements, groups, seed),
        aligned=alignment_mean(judgements, groups, seed),
    )


def behaviour_of(rows: Sequence[JudgedResponse], seed: int) -> Behaviour:
    """Return how an organism behaves in these answers."""
    figures = answer_figures(rows, seed)
    cut = float(np.mean([bool(row.truncated) for row in rows]))
    return Behaviour(figures.em, figures.coherent, figures.aligned, cut)
