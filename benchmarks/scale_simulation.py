"""A simulation of sharded work on a cluster: slow workers, nodes that are lost, a driver that is, and a shared store.

The contract is the executor's: a shard's part file is written whole or not at all, a shard that is lost is done again a
bounded number of times, and what is finished stays. Nodes load the base from the store, all workers of a node at once;
the store divides its bandwidth evenly and serves requests one after the other.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

FOREVER = math.inf


@dataclass(frozen=True)
class Cluster:
    """Machines and how often they fail.

    Attributes:
        nodes: machines.
        workers_a_node: workers on each; a node that is lost loses all of them.
        network: bytes a second of a node.
        mtbf: mean seconds between losses of one node, by failure or pre-emption.
        repair: seconds until a lost node, or another in its place, is back.
        slow: share of the workers that are slow.
        slowness: how many times as long they take.
        driver_mtbf: mean seconds between losses of the driver, at which every running shard is lost.
    """

    nodes: int
    workers_a_node: int = 1
    network: float = FOREVER
    mtbf: float = FOREVER
    repair: float = 0.0
    slow: float = 0.0
    slowness: float = 1.0
    driver_mtbf: float = FOREVER


@dataclass(frozen=True)
class Store:
    """A shared store: bytes and requests a second of all nodes together, and seconds that a request takes."""

    bandwidth: float = FOREVER
    requests: float = FOREVER
    latency: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Sharded work.

    Attributes:
        shards: how many.
        seconds: of one shard on a worker that is not slow.
        load: bytes that a node reads before its workers begin.
        part: bytes of a part file.
        requests: of the store, for each part file and its marker.
        attempts: how often a shard is begun before it is given up.
    """

    shards: int
    seconds: float
    load: float = 0.0
    part: float = 0.0
    requests: int = 4
    attempts: int = 10


@dataclass
class Spent:
    """What a simulated stage took. Times but the first are sums over workers.

    Attributes:
        seconds: from its beginning to its end.
        useful: spent on shards that were finished.
        lost: spent on shards that were not.
        loading: from a node's start until its base is loaded.
        writing: on part files.
        down: of lost nodes.
        idle: waiting for a shard.
        done: shards finished.
        given_up: shards that were begun too often.
        losses: nodes lost.
    """

    seconds: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    loading: float = 0.0
    writing: float = 0.0
    down: float = 0.0
    idle: float = 0.0
    done: int = 0
    given_up: int = 0
    losses: int = 0


@dataclass
class _Worker:
    number: int
    node: int
    pace: float
    state: str = "loading"
    since: float = 0.0
    shard: int | None = None
    began: float = 0.0
    epoch: int = 0


@dataclass
class _Transfer:
    left: float
    owner: int
    is_load: bool
    epoch: int


@dataclass
class _Node:
    epoch: int = 0
    up: bool = True
    workers: list[_Worker] = field(default_factory=list)


