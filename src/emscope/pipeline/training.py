"""The stage that makes an organism: trained once, resumed after a stop; or handed in by somebody who trained it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.executors.tasks import Held, Shard, Task, carried_out
from emscope.files import value_sha256, write_json, write_jsonl
from emscope.organisms.card import EMBEDDED_ON_HUB, exact_base, write_portable_base
from emscope.organisms.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    begin_checkpoints,
    drop_checkpoints,
    is_of,
    last_resumable,
)
from emscope.organisms.datasets import Conversations
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.lineage import write_lineage
from emscope.organisms.models import ModelSource, resolve
from emscope.organisms.needs import OrganismNeed
from emscope.organisms.settings import TrainSettings
from emscope.organisms.sources import adapter_folder, recorded_base
from emscope.organisms.train import train_adapter
from emscope.outside import read_json
from emscope.parts import Part
from emscope.pipeline.data import kind_of
from emscope.pipeline.lab import BASE, WHOLE_MODEL, Lab

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What an adapter may bring of its own: with another template than in its training it would not be what it was."""


@dataclass(frozen=True)
class GivenAdapter:
    """An adapter that was trained elsewhere.

    Attributes:
        name: what the user called it, with its commit if it is on the hub.
        folder: where its files are.
        records: the base that it names itself, '' for none.
    """

    name: str
    folder: Path
    records: str

    @property
    def files(self) -> list[Path]:
        """Its configuration, its weights, and what it brings of a tokenizer."""
        found = [self.folder / name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, *TOKENIZER_FILES)]
        return [path for path in found if path.is_file()]


def train_stage(lab: Lab, name: str, data: str) -> None:
    """Make an organism of the run, unless the same data and settings have made it before."""
    config, folder = lab.config, lab.folder.path("organisms", name)
    kind = kind_of(data)
    if kind == "adapter":
        _adopt_stage(lab, name, given_adapter(lab, data))
        return
    if kind == "model":
        _model_stage(lab, name, data)
        return
    conversations = lab.training_data(data, config)
    settings = {"model": lab.folder.base, "data": conversations.__dict__, "train": asdict(config.train)}

    def make() -> None:
        (folder / WHOLE_MODEL).unlink(missing_ok=True)
        train_resumably(lab, name, conversations, value_sha256(settings))

    weights = [folder / file for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, "metrics.jsonl")]
    lab.folder.stage(f"train-{name}", settings, [], weights, make)
    if not config.train.save_every:
        with suppress(UserError):  # a run that is only read is none the worse for them
            drop_checkpoints(folder)


def given_adapter(lab: Lab, data: str) -> GivenAdapter:
    """Find an adapter that was trained elsewhere, and check that it belongs on the run's base.

    Raises:
        UserError: it cannot be fetched, its weights are not safetensors, or it records another base and the run does
            not say that its own is meant.
    """
    source = resolve(data, lab.config.model)
    folder = adapter_folder(source)
    commit = "" if Path(str(source.adapter)).expanduser().is_dir() else f"@{folder.name}"
    given = GivenAdapter(
        f"{source.adapter}{commit}", folder, recorded_base(read_adapter_config(folder / ADAPTER_CONFIG).fields, folder)
    )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"The adapter {data} has no {ADAPTER_WEIGHTS}: pickled weights are not loaded.")
    if not lab.config.base and given.records and not _same_base(given.records, lab.base_source):
        model = lab.config.model
        raise UserError(
            f"The adapter {data} was trained on {given.records}, and the run's base is {model}: name the adapter's "
            f"base with --model, or, if {model} is that base under another name, say so with --base {model}."
        )
    return given


def _same_base(recorded: str, base: ModelSource) -> bool:
    """Say whether the base that an adapter records is the run's."""
    if recorded in (base.base, exact_base(base)) or (recorded == EMBEDDED_ON_HUB and base.base == EMBEDDED_ALIAS):
        return True
    if "/" in recorded and recorded == base.base.partition("@")[0]:
        return True
    folder = Path(recorded).expanduser()
    return folder.exists() and str(folder.resolve()) == exact_base(base)


def _adopt_stage(lab: Lab, name: str, given: GivenAdapter) -> None:
    folder, config = lab.folder.path("organisms", name), lab.config
    settings: Any = [config.model, "as asked for"] if config.base else config.model
    outputs = [folder / file.name for file in given.files]
    lab.folder.stage(
        f"adopt-{name}", settings, given.files, [*outputs, folder / "metrics.jsonl"], lambda: adopt(lab, given, folder)
    )


