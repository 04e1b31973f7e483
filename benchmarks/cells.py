"""Cells of the steering dial sampled side by side against one cell after the other, in one process. Runs alternate.

Each row of a batch is under its own intervention; both ways give the same answers up to what bf16 rounds differently
in batches of another size.

    python benchmarks/cells.py RUN [--cells 8] [--questions 12] [--repeats 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from publish import publish

from emscope.behaviour.sampling import sample_responses
from emscope.experiments.bench import direction_names
from emscope.experiments.shape import open_run
from emscope.interventions.operators import applied, applied_by_row
from emscope.interventions.steering import steer
from emscope.organisms.blocks import find_blocks
from emscope.pipeline.lab import MISALIGNED
from emscope.residual.directions import Directions
from emscope.sequences import spread


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    lab = open_run(flags.run)
    organism, sampling = lab.organism(MISALIGNED), lab.config.sampling
    questions = spread(lab.dev_questions, flags.questions)
    directions = Directions.load(flags.run / "directions" / f"{direction_names(lab)[0]}.safetensors")
    block = len(find_blocks(organism.model)) * 3 // 5
    cells = [steer(directions, (block,), -2 * (number + 1) / flags.cells) for number in range(flags.cells)]

    def side_by_side() -> list[str]:
        with applied_by_row(organism, [cell for cell in cells for _ in questions]) as select:
            rows = sample_responses(organism, [*questions] * len(cells), sampling, on_rows=select)
        return [row.response for row in rows]

    def one_by_one() -> list[str]:
        found = []
        for cell in cells:
            with applied(organism, cell):
                found += [row.response for row in sample_responses(organism, questions, sampling)]
        return found

    side_by_side()
    ratios, fast, slow = [], [], []
    for _ in range(flags.repeats):
        started = time.perf_counter()
        together = side_by_side()
        fast.append(len(together) / (time.perf_counter() - started))
        started = time.perf_counter()
        apart = one_by_one()
        slow.append(len(apart) / (time.perf_counter() - started))
        ratios.append(fast[-1] / slow[-1])
    report = {
        "what": "sampling cells of the steering dial, answers a second",
        "cells": len(cells),
        "questions": len(questions),
        "one_by_one": statistics.median(slow),
        "side_by_side": statistics.median(fast),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "same_answers": sum(a == b for a, b in zip(together, apart, strict=True)) / len(apart),
    }
    publish(report, flags.out, organism.placement)


if __name__ == "__main__":
    main()
