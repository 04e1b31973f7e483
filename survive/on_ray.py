"""Kills and faults on a Ray cluster of two nodes: a worker, a node, the head, the driver, the folder that all share.

Every command is run once by one process, without Ray and undisturbed. Under Ray it is disturbed and, where it ended,
given again by the same words: it must leave the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from survive.bench import Bench, Case, outputs_of, unlike
from survive.cluster import HEAD, WORKER, SmallCluster, cluster, wait_for
from survive.comparing import Contents
from survive.processes import Ending
from survive.settings import RUN, Setting, run_words
from survive.workers import Task
from survive.world import ROOT, World

SEED = 0
AWAY = 6.0
"""Seconds for which a shared folder, or a node, is gone."""
ANSWERS, ROWS_EACH = "answers", 40
"""The command that samples two thousand answers, and answers of each of its shards."""
BETWEEN = (0.2, 0.4)
"""From one kill to the next, as shares of what the command takes undisturbed: that differs from machine to machine."""
TURNS = 5
"""Commands at most during which workers are killed."""
AT_WORK = f"{WORKER}.carry_out"
LONGEST = 300.0
"""Seconds after which a command counts as stuck."""
LOST = "its worker was lost"
QUESTIONS, SAMPLES = "everyday-medical", 40
"""Fifty questions: 2,000 answers."""
EXIT_USER = 2
ABSENT = "Ray is not installed: kills and faults on a cluster are left out (pip install 'emscope[ray]')."


@dataclass
class Driver:
    """A command that runs in a process of its own.

    Attributes:
        process: it.
        folder: where its outputs are.
        began: the time of its start.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def ended(self) -> bool:
        """Say whether it is over."""
        return self.process.poll() is not None

    def kill(self) -> bool:
        """Kill it and all that is of its group; say whether it was still there."""
        if self.ended():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return True

    def wait(self, longest: float = LONGEST) -> Ending:
        """Wait for its end; one that does not come is brought about."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=longest)
        self.kill()
        self.process.wait()
        printed, said = (
            self.folder.with_name(f"{self.folder.name}.{name}").read_text(encoding="utf-8", errors="replace")
            for name in ("stdout", "stderr")
        )
        return Ending(self.process.returncode, time.monotonic() - self.began, printed, said)


@dataclass
class OnRay:
    """What the cases on a cluster share.

    Attributes:
        world: the tiny world.
        scratch: where commands work.
        chooser: decides moments.
        port: of the cluster.
        known: what each command leaves when one process does it all, by its name.
        seconds: how long each takes under Ray from its first worker on.
    """

    world: World
    scratch: Path
    chooser: random.Random = field(default_factory=lambda: random.Random(SEED))
    port: int = field(default_factory=lambda: _free_port())
    known: dict[str, Contents] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands and of the cluster."""
        path = os.pathsep.join(map(str, (ROOT / "src", ROOT, ROOT / "tests")))
        alone = {
            "RAY_memory_monitor_refresh_ms": "0"
        }  # what others use of this machine's memory is no fault to measure
        return {**os.environ, **alone, "PYTHONPATH": path, "RAY_DEDUP_LOGS": "0"}

    @property
    def finished(self) -> Path:
        """A finished run that experiments work on; it is copied, never worked in."""
        return self.scratch / "finished" / RUN

    def settings(self) -> dict[str, Setting]:
        """Return the commands that are disturbed, by name."""
        bank = "adapters bank run --domains medical --recipes r4 --seeds 0 --heldout-rows 1"
        steer = "steer run --blocks 1 --coefficients -1.0 1.0 --levels 0.5 --cap-widths 1.0 --dial-questions 3"
        steer += " --curve-questions 3 --kl-questions 3 --test-questions 4"
        generate = f"generate --model {self.world.model} --questions {QUESTIONS} --samples {SAMPLES}"
        generate += " --dtype float32 --max-new-tokens 24 --out answers.parquet"
        generate += f" --rows-per-shard {ROWS_EACH}"
        found = [
            Setting(ANSWERS, tuple(generate.split()), outputs=("answers.parquet",)),
            Setting("bank", tuple(bank.split()), self.finished),
            Setting("sweep", ("sweep", RUN, "--permutations", "10"), self.finished),
            Setting("steer", tuple(steer.split()), self.finished),
        ]
        return {setting.name: setting for setting in found}

    def start(self, setting: Setting, folder: Path, address: str = "") -> Driver:
        """Start a command, under Ray where there is an address."""
        return self.started((*setting.words, *(_flags(address) if address else ())), folder)

    def started(self, words: Sequence[str], folder: Path) -> Driver:
        """Start a command line in a folder; what it prints goes beside that folder."""
        with contextlib.ExitStack() as stack:
            out, err = (
                stack.enter_context(folder.with_name(f"{folder.name}.{name}").open("wb"))
                for name in ("stdout", "stderr")
            )
            command = [sys.executable, "-m", "emscope", *words]
            return Driver(
                subprocess.Popen(
                    command, cwd=folder, env=self.environment, stdout=out, stderr=err, start_new_session=True
                ),
                folder,
            )

    def learn(self, name: str) -> None:
        """Learn what a command leaves when one process does it all.

        Raises:
            RuntimeError: it fails.
        """
        setting, folder = self.settings()[name], self.scratch / "undisturbed" / name
        if setting.needs is not None and not self.finished.is_dir():
            self.finished.parent.mkdir(parents=True)
            _done(self.started(run_words(self.world, "judge.name=mock", "dtype=float32"), self.finished.parent))
        setting.prepare(folder)
        _done(self.start(setting, folder))
        self.known[name] = outputs_of(folder, setting)

    def unlike(self, setting: Setting, folder: Path) -> str:
        """Return what differs from what one process leaves, in words."""
        return unlike(self.known[setting.name], outputs_of(folder, setting))

    def prepared(self, name: str, case: str) -> tuple[Setting, Path]:
        """Return a command and the folder that is made for it."""
        setting, folder = self.settings()[name], self.scratch / "cases" / f"{case}-{name}"
        setting.prepare(folder)
        return setting, folder

    def at_a_moment(self, driver: Driver, setting: Setting, ray: SmallCluster) -> None:
        """Wait until the command's workers are at work, and then for a while."""
        wait_for(lambda: driver.ended() or ray.processes(WORKER), LONGEST)
        ends = time.monotonic() + self.chooser.uniform(0.0, 0.9) * self.seconds[setting.name]
        wait_for(lambda: driver.ended() or time.monotonic() > ends, LONGEST)


