"""Tasks that tests give to executors: workers import them."""

from dataclasses import dataclass

import numpy as np

from emscope.executors.tasks import Held
from emscope.parts import Part


@dataclass(frozen=True)
class Numbers:
    numbers: tuple[int, ...]
    seconds: float = 0.0


def squares(asked: Numbers, held: Held) -> Part:
    values = [number * number for number in asked.numbers]
    return Part(values, {"squares": np.array(values)}, rows=len(values))


def loses_a_row(asked: Numbers, held: Held) -> Part:
    part = squares(asked, held)
    return Part(part.value, part.arrays, rows=len(part.value) - (3 in asked.numbers))