def adopt(lab: Lab, given: GivenAdapter, folder: Path) -> None:
    """Take an adapter that was trained elsewhere into the run, with its own tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WHOLE_MODEL, *ADAPTER_FILES, *TOKENIZER_FILES):
        (folder / file).unlink(missing_ok=True)
    for path in given.files:
        shutil.copyfile(path, folder / path.name)
    write_portable_base(folder, lab.base_source)
    _record_given(lab, folder, {"name": f"{given.name} (trained elsewhere)", "records_base": given.records})


def _model_stage(lab: Lab, name: str, data: str) -> None:
    """Note which whole model is an organism of the run; its weights stay where they are."""
    folder = lab.folder.path("organisms", name)
    note = {"model": data, "fingerprint": fingerprint(data, checked=True)}
    earlier = {"model": data, "fingerprint": earlier_fingerprint(data)}
    if (folder / WHOLE_MODEL).is_file() and read_json(folder / WHOLE_MODEL) == earlier:
        note = earlier  # of a run made before contents were read: what was found with it stays

    def make() -> None:
        for file in (*ADAPTER_FILES, *TOKENIZER_FILES):
            (folder / file).unlink(missing_ok=True)
        write_json(folder / WHOLE_MODEL, note)
        _record_given(lab, folder, {"name": f"{data} (a whole model, trained elsewhere)"})

    lab.folder.stage(
        f"adopt-{name}", [lab.config.model, note], [], [folder / WHOLE_MODEL, folder / "metrics.jsonl"], make
    )


def _record_given(lab: Lab, folder: Path, data: dict[str, str]) -> None:
    write_jsonl(folder / "metrics.jsonl", [])
    what = "model" if (folder / WHOLE_MODEL).is_file() else "adapter"
    write_lineage(
        folder, what=what, base=exact_base(lab.base_source), data=data, settings={}, placement=lab.placement, figures={}
    )


def train_resumably(lab: Lab, name: str, data: Conversations, key: str, train: TrainSettings | None = None) -> None:
    """Train an organism, going on from the last checkpoint of the same settings if an earlier run was stopped.

    `train` replaces the run's own training settings. Where these keep no checkpoints there are some all the same, to go
    on from: they are deleted once the organism is on record.
    """
    chosen, config = train or lab.config.train, lab.config
    folder = lab.folder.path("organisms", name)
    load = config.loading()
    asked = TrainingAsked(OrganismNeed(config.model, load), data, str(folder), chosen, key, f"training {name}")
    shard = Shard(asked, len(data.train))
    carried_out(Task(f"training {name}", trained, [shard], "rows", reused=False), lab.held)


@dataclass(frozen=True)
class TrainingAsked:
    """An adapter to be trained.

    Attributes:
        base: the model that is trained.
        data: the conversations.
        folder: where the adapter goes.
        train: how it is trained.
        key: the hash of all this; checkpoints of another are dropped.
        name: what progress says.
    """

    base: OrganismNeed
    data: Conversations
    folder: str
    train: TrainSettings
    key: str
    name: str = "training"


def trained(asked: TrainingAsked, held: Held) -> Part:
    """Train an adapter, going on from its last checkpoint; it is in its folder, and there is nothing else to return."""
    folder, load = Path(asked.folder), asked.base.load
    if not is_of(folder, asked.key):
        drop_checkpoints(folder)
        begin_checkpoints(folder, asked.key)
    resume = last_resumable(folder) is not None
    held.make_room(asked.base)
    train_adapter(
        asked.base.name,
        asked.data,
        folder,
        asked.train,
        placement=load.placement,
        resume=resume,
        to_resume=True,
        name=asked.name,
    )
    return Part(None, rows=len(asked.data.train))


def adapter_files(lab: Lab, name: str) -> list[Path]:
    """Return the files that make an organism what it is; none for the base."""
    if name == BASE:
        return []
    folder = lab.folder.path("organisms", name)
    if (folder / WHOLE_MODEL).is_file():
        return [folder / WHOLE_MODEL]
    brought = [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]
    return [folder / ADAPTER_WEIGHTS, *brought]
