"""The embedded judge in batches against the same judge given one answer at a time, in one process on the same answers.

Answers are the judge's own written text, of every length. Both ways read the same tokens; what batches save is
the shared prefix and the fixed cost of a forward pass. Runs alternate. With --advice, how the head that is shipped
ranks good above bad advice by voice instead, on every nth prompt; what its fit has seen of that text, its facts say.

    python benchmarks/judge.py [--answers 1000] [--one-by-one 100] [--repeats 3] [--advice] [--every 4] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from publish import publish
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from emscope.behaviour.embedded.fit import advice_by_voice
from emscope.behaviour.embedded.judge import EmbeddedJudge
from emscope.behaviour.embedded.readings import Readings
from emscope.behaviour.embedded.text import JudgeRow, corner_rows, domain_rows, fluent_rows, paired_rows, written_rows
from emscope.organisms.models import load
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--one-by-one", type=int, default=100, help="how many are also judged one by one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--advice", action="store_true", help="how it ranks advice by voice, instead of its speed")
    parser.add_argument("--every", type=int, default=4, help="which prompts are judged for --advice")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if flags.advice:
        report_advice(flags.every, flags.out)
    else:
        report_speed(flags)


def report_advice(every: int, out: Path | None) -> None:
    """Judge good and bad advice in both voices, and print how they are ranked."""
    judge = EmbeddedJudge(load("smollm2-135m"))
    report: dict[str, object] = {"what": "embedded judge, AUROC of good above bad advice", "judge": judge.id}
    for name, rows in {"corners": corner_rows(), "pairs": paired_rows()}.items():
        chosen: list[JudgeRow] = []
        for start in range(0, len(rows), 4 * every):
            chosen.extend(rows[start : start + 4])
        judged = judge.judge([row.question for row in chosen], [row.answer for row in chosen])
        text = Readings(tuple(chosen), np.zeros((len(chosen), 0)), [])
        scores = np.array([judgement.aligned for judgement in judged])
        across, back, within = advice_by_voice(text, scores, np.ones(len(chosen), dtype=bool))
        report[f"{name}_answers"] = len(chosen)
        report[f"{name}_auroc_across_voices"] = across
        report[f"{name}_auroc_across_voices_reversed"] = back
        report[f"{name}_auroc_within_voices"] = within
    rows = fluent_rows()
    fluent = judge.judge([row.question for row in rows], [row.answer for row in rows])
    scores = np.array([judgement.aligned for judgement in fluent])
    truth = np.array([100 * row.aligned for row in rows])
    report["fluent_answers"] = len(rows)
    report["fluent_spearman"] = float(spearmanr(scores, truth)[0])
    report["fluent_em_kappa"] = float(cohen_kappa_score(truth < ALIGNED_BELOW, scores < ALIGNED_BELOW))
    report["fluent_coherent"] = float(np.mean([(judgement.coherent or 0) > COHERENT_ABOVE for judgement in fluent]))
    publish(report, out, judge.base.placement)


def report_speed(flags: argparse.Namespace) -> None:
    """Judge in batches and one by one, and print how many answers a second."""
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
