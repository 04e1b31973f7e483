"""`python -m fuzz`: run the readers on hostile inputs, print what became of them, and write the counts."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.commands import run_commands
from fuzz.harness import FAILED, Tally, Target, as_json, end_of, failures, run_reader, share_of, table
from fuzz.readers import all_readers

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: a forked process has no threads of it
RESULT = Path("benchmarks/results/fuzz.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--reader", action="append", help="only this reader (may be given several times)")
    parser.add_argument("--seed", type=int, help="only this seed of each reader, in this process, with its traceback")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--inputs", type=int, default=1000, help="inputs a reader")
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument("--commands", type=int, help="command lines run end to end; by default 100, 0 of one reader")
    parser.add_argument("--out", type=Path, help=f"where counts are written; {RESULT} if all readers run")
    return parser.parse_args()


def main() -> int:
    """Run and return 1 if an input failed, else 0."""
    given = _arguments()
    readers = all_readers()
    unknown = sorted(set(given.reader or ()) - set(readers))
    if unknown:
        sys.stderr.write(f"fuzz: there is no reader {unknown[0]!r}; there are {', '.join(readers)}\n")
        return 2
    chosen = {name: target for name, target in readers.items() if not given.reader or name in given.reader}
    if given.seed is not None:
        return max([_repeat(name, target, given.seed) for name, target in chosen.items()])
    return _all(chosen, given)


def _repeat(name: str, target: Target, seed: int) -> int:
    """Run one input here and show all of it."""
    import random

    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-{seed}-"))
    ending = end_of(name, target, seed, folder)
    sys.stdout.write(f"{name} {seed}: {ending.kind} in {ending.seconds:.1f} s: {ending.words}\n{folder} holds it\n")
    if ending.kind == FAILED:
        try:
            target(random.Random(f"{name}/{seed}"), Path(tempfile.mkdtemp()))[1]()
        except BaseException:
            traceback.print_exc()
    return int(ending.kind == FAILED)


def _all(chosen: dict[str, Target], given: argparse.Namespace) -> int:
    started = time.perf_counter()

    def run(name: str) -> Tally:
        n_inputs = max(1, round(given.inputs * share_of(chosen[name])))
        tally = run_reader(name, chosen[name], range(given.start, given.start + n_inputs))
        sys.stderr.write(f"{table({name: tally}).splitlines()[1]}\n")
        return tally

    with ThreadPoolExecutor(given.jobs) as pool:
        tallies = dict(zip(chosen, pool.map(run, chosen), strict=True))
    n_lines = given.commands if given.commands is not None else 0 if given.reader else 100
    if n_lines:
        tallies["command lines"] = run_commands(n_lines)
    seconds = time.perf_counter() - started
    sys.stdout.write(f"{table(tallies)}{failures(tallies)}")
    out = given.out or (None if given.reader else RESULT)
    if out is not None:
        out.write_text(as_json(tallies, seconds), encoding="utf-8")
        sys.stdout.write(f"{out}\n")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
