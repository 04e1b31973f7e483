"""Work spread over a few processes that were started anew, each with a hash seed of its own.

What depends on the order of a set is then not the same in a worker as in the process that made the references.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from survive.world import ROOT, World, import_everything, learn_imports, stand_in

Task = Callable[[], Any]
"""A function of a module with its arguments (functools.partial), so that it can be sent to another process."""

TASKS, WORLD, IMPORTS = "tasks.pickle", "world.pickle", "imports.txt"


def spread_over(n_workers: int, tasks: Sequence[Task], world: World, scratch: Path) -> list[Any]:
    """Return what every task returns, in order; the workers take them as they come.

    Raises:
        RuntimeError: a worker ended early.
    """
    (scratch / TASKS).write_bytes(pickle.dumps(list(tasks)))
    (scratch / WORLD).write_bytes(pickle.dumps(world))
    (scratch / IMPORTS).write_text("".join(f"{name}\n" for name in sys.modules), encoding="utf-8")
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "survive.workers", str(scratch)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(number + 1)},
        )
        for number in range(n_workers)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}")
    return [pickle.loads((scratch / f"result-{number}").read_bytes()) for number in range(len(tasks))]


def main() -> None:
    """Do tasks until none is left."""
    scratch = Path(sys.argv[1])
    import_everything()
    stand_in(pickle.loads((scratch / WORLD).read_bytes()))
    learn_imports(scratch / IMPORTS)
    tasks: list[Task] = pickle.loads((scratch / TASKS).read_bytes())
    for number, task in enumerate(tasks):
        if _taken(scratch / f"taken-{number}"):
            continue
        began = time.monotonic()
        try:
            result = task()
        except Exception:
            print(f"task {number}, {task}:", file=sys.stderr)
            traceback.print_exc()
            raise
        if os.environ.get("SURVIVE_TIMES"):
            print(f"{time.monotonic() - began:5.1f} s  {str(result)[:700]}", file=sys.stderr, flush=True)
        (scratch / f"result-{number}").write_bytes(pickle.dumps(result))


def _taken(mark: Path) -> bool:
    """Take a task, or say that another worker has."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


if __name__ == "__main__":
    main()
