"""What every worker of `peers.py` does: load once, then answer "run" on standard input, so that runs can take turns.

A worker runs in its peer's own environment and imports nothing of emscope unless emscope is what it measures. Its first
argument is a JSON job; each line on standard input is a file for the results of one more run. What a library prints
goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], dict[str, np.ndarray]]


def serve(prepare: Callable[[dict[str, Any]], Run], packages: tuple[str, ...] = ()) -> None:
    """Prepare with the job, then time one run a line; packages are those whose versions the results name."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    limit_threads(job["threads"])

    started = time.perf_counter()
    run = prepare(job)
    ready = {"ready_after_s": time.perf_counter() - started, "versions": versions(packages), "peak_mb": peak_mb()}
    print(json.dumps(ready), file=answers, flush=True)

    for line in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        found = run()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        np.savez(line.strip(), **found)  # type: ignore[arg-type]
        told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb()}
        print(json.dumps(told), file=answers, flush=True)


def limit_threads(threads: int) -> None:
    """Let torch compute with so many threads, where it is there."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of packages as they are installed here."""
    found = {}
    for package in ("torch", "transformers", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_mb() -> float:
    """Return the most memory that this process held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
