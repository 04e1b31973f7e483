"""The figures in words, and as a file."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any


def in_words(figures: dict[str, Any]) -> str:
    """Return the figures as a few lines."""
    lines = []
    for name, own in figures.get("kills", {}).get("settings", {}).items():
        moments = ", ".join(f"{count} {kind}" for kind, count in own["moments"].items())
        lines.append(f"{name:<14}{own['same_bytes']} of {own['kills']} kills continued to the same bytes ({moments})")
        lines += [f"    {failure}" for failure in own["failures"]]
    for name, own in figures.items():
        if isinstance(own, dict) and "cases" in own:
            good = sum(case["survived"] for case in own["cases"])
            lines.append(f"{name:<14}{good} of {len(own['cases'])}")
            lines += [f"    {case}" for case in own["cases"] if not case["survived"]]
    return "\n".join(lines)


def publish(figures: dict[str, Any], out: Path | None) -> None:
    """Write the figures with machine, date and versions, where a file is named.

    Families that were not measured this time stay as the file has them.
    """
    if out is None:
        return
    from emscope.organisms.lineage import versions

    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    kept = {name: own for name, own in before.items() if isinstance(own, dict) and "all_survived" in own}
    figures = {**kept, **figures}
    figures["all_survived"] = all(own["all_survived"] for own in figures.values() if isinstance(own, dict))

    report = {
        "what": "commands killed and disturbed, then continued by the same words (python -m survive)",
        **figures,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
