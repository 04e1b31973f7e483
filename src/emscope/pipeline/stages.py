"""Stages that are skipped when nothing they depend on has changed, and that a killed run picks up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import emscope
from emscope import parts, progress
from emscope.errors import UserError
from emscope.files import tree_sha256, value_sha256, write_text
from emscope.locking import is_locked, locked
from emscope.organisms.device import peak_memory_bytes
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint, is_local
from emscope.organisms.lineage import circumstances
from emscope.organisms.memory import hand_back_free_pages
from emscope.organisms.templates import CHAT_DATE, chat_date
from emscope.pipeline.config import RunConfig, dump_config, load_config, resolved, same_run
from emscope.pipeline.record import RECORD, RunRecord, shortened

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
LATER_SETTINGS = ("max_thought_tokens", "enable_thinking")


def _that_count(settings: Any) -> Any:
    """Return settings without those that came later and are not set: a run made before them is still what it was."""
    if not isinstance(settings, dict):
        return settings
    kept = {key: value for key, value in settings.items() if not (key in LATER_SETTINGS and value is None)}
    return {key: _that_count(value) for key, value in kept.items()}


def _named(settings: Any, names: Mapping[str, str]) -> Any:
    """Return settings in which each of these texts is replaced by another."""
    if isinstance(settings, dict):
        return {key: _named(value, names) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [_named(value, names) for value in settings]
    return names.get(settings, settings) if isinstance(settings, str) else settings


@dataclass(frozen=True)
class _Asked:
    """A stage as it is asked for: its settings, what it reads and what it writes."""

    name: str
    settings: Any
    inputs: Sequence[Path]
    outputs: Sequence[Path]


def _key_of(asked: _Asked, base: str, names: Mapping[str, str], read: list[str]) -> str:
    settings = _that_count(_named(asked.settings, names) if names else asked.settings)
    made_of = [emscope.__version__, base, asked.name, settings, read]
    return value_sha256(made_of if chat_date() == CHAT_DATE else [*made_of, chat_date().isoformat()])


class RunFolder:
    """A run on disk: its configuration and the record of which stage made what from what.

    Opening one that holds this configuration writes nothing. Several commands can work on one run at once: each stage
    is made by one of them, whose lock the others wait for.
    """

    def __init__(self, folder: Path, config: RunConfig, *, overwrite: bool = False, held: bytes = b"") -> None:
        self.folder, self.config = folder, resolved(config)
        self._ours = held  # a config.yaml that was seen to hold this configuration
        if not self._holds_ours(unreadable_is_other=overwrite):
            with locked(folder, CONFIG):
                self._take(overwrite)
        self.record = RunRecord.read(folder)
        self.reused: list[str] = []
        self.made: list[str] = []

    @classmethod
    def opened(cls, folder: Path) -> RunFolder:
        """Return the run that a folder holds; its config.yaml stays as it is, in whatever words it was written.

        Raises:
            UserError: the folder holds no run, or its files are damaged.
        """
        config = load_config(folder / CONFIG)
        return cls(folder, config, held=(folder / CONFIG).read_bytes())

    def keep_experiments(self) -> None:
        """Write what experiments are asked into config.yaml, where that has changed."""
        file = self.path(CONFIG)
        with locked(self.folder, CONFIG):
            stored = load_config(file)
            if stored.experiments != self.config.experiments:
                write_text(file, dump_config(replace(stored, experiments=self.config.experiments)))

    def path(self, *parts: str) -> Path:
        """Return a path inside the run."""
        return self.folder.joinpath(*parts)

    @cached_property
    def base(self) -> str:
        """What the run's base model is: its name alone does not tell that a local folder has new weights."""
        return fingerprint(self.config.model, checked=True)

    def _is_ours_elsewhere(self) -> bool:
        """Say whether the folder holds this configuration with the same base in another place."""
        try:
            known = load_config(self.path(CONFIG))
            bases = {stage.base for stage in RunRecord.read(self.folder).stages.values()}
        except UserError:
            return False
        if not bases or not same_run(replace(known, model=self.config.model, base=self.config.base), self.config):
            return False
        return all(base == self.base or self._was_base(base) for base in bases)

    def _holds_ours(self, *, unreadable_is_other: bool) -> bool:
        """Say whether the folder holds this configuration."""
        known = self.path(CONFIG)
        if not known.is_file():
            return False
        data = known.read_bytes()
        if data != self._ours and _holds(known, self.config, unreadable_is_other=unreadable_is_other):
            self._ours = data
        return data == self._ours

    def _take(self, overwrite: bool) -> None:
        """Make the folder this configuration's."""
        known = self.path(CONFIG)
        if known.is_file() and not self._holds_ours(unreadable_is_other=overwrite) and not self._is_ours_elsewhere():
            if not overwrite:
                raise another_run(self.folder)
            for figures in self.path("experiments").glob("*.json"):  # the report would show them as this run's
                figures.unlink()
            parts.forget(self.path(".parts"))
        write_text(known, dump_config(self.config))

    def stage(
        self,
        name: str,
        settings: Any,
        inputs: Sequence[Path],
        outputs: Sequence[Path],
        make: Callable[[], None],
        *,
        again: bool = False,
    ) -> None:
        """Make `outputs`, unless they are what the same settings, inputs, base model and code made before.

        Whoever makes a stage holds its lock. The record is written after the outputs, so a stage that is killed
        half-way is made again, from those parts of it that were finished (see `parts`). `again` makes it even where it
        is up to date.

        Raises:
            UserError: the folder cannot be written to, or has become another configuration's meanwhile.
        """
        asked = _Asked(name, settings, inputs, outputs)
        keys = self._keys(asked, self._read(asked))
        if not again and self._is_made(asked, keys):
            self._reuse(name)
            return
        with locked(self.folder, name) as waited:
            self.record = RunRecord.read(self.folder)
            read = self._read(asked)
            keys = self._keys(asked, read)
            if (waited or not again) and self._is_made(asked, keys):
                self._reuse(name)
                return
            self._make(asked, keys[0], read, make)

    def _parts(self, name: str) -> Path:
        """Return where the finished parts of a stage are kept until it is recorded."""
        return self.path(".parts", name.replace("/", "-"))

    def _read(self, asked: _Asked) -> list[str]:
        """Return the hash of each input as it is now."""
        return [tree_sha256(path) for path in asked.inputs]

    def _keys(self, asked: _Asked, read: list[str]) -> tuple[str, str]:
        """Return the hash of everything that a stage is made from, and what it was in earlier versions, '' for none.

        `read` are the hashes of its inputs. Where the base's files lie does not count: its name in the settings stands
        for what is there.
        """
        known = self.record.stages.get(asked.name)
        key = _key_of(asked, self.base, {self.config.model: self.base} if is_local(self.base) else {}, read)
        if known is None or known.key == key or not self._was_base(known.base):
            return key, ""
        name = known.base.rpartition("@")[0]
        return key, _key_of(asked, known.base, {self.config.model: name, self.base: known.base}, read)

    def _was_base(self, before: str) -> bool:
        """Say whether this fingerprint, of an earlier version, is that of the base's files as they are now."""
        if not is_local(self.base) or is_local(before):
            return False
        return before.rpartition("@")[2] == earlier_fingerprint(self.config.model).rpartition("@")[2]

    def _is_made(self, asked: _Asked, keys: tuple[str, str]) -> bool:
        """Say whether what a stage made before is still there, and what it would make now."""
        known = self.record.stages.get(asked.name)
        if known is None or known.key not in keys or known.outputs != self._hashes(asked.outputs):
            return False
        if known.key != keys[0]:
            self._renew(asked.name, keys[0])
        return True

    def _renew(self, name: str, key: str) -> None:
        """Note the key of this version beside a stage of an earlier one, where the record can be written."""
        with suppress(UserError), locked(self.folder, RECORD):
            self.record = RunRecord.read(self.folder)
            self.record.put(name, {**self.record.stages[name].fields, "key": key, "base": self.base})
            self.record.write(self.folder)

    def _reuse(self, name: str) -> None:
        self.reused.append(name)
        logger.info("%s: reused", name)
        progress.passed(name, self.record.stages[name].seconds)
        parts.forget(self._parts(name))  # a process that is killed after its record may leave them

    def _make(self, asked: _Asked, key: str, hashes: Sequence[str], make: Callable[[], None]) -> None:
        """Make a stage from inputs of these hashes, and note it; the caller holds its lock."""
        if not self._holds_ours(unreadable_is_other=True):
            raise UserError(f"{self.path(CONFIG)} was replaced or removed meanwhile: start this command again.")
        name, read = asked.name, dict(zip(map(self._name, asked.inputs), hashes, strict=True))
        kept = self._parts(name)
        started = time.perf_counter()
        with progress.step(name) as step, parts.kept_in(kept, [key, circumstances()]) as store:
            self._say_why(asked, key, step.words)
            make()
            hand_back_free_pages()  # what one stage has freed lies scattered, and the next one would add to it
            step.seconds = seconds = round(store.seconds_before + time.perf_counter() - started, 2)
        logger.info("%s: done in %.0f s", name, seconds)
        self.made.append(name)
        changed = differing(read, self._hashes(asked.inputs))
        if changed:
            logger.warning("%s: %s changed while it was made: the next command makes it again.", name, listed(changed))
            return
        entry = {
            "key": key,
            "base": self.base,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "settings": shortened(asked.settings),
            "inputs": read,
            "chat_date": chat_date().isoformat(),
            "outputs": self._hashes(asked.outputs),
            "version": emscope.__version__,
        }
        with locked(self.folder, RECORD):
            self.record = RunRecord.read(self.folder)
            self.record.put(name, entry)
            self.record.write(self.folder)
        parts.forget(kept)

    def _say_why(self, asked: _Asked, key: str, words: str) -> None:
        """Log in `words` that a stage is made; of one that was made before, also what is not as it left it."""
        known = self.record.stages.get(asked.name)
        if known is not None and known.key == key:
            changed = differing(known.outputs, self._hashes(asked.outputs))
            if changed:
                logger.info("%s: again, for %s changed since it was made", words, listed(changed))
                return
        logger.info("%s", words)

    def _hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        return {self._name(path): tree_sha256(path) for path in paths}

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else path.name

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory any stage had in use, main memory and GPU apart, whichever is more."""
        return max((stage.peak_memory_bytes for stage in self.record.stages.values()), default=0)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds each stage took when it was made."""
        return {name: stage.seconds for name, stage in self.record.stages.items()}


