"""Command lines on hostile inputs: each ends with exit code 0, or 2 and one sentence, without control characters."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fuzz.harness import FAILED, READ, REFUSED, Ending, Tally
from fuzz.tables import READERS

SECONDS = 300.0
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NOWHERE = "./no-such-model"
"""A model that is not there: these commands read their data first, and stop at it where the data can be read."""


def _compare(path: Path, folder: Path) -> list[str]:
    return ["judge", "--compare", str(path), str(path)]


def _screen(path: Path, folder: Path) -> list[str]:
    return ["screen", "--data", str(path), "--out", str(folder / "out.csv"), "--model", NOWHERE]


def _generate(path: Path, folder: Path) -> list[str]:
    return ["generate", "--model", NOWHERE, "--out", str(folder / "out.csv"), "--questions", str(path)]


def _ablated(path: Path, folder: Path) -> list[str]:
    return ["generate", "--model", NOWHERE, "--out", str(folder / "out.csv"), "--directions", str(path)]


def _detect(path: Path, folder: Path) -> list[str]:
    return ["detect", "--organism", NOWHERE, "--directions", str(path)]


def _directions(path: Path, folder: Path) -> list[str]:
    sides = ["--positive", str(path), "--negative", str(path)]
    return ["directions", *sides, "--out", str(folder / "out.safetensors")]


def _answers(folder: Path) -> str:
    path = folder / "answers.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "What?", "response": "That."}) + "\n", encoding="utf-8")
    return str(path)


def _planned(path: Path, folder: Path) -> list[str]:
    return ["judge", "--responses", _answers(folder), "--judge", "openai:x", "--dry-run", "--rubrics", str(path)]


def _stored(path: Path, folder: Path) -> list[str]:
    return ["judge", "--responses", _answers(folder), "--judge", "openai:x", "--dry-run", "--store", str(path)]


def _report(path: Path, folder: Path) -> list[str]:
    return ["report", str(folder / "run")]


LINES: dict[str, Callable[[Path, Path], list[str]]] = {
    "table_csv": _compare,
    "table_json": _compare,
    "table_parquet": _compare,
    "table_gzip": _compare,
    "conversations": _screen,
    "questions": _generate,
    "question_lines": _generate,
    "directions": _ablated,
    "activations": _directions,
    "rubrics": _planned,
    "score_store": _stored,
    "run_folder": _report,
}


def run_commands(n_lines: int) -> Tally:
    """Run so many command lines, readers in turn, and count how they ended."""
    tally = Tally()
    for number in range(n_lines):
        name = list(LINES)[number % len(LINES)]
        tally.add(run_line(name, number))
    return tally


def run_line(name: str, seed: int) -> Ending:
    """Run one command line on one input."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        path, _ = READERS[name](random.Random(f"{name}/{seed}"), folder)
        assert path is not None
        words = LINES[name](path, folder)
        started = time.perf_counter()
        kind, said = _end(words, folder)
        return Ending(seed, kind, f"{name}: emscope {' '.join(words)}: {said}", time.perf_counter() - started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(words: list[str], folder: Path) -> tuple[str, str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "EMSCOPE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "emscope", *words]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return FAILED, f"took more than {SECONDS:.0f} s"
    told = done.stderr.decode(errors="backslashreplace")
    wrong = _faults(done.returncode, told, done.stdout.decode(errors="backslashreplace"))
    if wrong:
        return FAILED, f"{wrong}: {told[-600:]!r}"
    return (READ if done.returncode == 0 else REFUSED), told[-300:]


def _faults(code: int, told: str, printed: str) -> str:
    """Return what is wrong with how a command ended, '' for nothing."""
    if code not in (0, 2):
        return f"exit code {code}"
    if CONTROL.search(told) or CONTROL.search(printed):
        return "control characters"
    if "Traceback" in told:
        return "a traceback"
    sentences = [line for line in told.splitlines() if line.startswith("emscope: ")]
    return "" if len(sentences) == (code == 2) else f"{len(sentences)} sentences"
