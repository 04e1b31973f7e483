"""Workers of a Ray cluster that carry out orders: plain actors, one thread of the driver beside each.

Actors and not Ray Data: a shard's result is a file that its worker writes into the run's own folder, under a name that
says what it was made from, and this is what makes work go on after a stop, also under another executor. Ray Data's
results are blocks in its object store, made anew by every start; its batches depend on how blocks were cut and on how
many actors there are. What it offers beside that is needed here in its simplest form alone: one order in flight for
each worker, and workers that keep their models.

A worker that is lost, for whatever reason, costs the shard it had, and of that only what its batches had not kept: the
shard is given to the next worker.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from emscope import parts
from emscope.errors import UserError
from emscope.executors.cluster import check_nodes, check_worker, import_ray, join, probe_file
from emscope.executors.tasks import Executor, Held, Order
from emscope.executors.worker import MEMORY, USER, Failure, Manifest, RayWorker, WorkerFacts
from emscope.parts import Part

if TYPE_CHECKING:
    from emscope.executors.settings import ExecutorSettings

logger = logging.getLogger(__name__)

TRIES, MEMORY_TRIES = 10, 2
"""Workers that a shard may lose, and those that may be ended for want of memory."""
HIRE_SECONDS = 300.0
"""How long a cluster may take to give the first worker."""
LOST_SECONDS = 600.0
"""How long it may be without any."""
POLL = 0.5


@dataclass
class _Job:
    """An order on its way, and where its ending is told."""

    number: int
    order: Order
    endings: queue.SimpleQueue[tuple[int, BaseException | None]]
    lost: int = 0
    cancelled: bool = False


class RayPool(Executor):
    """Carries out orders on workers of a Ray cluster, as many at once as there are workers."""

    far_away = True

    def __init__(self, settings: ExecutorSettings, folder: Path, *, device: str = "auto") -> None:
        self.settings, self.folder, self.device = settings, folder.absolute(), device
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._broken: BaseException | None = None
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._actors: dict[int, Any] = {}
        self._served = time.monotonic()
        self._hired = False
        self._without: dict[int, float] = {}

    def __enter__(self) -> RayPool:
        """Join the cluster, check its nodes and hire workers.

        Raises:
            UserError: Ray cannot be had, or its workers cannot do this work.
        """
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        import_ray()
        if self.device.startswith("cuda:"):
            raise UserError(f"Each worker of Ray has a GPU to itself: say cuda, not {self.device}.")
        workers, cores = self._shape_here()
        self._ray = join(self.settings.address, workers * cores)
        self._stack.callback(self._ray.shutdown)
        self._probe = self._stack.enter_context(probe_file(self.folder))
        check_nodes(self._ray, self.folder, self._probe)
        self.gpus = 1 if self.device.startswith(("auto", "cuda")) and self._ray.cluster_resources().get("GPU") else 0
        self.at_once, self.cores = (workers, cores) if not self.settings.address else self._shape_there()
        if self.gpus and not self.settings.workers:
            self.at_once = int(self._ray.cluster_resources()["GPU"])
        for slot in range(self.at_once):
            thread = threading.Thread(target=self._serve, args=(slot,), daemon=True, name=f"worker {slot + 1}")
            self._threads.append(thread)
            thread.start()

    def _shape_here(self) -> tuple[int, int]:
        """Return how many workers a cluster on this machine has, and cores of each."""
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = self.settings.workers or 2
        return workers, self.settings.cores or max(1, n_cores // workers)

    def _shape_there(self) -> tuple[int, int]:
        """Return how many workers a cluster gets, one a machine and at least two, and cores of each."""
        there = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        machines = [cores for cores in there if cores] or [1]
        workers = self.settings.workers or max(2, len(machines))
        on_each = -(-workers // len(machines))
        return workers, self.settings.cores or max(1, min(machines) // on_each)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, and the cluster where it was started here."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for actor in list(self._actors.values()):
            with suppress(Exception):
                self._ray.kill(actor)
        for thread in self._threads:
            thread.join(timeout=10)
        self._stack.close()

    def carry_out(self, orders: Sequence[Order], held: Held) -> Iterator[tuple[int, Part | None]]:
        """Yield the number of each order as it is finished; its part is in its file.

        Raises:
            UserError: what a task raised, or a shard has lost too many workers.
        """
        if parts.depends_on_context():
            raise RuntimeError(
                "An intervention is open in this process and would not be in the workers: give it along."
            )
        if any(order.file is None for order in orders):
            raise RuntimeError("Workers write parts into a folder: open one with `parts.kept_in`.")
        endings: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        jobs = [_Job(number, order, endings) for number, order in enumerate(orders)]
        with self._changed:
            self._jobs += jobs
            self._changed.notify_all()
        try:
            for _ in jobs:
                number, error = self._ending(endings)
                if error is not None:
                    raise error
                yield number, None
        finally:
            with self._changed:
                for job in jobs:
                    job.cancelled = True
                self._jobs = [job for job in self._jobs if not job.cancelled]

    def give_up(self, error: BaseException) -> None:
        """Have all that wait for orders end, because of an error elsewhere."""
        self._broken = self._broken or error

    def _ending(self, endings: queue.SimpleQueue[tuple[int, BaseException | None]]) -> tuple[int, BaseException | None]:
        while True:
            with suppress(queue.Empty):
                return endings.get(timeout=POLL)
            if self._broken is not None:
                raise self._broken
            if self._closing:
                raise KeyboardInterrupt  # in a thread: the main one has it already

    def _serve(self, slot: int) -> None:
        """Carry out orders on one worker, hired anew when it is lost, until the pool closes."""
        try:
            while not self._closing:
                actor, task = self._hire(slot), ""
                while actor is not None and (job := self._next(task)) is not None:
                    task = job.order.task
                    if not self._done_by(actor, job):
                        break
        except BaseException as error:  # a thread has nobody else to tell
            self._broken = self._broken or error

    def _next(self, task: str) -> _Job | None:
        """Wait for a job and return it, one of `task` first: its model is loaded. None where the pool closes."""
        with self._changed:
            while not self._jobs and not self._closing:
                self._changed.wait()
            if self._closing:
                return None
            alike = [number for number, job in enumerate(self._jobs) if job.order.task == task]
            return self._jobs.pop(alike[0] if alike else 0)

    def _hire(self, slot: int) -> Any | None:
        """Return a worker that is ready, None where the pool closes or it was lost at once."""
        remote = self._ray.remote(num_cpus=self.cores, num_gpus=self.gpus, max_restarts=0)(RayWorker)
        actor = self._actors[slot] = remote.remote(self.cores, str(self._probe))
        asked = actor.facts.remote()
        while not self._closing:
            ready, _ = self._ray.wait([asked], timeout=POLL)
            if ready:
                try:
                    facts: WorkerFacts = self._ray.get(asked)
                except self._ray.exceptions.RayError as error:
                    self._check_patience(slot, first_line(error))
                    time.sleep(POLL)
                    return None
                check_worker(facts.host, facts.version, self.folder, sees_folder=facts.sees_folder)
                self._served, self._hired = time.monotonic(), True
                self._without.pop(slot, None)
                return actor
            self._check_patience(slot, "it has no room for one")
        return None

    def _check_patience(self, slot: int, reason: str) -> None:
        """End the wait for workers when it has been long enough.

        Raises:
            UserError: with what a worker needs.
        """
        limit, now = LOST_SECONDS if self._hired else HIRE_SECONDS, time.monotonic()
        if now - max(self._served, self._without.setdefault(slot, now)) < limit:
            return
        needs = f"{self.cores} CPU cores{' and a GPU' if self.gpus else ''}"
        raise UserError(
            f"The Ray cluster gave no worker of {needs} within {limit:.0f} s ({reason}): lower --workers or --cores, "
            "or wait until others have finished."
        )

    def _done_by(self, actor: Any, job: _Job) -> bool:
        """Have a worker carry out a job, and say whether the worker is still there."""
        try:
            manifest: Manifest = self._ray.get(actor.carry_out.remote(job.order))
        except self._ray.exceptions.RayTaskError as error:  # outside the order: the worker cannot read it
            fault = RuntimeError(f"{job.order.label} cannot be given to a worker: {last_line(error)}")
            job.endings.put((job.number, fault))
            return True
        except self._ray.exceptions.RayError as error:
            if not self._closing:
                self._lost(job, error)
            return False
        self._served = time.monotonic()
        for level, text in manifest.said:
            logger.log(level, "%s", text)
        failure = manifest.failure
        job.endings.put((job.number, None if failure is None else error_of(job.order, failure)))
        return True

    def _lost(self, job: _Job, error: Exception) -> None:
        """Put a job whose worker was lost behind those that wait, unless it has lost too many."""
        job.lost += 1
        short = "memory" in type(error).__name__.lower()
        most = MEMORY_TRIES if short else TRIES
        reason = "the machine ran out of memory" if short else first_line(error)
        if job.lost >= most:
            job.endings.put((job.number, lost_too_often(job.order, job.lost, reason, short=short)))
            return
        logger.warning("%s: its worker was lost (%s); another one takes it.", job.order.label, reason)
        with self._changed:
            if not job.cancelled:
                self._jobs.append(job)  # last: what ends its workers must not keep others waiting
                self._changed.notify_all()


def first_line(error: BaseException) -> str:
    """Return the first sentence of what a library says."""
    said = str(error).strip().partition("\n")[0]
    return said[:200].rstrip(". ") or type(error).__name__


def last_line(error: BaseException) -> str:
    """Return the last line of what a library says: of a traceback, the error itself."""
    return str(error).strip().rpartition("\n")[2][:400]


def error_of(order: Order, failure: Failure) -> Exception:
    """Return what is raised here for a failure on a worker."""
    if failure.kind == USER:
        return UserError(failure.sentence)
    if failure.kind == MEMORY:
        return UserError(
            f"{order.label}: its worker ran out of memory ({failure.sentence}): lower the batch size or the token "
            "budget, or take fewer workers on each machine."
        )
    logger.debug("%s", failure.trace)
    return RuntimeError(f"{order.label}: {failure.sentence}")


def lost_too_often(order: Order, n: int, reason: str, *, short: bool) -> UserError:
    """Return the error for a shard that has lost too many workers."""
    advice = "lower the batch size, or take fewer workers on each machine" if short else "see to the cluster"
    return UserError(f"{order.label} has lost {n} workers, the last one because {reason}: {advice}.")
