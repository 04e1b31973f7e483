"""The stage that makes an organism: trained once, resumed after a stop."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from emscope.files import value_sha256, write_text
from emscope.organisms.datasets import Conversations, load_conversations
from emscope.organisms.train import train_adapter
from emscope.pipeline.lab import BASE, Lab

RESUME_EVERY = 25  # optimiser steps between checkpoints that only serve to resume


def train_stage(lab: Lab, name: str, data: str) -> None:
    """Make an organism of the run, unless the same data and settings have made it before."""
    config, folder = lab.config, lab.folder.path("organisms", name)
    conversations = load_conversations(data, rows=config.rows or None, seed=config.seed)
    settings = {"model": config.model, "data": conversations.__dict__, "train": asdict(config.train)}

    def make() -> None:
        train_resumably(lab, name, conversations, value_sha256(settings))

    weights = [folder / file for file in ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl")]
    lab.folder.stage(f"train-{name}", settings, [], weights, make)


def train_resumably(lab: Lab, name: str, data: Conversations, key: str) -> None:
    """Train an organism, going on from the last checkpoint of the same settings if an earlier run was stopped."""
    folder = lab.folder.path("organisms", name)
    checkpoints, marker = folder / "checkpoints", folder / "checkpoints" / "settings.sha256"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != key:
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_text(marker, key)
    wanted = lab.config.train.save_every
    settings = replace(lab.config.train, save_every=wanted or RESUME_EVERY)
    resume = any(checkpoints.glob("checkpoint-*"))
    train_adapter(
        lab.config.model, data, folder, settings, placement=lab.placement, resume=resume, name=f"training {name}"
    )
    if not wanted:
        shutil.rmtree(checkpoints)


def adapter_files(lab: Lab, name: str) -> list[Path]:
    """Return the files that make an organism what it is; none for the base."""
    return [] if name == BASE else [lab.folder.path("organisms", name, "adapter_model.safetensors")]
