"""Joining a Ray cluster, or starting one on this machine, and what is refused before any work is given to it."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import emscope
from emscope.errors import UserError, missing_extra

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
OBJECT_STORE = 100 << 20  # bytes: only manifests travel
PROBE_SECONDS = 120.0
ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # 15 otherwise: beside other work its workers would stand still
    "RAY_USAGE_STATS_ENABLED": "0",  # it would send reports of how this machine is used
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
QUIET = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.CRITICAL}


def import_ray() -> Any:
    """Return the module ray.

    Raises:
        UserError: it is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise missing_extra("ray", "ray") from error


def join(address: str, cores: int) -> Any:
    """Connect to a cluster and return ray; without an address start one of `cores` CPU cores on this machine.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = import_ray()
    if address not in ("", "auto"):
        _check_answers(address)
    own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    _quieten()
    with _own_signals(), _silent_libraries():
        try:
            ray.init(address=address or "local", **QUIET, **({} if address else own))
        except Exception as error:  # it raises many kinds, from ConnectionError to RuntimeError
            raise UserError(_cannot_join(address, str(error))) from error
    return ray


def _quieten() -> None:
    """Keep Ray's own log off the terminal: what matters of it is raised, or said in a worker's manifest."""
    logger = logging.getLogger("ray")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    logger.handlers[:] = [logging.NullHandler()]  # it has put one there that writes


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keep off the terminal what Ray's compiled part writes while it joins: it asks no logger and no setting."""
    try:
        terminal = os.dup(2)
    except OSError:  # there is none
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(nowhere)
        os.close(terminal)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Have signals do afterwards what they did before: Ray takes those that ask a process to end for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_answers(address: str) -> None:
    """See within seconds that something listens at an address: Ray itself tries for minutes.

    Raises:
        UserError: it is no address, or nothing answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"The address {address!r} of a Ray cluster must be HOST:PORT, for example 10.0.0.1:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at {address} ({error}): start one with `ray start --head`, or leave the address "
            "out to start workers on this machine."
        ) from error


def _cannot_join(address: str, said: str) -> str:
    first = " ".join(said.split())[:300].rstrip(". ")
    if not address:
        advice = "see to its memory and its /tmp folder, or wait until it is less busy"
        return f"No Ray workers can be started on this machine ({first}): {advice}."
    if address == "auto":
        return f"No Ray cluster runs on this machine ({first}): start one with `ray start --head`, or name its address."
    return f"The Ray cluster at {address} cannot be joined ({first}): this machine must be part of it."


@contextmanager
def probe_file(folder: Path) -> Iterator[Path]:
    """Put a file into a folder by which a worker sees that the folder is this one."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{secrets.token_hex(8)}"
    probe.write_text("emscope", encoding="utf-8")
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def node_facts(probe: str) -> dict[str, Any]:
    """Return what a node has; sent there by value, for a node without emscope must be able to answer."""
    import importlib
    import sys
    from pathlib import Path

    try:
        version = importlib.import_module("emscope").__version__
    except ImportError:
        version = ""
    return {"version": version, "sees": Path(probe).is_file(), "python": sys.version.split()[0]}


node_facts.__module__ = "__main__"  # what is defined there is pickled by value


def check_nodes(ray: Any, folder: Path, probe: Path) -> None:
    """Ask every node of a cluster whether it can do this work.

    Raises:
        UserError: a node has no emscope, has another version, or does not see the folder.
    """
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=1, scheduling_strategy=there)(node_facts)
            asked[task.remote(str(probe))] = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
    for answer in ready:
        try:
            facts = ray.get(answer)
        except ray.exceptions.RayError as error:  # a lost node is listed for some seconds more, and gets no work
            logger.debug("the node %s does not answer: %s", asked[answer], error)
            continue
        check_worker(asked[answer], facts["version"], folder, sees_folder=facts["sees"])


def check_worker(host: str, version: str, folder: Path, *, sees_folder: bool) -> None:
    """Refuse a worker that could not do this work, or would do another.

    Raises:
        UserError: it has no emscope, has another version, or does not see the folder.
    """
    ours = emscope.__version__
    if not version:
        raise UserError(f"The worker on {host} has no emscope: install emscope=={ours} with its extra ray there.")
    if version != ours:
        raise UserError(f"The worker on {host} has emscope {version}, and this is {ours}: install the same on both.")
    if not sees_folder:
        raise UserError(
            f"The worker on {host} does not see {folder}: results must go to a folder that every machine of the "
            "cluster shares at the same path, such as a network drive."
        )
