"""The checkpoints that a training leaves: which ones it can go on from, and what is kept of them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.files import file_sha256, open_to_others, sync_file, sync_folder, write_json, write_text
from emscope.outside import Record, read_json, read_record

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SETTINGS = "settings.sha256"
"""Beside the checkpoints: the hash of what they were trained with."""
STATE = "trainer_state.json"
LOSSES, SEAL = "losses.json", "files.sha256.json"
ADAPTER_FILES = ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REMEDY = "delete this checkpoint, and training goes on from the one before"


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of an organism's folder by optimiser step, in order."""
    by_step = {}
    for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
        if path.name.rpartition("-")[2].isdecimal():
            by_step[step_of(path)] = path
    return dict(sorted(by_step.items()))


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def last_resumable(folder: Path) -> Path | None:
    """Return the last checkpoint that training can go on from: the last one that is as it was written.

    transformers writes the state last, and we the hashes of all files after it: a checkpoint without them is half a
    checkpoint, or an adapter alone. Earlier versions wrote no hashes and no sums of losses.
    """
    for checkpoint in reversed(checkpoints_of(folder).values()):
        if _is_whole(checkpoint):
            return checkpoint
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        if not read_json(checkpoint / STATE):
            return False
        if not (checkpoint / SEAL).exists():
            return not (checkpoint / LOSSES).exists()
        sealed = read_record(checkpoint / SEAL)
        changed = [name for name in sealed.fields if file_sha256(checkpoint / name) != sealed.text(name)]
    except (OSError, UserError):
        return False
    if changed:
        logger.warning("%s is passed over: %s changed since it was saved.", checkpoint, changed[0])
    return not changed


def seal(checkpoint: Path) -> None:
    """Note the hash of every file of a checkpoint, once the disk has them."""
    open_to_others(checkpoint)
    files = sorted(path for path in checkpoint.iterdir() if path.is_file() and path.name != SEAL)
    for path in files:
        sync_file(path)
    write_json(checkpoint / SEAL, {path.name: file_sha256(path) for path in files})
    sync_folder(checkpoint.parent)


def logged_until(checkpoint: Path) -> list[dict[str, Any]]:
    """Return what had been logged when a checkpoint was saved, in order; each row has its 'step'.

    Raises:
        OutsideError: the state is damaged.
    """
    rows = read_record(checkpoint / STATE, remedy=REMEDY).items("log_history", [])
    for row in rows:
        Record(row, f"{checkpoint / STATE}, log_history", remedy=REMEDY).whole("step")
    return rows


def is_of(folder: Path, key: str) -> bool:
    """Say whether a folder's checkpoints were begun with `key`, the hash of what they are trained with."""
    marker = folder / CHECKPOINTS / SETTINGS
    return marker.is_file() and marker.read_text(encoding="utf-8") == key


def begin_checkpoints(folder: Path, key: str) -> None:
    """Note what the checkpoints that follow are trained with."""
    write_text(folder / CHECKPOINTS / SETTINGS, key)


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an organism's folder; its training cannot go on from any of them then.

    Raises:
        UserError: they cannot be deleted.
    """
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.is_dir():
        return
    try:
        (checkpoints / SETTINGS).unlink(missing_ok=True)  # first: what a stop leaves of the others then counts as none
        shutil.rmtree(checkpoints)
    except OSError as error:
        raise UserError(f"Cannot delete {checkpoints} ({error.strerror}): delete it, and start again.") from error


def keep_adapters(folder: Path) -> None:
    """Delete everything but the adapter from every checkpoint; training cannot go on from them any more."""
    for checkpoint in checkpoints_of(folder).values():
        for file in checkpoint.iterdir():
            if file.name not in ADAPTER_FILES:
                file.unlink()


def steps_saved(total: int, every: int) -> set[int]:
    """Return the steps that a training of `total` steps keeps: every so many of them, and the last."""
    return {*range(every, total + 1, every), total}
