"""`emscope doctor`: what this machine has."""

from __future__ import annotations

import importlib.util
import sys
import urllib.request
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from emscope.organisms.device import choose_placement, memory_bytes
from emscope.organisms.embedded import embedded_state
from emscope.organisms.lineage import versions

EXTRAS = {"judge": "aiohttp", "protected": "easy_dataset_share", "track": "trackio", "vllm": "vllm", "dev": "pytest"}
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Doctor:
    """Print device, dtype and why, memory, the embedded model, the hub, and which extras are installed."""

    def execute(self) -> int | None:
        """Look and print."""
        place = choose_placement()
        total, available = memory_bytes()
        table = Table("what", "found", show_header=False, box=None, padding=(0, 2))
        table.add_row("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
        table.add_row("device", f"{place.device}, {place.dtype_name}: {place.reason}")
        table.add_row("memory", f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free" if total else "unknown")
        table.add_row("embedded model", embedded_state())
        table.add_row("model hub", _hub_state())
        for extra, package in EXTRAS.items():
            there = importlib.util.find_spec(package) is not None
            table.add_row(
                f"extra [{extra}]".replace("[", r"\["),
                "installed" if there else f"missing: pip install 'emscope\\[{extra}]'",
            )
        Console(file=sys.stdout, highlight=False).print(table)
        return None


def _hub_state(seconds: float = 4.0) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=seconds) as answer:
            return f"{HUB} answers ({answer.status})"
    except (OSError, ValueError) as error:
        return f"{HUB} cannot be reached ({error}); the embedded model and local folders work without it"


COMMAND = Doctor
