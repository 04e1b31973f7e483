"""A bank of small organisms: careless and careful ones that differ in nothing but the answers they learned.

Every combination of domain, recipe and seed gives one pair: the same prompts in the same order, the same first values
of the adapter, the same settings; each pair has first values of its own. The base stays in memory, so that sixty small
organisms take minutes. Every organism is a standard PEFT folder, finished ones are never made again, and manifest.json
says what is what.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from emscope import parts
from emscope.errors import OutsideError, UserError, did_you_mean
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values
from emscope.files import file_sha256, sync_folder, value_sha256, write_json
from emscope.locking import locked
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS, checkpoints_of, keep_adapters
from emscope.organisms.datasets import DOMAINS, KINDS, Kind, load_conversations
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint
from emscope.organisms.leaning import LeaningTest
from emscope.organisms.loading import LoadSettings
from emscope.organisms.models import Organism, load
from emscope.organisms.needs import OrganismNeed
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_loaded
from emscope.outside import Record, read_json

logger = logging.getLogger(__name__)

MANIFEST, FACTS = "manifest.json", "organism.json"
MAKING = ".making-"
"""Beginning of the hidden folders in which members are made: what is there under a member's name is whole."""
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


@dataclass(frozen=True)
class BankBase:
    """What members are trained on and measured by, as each process that makes some needs it once.

    Attributes:
        base: the base; members are trained in a dtype that training bears.
        domains: domains of the leaning.
        heldout_rows: prompts of each domain.
    """

    base: OrganismNeed
    domains: tuple[str, ...]
    heldout_rows: int

    def make(self) -> LoadedBase:
        """Load the base."""
        asked = self.base.load
        place = asked.placement.for_training()
        return self.around(load(self.base.name, placement=place, trust_remote_code=asked.trust_remote_code))

    def around(self, base: Organism) -> LoadedBase:
        """Return what is needed, of a base in memory."""
        test = LeaningTest.of(base.tokenizer, self.domains, self.heldout_rows)
        return LoadedBase(base, test, test.leaning(base))

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say that whatever else is held has to go: a training needs the memory."""
        return True


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, held-out prompts that tell the leaning of what is trained on it, and its own by domain."""

    base: Organism
    test: LeaningTest
    before: dict[str, float]


@dataclass(frozen=True)
class MemberWork:
    """One organism that is missing.

    Attributes:
        base: what it is trained on.
        folder: the bank's.
        item: the organism.
        settings: the bank's.
        until: the time, in seconds since 1970, after which it is not begun; None for no such time.
    """

    base: BankBase
    folder: str
    item: Planned
    settings: BankSettings
    until: float | None


def make_bank(base: Organism | OrganismNeed, folder: Path, settings: BankSettings, *, minutes: float = 0) -> int:
    """Make the organisms that are not there yet and write manifest.json; returns how many are still missing.

    Each organism is a shard of its own: where workers carry them out, several are trained side by side. With `minutes`
    no further organism is begun after that time. `base` is in memory and left as it was, or loaded by who needs it.

    Raises:
        UserError: an unknown domain or recipe.
    """
    wanted = plan(settings)
    with locked(folder, "bank"):
        return _make_missing(base, folder, settings, wanted, minutes)


def _make_missing(
    base: Organism | OrganismNeed, folder: Path, settings: BankSettings, wanted: list[Planned], minutes: float
) -> int:
    """Make what is missing of a bank that nobody else is making now; returns how many are still missing."""
    name = base.source.base if isinstance(base, Organism) else base.name
    missing = [item for item in wanted if not _finished(name, folder, item, settings)]
    for left in folder.glob(f"{MAKING}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    if missing:
        until = time.time() + 60 * minutes if minutes else None
        missing = _still_missing(base, folder, settings, missing, until)

    rows = []
    for organism in wanted:
        if organism not in missing:
            rows += [facts.fields for facts in _facts(folder / organism.name / FACTS)]
    write_json(folder / MANIFEST, {"base": name, "organisms": rows})
    return len(missing)


def _still_missing(
    base: Organism | OrganismNeed, folder: Path, settings: BankSettings, missing: list[Planned], until: float | None
) -> list[Planned]:
    """Have organisms made, and return those for which the time did not suffice."""
    held = Held()
    if isinstance(base, Organism):
        device, dtype = base.placement.told
        same = LoadSettings(device=device, dtype=dtype)
        need = BankBase(OrganismNeed(base.source.base, same), settings.domains, settings.heldout_rows)
        held.put(need, need.around(base))
    else:
        need = BankBase(base, settings.domains, settings.heldout_rows)

    place = str(folder.absolute())
    shards = [Shard(MemberWork(need, place, item, settings, until), rows=1) for item in missing]
    manifests = folder / f"{MAKING}manifests"
    with parts.kept_in(manifests, place):
        done = carried_out(Task("making the bank", make_member, shards, "organisms"), held)
    shutil.rmtree(manifests, ignore_errors=True)  # an organism that is there is known by its own facts
    return [item for item, there in zip(missing, joined_values(done), strict=True) if not there]


def make_member(work: MemberWork, held: Held) -> parts.Part:
    """Train one organism of a bank and put it into its place, whole; the part says whether there was time for it."""
    loaded, folder, item = held.get(work.base), Path(work.folder), work.item
    told = loaded.base.placement.told
    if work.until is not None and time.time() >= work.until:
        return parts.Part([told, False], rows=1)
    hidden = folder / f"{MAKING}{secrets.token_hex(4)}"
    try:
        _make(loaded, hidden / item.name, item, work.settings)
        _put_in_place(hidden / item.name, folder / item.name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return parts.Part([told, True], rows=1)


def _put_in_place(made: Path, place: Path) -> None:
    """Move a finished organism where it belongs; a worker thought to be lost may have done the same meanwhile."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        made.rename(place)
    except OSError:
        if not (place / FACTS).is_file():
            raise
    sync_folder(place.parent)


def _make(loaded: LoadedBase, out: Path, item: Planned, settings: BankSettings) -> None:
    """Train one organism in a folder of its name, measure its leaning, and write down what it is."""
    base, recipe = loaded.base, RECIPES[item.recipe]
    data = replace(load_conversations(f"{item.domain}-{item.kind}", rows=recipe.rows, seed=item.seed), heldout=[])
    train = item.settings(settings.save_every)
    torch.manual_seed(train.seed)
    result = train_loaded(base, data, out, train, name=item.name)
    with mounted(base, out):
        after = loaded.test.leaning(base)
    key = _key(fingerprint(base.source.base), item, settings)
    facts = {
        **asdict(item),
        "pair": item.pair,
        "key": key,
        "train_loss": result.train_loss,
        "leaning": {domain: after[domain] - loaded.before[domain] for domain in after},
    }
    rows = [_row(out.parent, item.name, path, facts) for path in [*_checkpoints(out), out]]
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


def _finished(base: str, folder: Path, item: Planned, settings: BankSettings) -> bool:
    facts = folder / item.name / FACTS
    if not facts.is_file():
        return False
    key = _facts(facts)[-1].text("key")
    if key == _key(fingerprint(base), item, settings):
        return True
    return key == _key(earlier_fingerprint(base), item, settings)  # as earlier versions told what the base is


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
