"""A bound on what is built in memory from a configuration: no more modules and numbers than its weights can fill.

Every module and parameter that torch registers inside `bounded_building` is counted. A model whose configuration asks
for more than its files hold would be refused for its missing tensors in the end; this refuses it before the memory is
full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as registration

from emscope.errors import OutsideError, UserError
from emscope.organisms.tensor_file import numbers_in, open_tensors

MODULES_PER_TENSOR, LEAST_MODULES = 20, 5_000
NUMBERS_PER_NUMBER, LEAST_NUMBERS = 16, 50_000_000
"""Quantised weights hold up to eight numbers in one; tied and shared weights are built several times first."""


class _TooLargeError(UserError):
    """More is built than the weights can fill."""


@dataclass(frozen=True)
class Held:
    """What weights hold: how many tensors, and how many numbers in them."""

    tensors: int
    numbers: int

    @classmethod
    def by(cls, files: Sequence[Path]) -> Held | None:
        """Return what safetensors files hold, None if there are none.

        Raises:
            UserError: one of them is damaged.
        """
        if not files:
            return None
        return cls(sum(len(open_tensors(file).names) for file in files), sum(map(numbers_in, files)))


@contextmanager
def bounded_building(held: Held | None, where: str | Path, remedy: str) -> Iterator[None]:
    """Bound what torch modules made inside may ask for by what the weights hold; without them there is no bound.

    Raises:
        OutsideError: more is asked for; `where` is the configuration that does.
    """
    if held is None:
        yield
        return
    most_modules = LEAST_MODULES + MODULES_PER_TENSOR * held.tensors
    most_numbers = LEAST_NUMBERS + NUMBERS_PER_NUMBER * held.numbers
    counts = {"modules": 0, "numbers": 0}

    def count_module(_owner: nn.Module, _name: str, _module: Any) -> None:
        counts["modules"] += 1
        if counts["modules"] > most_modules:
            raise _TooLargeError(
                f"asks for more than {most_modules:,} modules, where its weights are {held.tensors:,} tensors"
            )

    def count_parameter(_owner: nn.Module, _name: str, parameter: Any) -> None:
        counts["numbers"] += 0 if parameter is None else parameter.numel()
        if counts["numbers"] > most_numbers:
            raise _TooLargeError(f"asks for more than {most_numbers:,} numbers, which its weights cannot fill")

    handles = [
        registration.register_module_module_registration_hook(count_module),
        registration.register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    except _TooLargeError as error:
        raise OutsideError(where, str(error), remedy) from error
    finally:
        for handle in handles:
            handle.remove()
