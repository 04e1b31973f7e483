"""What a user would take instead, measured beside emscope: each peer in an environment of its own, runs taking turns.

Same model, same token ids, same figures out. A peer is a process that loads once and then answers "run"; emscope is one
too, and between them runs alternate, so that a busy machine slows both. Written: seconds, ratio with range, peak
memory, and how well the results agree. Environments are made once, with pinned versions; they borrow the torch of the
environment that runs this script.

    python benchmarks/peers.py --environments FOLDER [--only collection] [--rows 96] [--repeats 3] [--out FILE]
    python benchmarks/peers.py --table            # the table of docs/speed.md, from the results
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import site
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = Path(__file__).parent / "peer_workers"
RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2-135m"

PINS: dict[str, tuple[str, ...]] = {
    "transformer-lens": ("transformer-lens==4.3.0",),
    "nnsight": ("nnsight==0.8.1",),
    "nnterp": ("nnterp==1.3.0", "nnsight==0.7.0"),  # nnterp 1.3.0 cannot be imported beside nnsight 0.8
}
"""What is installed in each environment, beside what it borrows."""


@dataclass(frozen=True)
class Peer:
    """One way to do a job.

    Attributes:
        name: what the table calls it.
        worker: its file in `peer_workers`, without `.py`.
        environment: a key of PINS; none is the environment of this script.
        settings: what its job says beyond the common one.
        normed_end: whether its last block's output has passed the final norm, and is left out of the comparison.
    """

    name: str
    worker: str
    environment: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    normed_end: bool = False


@dataclass(frozen=True)
class Contest:
    """One job: ours, the peers, and how to compare results.

    Attributes:
        what: one line for the table.
        ours: emscope's way.
        peers: the others.
        job: returns what all ways are told, of the number of rows.
        compare: takes our results and a peer's, and the peer; returns figures of agreement.
    """

    what: str
    ours: Peer
    peers: tuple[Peer, ...]
    job: Callable[[int], dict[str, Any]]
    compare: Callable[[dict[str, np.ndarray], dict[str, np.ndarray], Peer], dict[str, float]]


class Worker:
    """A process that has loaded what it needs and runs when it is told to."""

    def __init__(self, peer: Peer, job: dict[str, Any], environments: Path, folder: Path) -> None:
        """Start it and wait until it is ready."""
        self.peer, self.results = peer, folder / f"{peer.worker}-{time.monotonic_ns()}.npz"
        told = folder / f"{self.results.stem}.json"
        told.write_text(json.dumps({**job, **peer.settings}), encoding="utf-8")
        python = environments / peer.environment / "bin" / "python" if peer.environment else Path(sys.executable)
        command = [str(python), str(WORKERS / f"{peer.worker}.py"), str(told)]
        surroundings = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
        self.errors = (folder / f"{self.results.stem}.err").open("w+", encoding="utf-8")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, env=surroundings, **pipes)
        self.ready = self._answer()

    def run(self) -> dict[str, float]:
        """Run once; return seconds, CPU seconds and peak memory so far."""
        assert self.process.stdin is not None
        print(self.results, file=self.process.stdin, flush=True)
        return self._answer()

    def found(self) -> dict[str, np.ndarray]:
        """Return the results of the last run."""
        with np.load(self.results) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.peer.name} ended early:\n{self.errors.read()[-2000:]}")
        return dict(json.loads(line))


def make_environment(name: str, environments: Path) -> None:
    """Make a peer's environment where there is none: its pinned packages, and all others from this environment."""
    folder = environments / name
    if (folder / "made").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    pip = [str(folder / "bin" / "pip"), "install", "--no-cache-dir", "--quiet", *PINS[name]]
    subprocess.run(pip, check=True)
    (folder / "made").touch()


def collection_job(n_rows: int) -> dict[str, Any]:
    """Return prompts with answers of all built-in domains, as token ids with the places that are read."""
    from emscope.organisms.datasets import DOMAINS, load_domain
    from emscope.organisms.models import load_tokenizer, resolve
    from emscope.residual.capture import encode_for_capture, prompt_length

    pairs = [pair for domain in DOMAINS for pair in load_domain(domain)]
    chosen = pairs[:: len(pairs) // n_rows][:n_rows]
    prompts, answers = [pair.prompt for pair in chosen], [pair.careless for pair in chosen]
    rows = []
    for chat in encode_for_capture(load_tokenizer(resolve(MODEL)), prompts, answers):
        places = chat.response_positions.tolist()
        rows.append({"ids": chat.ids, "last": prompt_length(chat) - 1, "answer": [places[0], places[-1] + 1]})
    return {"rows": rows}


def vectors_agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], peer: Peer) -> dict[str, float]:
    """Return the least and the median cosine between matching vectors of every row, pooling and block."""
    cosines = []
    for name, mine in ours.items():
        blocks = slice(0, -1 if peer.normed_end else None)
        one, two = mine[:, blocks].astype(np.float64), theirs[name][:, blocks].astype(np.float64)
        products = (one * two).sum(axis=-1)
        cosines.append((products / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)).ravel())
    together = np.concatenate(cosines)
    return {"least_cosine": float(together.min()), "median_cosine": float(np.median(together))}


