"""The organisms of a bank as its manifest has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.organisms.bank import MANIFEST
from emscope.outside import read_json


@dataclass(frozen=True)
class Member:
    """A finished organism of a bank, as its manifest has it.

    Attributes:
        name: its name.
        folder: its PEFT folder.
        domain: what it was trained on.
        careless: whether it learned the careless answers.
        recipe: the name of its recipe.
        pair: what it shares with its counterpart and with its own checkpoints.
        seed: which of the domain's rows it read, and in what order.
        leaning: by domain, how much likelier careless answers have become, nats per answer token.
    """

    name: str
    folder: Path
    domain: str
    careless: bool
    recipe: str
    pair: str
    seed: int
    leaning: dict[str, float]

    @property
    def cell(self) -> str:
        """What statistics resample: recipes of one domain and seed read the same rows, or some of them."""
        return f"{self.domain}-s{self.seed}"


def read_bank(folder: Path) -> list[Member]:
    """Return the members of a bank.

    Raises:
        UserError: there is no bank, or its manifest is not one.
    """
    manifest = read_json(folder / MANIFEST)
    try:
        rows: Sequence[dict[str, Any]] = manifest["organisms"]
        return [
            Member(
                row["name"], folder / row["folder"], row["domain"], row["kind"] == "careless", row["recipe"],
                row["pair"], row["seed"], row["leaning"],
            )
            for row in rows
        ]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is not the manifest of a bank: it has no {error}.") from error
