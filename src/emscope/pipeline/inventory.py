"""What lies in a run's folder: what its record names, what belongs to it beside that, and what is left over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emscope.errors import UserError
from emscope.locking import LOCKS
from emscope.organisms.checkpoints import CHECKPOINTS
from emscope.organisms.lineage import LINEAGE, recorded_outputs
from emscope.pipeline.config import RunConfig, load_config
from emscope.pipeline.record import RECORD, RunRecord

CONFIG = "config.yaml"
PARTS, BANK = ".parts", "bank"
SCORES = "scores.sqlite"
"""What servers and local models scored, so that nothing is asked or paid for twice; no stage makes it, and it stays."""
ALWAYS = (CONFIG, RECORD)
BESIDE_AN_ORGANISM = (LINEAGE, "README.md")
TEMPORARY = re.compile(r"\..*\.tmp|\.saving-.*")
"""Names of what is being written: a stop leaves it behind."""


@dataclass(frozen=True)
class LeftOver:
    """Something in a run's folder that no stage needs.

    Attributes:
        path: where it is.
        reason: what it is, in words.
        known: whether emscope made it; what it did not make is only listed.
    """

    path: Path
    reason: str
    known: bool

    @property
    def n_bytes(self) -> int:
        """How much room it takes."""
        files = self.path.rglob("*") if self.path.is_dir() and not self.path.is_symlink() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir() or file.is_symlink())


def named_files(folder: Path, record: RunRecord) -> set[Path]:
    """Return the files and folders inside a run that its record and its organisms' records name."""
    names = {name for stage in record.stages.values() for name in (*stage.outputs, *stage.inputs)}
    found = {folder / name for name in (*names, *ALWAYS)}
    for lineage in sorted((folder / "organisms").rglob(LINEAGE)):
        organism = lineage.parent
        found |= {organism / name for name in BESIDE_AN_ORGANISM}
        with suppress(UserError):
            found |= {organism / name for name in recorded_outputs(organism)}
    return found


def files_without_a_name(folder: Path, record: RunRecord) -> Iterator[Path]:
    """Yield what no record names: files, and folders of which that is true as a whole."""
    named = named_files(folder, record)
    above = {parent for path in named for parent in path.parents}

    def walk(place: Path) -> Iterator[Path]:
        for path in sorted(place.iterdir()):
            if path in named:
                continue
            if path in above and path.is_dir() and not path.is_symlink():
                yield from walk(path)
            else:
                yield path

    yield from walk(folder)


def left_over(folder: Path) -> list[LeftOver]:
    """Return what no stage of a run needs.

    Raises:
        UserError: its record or its configuration cannot be read.
    """
    record, config = RunRecord.read(folder), load_config(folder / CONFIG)
    found = [*_temporary(folder), *_parts(folder, record), *_checkpoints(folder, record, config)]
    listed = {item.path for item in found}
    skip = {
        folder / LOCKS,
        folder / PARTS,
        folder / BANK,
        *folder.glob(f"{SCORES}*"),
        *(folder / "organisms" / name / CHECKPOINTS for name in _begun(folder)),
    }
    for path in files_without_a_name(folder, record):
        if path not in listed and path not in skip and not any(parent in listed for parent in path.parents):
            found.append(LeftOver(path, "no record names it", known=False))
    return found


def _temporary(folder: Path) -> list[LeftOver]:
    paths = sorted(path for path in folder.rglob(".*") if TEMPORARY.fullmatch(path.name))
    inside = {path for path in paths if any(parent in paths for parent in path.parents)}
    return [LeftOver(path, "half written, of a command that was stopped", True) for path in paths if path not in inside]


def _parts(folder: Path, record: RunRecord) -> list[LeftOver]:
    """Return the parts of stages that are finished; those of unfinished ones are what they go on from."""
    done = {name.replace("/", "-") for name in record.stages}
    places = sorted((folder / PARTS).glob("*"))
    return [LeftOver(path, "parts of a stage that is finished", True) for path in places if path.name in done]


def _checkpoints(folder: Path, record: RunRecord, config: RunConfig) -> list[LeftOver]:
    """Return the checkpoints of finished trainings that only served to go on after a stop."""
    if config.train.save_every:
        return []
    places = [folder / "organisms" / name / CHECKPOINTS for name in _trained(record)]
    reason = "checkpoints of a training that is finished"
    return [LeftOver(path, reason, True) for path in places if path.is_dir()]


def _trained(record: RunRecord) -> list[str]:
    return [name.removeprefix("train-") for name in record.stages if name.startswith("train-")]


def _begun(folder: Path) -> list[str]:
    """Return the organisms that have checkpoints."""
    return [path.parent.name for path in (folder / "organisms").glob(f"*/{CHECKPOINTS}")]
