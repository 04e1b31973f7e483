"""Arrays on disk: safetensors with JSON metadata, written atomically and read without executing anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from emscope.errors import UserError
from emscope.files import atomic_path
from emscope.outside import no_file

METADATA_KEY = "emscope"


def save_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write arrays and JSON metadata as one safetensors file, atomically."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, str(temporary), metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a safetensors file written by `save_tensors`.

    Raises:
        UserError: missing, damaged, not ours, of another kind, or with values that are not finite.
    """
    if not path.is_file():
        raise no_file(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): make it again.") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} was not written by emscope: it has no metadata of ours.") from error
    if metadata.get("kind") != kind:
        raise UserError(f"{path} holds {metadata.get('kind')}, not {kind}.")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"{path}: the tensor {name!r} holds NaN or infinite values.")
    return tensors, metadata
