"""A Ray cluster of a head and two nodes on this machine, kept by a process that obeys one line at a time.

`python -m survive.cluster PORT` starts it and answers each of `lose`, `add` and `stop` on standard output when it is
done. Whoever measures stays without threads of Ray's, and can kill the head.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survive.world import ROOT

STORE = 80 << 20  # bytes of each node's object store, the least that Ray takes
WORKER = "ray::RayWorker"
"""How the processes of workers are called."""
HEAD = "gcs_server"
READY = "ready"


def main() -> None:
    """Keep a cluster until it is told to stop, or whoever started it is gone."""
    from ray.cluster_utils import Cluster

    said, sys.stdout = sys.stdout, sys.stderr  # Ray prints too
    head = {"num_cpus": 0, "gcs_server_port": int(sys.argv[1]), "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": STORE})
    nodes: list[Any] = []

    def add() -> None:
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=STORE))

    add()
    add()
    print(READY, cluster.address, file=said, flush=True)
    for line in sys.stdin:
        if line.strip() == "lose":
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        elif line.strip() == "add":
            add()
        else:
            break
        print(READY, file=said, flush=True)
    cluster.shutdown()


@dataclass
class SmallCluster:
    """A cluster that runs.

    Attributes:
        keeper: the process that keeps it, the first of a group.
        address: where it is joined.
    """

    keeper: subprocess.Popen[str]
    address: str
    _lost: set[int] = field(default_factory=set)

    @classmethod
    def start(cls, port: int, environment: dict[str, str]) -> SmallCluster:
        """Start one, and wait until its nodes are there.

        Raises:
            RuntimeError: it does not start.
        """
        keeper = subprocess.Popen(
            [sys.executable, "-m", "survive.cluster", str(port)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        word, _, address = keeper.stdout.readline().strip().partition(" ")
        if word != READY:
            raise RuntimeError("the Ray cluster does not start")
        return cls(keeper, address)

    def tell(self, word: str) -> None:
        """Have the keeper `lose` a node or `add` one, and wait until that is done."""
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        self.keeper.stdin.write(f"{word}\n")
        self.keeper.stdin.flush()
        self.keeper.stdout.readline()

    def processes(self, name: str) -> list[int]:
        """Return the cluster's processes whose title begins with a name, or whose program is called so."""
        found = []
        for pid in _descendants(self.keeper.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0].startswith(name) or Path(words[0]).name == name:
                    found.append(pid)
        return found

    def kill(self, name: str, number: int = 0) -> bool:
        """Kill one of these processes, and say whether there was one."""
        pids = self.processes(name)
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[number % len(pids)], signal.SIGKILL)
        return True

    def stop(self) -> None:
        """End the cluster and all of its processes."""
        pids = _descendants(self.keeper.pid)
        with contextlib.suppress(OSError):
            assert self.keeper.stdin is not None
            self.keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.keeper.wait(timeout=15)
        for pid in [*pids, self.keeper.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.keeper.wait()


@contextmanager
def cluster(port: int, environment: dict[str, str]) -> Iterator[SmallCluster]:
    """Have a cluster for as long as this context lasts."""
    found = SmallCluster.start(port, environment)
    try:
        yield found
    finally:
        found.stop()


def _descendants(pid: int) -> list[int]:
    """Return all processes that a process has started, and those that these have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, open_ones = [], [pid]
    while open_ones:
        own = children.get(open_ones.pop(), [])
        found += own
        open_ones += own
    return found


def wait_for(condition: Any, seconds: float, every: float = 0.05) -> bool:
    """Wait until a condition holds, at most so long, and say whether it does."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(every)
    return True


if __name__ == "__main__":
    main()
