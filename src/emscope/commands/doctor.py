"""`emscope doctor`: what this machine has."""

from __future__ import annotations

import importlib.util
import io
import platform
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar

import torch
from rich.console import Console
from rich.table import Table

from emscope import terminal
from emscope.commands.common import NOTHING_KEPT
from emscope.organisms.device import Placement, choose_placement, memory_bytes
from emscope.organisms.embedded import embedded_state
from emscope.organisms.lineage import versions

EXTRAS = {
    "judge": "aiohttp",
    "protected": "easy_dataset_share",
    "inspect": "inspect_ai",
    "vllm": "vllm",
    "track": "trackio",
    "dev": "pytest",
}
"""By extra of emscope's own, the module that it brings."""

OTHERS = {
    "bitsandbytes": "bases quantised to 4 or 8 bits",
    "wandb": "train --report-to wandb",
    "tensorboard": "train --report-to tensorboard",
    "psutil": "memory figures outside Linux",
}
"""Modules that emscope uses where they are, and what for."""

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Doctor:
    """Print device, dtype and why, memory, the embedded model, the hub, and which optional packages are installed."""

    stopped: ClassVar[str] = NOTHING_KEPT

    def execute(self) -> int | None:
        """Look and print."""
        place = choose_placement()
        total, available = memory_bytes()
        table = Table("what", "found", show_header=False, box=None, padding=(0, 2))
        table.add_row("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
        table.add_row("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
        table.add_row("device", f"{place.device}{_gpu(place)}, {place.dtype_name}: {place.reason}")
        if place.for_training() != place:
            table.add_row("training", place.for_training().reason)
        table.add_row("memory", f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free" if total else "unknown")
        table.add_row("embedded model", embedded_state())
        table.add_row("model hub", _hub_state())
        for extra, module in EXTRAS.items():
            missing = f"missing: pip install 'emscope\\[{extra}]'"
            table.add_row(f"extra [{extra}]".replace("[", r"\["), _installed(module) or missing)
        for module, purpose in OTHERS.items():
            table.add_row(module, _installed(module) or f"missing; only needed for {purpose}")
        page = io.StringIO()
        Console(file=page, width=Console().width, highlight=False).print(table)
        terminal.write(page.getvalue())
        return None


def _gpu(place: Placement) -> str:
    if not place.device.startswith("cuda"):
        return ""
    facts = torch.cuda.get_device_properties(place.device)
    return f" ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)"


def _installed(module: str) -> str:
    """Return 'installed' with the package's version, '' for a module that is not here."""
    if importlib.util.find_spec(module) is None:
        return ""
    try:
        return f"installed ({metadata.version(module.replace('_', '-'))})"
    except metadata.PackageNotFoundError:
        return "installed"


def _hub_state(seconds: float = 4.0) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=seconds) as answer:
            return f"{HUB} answers ({answer.status})"
    except (OSError, ValueError) as error:
        return f"{HUB} cannot be reached ({error}); the embedded model and local folders work without it"


COMMAND = Doctor
