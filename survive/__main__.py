"""`python -m survive [--kills 50] [--only kills,disk,…] [--settings run,bank,…] [--out FILE]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Measure, print and write the figures; returns 1 where something was lost."""
    flags = _flags()
    scratch = Path(tempfile.mkdtemp(prefix="survive-", dir=flags.scratch))
    began = time.monotonic()
    try:
        from survive.world import quiet_environment

        quiet_environment(scratch / "cache")
        figures = measure(flags, scratch)
    finally:
        if not flags.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    figures["seconds"] = round(time.monotonic() - began)
    from survive.telling import in_words, publish

    print(in_words(figures))
    publish(figures, flags.out)
    return 0 if figures["all_survived"] else 1


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m survive", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills of each main setting; other faults scale with it")
    parser.add_argument("--only", default="", help="families of faults, with commas: kills, disk, …; all without it")
    parser.add_argument("--settings", default="", help="settings that are killed, with commas; all without it")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="a .json file for the figures")
    parser.add_argument("--scratch", type=Path, help="where to work; the system's temporary folder without it")
    parser.add_argument("--keep", action="store_true", help="leave the folders in which commands worked")
    return parser.parse_args()


def measure(flags: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Make the tiny world, then measure every family of faults that is asked for."""
    from survive import world as worlds
    from survive.bench import Bench
    from survive.families import FAMILIES
    from survive.server import served
    from survive.workers import spread_over

    worlds.import_everything()
    world = worlds.make_world(scratch / "world")
    with served() as server:
        bench = Bench.make(world, server, scratch, flags.kills)
        only = [setting for setting in flags.settings.split(",") if setting]
        chosen = [name for name in flags.only.split(",") if name] or list(FAMILIES)
        tasks = {name: FAMILIES[name].plan(bench, only) for name in chosen}
        results = iter(spread_over(flags.workers, [task for own in tasks.values() for task in own], world, scratch))
        told = {name: FAMILIES[name].tell(bench, [next(results) for _ in own]) for name, own in tasks.items()}
    figures: dict[str, Any] = {"kills_of_each": flags.kills, "workers": flags.workers}
    return {**figures, "all_survived": all(own["all_survived"] for own in told.values()), **told}


if __name__ == "__main__":
    sys.exit(main())
