"""Runs readers on hostile inputs in processes of their own, so that a crash, a hang or a flood of memory is one result.

A target makes one input: given a seeded generator and an empty folder, it writes a file (or folder) and returns its
path and a function that reads it as a command does. That function must return, or raise what the command line turns
into a sentence with exit code 2, and the sentence must name the path. A target whose input has no file returns None for
the path. A result that is wrong is raised as an AssertionError.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

Read = Callable[[], object]
Case = tuple[Path | None, Read]
Target = Callable[[random.Random, Path], Case]

SECONDS = 10.0
"""Most processor time that one input may take; waiting, it may take SLACK times that."""
SLACK = 12
MEMORY = 2 << 30
"""Most memory, in bytes, that one input may add."""
ADDRESSES = 12 << 30
CHUNK = 250
"""Inputs a process reads before another takes its place."""
READ, REFUSED, FAILED = "read", "refused", "failed"


@dataclass(frozen=True)
class Ending:
    """How one input ended: `read`, `refused` or `failed`, with the sentence or what went wrong."""

    seed: int
    kind: str
    words: str = ""
    seconds: float = 0.0


@dataclass
class Tally:
    """What became of a reader's inputs."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Ending] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, ending: Ending) -> None:
        """Count an ending."""
        self.counts[ending.kind] += 1
        self.slowest = max(self.slowest, ending.seconds)
        if ending.kind == FAILED:
            self.failures.append(ending)


def share_of(target: Target) -> float:
    """Return how many inputs a target wants beside others: `share` as an attribute; 1 where it has none."""
    return float(getattr(target, "share", 1))


def run_reader(name: str, target: Target, seeds: range, seconds: float = SECONDS) -> Tally:
    """Read a target's inputs of some seeds and count how they ended."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:  # what it imports and keeps is then there in every process
        target(random.Random(f"{name}/warm"), Path(folder))
    for start in range(seeds.start, seeds.stop, CHUNK):
        for ending in _run_chunk(name, target, range(start, min(start + CHUNK, seeds.stop)), seconds):
            tally.add(ending)
    return tally


def _run_chunk(name: str, target: Target, seeds: range, seconds: float) -> Iterator[Ending]:
    """Yield the endings of some seeds; where a process dies in one, another takes up the rest."""
    next_seed = seeds.start
    while next_seed < seeds.stop:
        scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory_folder()))
        try:
            for ending in _in_process(name, target, range(next_seed, seeds.stop), seconds, scratch):
                next_seed = ending.seed + 1
                yield ending
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _memory_folder() -> str | None:
    """Return a folder whose files are in memory, if there is one: hundreds of inputs a second are written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _in_process(name: str, target: Target, seeds: range, seconds: float, scratch: Path) -> Iterator[Ending]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, target, seeds, scratch, sender), daemon=True)
    process.start()
    sender.close()
    begun = seeds.start
    try:
        while begun < seeds.stop:
            ending = _wait(receiver, process, begun, seconds)
            yield ending
            begun += 1
            if ending.kind == FAILED and not process.is_alive():
                return
    finally:
        if process.pid is not None and process.is_alive():
            process.kill()
        process.join()
        receiver.close()


def _wait(receiver: Connection, process: multiprocessing.process.BaseProcess, seed: int, seconds: float) -> Ending:
    """Return how the input of a seed ended; a process that hangs or dies is a failure."""
    started, used = time.monotonic(), _processor_seconds(process.pid)
    try:
        while not receiver.poll(1):
            took, worked = time.monotonic() - started, _processor_seconds(process.pid) - used
            if worked > seconds + 2 or took > seconds * SLACK:
                process.kill()
                process.join()
                return Ending(seed, FAILED, f"took {worked:.0f} s of the processor, {took:.0f} s in all", took)
        return Ending(*receiver.recv())
    except EOFError:
        process.join()
        code = process.exitcode or 0
        death = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Ending(seed, FAILED, f"the process died ({death})")


def _work(name: str, target: Target, seeds: range, scratch: Path, sender: Connection) -> None:
    """Read inputs in a process of their own and send how each ended."""
    logging.disable(logging.CRITICAL)
    faulthandler.disable()  # the process that waits says how this one died
    warnings.simplefilter("ignore")
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ADDRESSES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    for seed in seeds:
        folder = scratch / str(seed)
        folder.mkdir()
        ending = end_of(name, target, seed, folder)
        sender.send((ending.seed, ending.kind, ending.words, ending.seconds))
        shutil.rmtree(folder, ignore_errors=True)
    sender.close()
    os._exit(0)  # no finalisers: libraries' threads did not survive the fork


