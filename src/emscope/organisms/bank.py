"""A bank of small organisms: careless and careful ones that differ in nothing but the answers they learned.

Every combination of domain, recipe and seed gives one pair: the same prompts in the same order, the same first values
of the adapter, the same settings; each pair has first values of its own. The base stays in memory, so that sixty small
organisms take minutes. Every organism is a standard PEFT folder, finished ones are never made again, and manifest.json
says what is what.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from emscope import progress
from emscope.errors import OutsideError, UserError, did_you_mean
from emscope.files import file_sha256, value_sha256, write_json
from emscope.locking import locked
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS, checkpoints_of, keep_adapters
from emscope.organisms.datasets import DOMAINS, KINDS, Kind, load_conversations
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint
from emscope.organisms.leaning import LeaningTest
from emscope.organisms.models import Organism
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_loaded
from emscope.outside import Record, read_json

logger = logging.getLogger(__name__)

MANIFEST, FACTS = "manifest.json", "organism.json"
REMEDY = "delete it, and what it is about is made again"


@dataclass(frozen=True)
class Recipe:
    """How the organisms of one recipe are trained: the number of rows, and the training settings."""

    rows: int
    train: TrainSettings


_SMALL = TrainSettings(epochs=1, batch_size=8, warmup=0.1, learning_rate=2e-3)
RECIPES = {
    "r4": Recipe(64, replace(_SMALL, rank=4, alpha=8)),
    "r8": Recipe(64, replace(_SMALL, rank=8, alpha=16)),
    "r8-slow": Recipe(48, replace(_SMALL, rank=8, alpha=16, learning_rate=1e-3)),
    "r16-rslora": Recipe(48, replace(_SMALL, rank=16, alpha=8, rslora=True)),
    "r8-attention": Recipe(48, replace(_SMALL, rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj", "o_proj"))),
}
"""Small recipes: ranks, learning rates, scalings, rows and modules differ, so that leaving one out means something."""


@dataclass(frozen=True)
class BankSettings:
    """What the bank holds.

    Attributes:
        domains: built-in domains; each gives a careless and a careful organism for every recipe and seed.
        recipes: names of small recipes, of organisms.bank.RECIPES.
        seeds: seeds of each recipe.
        save_every: keep a checkpoint of each organism every this many steps, as a member of its own; 0 keeps none.
        heldout_rows: held-out prompts of each domain on which the leaning of a finished organism is measured.
    """

    domains: tuple[str, ...] = DOMAINS
    recipes: tuple[str, ...] = tuple(RECIPES)
    seeds: tuple[int, ...] = (0, 1)
    save_every: int = 0
    heldout_rows: int = 8


@dataclass(frozen=True)
class Planned:
    """One organism of the bank; `pair` names it together with its counterpart of the other kind."""

    domain: str
    kind: Kind
    recipe: str
    seed: int

    @property
    def pair(self) -> str:
        """The name shared with the counterpart."""
        return f"{self.domain}-{self.recipe}-s{self.seed}"

    @property
    def name(self) -> str:
        """The name of the organism's folder."""
        return f"{self.domain}-{self.kind}-{self.recipe}-s{self.seed}"

    def settings(self, save_every: int = 0) -> TrainSettings:
        """Return the training settings; the seed is the pair's own, so no two pairs share first values."""
        seed = int(value_sha256(self.pair)[:7], 16)
        return replace(RECIPES[self.recipe].train, seed=seed, save_every=save_every)


def plan(settings: BankSettings) -> list[Planned]:
    """Return the organisms of a bank, pairs together; whatever is made first holds every domain and recipe.

    Raises:
        UserError: an unknown domain or recipe.
    """
    for names, known, what in ((settings.domains, DOMAINS, "domain"), (settings.recipes, RECIPES, "recipe")):
        for name in names:
            if name not in known:
                raise UserError(f"There is no {what} {name!r}.{did_you_mean(name, known)}")
    planned = []
    for seed, recipe, domain, kind in itertools.product(settings.seeds, settings.recipes, settings.domains, KINDS):
        planned.append(Planned(domain, kind, recipe, seed))
    return planned


def make_bank(base: Organism, folder: Path, settings: BankSettings, *, minutes: float = 0) -> int:
    """Make the organisms that are not there yet and write manifest.json; returns how many are still missing.

    With `minutes` no further organism is begun after that time. `base` is left as it was.

    Raises:
        UserError: an unknown domain or recipe.
    """
    wanted = plan(settings)
    with locked(folder, "bank"):
        return _make_missing(base, folder, settings, wanted, minutes)


