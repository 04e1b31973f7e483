"""What 7B, 70B and mixtures of experts take on 1, 8 and 64 GPUs: by formula, and by simulation where things go wrong.

Nothing is measured here but the simulation. The formulas are `emscope.pipeline.roofline.cluster`; what share of a GPU's
limit each loop reaches is assumed, or taken from a report that `emscope bench --out` wrote on such a GPU.

    python benchmarks/scale.py [--bench bench-gpu.json] [--seeds 20] [--out results.json]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from publish import publish
from scale_simulation import Cluster, Simulation, Stage, Store, by_formula, simulated

from emscope.errors import UserError
from emscope.pipeline.roofline.cluster import (
    H100,
    STAGES,
    Gpu,
    Job,
    Shares,
    StageNeed,
    best_shard_seconds,
    load_seconds,
    needs,
    sampled_by,
)
from emscope.pipeline.roofline.report import LimitsReport
from emscope.pipeline.roofline.subject import named_shape

MODELS = ("7b", "8b", "70b", "8x7b", "30b-a3b")
GPUS = (1, 8, 64)
HOUR = 3600.0
SHARED = Store(bandwidth=5e9, requests=3500.0, latency=0.1)
"""A shared file system of 5 GB/s; an object store's requests a second on one prefix (S3: 3,500 writes)."""
OVERHEAD = 2.0
"""Seconds a shard spends on other things than its work: starting, its first batch, its part file."""
RELIABLE = 54 * 24 * HOUR * 2048 / 419
"""Seconds between losses of a node of 8 H100: 419 in 54 days on 2,048 nodes (Llama 3, arXiv 2407.21783)."""
SPOT = 4 * HOUR
"""Seconds between losses of a pre-emptible node: an assumption."""
REPAIR = 300.0


@dataclass(frozen=True)
class Trouble:
    """What goes wrong on a cluster."""

    name: str
    mtbf: float
    slow: float
    slowness: float
    driver_mtbf: float


TROUBLES = (
    Trouble("reliable nodes", RELIABLE, 0.02, 1.5, 30 * 24 * HOUR),
    Trouble("spot nodes", SPOT, 0.1, 2.0, 24 * HOUR),
)


def stage_on(need: StageNeed, shard_seconds: float) -> Stage:
    """Return a stage as shards of about so many seconds."""
    shards = max(need.copies, round(need.seconds * need.copies / shard_seconds))
    return Stage(shards, need.seconds * need.copies / shards + OVERHEAD, need.load, need.disk / shards)


