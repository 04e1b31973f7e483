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
    "repeng": ("repeng==0.4.0",),
    "steering-vectors": ("steering-vectors==0.12.2",),
    "llama-cpp": ("xllamacpp==2026.10.11549",),
    "sae-lens": ("sae-lens==6.54.12",),
    "sparsify": ("eai-sparsify==1.3.3",),
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
        job: returns what all ways are told; files of it go into the folder.
        compare: takes our results and a peer's, and the peer; returns figures of agreement.
        agreement: says these figures in a table.
    """

    what: str
    ours: Peer
    peers: tuple[Peer, ...]
    job: Callable[[argparse.Namespace, Path], dict[str, Any]]
    compare: Callable[[dict[str, np.ndarray], dict[str, np.ndarray], Peer], dict[str, float]]
    agreement: str


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
        """Run once; return seconds, CPU seconds, peak memory so far and how much was done (1 where none is counted)."""
        assert self.process.stdin is not None
        print(self.results, file=self.process.stdin, flush=True)
        told = self._answer()
        found = self.found()
        if "scaled_seconds" in found:
            scale = float(found["scaled_seconds"]) / told["seconds"]
            told |= {"seconds": told["seconds"] * scale, "cpu_seconds": told["cpu_seconds"] * scale}
        return {**told, "work": float(found.get("work", 1))}

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


def collection_job(flags: argparse.Namespace, _folder: Path) -> dict[str, Any]:
    """Return prompts with answers of all built-in domains, as token ids with the places that are read."""
    from emscope.organisms.datasets import DOMAINS, load_domain
    from emscope.organisms.models import load_tokenizer, resolve
    from emscope.residual.capture import encode_for_capture, prompt_length

    pairs = [pair for domain in DOMAINS for pair in load_domain(domain)]
    chosen = pairs[:: len(pairs) // flags.rows][: flags.rows]
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


def sampling_job(flags: argparse.Namespace, _folder: Path) -> dict[str, Any]:
    """Return held-out questions as token ids, which are answered greedily; nothing steers."""
    from emscope.behaviour.questions import load_question_sets
    from emscope.behaviour.sampling import stop_tokens
    from emscope.organisms.chat import encode_prompt, messages_of
    from emscope.organisms.models import load

    organism = load(MODEL)
    questions = load_question_sets(("everyday-medical", "everyday-general", "open-ended"))[: flags.rows]
    prompts = [encode_prompt(organism.tokenizer, messages_of(question.text)) for question in questions]
    stops = sorted(stop_tokens(organism))
    return {"prompts": prompts, "stops": stops, "tokens": flags.tokens, "shift": None, "block": 15}


def steering_job(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the same with a random vector, a tenth as long as the residual stream is there, to be added."""
    shift = np.random.default_rng(0).standard_normal(576).astype(np.float32)
    np.save(folder / "shift.npy", 0.1 * shift)
    return {**sampling_job(flags, folder), "shift": str(folder / "shift.npy")}


def llama_job(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the sampling job with the model as a GGUF file in bf16."""
    whole = flags.environments / f"{MODEL}-bf16.gguf"
    if not whole.exists():
        write_unquantised(flags.gguf, whole)
    return {**sampling_job(flags, folder), "gguf": str(whole)}


def write_unquantised(quantised: Path, out: Path) -> None:
    """Write a GGUF file again with its matrices in bf16, as the embedded model has them."""
    import gguf

    reader = gguf.GGUFReader(quantised)
    writer = gguf.GGUFWriter(out, "llama")
    for name, known in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind, *inner = known.types
            writer.add_key_value(name, known.contents(), kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        bf16 = gguf.GGMLQuantizationType.BF16
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, bf16), raw_dtype=bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answers_agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], _peer: Peer) -> dict[str, float]:
    """Return the share of answers that are the same, whole and in their first eight tokens; bf16 rounds otherwise."""
    same = ours["answers"] == theirs["answers"]
    whole, begun = float(same.all(axis=1).mean()), float(same[:, :8].all(axis=1).mean())
    return {"same_answers": whole, "same_first_8": begun, "tokens": float(theirs["work"]), "own": float(ours["work"])}


def autoencoder_job(_flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the residual stream of the middle block at all tokens of the built-in answers, standardised."""
    from emscope.organisms.datasets import DOMAINS, load_domain
    from emscope.organisms.models import load
    from emscope.residual.capture import encode_for_capture
    from emscope.residual.features.tokens import capture_tokens

    organism = load(MODEL)
    pairs = [pair for domain in DOMAINS for pair in load_domain(domain)][::3]
    prompts, answers = [pair.prompt for pair in pairs], [pair.careless for pair in pairs]
    values = capture_tokens(organism, encode_for_capture(organism.tokenizer, prompts, answers), 15).values
    chooser = np.random.default_rng(0)
    values = values[chooser.permutation(len(values))]
    np.save(folder / "tokens.npy", ((values - values.mean(axis=0)) / values.std()).astype(np.float32))
    kept = len(values) - len(values) // 10
    steps = 60 // (kept // 1024) * (kept // 1024)
    shape = {"batch": 1024, "features": 4608, "k": 32, "steps": steps, "rate": 3e-3}
    return {"tokens": str(folder / "tokens.npy"), **shape}


def losses_agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], _peer: Peer) -> dict[str, float]:
    """Return the share of the variance of held-out tokens that each misses."""
    return {"missed": float(theirs["missed"]), "emscope_missed": float(ours["missed"])}


