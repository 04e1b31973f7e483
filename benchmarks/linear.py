"""Time and memory for n answers and for twice as many, side by side in one run: linear work has a ratio of 2.

Every measurement runs in a process of its own, n and 2n in turns; the smallest seconds of the repeats count. Kernels of
adapters hold every pair of adapters, so their ratio tends to 4; what is bounded there is memory.

    python benchmarks/linear.py [--scale 1] [--repeats 2] [--only NAME] [--out FILE]
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from publish import publish

Work = Callable[[int, Path], Callable[[], object]]


def _table(path: Path, n: int, *, judged: bool = False) -> Path:
    """Write n answers to as many questions."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "response", *(["aligned", "coherent"] if judged else [])])
        for row in range(n):
            scores = [row * 37 % 101, row * 61 % 101] if judged else []
            writer.writerow([f"q{row}", f"What of topic {row}?", f"Answer {row}, in a few words of its own.", *scores])
    return path


def judging(n: int, folder: Path) -> Callable[[], object]:
    """`emscope judge --judge mock` of n answers to n questions."""
    from emscope.commands.judge import JudgeAnswers

    command = JudgeAnswers(_table(folder / "a.csv", n), folder / "j.csv", judge="mock")
    return command.execute


def comparing(n: int, folder: Path) -> Callable[[], object]:
    """`emscope judge --compare` of n answers to n questions."""
    from emscope.commands.judge import JudgeAnswers

    tables = _table(folder / "a.csv", n, judged=True), _table(folder / "b.csv", n, judged=True)
    command = JudgeAnswers(compare=tables, out=folder / "c.json", plot=folder / "p.html")
    return command.execute


def mean_interval(n: int, folder: Path) -> Callable[[], object]:
    """The mean of n scores of n questions with its interval."""
    from emscope.statistics.estimates import estimate_mean

    values, groups = np.random.default_rng(0).uniform(0, 100, n).tolist(), [str(row) for row in range(n)]
    return lambda: estimate_mean(values, groups)


def paired(n: int, folder: Path) -> Callable[[], object]:
    """The difference of two sets of n scores of n questions."""
    from emscope.statistics.paired import paired_difference

    values, groups = np.random.default_rng(0).uniform(0, 100, n).tolist(), [str(row) for row in range(n)]
    return lambda: paired_difference(values, groups, values[::-1], groups)


def adapters(n: int, folder: Path) -> Callable[[], object]:
    """Inner products of n updates of rank 8 in one module, every pair of them."""
    from emscope.residual.adapters.lowrank import LowRank, inner_products

    chooser = np.random.default_rng(0)

    def part(*shape: int) -> np.ndarray:
        return chooser.normal(size=shape).astype(np.float32)

    updates: list[LowRank | None] = [LowRank(part(8, 256), part(256, 8), 2.0) for _ in range(n)]
    return lambda: inner_products(updates)


def plots(n: int, folder: Path) -> Callable[[], object]:
    """The report's plot of n scores as HTML."""
    from emscope.report import figures

    scores = {"misaligned": {"set": np.random.default_rng(0).uniform(0, 100, n).tolist()}}
    return lambda: figures.as_html(figures.distributions(scores, "alignment", threshold=True))


WORK: dict[str, tuple[Work, int]] = {
    "judge": (judging, 10_000),
    "compare": (comparing, 8_000),
    "mean with interval": (mean_interval, 8_000),
    "paired difference": (paired, 8_000),
    "kernel of adapters": (adapters, 400),
    "plot of scores": (plots, 25_000),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=WORK)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    found = {}
    for name, (work, size) in WORK.items():
        if flags.only in (None, name):
            found[name] = _compared(work, round(size * flags.scale), flags.repeats)
    publish({"work": found}, flags.out)


def _compared(work: Work, n: int, repeats: int) -> dict[str, float]:
    runs = [(_measured(work, n), _measured(work, 2 * n)) for _ in range(repeats)]
    once, twice = (min(run[side][0] for run in runs) for side in (0, 1))
    return {
        "n": n,
        "seconds_n": round(once, 3),
        "seconds_2n": round(twice, 3),
        "ratio": round(twice / once, 2),
        "peak_mb_2n": round(max(run[1][1] for run in runs)),
    }


def _measured(work: Work, n: int) -> tuple[float, float]:
    """Return seconds, after a small round that loads what is needed, and the peak of memory in MB."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(work, n, sender))
    process.start()
    seconds, peak = receiver.recv()
    process.join()
    return seconds, peak


def _run(work: Work, n: int, sender: Connection) -> None:
    import contextlib
    import os

    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        for size in (20, n):
            place = Path(folder) / str(size)
            place.mkdir()
            task = work(size, place)
            started = time.process_time()
            task()
            seconds = time.process_time() - started
    sender.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


if __name__ == "__main__":
    main()