def cluster_of(gpu: Gpu, need: StageNeed, trouble: Trouble | None) -> Cluster:
    """Return the machines that hold a stage's copies, and what goes wrong on them."""
    a_node = max(1, min(need.copies, gpu.a_node // need.gpus))
    nodes = math.ceil(need.copies / a_node)
    if trouble is None:
        return Cluster(nodes, a_node, gpu.network)
    return Cluster(
        nodes, a_node, gpu.network, trouble.mtbf, REPAIR, trouble.slow, trouble.slowness, trouble.driver_mtbf
    )


def row_of(model: str, n_gpus: int, need: StageNeed, gpu: Gpu, seeds: int) -> dict[str, Any]:
    """Return what a stage needs, and how long it takes in trouble."""
    cluster = cluster_of(gpu, need, None)
    line: dict[str, Any] = {
        "model": model,
        "gpus": n_gpus,
        "stage": need.stage,
        "gpus_a_copy": need.gpus,
        **{name: value for name, value in asdict(need).items() if name not in ("gpus", "stage")},
        "load_seconds": load_seconds(need.load, cluster.nodes, gpu.network, SHARED.bandwidth),
        "simulated": {},
    }
    for trouble in TROUBLES if need.stage != "training" else ():
        line["simulated"][trouble.name] = in_trouble(need, gpu, trouble, seeds)
    return line


def in_trouble(need: StageNeed, gpu: Gpu, trouble: Trouble, seeds: int) -> dict[str, Any]:
    """Return how long a stage takes on a cluster on which things go wrong."""
    cluster = cluster_of(gpu, need, trouble)
    stage = stage_on(need, best_shard_seconds(OVERHEAD, trouble.mtbf, need.seconds))
    runs = [Simulation(cluster, SHARED, stage, seed).run() for seed in range(seeds)]
    times = [spent.seconds for spent in runs]
    return {
        "shard_seconds": stage.seconds,
        "shards": stage.shards,
        "formula": by_formula(cluster, SHARED, stage),
        "median": statistics.median(times),
        "range": [min(times), max(times)],
        "seconds_by_seed": [round(seconds, 1) for seconds in times],
        "nodes_lost": statistics.mean(spent.losses for spent in runs),
        "given_up": sum(spent.given_up for spent in runs),
    }


def table(gpu: Gpu, job: Job, shares: Shares, seeds: int) -> list[dict[str, Any]]:
    """Return all lines; a model that does not fit is a line that says so."""
    lines = []
    for model in MODELS:
        shape = named_shape(model)
        for n_gpus in GPUS:
            try:
                stages = needs(shape, gpu, n_gpus, job, shares)
            except UserError as error:
                lines.append({"model": model, "gpus": n_gpus, "refused": str(error)})
                continue
            lines += [row_of(model, n_gpus, need, gpu, seeds) for need in stages]
    return lines


def copies_of_70b(gpu: Gpu, job: Job, shares: Shares) -> list[dict[str, Any]]:
    """Return what sampling with 70B on 8 GPUs takes with 2, 4 and 8 GPUs a copy: what the cache leaves room for."""
    shape, lines = named_shape("70b"), []
    for held_by in (2, 4, 8):
        need = sampled_by(shape, gpu, held_by, 8 // held_by, job, shares.sampling, job.answers)
        a_row = shape.cache_bytes(job.prompt + job.answer)
        side_by_side = round(need.cache * held_by / a_row)
        lines.append({"gpus_a_copy": held_by, "side_by_side": side_by_side, "seconds": need.seconds})
    return lines


def shard_sizes(seeds: int) -> list[dict[str, Any]]:
    """Return how long an hour's work of each of 64 spot nodes takes with shards of several sizes.

    Each node has one GPU, loads a 7B base and is lost every hour on average.
    """
    lines = []
    best = best_shard_seconds(OVERHEAD, HOUR, HOUR)
    for seconds in (3.0, 10.0, 30.0, best, 200.0, 600.0, 1800.0):
        shards = round(64 * HOUR / seconds)
        stage = Stage(shards, 64 * HOUR / shards + OVERHEAD, 2.0 * named_shape("7b").n_weights, 1e6)
        cluster = Cluster(64, 1, H100.network, HOUR, REPAIR)
        runs = simulated(cluster, SHARED, stage, seeds)
        times = [spent.seconds for spent in runs]
        lost = sum(spent.lost for spent in runs) / sum(spent.useful + spent.lost for spent in runs)
        lines.append(
            {
                "shard_seconds": seconds,
                "shards": stage.shards,
                "median": statistics.median(times),
                "range": [min(times), max(times)],
                "lost_share": lost,
                "given_up_a_run": statistics.mean(spent.given_up for spent in runs),
            }
        )
    return lines


def loading(gpu: Gpu) -> list[dict[str, Any]]:
    """Return how long nodes take to load a base at once from one shared store."""
    lines = []
    for model in MODELS:
        n_bytes = 2.0 * named_shape(model).n_weights
        times = {nodes: load_seconds(n_bytes, nodes, gpu.network, SHARED.bandwidth) for nodes in (1, 8, 64)}
        lines.append({"model": model, "bytes": n_bytes, "seconds_by_nodes": times})
    return lines


def part_files(seeds: int) -> list[dict[str, Any]]:
    """Return what many small shards cost on a store with a limit of requests."""
    lines = []
    for shard in (0.01, 0.1, 1.0, 10.0):
        stage = Stage(shards=64 * max(10, round(5 / shard)), seconds=shard, requests=4)
        runs = simulated(Cluster(64), Store(requests=SHARED.requests, latency=0.1), stage, max(1, seeds // 10))
        lines.append(
            {
                "shard_seconds": shard,
                "part_files_a_second": stage.shards / runs[0].seconds,
                "share_of_time_at_work": runs[0].useful / (64 * runs[0].seconds),
            }
        )
    return lines


def main() -> None:
    """Compute, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", action="store_true", help="print Markdown tables instead")
    flags = parser.parse_args()
    shares = Shares() if flags.bench is None else Shares.measured(LimitsReport.read(flags.bench))
    gpu, job = H100, Job()
    report = {
        "what": "a run's stages on H100s, by formula and by simulation; nothing of this was measured on a GPU",
        "gpu": asdict(gpu),
        "job": asdict(job),
        "shares": asdict(shares),
        "store": asdict(SHARED),
        "troubles": [asdict(trouble) for trouble in TROUBLES],
        "stages": table(gpu, job, shares, flags.seeds),
        "copies_of_70b": copies_of_70b(gpu, job, shares),
        "shard_sizes": shard_sizes(flags.seeds),
        "loading": loading(gpu),
        "part_files": part_files(flags.seeds),
    }
    if flags.tables:
        print(as_tables(report))
    else:
        publish(report, flags.out)


def as_tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown tables."""
    parts = [_times(report), _memory(report), _copies(report), _shards(report), _loading(report), _part_files(report)]
    return "\n\n".join(parts)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in rows:
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _times(report: dict[str, Any]) -> str:
    names = [trouble["name"] for trouble in report["troubles"]]
    rows = []
    for (model, n_gpus), stages in _by_cluster(report).items():
        if "refused" in stages[0]:
            rows.append([model, str(n_gpus), "does not fit", *[""] * (len(STAGES) + len(names))])
            continue
        cells = [duration(stage["seconds"]) for stage in stages]
        whole = sum(stage["seconds"] for stage in stages)
        training = stages[0]["seconds"] + stages[0]["load_seconds"]
        simulations = []
        for name in names:
            by_seed = [stage["simulated"][name]["seconds_by_seed"] for stage in stages[1:]]
            times = [training + sum(times) for times in zip(*by_seed, strict=True)]
            low, middle, high = min(times), statistics.median(times), max(times)
            simulations.append(f"{duration(middle)} ({duration(low)} to {duration(high)})")
        rows.append([model, str(n_gpus), *cells, duration(whole), *simulations])
    return _markdown(["model", "GPUs", *STAGES, "together", *names], rows)


def _by_cluster(report: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in report["stages"]:
        found.setdefault((row["model"], row["gpus"]), []).append(row)
    return found


def _memory(report: dict[str, Any]) -> str:
    rows = []
    for row in report["stages"]:
        if row["gpus"] == 8 and row["stage"] != "search":
            parts = [f"{row[name] / 1e9:.1f}" for name in ("weights", "adapters", "activations", "cache")]
            moved = [sized(row["network"]), sized(row["disk"])]
            rows.append([row["model"], row["stage"], str(row["gpus_a_copy"]), *parts, *moved, row["bound"]])
    headings = ["model", "stage", "GPUs a copy", "weights", "adapters", "activations", "cache"]
    return _markdown([*headings, "exchanged", "on disk", "bound by"], rows)


def _copies(report: dict[str, Any]) -> str:
    rows = []
    for row in report["copies_of_70b"]:
        rows.append([str(row["gpus_a_copy"]), str(row["side_by_side"]), duration(row["seconds"])])
    return _markdown(["GPUs a copy", "answers side by side", "time"], rows)


def _shards(report: dict[str, Any]) -> str:
    rows = []
    for row in report["shard_sizes"]:
        low, high = row["range"]
        times = [duration(row["median"]), f"{duration(low)} to {duration(high)}"]
        found = [f"{row['shard_seconds']:.0f} s", f"{row['shards']:,}", *times, f"{row['lost_share']:.1%}"]
        rows.append([*found, f"{row['given_up_a_run']:.1f}"])
    return _markdown(["a shard takes", "shards", "median", "range", "work lost", "given up"], rows)


def _loading(report: dict[str, Any]) -> str:
    rows = []
    for row in report["loading"]:
        times = map(duration, row["seconds_by_nodes"].values())
        rows.append([row["model"], f"{row['bytes'] / 1e9:.0f} GB", *times])
    return _markdown(["model", "base", "1 node", "8 nodes", "64 nodes"], rows)


def _part_files(report: dict[str, Any]) -> str:
    rows = []
    for row in report["part_files"]:
        share = f"{row['share_of_time_at_work']:.0%}"
        rows.append([f"{row['shard_seconds']:g} s", f"{row['part_files_a_second']:.0f}", share])
    return _markdown(["a shard takes", "part files a second", "time at work"], rows)


def sized(n_bytes: float) -> str:
    """Return bytes as '12 MB', '3.4 GB' or '1.2 TB'."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """Return seconds as '40 s', '12 min' or '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.2g} min"
    return f"{seconds / HOUR:.1f} h"


if __name__ == "__main__":
    main()
