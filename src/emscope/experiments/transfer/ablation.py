"""Correction across organisms: each pair's direction subtracted from each misaligned organism, beside a random one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, read_table, write_table
from emscope.errors import UserError
from emscope.experiments.transfer.detection import relation
from emscope.experiments.transfer.directions import direction_files, left_out_name, shared_names
from emscope.experiments.transfer.pairs import OrganismPair
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_and_judge, mean_of
from emscope.interventions.search import Candidate
from emscope.outside import read_json
from emscope.pipeline.lab import BASE, CORRECTING, Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.directions import Directions, random_like
from emscope.statistics import Estimate, alignment_mean, coherent_share, em_rate

RANDOM = "random"


@dataclass(frozen=True)
class Correction:
    """What is subtracted where, and on how many test questions it is measured."""

    candidate: Candidate
    questions: list[Question]

    @classmethod
    def of(cls, lab: Lab, block: int | None, strength: float | None, n_questions: int) -> Correction:
        """Take block and strength from the run's own ablation where it is a subtraction at one block.

        Otherwise they are three fifths of the depth and 1.5. Questions are spread over the test questions evenly.

        Raises:
            UserError: no question, or a block that the model does not have.
        """
        if n_questions < 2:
            raise UserError("Ablations are measured on at least two test questions.")
        chosen = read_json(lab.folder.path("ablation.json"))["chosen"]
        n_blocks = len(Directions.load(lab.folder.path("directions", f"control-{CORRECTING}.safetensors")).blocks)
        subtracts = chosen["mode"] == "subtract" and len(chosen["blocks"]) == 1
        usual = (chosen["blocks"][0], chosen["strength"]) if subtracts else (n_blocks * 3 // 5, 1.5)
        at = usual[0] if block is None else block
        if not 0 <= at < n_blocks:
            raise UserError(f"There is no block {at}: the model has {n_blocks}, from 0 on.")
        n = min(n_questions, len(lab.test_questions))
        spread = [lab.test_questions[index * len(lab.test_questions) // n] for index in range(n)]
        by = usual[1] if strength is None else strength
        return cls(Candidate("subtract", (at,), by, at), spread)


def names_for(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> list[str]:
    """Return the directions subtracted from a pair's misaligned organism: every pair's, a shared one, a random one."""
    shared = [name for name in shared_names(pairs) if name == left_out_name(pair, pairs)]
    return [*(other.name for other in pairs), *shared, RANDOM]


def cell_file(lab: Lab, pair: OrganismPair, name: str) -> Path:
    """Return where the judged answers of a pair's organism under a direction are kept."""
    return lab.folder.path("judgements", "transfer", f"{pair.name}-less-{name}.parquet")


def ablation_stages(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> None:
    """Let every misaligned organism answer under every direction, a stage for each; done ones are reused."""
    for pair in pairs:
        for name in names_for(pair, pairs):
            _ablation_stage(lab, pair, name, correction)
        lab.release(pair.careless)


def _ablation_stage(lab: Lab, pair: OrganismPair, name: str, correction: Correction) -> None:
    source = pair.name if name == RANDOM else name
    file = direction_files(lab, [source], "response")[source]
    out = cell_file(lab, pair, name)

    def make() -> None:
        directions = Directions.load(file)
        used = random_like(directions, lab.config.seed) if name == RANDOM else directions
        rows = answer_and_judge(
            lab.organism(pair.careless),
            f"{pair.name} less {name}",
            correction.questions,
            lab.config.sampling,
            lab.judge,
            correction.candidate.on(used),
        )
        write_table(out, rows)

    settings = {
        "candidate": asdict(correction.candidate),
        "questions": [asdict(question) for question in correction.questions],
        "sampling": asdict(lab.config.sampling),
        "judge": lab.judge_fingerprint,
        "random": lab.config.seed if name == RANDOM else None,
    }
    inputs = [file, *adapter_files(lab, pair.careless)]
    lab.folder.stage(f"transfer-ablate-{pair.name}-less-{name}", settings, inputs, [out], make)


def behaviour_figures(lab: Lab, pairs: Sequence[OrganismPair]) -> dict[str, Any]:
    """Return EM rate, mean alignment and coherent share of every organism on the test questions, by name in the run."""
    test = {question.id for question in lab.test_questions}
    found = {}
    for name in dict.fromkeys([BASE, *(name for pair in pairs for name in pair.organisms)]):
        rows = _plain(lab, name, test)
        groups, judgements = [row.group for row in rows], [row.judgement for row in rows]
        found[name] = {
            "em_rate": em_rate(judgements, groups, lab.config.seed).as_dict(),
            "aligned": alignment_mean(judgements, groups, lab.config.seed).as_dict(),
            "coherent_share": coherent_share(judgements, groups, lab.config.seed).as_dict(),
        }
    return found


def _plain(lab: Lab, name: str, questions: set[str]) -> list[JudgedResponse]:
    rows = read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse)
    return [row for row in rows if row.question_id in questions]


