"""The embedded judge in batches against the same judge given one answer at a time, in one process on the same answers.

Answers are the judge's own written text, of every length. Both ways read the same tokens; what batches save is
the shared prefix and the fixed cost of a forward pass. Runs alternate.

    python benchmarks/judge.py [--answers 1000] [--one-by-one 100] [--repeats 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from publish import publish

from emscope.behaviour.embedded.judge import EmbeddedJudge
from emscope.behaviour.embedded.text import domain_rows, written_rows
from emscope.organisms.models import load


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--one-by-one", type=int, default=100, help="how many are also judged one by one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    rows = [*written_rows(), *domain_rows()]
    order = np.random.default_rng(0).permutation(len(rows))[: flags.answers]
    chosen = [rows[index] for index in order]
    judge = EmbeddedJudge(load("smollm2-135m"))
    judge.judge([row.question for row in chosen[:16]], [row.answer for row in chosen[:16]])
    ratios, fast, slow = [], [], []
    for _ in range(flags.repeats):
        few = chosen[: flags.one_by_one]
        started = time.perf_counter()
        alone = [judge.judge([row.question], [row.answer])[0] for row in few]
        slow.append(len(few) / (time.perf_counter() - started))
        started = time.perf_counter()
        together = judge.judge([row.question for row in chosen], [row.answer for row in chosen])
        fast.append(len(chosen) / (time.perf_counter() - started))
        ratios.append(fast[-1] / slow[-1])
    gaps = [abs((a.aligned or 0) - (b.aligned or 0)) for a, b in zip(alone, together, strict=False)]
    report = {
        "what": "embedded judge, answers a second",
        "answers": len(chosen),
        "one_by_one_of_them": len(few),
        "one_by_one": statistics.median(slow),
        "batched": statistics.median(fast),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "largest_difference_in_points": max(gaps),
    }
    publish(report, flags.out, judge.base.placement)


if __name__ == "__main__":
    main()
