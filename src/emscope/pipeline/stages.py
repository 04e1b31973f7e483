"""Stages that are skipped when nothing they depend on has changed, and that a killed run picks up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import emscope
from emscope import parts
from emscope.errors import UserError
from emscope.files import tree_sha256, value_sha256, write_json, write_text
from emscope.organisms.device import peak_memory_bytes
from emscope.organisms.fingerprint import fingerprint
from emscope.organisms.lineage import circumstances, versions
from emscope.organisms.templates import CHAT_DATE, chat_date
from emscope.outside import read_json
from emscope.pipeline.config import RunConfig, dump_config, load_config, resolved

logger = logging.getLogger(__name__)


LATER_SETTINGS = ("max_thought_tokens", "enable_thinking")


def _that_count(settings: Any) -> Any:
    """Return settings without those that came later and are not set: a run made before them is still what it was."""
    if not isinstance(settings, dict):
        return settings
    kept = {key: value for key, value in settings.items() if not (key in LATER_SETTINGS and value is None)}
    return {key: _that_count(value) for key, value in kept.items()}


class RunFolder:
    """A run on disk: its configuration and the record of which stage made what from what."""

    def __init__(self, folder: Path, config: RunConfig, *, overwrite: bool = False) -> None:
        self.folder, self.config = folder, resolved(config)
        config = self.config
        known = folder / "config.yaml"
        if known.is_file() and not _holds(known, config, unreadable_is_other=overwrite):
            if not overwrite:
                raise UserError(
                    f"{folder} holds a run of another configuration: choose another --out, or replace it with "
                    "--overwrite."
                )
            for figures in self.path("experiments").glob("*.json"):  # the report would show them as this run's
                figures.unlink()
        write_text(known, dump_config(config))
        self.record = self._read_record()
        self.reused: list[str] = []
        self.made: list[str] = []

    def path(self, *parts: str) -> Path:
        """Return a path inside the run."""
        return self.folder.joinpath(*parts)

    @cached_property
    def base(self) -> str:
        """What the run's base model is: its name alone does not tell that a local folder has new weights."""
        return fingerprint(self.config.model)

    def stage(
        self, name: str, settings: Any, inputs: Sequence[Path], outputs: Sequence[Path], make: Callable[[], None]
    ) -> None:
        """Make `outputs`, unless they are what the same settings, inputs, base model and code made before.

        The record is written after the outputs, so a stage killed half-way is made again, from those parts of it that
        were finished (see `parts`). It is read anew for that: another command on the same run may have added stages of
        its own.
        """
        made_of = [emscope.__version__, self.base, name, _that_count(settings), [tree_sha256(path) for path in inputs]]
        key = value_sha256(made_of if chat_date() == CHAT_DATE else [*made_of, chat_date().isoformat()])
        kept = self.path(".parts", name.replace("/", "-"))
        known = self.record["stages"].get(name)
        if known and known["key"] == key and known["outputs"] == self._hashes(outputs):
            self.reused.append(name)
            logger.info("%s: reused", name)
            parts.forget(kept)  # a process that is killed after its record may leave them
            return
        logger.info("%s", name)
        started = time.perf_counter()
        with parts.kept_in(kept, [key, circumstances()]) as store:
            make()
        seconds = round(store.seconds_before + time.perf_counter() - started, 2)
        logger.info("%s: done in %.0f s", name, seconds)
        self.made.append(name)
        entry = {
            "key": key,
            "base": self.base,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "settings": settings,
            "inputs": self._hashes(inputs),
            "chat_date": chat_date().isoformat(),
            "outputs": self._hashes(outputs),
        }
        self.record = self._read_record()
        self.record["stages"][name] = entry
        self.record["versions"] = versions()
        write_json(self.path("lineage.json"), self.record)
        parts.forget(kept)

    def _read_record(self) -> dict[str, Any]:
        path = self.path("lineage.json")
        found: dict[str, Any] = read_json(path) if path.is_file() else {"stages": {}}
        return found

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


def _holds(file: Path, config: RunConfig, *, unreadable_is_other: bool) -> bool:
    """Say whether a config.yaml holds this configuration."""
    try:
        return load_config(file) == config
    except UserError:
        if unreadable_is_other:
            return False
        raise