SORTED, AS_THEY_COME = {"size": 32, "ordered": True}, {"size": 32, "ordered": False}
CONTESTS: dict[str, Contest] = {
    "collection": Contest(
        "all blocks, last prompt token and answer mean, prompts with answers",
        Peer("emscope", "collect_emscope"),
        (
            Peer("TransformerLens", "collect_transformer_lens", "transformer-lens"),
            Peer("nnsight", "collect_nnsight", "nnsight"),
            Peer("nnterp", "collect_nnterp", "nnterp"),
            Peer("transformers, one at a time", "collect_transformers", "", {"size": 1, "head": True}, True),
            Peer("transformers, 32 as they come", "collect_transformers", "", {**AS_THEY_COME, "head": True}, True),
            Peer("transformers, 32 by length", "collect_transformers", "", {**SORTED, "head": True}, True),
            Peer("transformers, 32 by length, no head", "collect_transformers", "", {**SORTED, "head": False}, True),
        ),
        collection_job,
        vectors_agree,
    ),
}


@contextmanager
def working(peer: Peer, job: dict[str, Any], flags: argparse.Namespace, folder: Path) -> Iterator[Worker]:
    """Keep a worker while the context is open."""
    if peer.environment:
        make_environment(peer.environment, flags.environments)
    worker = Worker(peer, job, flags.environments, folder)
    try:
        yield worker
    finally:
        worker.close()


def meet(contest: Contest, peer: Peer, job: dict[str, Any], flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let ours and a peer take turns; return the figures."""
    ours_told: list[dict[str, float]] = []
    theirs_told: list[dict[str, float]] = []
    with working(contest.ours, job, flags, folder) as ours, working(peer, job, flags, folder) as theirs:
        for run in range(flags.repeats + 1):
            mine, other = ours.run(), theirs.run()
            if run:  # the first run warms up
                ours_told.append(mine)
                theirs_told.append(other)
        agreement = contest.compare(ours.found(), theirs.found(), peer)
        versions = theirs.ready["versions"]
    ratios = [other["seconds"] / mine["seconds"] for mine, other in zip(ours_told, theirs_told, strict=True)]
    cpu = [other["cpu_seconds"] / mine["cpu_seconds"] for mine, other in zip(ours_told, theirs_told, strict=True)]
    return {
        "peer": peer.name,
        "versions": versions,
        "seconds": statistics.median(told["seconds"] for told in theirs_told),
        "emscope_seconds": statistics.median(told["seconds"] for told in ours_told),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": statistics.median(cpu),
        "peak_mb": theirs_told[-1]["peak_mb"],
        "emscope_peak_mb": ours_told[-1]["peak_mb"],
        **agreement,
    }


def measure(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one contest."""
    from emscope.organisms.models import resolve

    contest = CONTESTS[name]
    common = {"model": str(resolve(MODEL).location), "name": MODEL, "threads": flags.threads, "dtype": flags.dtype}
    job = {**common, **contest.job(flags.rows)}
    found = []
    for peer in contest.peers:
        if flags.peer and flags.peer not in peer.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found.append(meet(contest, peer, job, flags, Path(folder)))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return {
        "what": contest.what,
        "model": MODEL,
        "rows": flags.rows,
        "repeats": flags.repeats,
        "threads": flags.threads,
        "dtype": flags.dtype,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "peers": found,
    }


def table(results: dict[str, Any]) -> str:
    """Return the table of docs/speed.md."""
    lines = []
    for name, contest in results.items():
        lines += [
            f"**{name.capitalize()}**: {contest['what']}; {contest['rows']} rows, {contest['dtype']}, "
            f"{contest['threads']} thread, {contest['repeats']} repeats in turns, {contest['date']}.",
            "",
            "| peer | version | seconds | emscope | ratio (range) | peak memory, emscope's | least cosine, median |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_line(peer) for peer in contest["peers"]]
        lines.append("")
    return "\n".join(lines)


def _line(found: dict[str, Any]) -> str:
    own = {package: number for package, number in found["versions"].items() if package != "torch"}
    if len(own) > 1:
        own.pop("transformers", None)
    low, high = found["ratio_range"]
    cells = [
        found["peer"],
        ", ".join(f"{package} {number}" for package, number in own.items()),
        f"{found['seconds']:.2f}",
        f"{found['emscope_seconds']:.2f}",
        f"{found['ratio']:.2f} ({low:.2f} – {high:.2f})",
        f"{found['peak_mb']:.0f} MB, {found['emscope_peak_mb']:.0f} MB",
        f"{found['least_cosine']:.4f}, {found['median_cosine']:.5f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, default=Path("peer-environments"))
    parser.add_argument("--only", choices=list(CONTESTS), nargs="+", default=list(CONTESTS))
    parser.add_argument("--peer", default="", help="only peers whose name holds this; others keep their figures")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers-cpu.json")
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    results = json.loads(flags.out.read_text(encoding="utf-8")) if flags.out.exists() else {}
    if flags.table:
        print(table(results))
        return
    flags.environments = flags.environments.resolve()
    for name in flags.only:
        new = measure(name, flags)
        if flags.peer and name in results:
            known = {found["peer"]: found for found in results[name]["peers"] + new["peers"]}
            new["peers"] = list(known.values())
        results[name] = new
        flags.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