def plan_kills(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return the task that kills workers."""
    return _planned(killed_workers, bench, only)


def plan_faults(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return the task that takes away drivers, nodes, the shared folder and the head."""
    return _planned(faults, bench, only)


def _planned(
    cases: Callable[[World, Path, int, Sequence[str]], dict[str, Any]], bench: Bench, only: Sequence[str]
) -> list[Task]:
    """Return one task for all cases, which share a cluster and come one after the other; none without Ray."""
    if importlib.util.find_spec("ray") is None:
        print(ABSENT)
        return []
    return [partial(cases, bench.world, bench.scratch / cases.__name__, bench.kills, tuple(only))]


def killed_workers(world: World, scratch: Path, kills: int, only: Sequence[str]) -> dict[str, Any]:
    """Kill twenty workers during two thousand answers, and one in each of the other commands."""
    shared, names = _learnt(world, scratch, only)
    cases: list[Case] = []
    counted: dict[str, Any] = {}
    with cluster(shared.port, shared.environment) as ray:
        for name in names:
            cases.append(_told(nothing, shared, name, ray))
        if ANSWERS in names:
            many, counted = _many_killed(shared, ray, max(2, kills * 20 // 50))
            cases += many
        for number, name in enumerate(name for name in names if name != ANSWERS):
            cases.append(_told(worker_killed, shared, name, ray, number))
    seconds = {name: round(seconds, 1) for name, seconds in shared.seconds.items()}
    return {**counted, "seconds_under_ray": seconds, "cases": cases}


def faults(world: World, scratch: Path, kills: int, only: Sequence[str]) -> dict[str, Any]:
    """Kill the driver, take away a node and the shared folder, kill the head."""
    shared, names = _learnt(world, scratch, only)
    several = max(1, min(len(names), kills // 10))
    cases: list[Case] = []
    with cluster(shared.port, shared.environment) as ray:
        for name in names[:several]:
            _told(nothing, shared, name, ray)
        for number, name in enumerate(names[:several]):
            cases.append(_told(driver_killed, shared, name, ray, number))
        for name in names[:several]:
            cases.append(_told(node_lost, shared, name, ray))
        for name in names[:several]:
            cases.append(_told(folder_away, shared, name, ray))
    for name in names[: max(1, several // 2)]:
        cases.append(_told(head_killed, shared, name))
    return {"cases": cases}


def _learnt(world: World, scratch: Path, only: Sequence[str]) -> tuple[OnRay, list[str]]:
    """Return what cases share, with what one process leaves, and the names of the commands."""
    shared = OnRay(world, scratch)
    names = [name for name in shared.settings() if not only or name in only]
    for name in names:
        shared.learn(name)
    return shared, names


def _told(make: Callable[..., Case], *given: Any) -> Case:
    """Return a case, and say how it went where somebody wants to see that."""
    began = time.monotonic()
    case = make(*given)
    if os.environ.get("SURVIVE_TIMES"):
        print(f"{time.monotonic() - began:5.1f} s  {case}", file=sys.stderr, flush=True)
    return case


def nothing(shared: OnRay, name: str, ray: SmallCluster) -> Case:
    """Disturb nothing: two workers leave what one process leaves. Learns how long a command takes."""
    setting, folder = shared.prepared(name, "undisturbed")
    driver = shared.start(setting, folder, ray.address)
    wait_for(lambda: driver.ended() or ray.processes(WORKER), LONGEST)
    began = time.monotonic()
    ending = driver.wait()
    shared.seconds[name] = time.monotonic() - began
    return Case.of(f"{name} on two workers", [ending], [_not_done(ending), shared.unlike(setting, folder)])


def worker_killed(shared: OnRay, name: str, ray: SmallCluster, number: int) -> Case:
    """Kill one of two workers at a random moment: the same command goes on by itself."""
    killed, ending = False, Ending(0, 0.0, "", "")
    setting, folder = shared.settings()[name], shared.scratch
    for draw in range(5):
        setting, folder = shared.prepared(name, f"worker-{number}-{draw}")
        driver = shared.start(setting, folder, ray.address)
        shared.at_a_moment(driver, setting, ray)
        killed = not driver.ended() and ray.kill(WORKER, number)
        ending = driver.wait()
        if killed:
            break
    lost = ending.said.count(LOST)
    wrong = ["" if killed else "nothing was killed", "" if lost <= 1 else f"{lost} shards were begun again"]
    return Case.of(
        f"a worker killed during {name}, {number}",
        [ending],
        [*wrong, _not_done(ending), shared.unlike(setting, folder)],
    )


def driver_killed(shared: OnRay, name: str, ray: SmallCluster, number: int) -> Case:
    """Kill the command itself at a random moment: its workers end too, and the same words go on."""
    setting, folder = shared.prepared(name, f"driver-{number}")
    driver = shared.start(setting, folder, ray.address)
    shared.at_a_moment(driver, setting, ray)
    killed = driver.kill()
    driver.wait()
    gone = wait_for(lambda: not ray.processes(WORKER), 60)
    ending = shared.start(setting, folder, ray.address).wait()
    wrong = ["" if killed else "nothing was killed", "" if gone else "its workers are still there"]
    return Case.of(
        f"the driver killed during {name}, {number}",
        [ending],
        [*wrong, _not_done(ending), shared.unlike(setting, folder)],
    )


def node_lost(shared: OnRay, name: str, ray: SmallCluster) -> Case:
    """Take a node away at a random moment, and give another one some seconds later."""
    setting, folder = shared.prepared(name, "node")
    driver = shared.start(setting, folder, ray.address)
    shared.at_a_moment(driver, setting, ray)
    in_time = not driver.ended()
    ray.tell("lose")
    wait_for(driver.ended, AWAY)
    ray.tell("add")
    ending = driver.wait()
    wrong = ["" if in_time else "it was over before", _not_done(ending), shared.unlike(setting, folder)]
    return Case.of(f"a node lost during {name}", [ending], wrong)


def folder_away(shared: OnRay, name: str, ray: SmallCluster) -> Case:
    """Take the shared folder away for some seconds: the command waits, or says so and the same words go on."""
    setting, real = shared.prepared(name, "away")
    place = real.with_name(f"{real.name}-mounted")
    place.mkdir()
    words = tuple(_absolute(word, place, setting) for word in setting.words)
    with mounted(real, place) as is_mounted:
        if not is_mounted:
            return Case(f"the shared folder away during {name}", True, (), "nothing can be mounted here")
        driver = shared.started((*words, *_flags(ray.address)), shared.scratch / "cases" / f"{real.name}")
        shared.at_a_moment(driver, setting, ray)
        in_time = not driver.ended()
        _unmount(place)
        wait_for(driver.ended, AWAY)
        subprocess.run(["mount", "--bind", str(real), str(place)], check=True)
        endings = [driver.wait()]
        if endings[-1].code == EXIT_USER:
            endings.append(shared.started((*words, *_flags(ray.address)), real).wait())
    wrong = ["" if in_time else "it was over before", _not_done(endings[-1]), shared.unlike(setting, real)]
    return Case.of(f"the shared folder away during {name}", endings, wrong)


def head_killed(shared: OnRay, name: str) -> Case:
    """Kill the cluster's head at a random moment, then start the cluster again and give the same words."""
    setting, folder = shared.prepared(name, "head")
    with cluster(shared.port, shared.environment) as ray:
        driver = shared.start(setting, folder, ray.address)
        shared.at_a_moment(driver, setting, ray)
        killed = not driver.ended() and ray.kill(HEAD)
        wait_for(driver.ended, AWAY)
        first = None if not driver.ended() else driver.wait()
        ray.stop()
        first = first or driver.wait()
    with cluster(shared.port, shared.environment) as ray:
        second = shared.start(setting, folder, ray.address).wait()
    wrong = ["" if killed else "nothing was killed", "" if first.code in (0, EXIT_USER) else f"exit {first.code}"]
    endings = [first, second]
    return Case.of(
        f"the head killed during {name}", endings, [*wrong, _not_done(second), shared.unlike(setting, folder)]
    )


def _many_killed(shared: OnRay, ray: SmallCluster, kills: int) -> tuple[list[Case], dict[str, Any]]:
    """Kill one worker after the other, each while it is at work, during two thousand answers; count the answers.

    A command that is over before that many are killed is given again, in a new folder.
    """
    cases: list[Case] = []
    counts: list[Counted] = []
    while sum(count.kills for count in counts) < kills and len(cases) < TURNS:
        open_kills = kills - sum(count.kills for count in counts)
        case, counted = _killed_during_answers(shared, ray, open_kills, len(cases))
        cases.append(case)
        counts.append(counted)
    killed = sum(count.kills for count in counts)
    good = sum(count.kills for case, count in zip(cases, counts, strict=True) if case.survived)
    figures = {"kills": killed, "same_bytes": good, "shards": 50 * SAMPLES // ROWS_EACH}
    return cases, {**figures, "commands": [vars(count) for count in counts]}


@dataclass(frozen=True)
class Counted:
    """A command of two thousand answers during which workers were killed.

    Attributes:
        kills: workers killed.
        asked: answers asked for.
        there: rows of its table.
        twice: rows with a question and a sample that another row has.
        shards_done_again: shards that were given to another worker.
        seconds: how long it took.
    """

    kills: int
    asked: int
    there: int
    twice: int
    shards_done_again: int
    seconds: float


def _killed_during_answers(shared: OnRay, ray: SmallCluster, kills: int, turn: int) -> tuple[Case, Counted]:
    """Sample two thousand answers, and kill at most so many workers meanwhile."""
    setting, folder = shared.prepared(ANSWERS, f"many-{turn}")
    driver, killed = shared.start(setting, folder, ray.address), 0
    while killed < kills and not driver.ended():
        wait_for(lambda: driver.ended() or ray.processes(AT_WORK), LONGEST)
        time.sleep(shared.chooser.uniform(*BETWEEN) * shared.seconds[ANSWERS])
        wait_for(lambda: driver.ended() or ray.processes(AT_WORK), LONGEST)
        killed += not driver.ended() and ray.kill(AT_WORK)  # the one that is at work for longest
    ending = driver.wait(LONGEST * 4)

    asked, rows, distinct = _answers(folder / "answers.parquet")
    again = ending.said.count(LOST)
    wrong = [
        "" if killed else "nothing was killed",
        "" if rows == distinct == asked else f"{rows} answers of which {distinct} differ, {asked} were asked for",
        "" if again <= killed else f"{again} shards were begun again",
        _not_done(ending),
        shared.unlike(setting, folder),
    ]
    case = Case.of(f"{killed} workers killed, one after the other, during {asked} answers", [ending], wrong)
    return case, Counted(killed, asked, rows, rows - distinct, again, round(ending.seconds, 1))


def _answers(table: Path) -> tuple[int, int, int]:
    """Return how many answers were asked for, are there, and differ by question and sample."""
    if not table.is_file():
        return 50 * SAMPLES, 0, 0
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(table, columns=["question_id", "sample"]).to_pylist()
    return 50 * SAMPLES, len(rows), len({(row["question_id"], row["sample"]) for row in rows})


def tell_on_ray(bench: Bench, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all cases."""
    if not results:
        return {"all_survived": True, "cases": [], "left_out": ABSENT}
    (figures,) = results
    cases = [vars(case) for case in figures["cases"]]
    return {"all_survived": all(case["survived"] for case in cases), **figures, "cases": cases}


@contextmanager
def mounted(real: Path, place: Path) -> Iterator[bool]:
    """Show a folder at another place; says whether that was possible."""
    bound = subprocess.run(["mount", "--bind", str(real), str(place)], capture_output=True, check=False)
    if bound.returncode:
        yield False
        return
    try:
        yield True
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=True)


def _absolute(word: str, place: Path, setting: Setting) -> str:
    """Return a word of a command with the whole path of what it names in its folder."""
    return str(place / word) if word in (RUN, *setting.outputs) else word


def _flags(address: str) -> tuple[str, ...]:
    return ("--executor", "ray", "--address", address, "--workers", "2", "--cores", "1")


def _not_done(ending: Ending) -> str:
    return "" if ending.code == 0 else f"exit {ending.code}: {ending.last_line[:300]}"


def _done(driver: Driver) -> None:
    ending = driver.wait()
    if ending.code:
        raise RuntimeError(f"{driver.process.args!r} fails undisturbed: {ending.said[-2000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