def end_of(name: str, target: Target, seed: int, folder: Path) -> Ending:
    """Make and read one input in this process."""
    path, read = target(random.Random(f"{name}/{seed}"), folder)
    before, peak, started = _status("VmRSS"), _status("VmHWM"), time.process_time()
    kind, words = _end(path, read)
    seconds = time.process_time() - started
    grown = _status("VmHWM") - before if _status("VmHWM") > peak else 0
    if kind != FAILED and seconds > SECONDS:
        kind, words = FAILED, f"took {seconds:.0f} s"
    if kind != FAILED and grown > MEMORY:
        kind, words = FAILED, f"took {grown >> 20} MiB of memory"
    return Ending(seed, kind, words, seconds)


def _end(path: Path | None, read: Read) -> tuple[str, str]:
    from emscope.commands.main import user_sentence

    try:
        read()
    except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:
        return FAILED, f"{type(error).__name__}: {error}"
    except BaseException as error:
        sentence = user_sentence(error)
        if sentence is None:
            return FAILED, _told(error)
        wrong = faults_of(sentence, path)
        return (FAILED, f"{wrong}: {sentence!r}") if wrong else (REFUSED, sentence)
    return READ, ""


def faults_of(sentence: str, path: Path | None) -> str:
    """Return what is wrong with a refusal, '' for nothing."""
    if path is not None and str(path) not in sentence and path.name not in sentence:
        return "does not name the file"
    if "Traceback" in sentence or not sentence.endswith((".", "?")):
        return "is no sentence"
    return "is longer than anybody reads" if len(sentence) > 2100 else ""


def _told(error: BaseException) -> str:
    """Return an error with the last places of ours and of others that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "/emscope/" in frame.filename]
    words = re.sub(r"\s+", " ", str(error))[:300]
    return f"{type(error).__name__}: {words} ({' > '.join(places[-4:])}; {Path(frames[-1].filename).name})"


def _status(name: str) -> int:
    """Return a size of this process, in bytes; 0 where the system does not say."""
    with suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition(f"{name}:")[2].split()[0]) << 10
    return 0


def _processor_seconds(pid: int | None) -> float:
    """Return the processor time that a process has used: on a busy machine the clock tells little."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def table(tallies: Mapping[str, Tally]) -> str:
    """Return counts by reader as text."""
    lines = [f"{'reader':<24}{'inputs':>8}{'refused':>9}{'read':>8}{'failed':>8}{'slowest':>10}"]
    for name, tally in tallies.items():
        lines.append(_line(name, tally.counts, tally.slowest))
    whole: Counter[str] = sum((tally.counts for tally in tallies.values()), Counter())
    lines.append(_line("all", whole, max((tally.slowest for tally in tallies.values()), default=0)))
    return "\n".join(lines) + "\n"


def _line(name: str, counts: Counter[str], slowest: float) -> str:
    n_inputs = sum(counts.values())
    return f"{name:<24}{n_inputs:>8,}{counts[REFUSED]:>9,}{counts[READ]:>8,}{counts[FAILED]:>8,}{slowest:>8.1f} s"


def failures(tallies: Mapping[str, Tally], most: int = 5) -> str:
    """Return the first failures of each reader as text, with the command that repeats them."""
    lines = []
    for name, tally in tallies.items():
        for ending in tally.failures[:most]:
            lines.append(f'make fuzz ARGS="--reader {name} --seed {ending.seed}"\n    {ending.words[:600]}')
    return "".join(f"{line}\n" for line in lines)


def as_json(tallies: Mapping[str, Tally], seconds: float) -> str:
    """Return counts by reader as JSON."""
    readers = {
        name: {"inputs": sum(tally.counts.values()), **{kind: tally.counts[kind] for kind in (REFUSED, READ, FAILED)}}
        for name, tally in tallies.items()
    }
    whole = {key: sum(counts[key] for counts in readers.values()) for key in ("inputs", REFUSED, READ, FAILED)}
    value = {"python": sys.version.split()[0], "seconds": round(seconds), "all": whole, "readers": readers}
    return json.dumps(value, indent=2) + "\n"
