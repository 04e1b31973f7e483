"""Tasks that tests give to executors: workers import them."""

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emscope.errors import UserError
from emscope.executors.tasks import Held
from emscope.organisms.needs import OrganismNeed
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


@dataclass(frozen=True)
class Logged:
    """A shard that notes each of its beginnings in a file, and perhaps ends its worker the first time."""

    number: int
    log: str
    seconds: float = 0.0
    deadly: bool = False


def noted(asked: Logged, held: Held) -> Part:
    log = Path(asked.log)
    before = log.read_text(encoding="utf-8").split() if log.is_file() else []
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{asked.number}\n")
    if asked.deadly and str(asked.number) not in before:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(asked.seconds)
    return Part([asked.number, torch.get_num_threads()], {"row": np.arange(asked.number, dtype=np.float32)}, rows=1)


def fails(asked: Numbers, held: Held) -> Part:
    raise {0: UserError("The numbers are not good: take others."), 1: MemoryError("4 GB"), 2: KeyError("none")}[
        asked.numbers[0]
    ]


def speaks(asked: Numbers, held: Held) -> Part:
    logging.getLogger("emscope.test").warning("one of them is odd")
    return squares(asked, held)


@dataclass(frozen=True)
class LoadedAsked:
    organism: OrganismNeed
    number: int


def loaded(asked: LoadedAsked, held: Held) -> Part:
    return Part([os.getpid(), id(held.get(asked.organism))], rows=1)
