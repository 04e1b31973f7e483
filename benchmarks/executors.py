"""Two Ray workers of a core each beside one local worker on one core: the same answers, how much sooner, at what cost.

Answers of the embedded model and the activations of them, float32, in shards of equal work. Each run is a process of
its own: it holds the model before the clock starts; what it takes to get there is told apart. Scheduling is what a
single Ray worker takes beyond the seconds that its shards themselves took.

    python benchmarks/executors.py [--shards 4] [--rows 24] [--repeats 3] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from publish import publish

from emscope import parts
from emscope.behaviour.questions import load_question_sets
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sharded import AnswersAsked, answers_of
from emscope.executors.settings import ExecutorSettings
from emscope.executors.tasks import Held, Shard, Task, carried_out
from emscope.files import value_sha256, write_json
from emscope.organisms.loading import LoadSettings
from emscope.organisms.needs import OrganismNeed
from emscope.residual.capture import CaptureSettings
from emscope.residual.sharded import TextToRead, captured_in_shards

MODEL = OrganismNeed("smollm2-135m", LoadSettings(dtype="float32", device="cpu"))
WORKERS = {"local": 0, "ray, one worker": 1, "ray, two workers": 2}


def one_run(kind: str, n_shards: int, rows: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of one run in this process and hashes of what came out."""
    torch.set_num_threads(1)
    workers = WORKERS[kind]
    settings = ExecutorSettings("ray", workers=workers, cores=1) if workers else ExecutorSettings()
    questions = load_question_sets(("everyday-general",))[:rows]
    sampling, held = SamplingSettings(temperature=1.0, max_new_tokens=128, batch_size=rows), Held()
    began = time.monotonic()
    with settings.in_force(folder), parts.kept_in(folder / "parts", "executors"):
        asked = AnswersAsked(MODEL, tuple(questions[:1]), SamplingSettings(max_new_tokens=2))
        carried_out(Task("warm", answers_of, [Shard(asked, 1)] * max(workers, 1), "answers"), held)
        started = time.monotonic() - began

        shards = []
        for seed in range(n_shards):  # the same questions: equal work, other answers
            seeded = SamplingSettings(**{**vars(sampling), "seed": seed})
            shards.append(Shard(AnswersAsked(MODEL, tuple(questions), seeded), rows))
        began = time.monotonic()
        made = carried_out(Task("answers", answers_of, shards, "answers"), held)
        sampled = time.monotonic() - began
        answers = [row for part in made for row in part.value[1]]

        texts = [TextToRead(row["question"], row["response"]) for row in answers]
        began = time.monotonic()
        read = captured_in_shards(MODEL, texts, CaptureSettings(("last", "response")), rows_per_shard=rows, held=held)
        captured = time.monotonic() - began
    return {
        "starting": started,
        "sampling": sampled,
        "capture": captured,
        "shards": [part.seconds for part in made],
        "answers": value_sha256(answers),
        "tensors": parts.sha256_of(read.pooled),
    }


def in_process(kind: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        words = [sys.executable, __file__, "--kind", kind, "--shards", str(asked.shards), "--rows", str(asked.rows)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*words, "--run", str(out)], env=environment, check=True)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def spread(values: list[float]) -> dict[str, float]:
    """Return the median of repeats with the least and the most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    """Measure all kinds by turns and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kind", choices=WORKERS)
    parser.add_argument("--run", type=Path)
    asked = parser.parse_args()
    if asked.run:
        with tempfile.TemporaryDirectory() as folder:
            write_json(asked.run, one_run(asked.kind, asked.shards, asked.rows, Path(folder)))
        return

    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WORKERS}
    for _ in range(asked.repeats):
        for kind in WORKERS:
            runs[kind].append(in_process(kind, asked))
            print(kind, {name: runs[kind][-1][name] for name in ("starting", "sampling", "capture")}, flush=True)
    local, one, two = runs.values()
    every = [run for some in runs.values() for run in some]
    gains = {}
    for name in ("sampling", "capture"):
        gains[name] = spread([a[name] / b[name] for a, b in zip(local, two, strict=True)])
    figures = {
        "what": f"{asked.shards} shards of {asked.rows} answers of up to 128 tokens, and their activations",
        "seconds": {
            kind: {name: spread([run[name] for run in some]) for name in ("starting", "sampling", "capture")}
            for kind, some in runs.items()
        },
        "seconds_a_shard": spread([seconds for run in local for seconds in run["shards"]]),
        "speedup_of_two_workers": gains,
        "scheduling_share": spread([run["sampling"] / sum(run["shards"]) - 1 for run in one]),
        "same_answers": len({run["answers"] for run in every}) == 1,
        "same_tensors": len({run["tensors"] for run in every}) == 1,
    }
    publish(figures, asked.out)


if __name__ == "__main__":
    main()
