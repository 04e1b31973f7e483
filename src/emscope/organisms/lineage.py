"""Who made what from what: hashes, versions, seeds, device and timings beside every product."""

from __future__ import annotations

import functools
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from emscope.files import file_sha256, write_json
from emscope.organisms.device import Placement
from emscope.organisms.templates import chat_date
from emscope.outside import read_record

LINEAGE = "lineage.json"
_PACKAGES = ("emscope", "torch", "transformers", "peft", "trl", "scikit-learn", "safetensors", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def circumstances() -> list[Any]:
    """Return what besides the work itself can change the last bit of a number: versions, threads and processor."""
    import torch

    return [versions(), torch.get_num_threads(), platform.machine(), torch.backends.cpu.get_cpu_capability()]


def recorded_outputs(folder: Path) -> dict[str, str]:
    """Return the hashes of an organism's files by name, as its lineage has them.

    Raises:
        UserError: there is no lineage, or it is damaged.
    """
    outputs = read_record(folder / LINEAGE, remedy="make the organism again, or put back a copy of it").record(
        "outputs"
    )
    return {name: outputs.text(name) for name in outputs.fields}


def write_lineage(folder: Path, *, what: str, placement: Placement, **facts: Any) -> None:
    """Write lineage.json into `folder`: the given facts, versions, and the sha256 of every file beside it."""
    outputs = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != LINEAGE
    }
    write_json(
        folder / LINEAGE,
        {
            "what": what,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
            "device": placement.device,
            "dtype": placement.dtype_name,
            "chat_date": chat_date().isoformat(),
            "versions": versions(),
            "outputs": outputs,
        },
    )
