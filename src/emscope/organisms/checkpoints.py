"""The checkpoints that a training leaves: which ones it can go on from, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"
ADAPTER_FILES = ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of an organism's folder by optimiser step, in order."""
    found = {int(path.name.rpartition("-")[2]): path for path in (folder / CHECKPOINTS).glob("checkpoint-*")}
    return dict(sorted(found.items()))


def last_resumable(folder: Path) -> Path | None:
    """Return the last checkpoint that training can go on from.

    transformers writes the state last: a checkpoint without a readable one is half a checkpoint, or an adapter alone.
    """
    return next((path for path in reversed(checkpoints_of(folder).values()) if _has_state(path)), None)


def _has_state(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def keep_adapters(folder: Path) -> None:
    """Delete everything but the adapter from every checkpoint; training cannot go on from them any more."""
    for checkpoint in checkpoints_of(folder).values():
        for file in checkpoint.iterdir():
            if file.name not in ADAPTER_FILES:
                file.unlink()


def steps_saved(total: int, every: int) -> set[int]:
    """Return the steps that a training of `total` steps keeps: every so many of them, and the last."""
    return {*range(every, total + 1, every), total}
