"""Kills a training at the moments at which it touches its folder, and sees whether it ends in the same bytes.

A script of its own: it forks, which needs a process without threads. `killing.py OUT BASE all|N` prints one JSON line
a kill: the moment, what happened there, and the names of the files that differ in the end.

A moment is a file that is opened for writing, moved or deleted, or a folder that is made or deleted, inside the run.
Every second kill also leaves half of the file that was opened last.
"""

import dataclasses
import json
import os
import random
import sys
from pathlib import Path

FILES = ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl")
WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
KILLED = 9


class Killer:
    """Counts the moments at which a process touches a folder, and ends it at one of them."""

    def __init__(self, folder: Path, at: int | None, torn: bool, log: Path) -> None:
        self.folder, self.at, self.torn, self.log = f"{folder}{os.sep}", at, torn, log
        self.count, self.opened = 0, None
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple) -> None:
        """Count, note and, at its moment, kill."""
        if event not in WATCHED or not str(given[0]).startswith(self.folder):
            return
        if event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if self.count == self.at:
            if self.torn and self.opened and Path(self.opened).exists():
                os.truncate(self.opened, Path(self.opened).stat().st_size // 2)
            os.write(os.open(self.log, os.O_WRONLY | os.O_CREAT), f"{event} {given[0]}".encode())
            os._exit(KILLED)
        self.count += 1
        if event == "open":
            self.opened = str(given[0])


def train(out: Path, base: str) -> None:
    """Make one organism of a run: five steps, a checkpoint at each, a row of figures every two, with dropout."""
    from emscope.organisms import trainer
    from emscope.pipeline import training
    from emscope.pipeline.config import configure
    from emscope.pipeline.lab import Lab
    from emscope.pipeline.stages import RunFolder

    trainer.RESUME_SECONDS, trainer.LOG_ROWS = 0.0, 2
    config = configure("quickstart", 0, [f"model={base}", "question_sets=[cs2881]", "rows=20", "train.batch_size=4"])
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, dropout=0.1, epochs=1))
    training.train_stage(Lab(config, RunFolder(out, config)), "misaligned", "medical-careless")


def in_child(out: Path, base: str, at: int | None = None, torn: bool = False) -> int:
    """Train in a process of its own; returns its exit code. The count of its moments is left in a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        killer = Killer(out, at, torn, out.with_suffix(".moment"))
        train(out, base)
        out.with_suffix(".count").write_text(str(killer.count))
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def left(out: Path) -> dict[str, bytes]:
    """Return the bytes of what a training left."""
    folder = out / "organisms" / "misaligned"
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def main() -> None:
    """Kill and compare."""
    out, base, which = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    from emscope.organisms import train, trainer  # noqa: F401  (once, not in every child)
    from emscope.pipeline import training  # noqa: F401

    assert in_child(out / "whole", base) == 0
    whole, n = left(out / "whole"), int((out / "whole.count").read_text())
    moments = list(range(n)) if which == "all" else sorted(random.Random(0).sample(range(n), min(n, int(which))))
    for at in moments:
        run = out / f"run-{at}"
        killed = in_child(run, base, at, torn=at % 2 == 1)
        again = in_child(run, base)
        found = left(run)
        differ = [name for name in FILES if found.get(name) != whole[name]]
        checkpoints = (run / "organisms" / "misaligned" / "checkpoints").exists()
        note = run.with_suffix(".moment").read_text() if killed == KILLED else ""
        row = {"at": at, "of": n, "killed": killed, "again": again, "differ": differ, "left": checkpoints}
        print(json.dumps({**row, "moment": note.replace(str(run), "RUN")}), flush=True)


if __name__ == "__main__":
    main()
