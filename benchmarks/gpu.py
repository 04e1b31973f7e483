"""All checks that need a GPU, each under a time limit of its own, at most eight minutes together, into one folder.

A part that fails, takes too long or lacks a package is said so in summary.json and on the last lines; the others go on.
What each part printed is in PART.log. `--tiny` runs the same script on a CPU with tiny sizes, to see that it works.

    sh benchmarks/gpu.sh [--tiny] [--out FOLDER] [--only PART ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHOLE = 480.0
"""Seconds of all parts together."""
EMSCOPE = (sys.executable, "-m", "emscope")
LEAST = 5.0
"""A part is not begun with fewer seconds left."""


@dataclass(frozen=True)
class Part:
    """One check.

    Attributes:
        name: its name, and that of its log.
        command: what is run.
        seconds: its limit.
        needs: modules without which it is left out.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ending:
    """How a part ended: passed, failed, too long or left out, with its seconds and why."""

    name: str
    status: str
    seconds: float = 0.0
    reason: str = ""


def parts_on_gpu(out: Path) -> list[Part]:
    """Return the checks for a machine with a GPU, what matters most first."""
    device = ("--device", "cuda")
    bench = (*EMSCOPE, "bench", *device, "--dtype", "bfloat16")
    return [
        Part("doctor", (*EMSCOPE, "doctor"), 40),
        Part("parity", _script("gpu_parity.py", "--device", "cuda", "--out", str(out / "parity.json")), 60),
        Part("bench-1b", (*bench, "--random", "1b", "--out", str(out / "bench-1b.json")), 80),
        Part("bench-7b", (*bench, "--random", "7b", "--out", str(out / "bench-7b.json")), 120),
        Part("quickstart", (*EMSCOPE, "run", "--out", str(out / "quickstart")), 150),
        Part("vllm", _tests("-m", "vllm", "tests/behaviour/test_vllm_real.py"), 120, ("vllm", "pytest")),
        Part("vllm-lens", _tests("-m", "vllm", "-k", "lens", "tests/behaviour"), 90, ("vllm", "vllm_lens", "pytest")),
    ]


def parts_on_cpu(out: Path) -> list[Part]:
    """Return the same checks in a form that takes a CPU about a minute."""
    device = ("--device", "cpu")
    bench = (*EMSCOPE, "bench", *device, "--random", "tiny", "--quick", "--prompts", "4", "--answers", "2")
    run = (*EMSCOPE, "run", "--dry-run", "--set", "device=cpu", "--out", str(out / "quickstart"))
    return [
        Part("doctor", (*EMSCOPE, "doctor"), 60),
        Part("parity", _script("gpu_parity.py", *device, "--out", str(out / "parity.json")), 120),
        Part("bench-1b", (*bench, "--out", str(out / "bench-1b.json")), 120),
        Part("bench-7b", (*bench, "--loops", "capture", "--out", str(out / "bench-7b.json")), 120),
        Part("quickstart", run, 60),
        Part("vllm", _tests("--collect-only", "-m", "vllm", "tests/behaviour/test_vllm_real.py"), 60, ("pytest",)),
        Part("vllm-lens", _tests("-m", "vllm", "-k", "lens", "tests/behaviour"), 60, ("vllm", "vllm_lens", "pytest")),
    ]


def _script(name: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, str(ROOT / "benchmarks" / name), *flags)


def _tests(*flags: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", *flags)


def run_part(part: Part, out: Path, left: float) -> Ending:
    """Run one part within its limit and the seconds that are left, its output in a log."""
    missing = [module for module in part.needs if importlib.util.find_spec(module) is None]
    if missing:
        return Ending(part.name, "left out", reason=f"{', '.join(missing)} is not installed")
    if left < LEAST:
        return Ending(part.name, "left out", reason="no time left")
    limit, began = min(part.seconds, left), time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        # a session of its own, so that all that it started can be ended with it
        process = subprocess.Popen(part.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Ending(part.name, "too long", time.monotonic() - began, f"more than {limit:.0f} s")
    took = time.monotonic() - began
    if code:
        return Ending(part.name, "failed", took, f"exit code {code}: {_last_line(out / f'{part.name}.log')}")
    return Ending(part.name, "passed", took)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def run_all(parts: Sequence[Part], out: Path, seconds: float = WHOLE) -> list[Ending]:
    """Run all parts one after the other; the summary is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    began, endings = time.monotonic(), []
    for part in parts:
        ending = run_part(part, out, seconds - (time.monotonic() - began))
        endings.append(ending)
        print(_told(ending), flush=True)
        (out / "summary.json").write_text(json.dumps(list(map(asdict, endings)), indent=2) + "\n", encoding="utf-8")
    return endings


def _told(ending: Ending) -> str:
    why = f": {ending.reason}" if ending.reason else ""
    return f"{ending.name:<12} {ending.status} in {ending.seconds:.0f} s{why}"


def main() -> None:
    """Run the parts and end with 1 if one failed or took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu-checks"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=WHOLE)
    flags = parser.parse_args()
    out = flags.out.resolve()
    parts = parts_on_cpu(out) if flags.tiny else parts_on_gpu(out)
    names = [part.name for part in parts]
    unknown = [name for name in flags.only if name not in names]
    if unknown:
        parser.error(f"there is no part {unknown[0]}: parts are {', '.join(names)}")
    chosen = [part for part in parts if not flags.only or part.name in flags.only]
    endings = run_all(chosen, out, flags.seconds)
    print(f"All of it is in {out}; summary.json says how each part ended.")
    sys.exit(1 if any(ending.status in ("failed", "too long") for ending in endings) else 0)


if __name__ == "__main__":
    main()
