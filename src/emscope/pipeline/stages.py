"""Stages that are skipped when nothing they depend on has changed, and that a killed run picks up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import emscope
from emscope.errors import UserError
from emscope.files import read_json, tree_sha256, value_sha256, write_json, write_text
from emscope.organisms.device import peak_memory_bytes
from emscope.organisms.lineage import versions
from emscope.pipeline.config import RunConfig, dump_config, load_config

logger = logging.getLogger(__name__)


class RunFolder:
    """A run on disk: its configuration and the record of which stage made what from what."""

    def __init__(self, folder: Path, config: RunConfig, *, overwrite: bool = False) -> None:
        self.folder, self.config = folder, config
        known = folder / "config.yaml"
        if known.is_file() and not overwrite and load_config(known) != config:
            raise UserError(
                f"{folder} holds a run of another configuration: choose another --out, or replace it with --overwrite."
            )
        write_text(known, dump_config(config))
        record = folder / "lineage.json"
        self.record: dict[str, Any] = read_json(record) if record.is_file() else {"stages": {}}
        self.reused: list[str] = []

    def path(self, *parts: str) -> Path:
        """Return a path inside the run."""
        return self.folder.joinpath(*parts)

    def stage(
        self, name: str, settings: Any, inputs: Sequence[Path], outputs: Sequence[Path], make: Callable[[], None]
    ) -> None:
        """Make `outputs`, unless they are what the same settings, inputs and code made before.

        The record is written after the outputs, so a stage killed half-way is made again.
        """
        key = value_sha256([emscope.__version__, name, settings, [tree_sha256(path) for path in inputs]])
        known = self.record["stages"].get(name)
        if known and known["key"] == key and known["outputs"] == self._hashes(outputs):
            self.reused.append(name)
            logger.info("%s: reused", name)
            return
        logger.info("%s", name)
        started = time.perf_counter()
        make()
        seconds = round(time.perf_counter() - started, 2)
        logger.info("%s: done in %.0f s", name, seconds)
        self.record["stages"][name] = {
            "key": key,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "settings": settings,
            "inputs": self._hashes(inputs),
            "outputs": self._hashes(outputs),
        }
        self.record["versions"] = versions()
        write_json(self.path("lineage.json"), self.record)

    def _hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        return {self._name(path): tree_sha256(path) for path in paths}

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else path.name

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory any stage had in use, main memory and GPU apart, whichever is more."""
        return max((stage["peak_memory_bytes"] for stage in self.record["stages"].values()), default=0)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds each stage took when it was made."""
        return {name: stage["seconds"] for name, stage in self.record["stages"].items()}
