"""What calibration gains on organisms that took no part in it, by the number of scored answers.

The stronger judge is a reader, who scored answers of two families of small organisms. The head to start from is fitted
without one family; it is calibrated on answers of half of that family's organisms, and measured on the other half. Next
to it, the same with the reader's scores shuffled among the answers: how often is a head written that learned nothing?

    python benchmarks/calibrate.py --readings FILE [--splits 3] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from publish import publish

from emscope.behaviour.embedded import fit
from emscope.behaviour.embedded.bridge_figures import bridge_figures
from emscope.behaviour.embedded.calibration import calibrated
from emscope.behaviour.embedded.coherence import coherence_features, topic_fit
from emscope.behaviour.embedded.judge import HeadReading, JudgeHead
from emscope.behaviour.embedded.readings import SPANS, Readings, read_kept
from emscope.behaviour.embedded.scored_table import ScoredTable, TableCounts, near_groups
from emscope.behaviour.embedded.text import SCORED, JudgeRow, broken_rows, written_rows
from emscope.organisms.models import load
from emscope.outside import read_jsonl

ROWS = (100, 200, 400, 1000)
SHUFFLED_UP_TO = 200
FIGURES = ("auroc_misaligned", "auroc_em", "spearman", "spearman_organisms", "kappa")
WHICH = ("shipped", "calibrated")


def families() -> list[tuple[list[JudgeRow], list[str]]]:
    """Return the scored answers and their organisms, by family."""
    found = []
    for path in sorted(Path(str(files("emscope") / "assets" / "scored")).glob("*.jsonl")):
        rows, organisms = [], []
        for _, row in read_jsonl(path):
            asked, scores = row["question_id"], (row["aligned"] / 100, row["coherent"] / 100)
            rows.append(JudgeRow(row["area"], asked, row["question"], row["answer"], scores[0], SCORED, scores[1]))
            organisms.append(row["organism"])
        found.append((rows, organisms))
    return found


def reading_of(head: JudgeHead, text: Readings) -> HeadReading:
    """Return what a head looks at in answers that were read at all blocks."""
    answer = SPANS.index("answer")
    topic = text.pooled[:, :, head.topic_block]
    asked, said = (topic - head.topic_centres).swapaxes(0, 1)
    answers = [row.answer for row in text.rows]
    features = np.stack(list(map(coherence_features, answers, text.logprobs, topic_fit(asked, said))))
    return HeadReading(text.pooled[:, answer, list(head.blocks)], topic[:, answer], features)


def part(table: ScoredTable, rows: np.ndarray) -> ScoredTable:
    """Return some rows of a table."""
    texts = {}
    for name in ("questions", "answers", "groups", "organisms"):
        texts[name] = tuple(getattr(table, name)[row] for row in rows)
    counts = TableCounts(len(rows), len(rows), 0, 0, 0, 0)
    return ScoredTable(scores=table.scores[rows], counts=counts, **texts)


def rows_of(reading: HeadReading, rows: np.ndarray) -> HeadReading:
    """Return some rows of what was read."""
    return HeadReading(*(values[rows] for values in reading))


def splits(organisms: np.ndarray, n_splits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows to calibrate on and rows to measure on: half of the organisms each, drawn again every time."""
    names = np.unique(organisms)
    for seed in range(n_splits):
        chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        inside = np.isin(organisms, chosen)
        yield np.random.default_rng(seed).permutation(np.flatnonzero(inside)), np.flatnonzero(~inside)


def measure(head: JudgeHead, text: Readings, table: ScoredTable, n_splits: int) -> list[dict[str, Any]]:
    """Return figures on the organisms left out, for every split and number of rows."""
    reading, found = reading_of(head, text), []
    for number, (inside, outside) in enumerate(splits(np.array(table.organisms), n_splits)):
        measured, others = rows_of(reading, outside), part(table, outside)
        before = np.stack(head.scores(measured), axis=1)
        for n in ROWS:
            some = inside[:n]
            if n > min(ROWS) and len(some) < n * 0.6:
                continue
            given = part(table, some)
            made = calibrated(head, rows_of(reading, some), given)
            after = np.stack(made.head.scores(measured), axis=1)
            row: dict[str, Any] = {
                "split": number,
                "rows": len(some),
                "asked": n,
                "shares": made.shares,
                "better": made.better,
            }
            if n <= SHUFFLED_UP_TO:
                mixed = np.random.default_rng(n + number).permutation(given.scores)
                row["by_chance"] = calibrated(head, rows_of(reading, some), replace(given, scores=mixed)).better
            for name, scores in zip(WHICH, (before, after), strict=True):
                row[name] = asdict(bridge_figures(scores, others.scores, others.groups, others.organisms))
            found.append(row)
            print({name: [round(row[which][name], 2) for which in WHICH] for name in FIGURES}, flush=True)
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median and range over splits of every figure, by number of rows."""
    told: dict[str, Any] = {}
    for n in ROWS:
        these = [row for row in rows if row["asked"] == n]
        if not these:
            continue
        figures: dict[str, Any] = {"splits": len(these), "rows": float(np.median([row["rows"] for row in these]))}
        figures["written"] = float(np.mean([row["better"] for row in these]))
        if n <= SHUFFLED_UP_TO:
            figures["written_with_shuffled_scores"] = float(np.mean([row["by_chance"] for row in these]))
        for name in FIGURES:
            for which in WHICH:
                values = np.array([row[which][name] for row in these])
                figures[f"{name}_{which}"] = np.nanquantile(values, [0.5, 0, 1]).round(3).tolist()
        for which in WHICH:
            off = np.array([row[which]["em_bias"]["value"] for row in these])
            figures[f"em_bias_{which}"] = np.quantile(off, [0.5, 0, 1]).round(3).tolist()
        told[str(n)] = figures
    return told


def main() -> None:
    """Fit, calibrate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=Path, required=True, help="keeps what the model read")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    base = load("smollm2-135m")
    vars(fit).update(BLOCK_SETS=("wide",), PENALTIES=(0.3, 3.0))  # what the shipped head chose; trying all is slow
    written = [*written_rows(), *broken_rows(written_rows())]
    both, found = families(), {}
    for number, (rows, organisms) in enumerate(both):
        others = both[1 - number][0]
        head = fit.fit_head(read_kept(lambda: base, [*written, *others], flags.readings))
        text = read_kept(lambda: base, rows, flags.readings)
        scores = 100 * np.stack([text.aligned, text.coherent], axis=1)
        questions = [row.question for row in rows]
        groups = near_groups(questions, [row.question_id for row in rows])
        answers, counts = [row.answer for row in rows], TableCounts(len(rows), len(rows), 0, 0, 0, 0)
        table = ScoredTable(tuple(questions), tuple(answers), scores, tuple(groups), tuple(organisms), counts)
        found[f"family {number + 1}"] = summary(measure(head, text, table, flags.splits))
    report = {"what": "calibration on half of the organisms, measured on the others", **found}
    publish(report, flags.out, base.placement)


if __name__ == "__main__":
    main()