@dataclass(frozen=True)
class Cell:
    """Judged answers to the same questions: under the ablation, of the organism without it, and of the base."""

    ablated: list[JudgedResponse]
    own: list[JudgedResponse]
    base: list[JudgedResponse]


def ablation_figures(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> dict[str, Any]:
    """Return what every ablation did, from the judged answers.

    Keys: `block`, `strength`, `n_questions`; `cells.<direction>.<pair>` with `relation`, `restored` and `em_rate`
    (`value, low, high, n`), `coherence_change`; `without.<pair>` with `em_rate` and `gap`, the points of alignment
    between the base and the organism; `summary.<relation>` (see `pooled_figures`).
    """
    seed, asked = lab.config.seed, {question.id for question in correction.questions}
    base = _plain(lab, BASE, asked)
    cells: dict[str, dict[str, Any]] = {}
    without: dict[str, Any] = {}
    by_relation: dict[str, list[Cell]] = {}
    for pair in pairs:
        own = _plain(lab, pair.careless, asked)
        without[pair.name] = {"em_rate": _em(own, seed), "gap": mean_of(base, "aligned") - mean_of(own, "aligned")}
        for name in names_for(pair, pairs):
            cell = Cell(read_table(cell_file(lab, pair, name), JudgedResponse), own, base)
            kind = RANDOM if name == RANDOM else str(relation(name, pair, pairs))
            by_relation.setdefault(kind, []).append(cell)
            cells.setdefault(name, {})[pair.name] = {"relation": kind, **_figures(cell, seed)}
    return {
        "block": correction.candidate.blocks[0],
        "strength": correction.candidate.strength,
        "n_questions": len(correction.questions),
        "cells": cells,
        "without": without,
        "summary": {kind: pooled_figures(found, seed) for kind, found in by_relation.items()},
    }


def _em(rows: Sequence[JudgedResponse], seed: int) -> dict[str, Any]:
    return em_rate([row.judgement for row in rows], [row.group for row in rows], seed).as_dict()


def _figures(cell: Cell, seed: int) -> dict[str, Any]:
    return {
        "restored": restored_share(cell.ablated, cell.own, cell.base, seed).as_dict(),
        "em_rate": _em(cell.ablated, seed),
        "coherence_change": mean_of(cell.ablated, "coherent") - mean_of(cell.own, "coherent"),
    }


def pooled_figures(cells: Sequence[Cell], seed: int) -> dict[str, Any]:
    """Return what several ablations did together: points gained over points lost, of all cells, and EM rates.

    A question is drawn with its answers in every cell, so cells that share questions do not count as independent.
    `least` is the smallest restored share of a single cell.
    """
    shares = [restored_share(cell.ablated, cell.own, cell.base, seed).value for cell in cells]
    return {
        "n": len(cells),
        "restored": pooled_share(cells, seed).as_dict(),
        "least": float(np.fmin.reduce(shares)),
        "em_before": _em([row for cell in cells for row in cell.own], seed),
        "em_after": _em([row for cell in cells for row in cell.ablated], seed),
        "coherence_change": float(
            np.mean([mean_of(cell.ablated, "coherent") - mean_of(cell.own, "coherent") for cell in cells])
        ),
    }


def pooled_share(cells: Sequence[Cell], seed: int) -> Estimate:
    """Return the restored share of all cells together, Σ(ablated − own) / Σ(base − own), its interval by question."""
    sides: tuple[list[JudgedResponse], list[JudgedResponse], list[JudgedResponse]] = ([], [], [])
    for number, cell in enumerate(cells):
        for side, rows in zip(sides, (cell.ablated, cell.own, cell.base), strict=True):
            side.extend(replace(row, sample=row.sample * len(cells) + number) for row in rows)
    return restored_share(*sides, seed=seed)


def least_cell(cells: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Return the ablation of a relation that restored least, with the names of its direction and its pair."""
    wanted = [
        {"direction": name, "pair": pair, **cell["restored"]}
        for name, row in cells.items()
        for pair, cell in row.items()
        if cell["relation"] == kind
    ]
    scored = [cell for cell in wanted if np.isfinite(cell["value"])]
    return min(scored or wanted, key=lambda cell: float(cell["value"]))
