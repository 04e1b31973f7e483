"""What a model's name and its `-M` options mean: which organism, where it runs, and what is done to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope.errors import UserError, did_you_mean
from emscope.interventions.settings import AblationSettings
from emscope.organisms.loading import LoadSettings

ABLATE = "+ablate:"
ABLATION_OPTIONS = tuple(field.name for field in dataclasses.fields(AblationSettings))
NUMBERS = ("strength", "width", "window")


@dataclass(frozen=True)
class OrganismOptions(AblationSettings, LoadSettings):
    """The `-M` options: those of an ablation and of loading, and two of Inspect's own.

    Attributes:
        batch_size: answers sampled side by side.
        window: seconds that a request waits for others to share a batch with.
    """

    batch_size: int = 96
    window: float = 0.1

    @classmethod
    def of(cls, given: dict[str, Any]) -> OrganismOptions:
        """Return the options given on the command line; `at` may be 12, 12,13,14 or 10-29.

        Raises:
            UserError: an option that does not exist, or one whose value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise UserError(f"emscope's models have no option {name!r}.{did_you_mean(name, known)}")

        values = dict(given)
        for name in (*NUMBERS, "batch_size"):
            value = values.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"-M {name} must be a number, not {value!r}.")
            if name in NUMBERS and name in values:
                values[name] = float(value)
        options = cls(**{**values, "at": blocks_of(values.get("at", ()))})

        if not isinstance(options.batch_size, int) or options.batch_size < 1 or options.window < 0:
            raise UserError("-M batch_size must be a whole number of 1 or more, and -M window 0 seconds or more.")
        return options


def split_name(name: str, given: dict[str, Any]) -> tuple[str, Path | None]:
    """Return the organism of a model name `ORGANISM[+ablate:DIRECTIONS]` and the file of its directions.

    Raises:
        UserError: an empty part, or options of an ablation without directions.
    """
    organism, mark, directions = name.rpartition(ABLATE) if ABLATE in name else (name, "", "")
    if not organism or (mark and not directions):
        raise UserError(f"{name!r} is no model of emscope: write ORGANISM or ORGANISM{ABLATE}DIRECTIONS.safetensors.")
    lost = [option for option in ABLATION_OPTIONS if option in given]
    if lost and not mark:
        raise UserError(f"-M {lost[0]} needs a direction: name the model as {organism}{ABLATE}DIRECTIONS.safetensors.")
    return organism, Path(directions) if mark else None


def blocks_of(given: Any) -> tuple[int, ...]:
    """Return the blocks that 12, "12,13", "10-29" or a list of such parts stand for.

    Raises:
        UserError: a part that is neither a block nor a range of blocks.
    """
    parts = given if isinstance(given, list | tuple) else str(given).split(",")
    blocks: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"-M at={given} names no blocks: write 12, 12,13,14 or 10-29.")
        blocks.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(blocks))
