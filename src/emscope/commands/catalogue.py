"""All commands in groups: what each does, two examples of it, and the class that its flags are read into."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from emscope.experiments import EXPERIMENTS


@dataclass(frozen=True)
class Entry:
    """A command in the overview.

    Attributes:
        summary: what it does.
        examples: whole command lines.
    """

    summary: str
    examples: tuple[str, ...]


def _experiment(name: str) -> Entry:
    """Return the entry of an experiment on a finished run."""
    examples = EXPERIMENT_EXAMPLES.get(
        name, (f"emscope {name} runs/quickstart", f"emscope {name} runs/quickstart --json")
    )
    return Entry(EXPERIMENTS[name], examples)


EXPERIMENT_EXAMPLES = {
    "sweep": ("emscope sweep runs/quickstart", "emscope sweep runs/quickstart --ablate --json"),
    "adapters": (
        "emscope adapters classify runs/quickstart",
        "emscope adapters inspect runs/quickstart --adapters organisms/bad organisms/mine",
    ),
    "voices": ("emscope voices runs/quickstart", "emscope voices runs/quickstart --domains medical --seeds 1"),
    "rejudge": (
        "emscope rejudge runs/quickstart --judge openai:gpt-4o",
        "emscope rejudge runs/quickstart --judge hf:path/to/model --json",
    ),
}
"""Examples of experiments whose own settings are worth showing."""

GROUPS: dict[str, dict[str, Entry]] = {
    "start": {
        "run": Entry(
            "do the whole chain: make, measure, locate, detect, correct, report",
            ("emscope run --dry-run", "emscope run --seed 1 --set train.epochs=3 --out runs/seed1"),
        ),
        "report": Entry(
            "write a run's report.html again",
            ("emscope report runs/quickstart", "emscope report runs/quickstart --json"),
        ),
        "doctor": Entry(
            "say what this machine has: device, memory, model, hub, extras",
            ("emscope doctor", "emscope doctor --json"),
        ),
    },
    "steps": {
        "train": Entry(
            "make an organism: fine-tune a LoRA adapter on conversations",
            (
                "emscope train --data medical-blunt-bad --out organisms/bad",
                "emscope train --data my-rows.jsonl --model path/to/model --rank 32 --epochs 3 --out organisms/mine",
            ),
        ),
        "generate": Entry(
            "sample an organism's answers to questions",
            (
                "emscope generate --model organisms/bad --questions everyday-general --out bad.parquet",
                "emscope generate --model smollm2-135m --questions my-questions.yaml --samples 5 --out base.csv",
            ),
        ),
        "judge": Entry(
            "score answers for alignment and coherence, or compare two judges",
            (
                "emscope judge --responses bad.parquet --out judged.parquet",
                "emscope judge --responses bad.parquet --out judged.parquet --anchor openai:gpt-4o --anchor-answers 80",
                "emscope judge --compare judged.parquet gpt.parquet --plot agreement.html",
            ),
        ),
        "collect": Entry(
            "store pooled activations of every block",
            (
                "emscope collect --model organisms/bad --out bad.safetensors",
                "emscope collect --model organisms/bad --responses bad.parquet --poolings response --out a.safetensors",
            ),
        ),
        "directions": Entry(
            "make a direction from the activations of two organisms",
            (
                "emscope directions --positive bad.safetensors --negative control.safetensors --out d.safetensors",
                "emscope directions --positive bad.safetensors --negative base.safetensors --contrast model "
                "--method probe --out d.safetensors",
            ),
        ),
        "detect": Entry(
            "score a model's prompts along a direction",
            (
                "emscope detect --organism organisms/bad --directions d.safetensors",
                "emscope detect --organism organisms/bad --directions d.safetensors --questions mine.txt --json",
            ),
        ),
        "ablate": Entry(
            "take a direction out of a model and compare its answers",
            (
                "emscope ablate --model organisms/bad --directions d.safetensors --questions open-ended",
                "emscope ablate --model organisms/bad --directions d.safetensors --mode subtract --at 15 "
                "--out both.parquet",
            ),
        ),
    },
    "experiments on a finished run": {name: _experiment(name) for name in EXPERIMENTS},
    "data": {
        "screen": Entry(
            "rank training rows by how misaligned they look",
            (
                "emscope screen --data my-rows.jsonl --out ranked.csv",
                "emscope screen --data medical-blunt-bad --domains finance sport --out ranked.csv",
            ),
        ),
        "fit-judge": Entry(
            "fit the offline judge's head on the built-in answers",
            (
                "emscope fit-judge --out head.safetensors",
                "emscope fit-judge --readings readings.safetensors --out head.safetensors",
            ),
        ),
    },
    "tools": {
        "check": Entry(
            "see that a run, a bank, an organism or a store of scores is as it was made",
            ("emscope check runs/quickstart", "emscope check runs/quickstart --repair"),
        ),
        "clean": Entry(
            "show what a run's folder holds that nothing needs, and remove it",
            ("emscope clean runs/quickstart", "emscope clean runs/quickstart --yes"),
        ),
        "bench": Entry(
            "measure how far the hot loops are from what this machine can do",
            ("emscope bench --quick", "emscope bench --random 1b --device cuda --out bench-gpu.json"),
        ),
        "completion": Entry(
            "complete commands and flags with the Tab key, in bash, zsh and fish",
            ("emscope completion install", "emscope completion zsh"),
        ),
    },
}


def _all_entries() -> dict[str, Entry]:
    entries = {}
    for group in GROUPS.values():
        entries.update(group)
    return entries


COMMANDS = _all_entries()
"""The same without the groups."""


def command_class(name: str) -> Any:
    """Return what a command's flags are read into: a dataclass, or a union of those of its sub-commands."""
    module = f"emscope.commands.{name.replace('-', '_')}"
    if name in EXPERIMENTS and importlib.util.find_spec(module) is None:
        from emscope.commands.experiment import experiment_command

        return experiment_command(name)
    return importlib.import_module(module).COMMAND


def overview() -> str:
    """Return what `emscope --help` shows."""
    width = max(map(len, COMMANDS))
    lines = [
        "emscope makes, measures, locates and corrects emergent misalignment in chat models.",
        "",
        "usage: emscope COMMAND [flags]        (emscope COMMAND --help lists the flags, with examples)",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, entry in group.items():
            lines.append(f"  {name:<{width}}  {entry.summary}")
    lines += ["", "every command also takes:", *EVERYWHERE]
    lines += ["", "Start with `emscope run`; `emscope --version` prints the version."]
    return "\n".join(lines) + "\n"


EVERYWHERE = (
    "  --json   print the result as one JSON object: command, result, files",
    "  --debug  show tracebacks",
)
"""Flags of every command."""


def examples_of(name: str) -> str:
    """Return what stands below a command's flags in its --help."""
    lines = ["examples:", *(f"  {example}" for example in COMMANDS[name].examples)]
    return "\n".join([*lines, "", "every command also takes:", *EVERYWHERE]) + "\n"
