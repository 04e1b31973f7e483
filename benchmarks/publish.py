"""How every benchmark ends: its figures with machine, date and versions, printed and perhaps kept."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from emscope.organisms.device import Placement
from emscope.organisms.lineage import versions


def publish(figures: dict[str, Any], out: Path | None, placement: Placement | None = None) -> None:
    """Print the figures as JSON, with where a model ran if one did, and write them to `out` where one is given."""
    report = dict(figures)
    if placement:
        report |= {"device": placement.device, "dtype": placement.dtype_name}
    report |= {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
