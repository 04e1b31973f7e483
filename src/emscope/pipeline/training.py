"""The stage that makes an organism: trained once, resumed after a stop; or an adapter that somebody hands in."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from emscope.errors import UserError
from emscope.files import value_sha256, write_jsonl, write_text
from emscope.organisms.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS, last_resumable
from emscope.organisms.datasets import Conversations, load_conversations
from emscope.organisms.lineage import write_lineage
from emscope.organisms.models import resolve
from emscope.organisms.train import TrainSettings, train_adapter
from emscope.pipeline.lab import BASE, Lab

RESUME_EVERY = 25  # optimiser steps between checkpoints that only serve to resume


def train_stage(lab: Lab, name: str, data: str) -> None:
    """Make an organism of the run, unless the same data and settings have made it before."""
    config, folder = lab.config, lab.folder.path("organisms", name)
    weights = [folder / file for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, "metrics.jsonl")]
    if (Path(data) / ADAPTER_CONFIG).is_file():
        adapter = [Path(data) / file.name for file in weights[:2]]
        lab.folder.stage(f"adopt-{name}", config.model, adapter, weights, lambda: adopt(lab, Path(data), folder))
        return
    conversations = load_conversations(data, rows=config.rows or None, seed=config.seed)
    settings = {"model": lab.folder.base, "data": conversations.__dict__, "train": asdict(config.train)}

    def make() -> None:
        train_resumably(lab, name, conversations, value_sha256(settings))

    lab.folder.stage(f"train-{name}", settings, [], weights, make)


def adopt(lab: Lab, adapter: Path, folder: Path) -> None:
    """Take an adapter that was trained elsewhere into the run.

    Raises:
        UserError: it was made for another base, or its weights are not safetensors.
    """
    resolve(str(adapter), lab.config.model)
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"The adapter {adapter} has no {ADAPTER_WEIGHTS}: pickled weights are not loaded.")
    folder.mkdir(parents=True, exist_ok=True)
    for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        shutil.copyfile(adapter / file, folder / file)
    write_jsonl(folder / "metrics.jsonl", [])
    write_lineage(
        folder, what="adapter", base=lab.config.model, data={"name": f"{adapter} (trained elsewhere)"}, settings={},
        placement=lab.placement, figures={},
    )  # fmt: skip


def train_resumably(
    lab: Lab, name: str, data: Conversations, key: str, train: TrainSettings | None = None
) -> None:  # fmt: skip
    """Train an organism, going on from the last checkpoint of the same settings if an earlier run was stopped.

    `train` replaces the run's own training settings.
    """
    chosen = train or lab.config.train
    folder = lab.folder.path("organisms", name)
    checkpoints, marker = folder / "checkpoints", folder / "checkpoints" / "settings.sha256"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != key:
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_text(marker, key)
    wanted = chosen.save_every
    settings = replace(chosen, save_every=wanted or RESUME_EVERY)
    resume = last_resumable(folder) is not None
    train_adapter(
        lab.config.model, data, folder, settings, placement=lab.placement, resume=resume, name=f"training {name}"
    )
    if not wanted:
        marker.unlink()  # first: what a stop leaves of the others is then no checkpoint of these settings
        shutil.rmtree(checkpoints)


def adapter_files(lab: Lab, name: str) -> list[Path]:
    """Return the files that make an organism what it is; none for the base."""
    return [] if name == BASE else [lab.folder.path("organisms", name, ADAPTER_WEIGHTS)]
