"""Arrays on disk: safetensors with JSON metadata, written atomically and read without executing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from emscope.errors import OutsideError, UserError
from emscope.files import atomic_path
from emscope.outside import Record, no_file, parse_json, reading

METADATA_KEY = "emscope"
REMEDY = "make it again"


@dataclass(frozen=True)
class StoredArrays:
    """What a file of `save_tensors` holds: its arrays, whose shapes must fit together, and its metadata.

    Attributes:
        path: the file.
        arrays: by name, all finite.
        metadata: as it was saved.
        sizes: what is known of the arrays' dimensions by now, by name; set the ones that the metadata tell.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    metadata: Record
    sizes: dict[str, int] = field(default_factory=dict)

    def array(self, name: str, *dimensions: str | int) -> np.ndarray:
        """Return an array of numbers; dimensions of the same name have the same size in all arrays of the file.

        Raises:
            OutsideError: there is none by that name, it is of another shape, or holds no numbers.
        """
        if name not in self.arrays:
            raise OutsideError(self.path, f"holds no array {name!r}", REMEDY)
        array = self.arrays[name]
        if array.ndim != len(dimensions) or array.dtype.kind not in "fiu":
            raise self.misfit(name, dimensions)
        for dimension, size in zip(dimensions, array.shape, strict=True):
            known = dimension if isinstance(dimension, int) else self.sizes.setdefault(dimension, size)
            if known != size:
                raise self.misfit(name, dimensions)
        return array

    def misfit(self, name: str, dimensions: tuple[str | int, ...]) -> OutsideError:
        """Return the error for an array that does not fit the others."""
        array = self.arrays[name]
        sizes = [f"{part} = {self.sizes[part]}" if part in self.sizes else part for part in map(str, dimensions)]
        problem = (
            f"holds {name!r} of shape {list(array.shape)} and kind {array.dtype}, not numbers [{', '.join(sizes)}]"
        )
        return OutsideError(self.path, problem, REMEDY)

    def blocks(self) -> tuple[int, ...]:
        """Return the metadata's block numbers, and set the size of the dimension `blocks`.

        Raises:
            OutsideError: none, one twice, or what is no block number.
        """
        found = self.metadata.wholes("blocks", most=1_000_000)
        if not found or len(set(found)) < len(found):
            raise self.metadata.wrong("blocks", "a list of different blocks, at least one", str(found))
        self.sizes["blocks"] = len(found)
        return tuple(found)


def save_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write arrays and JSON metadata as one safetensors file, atomically."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, str(temporary), metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def load_tensors(path: Path, kind: str) -> StoredArrays:
    """Read a safetensors file written by `save_tensors`.

    Raises:
        UserError: missing, damaged, not ours, of another kind, or with values that are not finite.
    """
    if not path.is_file():
        raise no_file(path)
    with (
        reading(path, "a whole safetensors file of float32 arrays", REMEDY),
        safe_open(str(path), framework="numpy") as file,
    ):
        text = (file.metadata() or {}).get(METADATA_KEY)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if text is None:
        raise UserError(f"{path} was not written by emscope: it has no metadata of ours.")
    metadata = Record(parse_json(text, f"{path}, metadata"), f"{path}, metadata,", remedy=REMEDY)
    if metadata.text("kind") != kind:
        raise UserError(f"{path} holds {metadata.text('kind')[:80]}, not {kind}.")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise OutsideError(path, f"holds the array {name[:80]!r} of kind {array.dtype}, not numbers", REMEDY)
        if not np.isfinite(array).all():
            raise UserError(f"{path}: the tensor {name[:80]!r} holds NaN or infinite values.")
    return StoredArrays(path, arrays, metadata)