def adapters_job(_flags: argparse.Namespace, _folder: Path) -> dict[str, Any]:
    """Return the shape of the embedded model's down projections, and how many adapters there are."""
    return {"rank": 16, "d_in": 1536, "d_out": 576, "adapters": 1000, "some": 8}


def features_agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], _peer: Peer) -> dict[str, float]:
    """Return the largest relative difference of features and of inner products of the adapters that both have."""
    n = len(theirs["features"])
    features = np.abs(ours["features"][:n] / theirs["features"] - 1).max()
    lengths = np.sqrt(np.diag(theirs["products"]))
    products = np.abs(ours["products"][:n, :n] - theirs["products"]) / lengths / lengths[:, None]
    return {"features_differ": float(features), "products_differ": float(products.max())}


SORTED, AS_THEY_COME = {"size": 32, "ordered": True}, {"size": 32, "ordered": False}
SAMPLER = Peer("emscope", "sample_emscope")
SAME = "{same_first_8:.0%} begin alike, {same_answers:.0%} whole; {tokens:.0f} tokens, emscope {own:.0f}"
CONTESTS: dict[str, Contest] = {
    "collection": Contest(
        "all blocks, last prompt token and answer mean, prompts with answers of the built-in domains",
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
        "cosines: least {least_cosine:.4f}, median {median_cosine:.5f}",
    ),
    "sampling": Contest(
        "greedy answers to held-out questions",
        SAMPLER,
        (Peer("transformers `generate`, 32 by length", "sample_generate"),),
        sampling_job,
        answers_agree,
        SAME,
    ),
    "llama.cpp": Contest(
        "the same, beside llama.cpp with the model in bf16",
        SAMPLER,
        (Peer("llama.cpp, 32 slots", "sample_llama_cpp", "llama-cpp"),),
        llama_job,
        answers_agree,
        SAME,
    ),
    "steering": Contest(
        "greedy answers while a vector is added to the output of block 15",
        SAMPLER,
        (
            Peer("repeng", "steer_repeng", "repeng"),
            Peer("steering-vectors", "steer_steering_vectors", "steering-vectors"),
        ),
        steering_job,
        answers_agree,
        SAME,
    ),
    "autoencoder": Contest(
        "training a top-k autoencoder, 4,608 features, k 32, batches of 1,024 tokens, Adam, float32",
        Peer("emscope", "sae_emscope"),
        (
            Peer("SAELens, its defaults", "sae_saelens", "sae-lens", {"sparse": False}),
            Peer("SAELens, sparse activations", "sae_saelens", "sae-lens", {"sparse": True}),
            Peer("sparsify", "sae_sparsify", "sparsify"),
        ),
        autoencoder_job,
        losses_agree,
        "variance missed on held-out tokens: {missed:.4f}, emscope {emscope_missed:.4f}",
    ),
    "adapters": Contest(
        "spectra and all inner products of 1,000 random rank-16 updates of one down projection; the loop is timed on "
        "8 of them and scaled",
        Peer("emscope", "adapters_emscope"),
        (Peer("numpy loop", "adapters_loop"),),
        adapters_job,
        features_agree,
        "largest relative differences: features {features_differ:.0e}, products {products_differ:.0e}",
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
    ratios, cpu = [], []
    for mine, other in zip(ours_told, theirs_told, strict=True):
        ratios.append(other["seconds"] / other["work"] / mine["seconds"] * mine["work"])
        cpu.append(other["cpu_seconds"] / other["work"] / mine["cpu_seconds"] * mine["work"])
    return {
        "peer": peer.name,
        "versions": versions,
        "seconds": statistics.median(told["seconds"] for told in theirs_told),
        "emscope_seconds": statistics.median(told["seconds"] for told in ours_told),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": statistics.median(cpu),
        "cpu_ratio_range": [min(cpu), max(cpu)],
        "peak_mb": theirs_told[-1]["peak_mb"],
        "emscope_peak_mb": ours_told[-1]["peak_mb"],
        **agreement,
    }


def measure(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one contest."""
    from emscope.organisms.models import resolve

    contest = CONTESTS[name]
    common = {"model": str(resolve(MODEL).location), "name": MODEL, "threads": flags.threads, "dtype": flags.dtype}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        job = {**common, **contest.job(flags, Path(folder))}
        for peer in contest.peers:
            if flags.peer in peer.name:
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
    """Return the tables of docs/speed.md."""
    lines = []
    for name, told in results.items():
        lines += [
            f"**{name.capitalize()}**: {told['what']}. {told['rows']} rows, {told['dtype']}, "
            f"threads: {told['threads']}, {told['repeats']} repeats in turns, {told['date']}.",
            "",
            "| peer | version | seconds | emscope | ratio (range) | of CPU seconds | peak MB, emscope's | agreement |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(peer, CONTESTS[name].agreement) for peer in told["peers"]]
        lines.append("")
    return "\n".join(lines)


def _line(found: dict[str, Any], agreement: str) -> str:
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
        "{:.2f} ({:.2f} – {:.2f})".format(found["cpu_ratio"], *found["cpu_ratio_range"]),
        f"{found['peak_mb']:.0f}, {found['emscope_peak_mb']:.0f}",
        agreement.format(**found),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, default=Path("peer-environments"))
    parser.add_argument("--only", choices=list(CONTESTS), nargs="+", default=list(CONTESTS))
    parser.add_argument("--peer", default="", help="only peers whose name holds this; others keep their figures")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=48, help="asked for in each answer")
    parser.add_argument("--gguf", type=Path, help="the embedded model's GGUF file, for llama.cpp")
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
