"""The organisms of a bank as its manifest has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emscope.organisms.bank import MANIFEST, REMEDY
from emscope.organisms.datasets import KINDS
from emscope.outside import Record, check_one_of, read_record


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
    manifest = read_record(folder / MANIFEST, remedy=REMEDY)
    rows = manifest.items("organisms")
    return [
        _member(folder, Record(row, f"{folder / MANIFEST}, organism {number}", remedy=REMEDY))
        for number, row in enumerate(rows, 1)
    ]


def _member(folder: Path, row: Record) -> Member:
    leaning = row.record("leaning")
    place = row.text("folder")
    if place.startswith("/") or ".." in Path(place).parts:
        raise row.wrong("folder", "a folder inside the bank", place)
    return Member(
        name=row.text("name"),
        folder=folder / place,
        domain=row.text("domain"),
        careless=check_one_of(row, "kind", KINDS) == "careless",
        recipe=row.text("recipe"),
        pair=row.text("pair"),
        seed=row.whole("seed"),
        leaning={domain: leaning.number(domain) for domain in leaning.fields},
    )
