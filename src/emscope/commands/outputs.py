"""Where a command writes is checked before it works: hours must not end at a path that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from emscope.errors import UserError
from emscope.files import cannot_write
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS

TABLES = (".parquet", ".csv")
TENSORS = (".safetensors",)
WEIGHTS = (ADAPTER_WEIGHTS, "model*.safetensors")


def check_out(out: Path, suffixes: Sequence[str], inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuse a file to write that has another ending, cannot be written, or is read by the same command.

    `inputs` are files, folders of models, or names of what emscope ships; None stands for an input that is not given.

    Raises:
        UserError: the file cannot be written, or would replace an input.
    """
    if out.suffix not in suffixes:
        raise UserError(f"Cannot write {out.name}: use {_listed(suffixes)}.")
    if out.is_dir():
        raise UserError(f"Cannot write {out}: it is a folder; name a file with --out.")
    _check_parent(out)
    for read in inputs:
        if read is not None and any(_same(out, file) for file in _files(Path(read).expanduser())):
            raise UserError(f"{out} is an input of this command and would be replaced: choose another file to write.")


def check_out_folder(out: Path, inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuse a folder to write into that is a file, cannot be made, or is the model that is read.

    Raises:
        UserError: the folder cannot be written, or is an input.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"Cannot write to {out}: it is a file, not a folder; choose another --out.")
    _check_parent(out / "any")
    if any(read is not None and _same(out, Path(read).expanduser()) for read in inputs):
        raise UserError(f"{out} is an input of this command: choose another --out.")


def _check_parent(out: Path) -> None:
    nearest = next(parent for parent in out.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise cannot_write(out)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise cannot_write(out, f"the folder {nearest} may not be written to")


def _files(read: Path) -> list[Path]:
    """Return what is read at a path: the file, or the weights of a model's folder."""
    if not read.is_dir():
        return [read]
    weights: list[Path] = []
    for pattern in WEIGHTS:
        weights += read.glob(pattern)
    return weights


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _listed(suffixes: Sequence[str]) -> str:
    return " or ".join([", ".join(suffixes[:-1]), suffixes[-1]] if suffixes[:-1] else suffixes)