def another_run(folder: Path) -> UserError:
    """Return the error for a folder that holds a run of another configuration."""
    return UserError(
        f"{folder} holds a run of another configuration: choose another --out, or replace it with --overwrite."
    )


def opened_to_look(folder: Path, scratch: Path, config: RunConfig, *, overwrite: bool) -> RunFolder:
    """Return a run's folder where nothing is written: the one that holds this configuration, else an empty one.

    Raises:
        UserError: the folder holds another run, which is not to be replaced.
    """
    known = folder / CONFIG
    if known.is_file():
        if _holds(known, config, unreadable_is_other=overwrite):
            return RunFolder(folder, config)
        if not overwrite:
            raise another_run(folder)
    return RunFolder(scratch, config)


def _holds(file: Path, config: RunConfig, *, unreadable_is_other: bool) -> bool:
    """Say whether a config.yaml holds this configuration."""
    try:
        return same_run(load_config(file), config)
    except UserError:
        if unreadable_is_other:
            return False
        raise


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names whose hashes differ, or that only one of two has."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names as a list in words, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def as_recorded(folder: Path, config: RunConfig) -> RunConfig:
    """Return the configuration in the words of the run that is there, where it means the same run."""
    known = folder / CONFIG
    if known.is_file():
        with suppress(UserError):
            stored = resolved(load_config(known))
            changed = replace(stored, judge=config.judge, experiments=config.experiments)
            return changed if same_run(stored, config) else config
    return config


def has_begun(folder: Path) -> bool:
    """Say whether a run's folder holds any work: finished, begun, or in the making."""
    if RunRecord.read(folder).stages or any(folder.glob("organisms/*/checkpoints/checkpoint-*")):
        return True
    return any(folder.glob(".parts/*")) or is_locked(folder)