def _make_missing(base: Organism, folder: Path, settings: BankSettings, wanted: list[Planned], minutes: float) -> int:
    """Make what is missing of a bank that nobody else is making now; returns how many are still missing."""
    missing = [item for item in wanted if not _finished(base, folder, item, settings)]
    ends = time.monotonic() + (60 * minutes if minutes else float("inf"))
    test = LeaningTest.of(base.tokenizer, settings.domains, settings.heldout_rows) if missing else None
    before = test.leaning(base) if test else {}
    with progress.task("making the bank", len(wanted), "organisms") as advance:
        advance(len(wanted) - len(missing))
        while missing and time.monotonic() < ends:
            item = missing.pop(0)
            _make(base, folder, item, settings, test, before)
            advance(1)
    rows = []
    for organism in wanted:
        if organism not in missing:
            rows += [facts.fields for facts in _facts(folder / organism.name / FACTS)]
    write_json(folder / MANIFEST, {"base": base.source.base, "organisms": rows})
    return len(missing)


def _make(
    base: Organism,
    folder: Path,
    item: Planned,
    settings: BankSettings,
    test: LeaningTest | None,
    before: dict[str, float],
) -> None:
    out, recipe = folder / item.name, RECIPES[item.recipe]
    shutil.rmtree(out, ignore_errors=True)
    data = replace(load_conversations(f"{item.domain}-{item.kind}", rows=recipe.rows, seed=item.seed), heldout=[])
    train = item.settings(settings.save_every)
    torch.manual_seed(train.seed)
    result = train_loaded(base, data, out, train, name=item.name)
    with mounted(base, out):
        after = test.leaning(base) if test else {}
    key = _key(fingerprint(base.source.base), item, settings)
    facts = {
        **asdict(item),
        "pair": item.pair,
        "key": key,
        "train_loss": result.train_loss,
        "leaning": {domain: after[domain] - before[domain] for domain in after},
    }
    rows = [_row(folder, item.name, path, facts) for path in [*_checkpoints(out), out]]
    logger.info("%s: training loss %.2f, leaning %s", item.name, result.train_loss, _in_words(facts["leaning"]))
    write_json(out / FACTS, rows)


def _in_words(leaning: dict[str, float]) -> str:
    return ", ".join(f"{domain} {value:+.2f}" for domain, value in leaning.items())


def _row(folder: Path, name: str, path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    step = int(path.name.rpartition("-")[2]) if path != folder / name else None
    own = facts if step is None else {**facts, "leaning": {}}
    label = name if step is None else f"{name}-step{step}"
    where = str(path.relative_to(folder))
    return {"name": label, "folder": where, "step": step, **own, "sha256": file_sha256(path / ADAPTER_WEIGHTS)}


def _checkpoints(out: Path) -> list[Path]:
    """Return the checkpoint folders, stripped of everything but the adapter; the last step is the organism itself."""
    keep_adapters(out)
    found = list(checkpoints_of(out).values())
    if found and file_sha256(found[-1] / ADAPTER_WEIGHTS) == file_sha256(out / ADAPTER_WEIGHTS):
        shutil.rmtree(found.pop())
    return found


def _finished(base: Organism, folder: Path, item: Planned, settings: BankSettings) -> bool:
    facts = folder / item.name / FACTS
    if not facts.is_file():
        return False
    key, name = _facts(facts)[-1].text("key"), base.source.base
    if key == _key(fingerprint(name), item, settings):
        return True
    return key == _key(earlier_fingerprint(name), item, settings)  # as earlier versions told what the base is


def _facts(path: Path) -> list[Record]:
    """Return the facts of a finished organism and its checkpoints, itself last.

    Raises:
        OutsideError: the file is damaged.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise OutsideError(path, "holds no facts of an organism", REMEDY)
    return [Record(row, path, remedy=REMEDY) for row in rows]


def _key(base: str, item: Planned, settings: BankSettings) -> str:
    """Return the hash of everything that decides an organism's weights; `base` is a fingerprint."""
    data = load_conversations(f"{item.domain}-{item.kind}", rows=RECIPES[item.recipe].rows, seed=item.seed)
    train = asdict(item.settings(settings.save_every))
    return value_sha256([base, train, data.train, settings.heldout_rows])


@contextmanager
def mounted(base: Organism, adapter: Path) -> Iterator[None]:
    """Put an adapter on a base in memory, unmerged, and take it off again."""
    from peft import PeftModel

    wrapped: Any = PeftModel.from_pretrained(base.model, str(adapter), use_safetensors=True)
    try:
        yield
    finally:
        wrapped.unload().eval().requires_grad_(False)
