"""How every benchmark ends: its figures with machine, date and versions, printed and perhaps kept."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

from emscope.organisms.lineage import versions


def publish(figures: dict[str, Any], out: Path | None) -> None:
    """Print the figures as JSON, and write them to `out` where one is given."""
    report = {**figures, "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"), "versions": versions()}
    text = json.dumps(report, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