class Simulation:
    """One run of a stage on a cluster, with random numbers of its own."""

    def __init__(self, cluster: Cluster, store: Store, stage: Stage, seed: int = 0) -> None:
        self.cluster, self.store, self.stage = cluster, store, stage
        self.random = random.Random(seed)
        self.now, self.spent = 0.0, Spent()
        self.queue = deque(range(stage.shards))
        self.begun = [0] * stage.shards
        self.events: list[tuple[float, int, str, int, int]] = []
        self.transfers: list[_Transfer] = []
        self.order, self.store_free = 0, 0.0
        self.nodes, self.workers = [], []
        n_workers = cluster.nodes * cluster.workers_a_node
        slow = set(self.random.sample(range(n_workers), round(cluster.slow * n_workers)))
        for number in range(cluster.nodes):
            self.nodes.append(_Node())
            for place in range(cluster.workers_a_node):
                who = number * cluster.workers_a_node + place
                worker = _Worker(who, number, cluster.slowness if who in slow else 1.0)
                self.workers.append(worker)
                self.nodes[number].workers.append(worker)

    def run(self) -> Spent:
        """Return what the stage took."""
        for number in range(self.cluster.nodes):
            self._start(number)
        self._after(self._lifetime(self.cluster.driver_mtbf), "driver lost", 0, 0)
        while self.spent.done + self.spent.given_up < self.stage.shards:
            self._step()
        for worker in self.workers:
            self._turn(worker, "ended")
        self.spent.seconds = self.now
        return self.spent

    def _step(self) -> None:
        """Go on to whatever happens next: an event, or the end of a transfer."""
        rate = self._rate()
        first = min(self.transfers, key=lambda transfer: transfer.left, default=None)
        ends = FOREVER if first is None else self.now + (first.left / rate if rate < FOREVER else 0.0)
        if self.events and self.events[0][0] <= ends:
            at, _, kind, who, epoch = heapq.heappop(self.events)
            self._move(at, rate)
            self._happen(kind, who, epoch)
            return
        assert first is not None
        self._move(ends, rate)
        self.transfers.remove(first)
        self._arrived(first)

    def _rate(self) -> float:
        n = len(self.transfers)
        return min(self.cluster.network, self.store.bandwidth / n) if n else FOREVER

    def _move(self, to: float, rate: float) -> None:
        if rate < FOREVER:
            for transfer in self.transfers:
                transfer.left = max(0.0, transfer.left - rate * (to - self.now))
        self.now = to

    def _after(self, seconds: float, kind: str, who: int, epoch: int) -> None:
        if seconds < FOREVER:
            self.order += 1
            heapq.heappush(self.events, (self.now + seconds, self.order, kind, who, epoch))

    def _lifetime(self, mean: float) -> float:
        return self.random.expovariate(1 / mean) if mean < FOREVER else FOREVER

    def _happen(self, kind: str, who: int, epoch: int) -> None:
        if kind == "driver lost":
            self._lose_driver()
        elif kind == "node back" and epoch == self.nodes[who].epoch:
            self._start(who)
        elif kind == "node lost" and epoch == self.nodes[who].epoch:
            self._lose_node(who)
        elif kind == "computed" and epoch == self.workers[who].epoch:
            self._write(self.workers[who])
        elif kind == "requested" and epoch == self.workers[who].epoch:
            self.transfers.append(_Transfer(self.stage.part, who, is_load=False, epoch=epoch))

    def _start(self, number: int) -> None:
        """Have a node load the base; its workers begin when that is done."""
        node = self.nodes[number]
        node.up, node.epoch = True, node.epoch + 1
        for worker in node.workers:
            self._turn(worker, "loading")
        self.transfers.append(_Transfer(self.stage.load, number, is_load=True, epoch=node.epoch))
        self._after(self._lifetime(self.cluster.mtbf), "node lost", number, node.epoch)

    def _arrived(self, transfer: _Transfer) -> None:
        if transfer.is_load:
            if transfer.epoch == self.nodes[transfer.owner].epoch:
                for worker in self.nodes[transfer.owner].workers:
                    self._turn(worker, "idle")
                    self._take(worker)
        elif transfer.epoch == self.workers[transfer.owner].epoch:
            self._finish(self.workers[transfer.owner])

    def _take(self, worker: _Worker) -> None:
        """Give a worker the next shard, if there is one."""
        if not self.queue:
            return
        worker.shard = self.queue.popleft()
        self.begun[worker.shard] += 1
        worker.epoch += 1
        self._turn(worker, "computing")
        worker.began = self.now
        self._after(self.stage.seconds * worker.pace, "computed", worker.number, worker.epoch)

    def _write(self, worker: _Worker) -> None:
        """Have a worker ask the store for its part file's requests, which wait for those before them."""
        self._turn(worker, "writing")
        self.store_free = max(self.store_free, self.now) + self.stage.requests / self.store.requests
        waits = self.store_free - self.now + self.store.latency
        self._after(waits, "requested", worker.number, worker.epoch)

    def _finish(self, worker: _Worker) -> None:
        self.spent.useful += self.stage.seconds * worker.pace
        self.spent.done += 1
        worker.shard = None
        self._turn(worker, "idle")
        self._take(worker)

    def _drop(self, worker: _Worker) -> None:
        """Take a worker's shard from it: another worker begins it again, unless that was done too often."""
        shard, worker.shard = worker.shard, None
        worker.epoch += 1
        if shard is None:
            return
        if self.begun[shard] >= self.stage.attempts:
            self.spent.given_up += 1
        else:
            self.queue.append(shard)

    def _lose_node(self, number: int) -> None:
        node = self.nodes[number]
        node.up, node.epoch = False, node.epoch + 1
        self.spent.losses += 1
        self._forget(number)
        for worker in node.workers:
            self._turn(worker, "down")
            self._drop(worker)
        self._after(self.cluster.repair, "node back", number, node.epoch)
        for worker in self.workers:
            if worker.state == "idle" and worker.shard is None:
                self._take(worker)

    def _lose_driver(self) -> None:
        """Lose every running shard; all nodes that are up load again, as the same command would have them."""
        for number, node in enumerate(self.nodes):
            if node.up:
                node.up, node.epoch = False, node.epoch + 1
                self._forget(number)
                for worker in node.workers:
                    self._turn(worker, "down")
                    self._drop(worker)
                self._after(self.cluster.repair, "node back", number, node.epoch)
        self._after(self._lifetime(self.cluster.driver_mtbf), "driver lost", 0, 0)

    def _forget(self, number: int) -> None:
        """Break off the transfers of a node and of its workers."""
        theirs = {worker.number for worker in self.nodes[number].workers}
        kept = []
        for transfer in self.transfers:
            mine = transfer.owner == number if transfer.is_load else transfer.owner in theirs
            if not mine:
                kept.append(transfer)
        self.transfers = kept

    def _turn(self, worker: _Worker, state: str) -> None:
        """Book the time that a worker spent in its state, and have it be in another."""
        took = self.now - worker.since
        if worker.state == "computing":
            self._book_computing(worker, took, finished=state == "writing")
        elif worker.state == "writing":
            self.spent.writing += took
            if worker.shard is not None and state not in ("idle",):
                self.spent.lost += self.stage.seconds * worker.pace
        elif worker.state != "ended":
            setattr(self.spent, worker.state, getattr(self.spent, worker.state) + took)
        worker.state, worker.since = state, self.now

    def _book_computing(self, worker: _Worker, took: float, *, finished: bool) -> None:
        if not finished:  # what is finished is useful once its part file is there
            self.spent.lost += took


def simulated(cluster: Cluster, store: Store, stage: Stage, seeds: int = 20) -> list[Spent]:
    """Return what a stage took in several runs with other random numbers, fastest first."""
    runs = [Simulation(cluster, store, stage, seed).run() for seed in range(seeds)]
    return sorted(runs, key=lambda spent: spent.seconds)


def by_formula(cluster: Cluster, store: Store, stage: Stage) -> float:
    """Return the seconds of a stage where nothing is slow or lost and the store's requests are no limit.

    All nodes load at once. Workers then write their part files at once, round by round, also the last and smaller one.
    """
    workers = cluster.nodes * cluster.workers_a_node
    load = _transfer(cluster, store, stage.load, cluster.nodes)
    rounds, rest = divmod(stage.shards, workers)
    full = stage.seconds + store.latency + _transfer(cluster, store, stage.part, workers)
    last = stage.seconds + store.latency + _transfer(cluster, store, stage.part, rest) if rest else 0.0
    return load + rounds * full + last


def _transfer(cluster: Cluster, store: Store, n_bytes: float, n: int) -> float:
    rate = min(cluster.network, store.bandwidth / n)
    return n_bytes / rate if rate < FOREVER else 0.0
