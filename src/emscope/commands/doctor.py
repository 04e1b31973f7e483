"""`emscope doctor`: what this machine has."""

from __future__ import annotations

import io
import platform
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emscope.commands.common import NOTHING_KEPT
from emscope.commands.outcome import Outcome
from emscope.organisms.device import Placement, choose_placement, memory_bytes
from emscope.organisms.embedded import embedded_state
from emscope.organisms.lineage import versions

PACKAGE = "emscope"
OTHERS = {
    "bitsandbytes": "bases quantised to 4 or 8 bits",
    "wandb": "train --report-to wandb",
    "tensorboard": "train --report-to tensorboard",
    "psutil": "memory figures outside Linux",
}
"""Packages that emscope uses where they are, and what for."""

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Doctor:
    """Print device, dtype and why, memory, the embedded model, the hub, and which optional packages are installed."""

    stopped: ClassVar[str] = NOTHING_KEPT

    def execute(self) -> Outcome:
        """Look."""
        facts = _machine()
        for extra, packages in extras().items():
            facts[f"extra [{extra}]"] = _extra_state(extra, packages)
        for package, purpose in OTHERS.items():
            version = _version(package)
            facts[package] = f"installed ({version})" if version else f"missing; only needed for {purpose}"
        return Outcome(_table(facts), {**facts, "versions": versions()})


def _machine() -> dict[str, str]:
    """Return what the machine has, in words, by name."""
    place = choose_placement()
    total, available = memory_bytes()
    facts = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "device": f"{place.device}{_gpu(place)}, {place.dtype_name}: {place.reason}",
    }
    if place.for_training() != place:
        facts["training"] = place.for_training().reason
    facts["memory"] = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free" if total else "unknown"
    facts["embedded model"] = embedded_state()
    facts["model hub"] = _hub_state()
    return facts


def _table(facts: dict[str, Any]) -> str:
    """Return facts by name as a table of two columns."""
    table = Table("what", "found", show_header=False, box=None, padding=(0, 2))
    for name, value in facts.items():
        table.add_row(escape(name), escape(str(value)))
    page = io.StringIO()
    Console(file=page, width=Console().width, highlight=False).print(table)
    return page.getvalue()


def extras() -> dict[str, list[str]]:
    """Return the packages of each of emscope's extras by its name, as the installed package itself declares them."""
    names = _extra_names()
    packages: dict[str, list[str]] = {name: [] for name in names}
    for line in metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue
        for name in names:
            if requirement.marker.evaluate({"extra": name}):
                packages[name].append(requirement.name)
    return packages


def _extra_names() -> list[str]:
    return list(metadata.metadata(PACKAGE).get_all("Provides-Extra") or [])


def _extra_state(extra: str, packages: list[str]) -> str:
    """Say whether all packages of an extra are here, and how to get those that are not."""
    missing = [package for package in packages if not _version(package)]
    if missing:
        return f"missing {', '.join(missing)}: pip install '{PACKAGE}[{extra}]'"
    return f"installed ({', '.join(f'{package} {_version(package)}' for package in packages)})"


def _version(package: str) -> str:
    """Return the version of an installed package, '' where it is not here."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _gpu(place: Placement) -> str:
    if not place.device.startswith("cuda"):
        return ""
    facts = torch.cuda.get_device_properties(place.device)
    return f" ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)"


def _hub_state(seconds: float = 4.0) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=seconds) as answer:
            return f"{HUB} answers ({answer.status})"
    except (OSError, ValueError) as error:
        return f"{HUB} cannot be reached ({error}); the embedded model and local folders work without it"


COMMAND = Doctor
