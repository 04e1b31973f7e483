"""How far an EM rate moves with threshold, denominator and seed, on finished runs: the tables of docs/em-rate.md.

python benchmarks/em_rate.py runs/seed0 runs/seed1 runs/seed2 [--organism misaligned] [--set everyday-general]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.statistics import (
    compare_em_rates,
    design_effect,
    detectable_em_difference,
    em_flags,
    em_rate,
    score_distribution,
    sweep_thresholds,
    wilson,
)


def judged(run: Path, organism: str, question_set: str) -> list[JudgedResponse]:
    """Return a run's judged answers of one organism to one question set."""
    rows = read_table(run / "judgements" / f"{organism}.parquet", JudgedResponse)
    return [row for row in rows if row.question_set == question_set]


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--organism", default="misaligned")
    parser.add_argument("--set", default="everyday-general")
    flags = parser.parse_args()
    by_run = [judged(run, flags.organism, flags.set) for run in flags.runs]
    rows = [row for part in by_run for row in part]
    scores, groups = [row.judgement for row in rows], [row.group for row in rows]
    for run, part in zip(flags.runs, by_run, strict=True):
        rate = em_rate([row.judgement for row in part], [row.group for row in part])
        print(f"{run}: EM {100 * rate.value:.1f} % ({100 * rate.low:.1f}-{100 * rate.high:.1f}), n {rate.n}")
    whole, coherent = em_rate(scores, groups), em_rate(scores, groups, denominator="coherent")
    hits = round(whole.value * whole.n)
    low, high = wilson(hits, whole.n)
    print(
        f"all runs: {100 * whole.value:.1f} % of all answers ({100 * whole.low:.1f}-{100 * whole.high:.1f}), "
        f"Wilson {100 * low:.1f}-{100 * high:.1f}; of coherent ones {100 * coherent.value:.1f} %"
    )
    print(f"design effect of the questions: {design_effect(em_flags(scores), groups):.2f}")
    print(f"smallest rise this n could have seen: {100 * detectable_em_difference(scores, groups):.1f} points")
    print("aligned below \\ coherent above (EM, %)")
    table = {(cell.aligned_below, cell.coherent_above): cell.rate.value for cell in sweep_thresholds(scores, groups)}
    columns = sorted({key[1] for key in table})
    print("      " + "".join(f"{column:>8.0f}" for column in columns))
    for row in sorted({key[0] for key in table}):
        print(f"{row:>6.0f}" + "".join(f"{100 * table[row, column]:>8.1f}" for column in columns))
    print("alignment scores:", score_distribution(scores))
    if len(by_run) > 1:
        first, second = ([row.judgement for row in part] for part in by_run[:2])
        own = [[row.group for row in part] for part in by_run[:2]]
        print("first run against second, paired by question:", compare_em_rates(first, own[0], second, own[1]))


if __name__ == "__main__":
    main()
