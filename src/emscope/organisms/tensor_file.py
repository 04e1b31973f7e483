"""Safetensors files from outside: bases, adapters, checkpoints and autoencoders are read here alone.

The format holds no code. Its reader checks lengths and offsets; types that this torch does not have, and values that
are no numbers, are found when a tensor is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from emscope.errors import OutsideError
from emscope.outside import no_file, reading

WHAT, REMEDY = "a whole safetensors file", "fetch or save it again"


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file; tensors are read when they are asked for.

    Attributes:
        path: where it is.
        names: its tensors' names, in its order.
    """

    path: Path
    names: tuple[str, ...]
    _file: Any

    def tensor(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            OutsideError: there is none by that name, or it cannot be read.
        """
        if name not in self.names:
            raise OutsideError(self.path, f"holds no tensor {name!r}", REMEDY)
        with reading(self.path, WHAT, REMEDY):
            return self._file.get_tensor(name)  # type: ignore[no-any-return]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        with reading(self.path, WHAT, REMEDY):
            return tuple(self._file.get_slice(name).get_shape())


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise no_file(path)
    with reading(path, WHAT, REMEDY):
        file: Any = safe_open(str(path), framework="pt")
        return TensorFile(path, tuple(file.keys()), file)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by name.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = open_tensors(path)
    return {name: file.tensor(name) for name in file.names}


def numbers_in(path: Path) -> int:
    """Return how many numbers the tensors of a safetensors file hold.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file, total = open_tensors(path), 0
    for name in file.names:
        size = 1
        for length in file.shape(name):
            size *= length
        total += size
    return total


@contextmanager
def computing(path: Path) -> Iterator[None]:
    """Turn what a tensor's type cannot do (compare, convert) into a sentence about its file.

    Raises:
        OutsideError: with the reason.
    """
    with reading(path, "made of numbers that can be computed with", "save it as float32, bfloat16 or float16"):
        yield
