"""A run's record, lineage.json: which stage made what from what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError
from emscope.files import value_sha256, write_json
from emscope.organisms.lineage import versions
from emscope.outside import Record, read_record

RECORD = "lineage.json"
FORMAT = 1
"""Raised when what a record holds changes its meaning; records without one are of format 1."""
LONG = 1000
"""Characters of JSON from which a list in a stage's settings is told by its length and hash alone."""
REMEDY = "delete it, and the same command makes the run's stages again; or put back a copy of it"


@dataclass(frozen=True)
class StageRecord:
    """What is known of a finished stage.

    Attributes:
        key: the hash of everything it was made from.
        base: what the run's base model was.
        settings: what was asked for, without its long lists (see `shortened`).
        inputs: hashes of what it read, by name; files of the run are named by their path in its folder.
        outputs: hashes of what it wrote, likewise.
        seconds: how long it took.
        peak_memory_bytes: the most memory it had in use.
        version: the emscope that made it, '' where that is not known.
        fields: all of it as plain values, with what another version may have written.
    """

    key: str
    base: str
    settings: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: float
    peak_memory_bytes: int
    version: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, record: Record) -> StageRecord:
        """Check a stage of a record.

        Raises:
            OutsideError: a field that is missing or of another kind.
        """
        return cls(
            record.text("key"),
            record.text("base", ""),
            record.value("settings", None),
            _texts(record.record("inputs", None)),
            _texts(record.record("outputs")),
            record.number("seconds", 0.0),
            record.whole("peak_memory_bytes", 0, most=2**63),
            record.text("version", ""),
            record.fields,
        )


def shortened(settings: Any) -> Any:
    """Return settings in which a long list, of questions or of rows, is `{"count": …, "sha256": …}`.

    Each stage would repeat every question otherwise. The rows themselves are in what the stage read and wrote, and its
    key is the hash of all of them.
    """
    if isinstance(settings, dict):
        return {name: shortened(value) for name, value in settings.items()}
    if not isinstance(settings, (list, tuple)):
        return settings
    if len(json.dumps(settings, ensure_ascii=False, default=str)) < LONG:
        return settings
    return {"count": len(settings), "sha256": value_sha256(settings)}


def _texts(record: Record | None) -> dict[str, str]:
    return {} if record is None else {name: record.text(name) for name in record.fields}


@dataclass
class RunRecord:
    """The record of a run.

    Attributes:
        stages: finished stages by name.
        fields: all of it as plain values.
    """

    stages: dict[str, StageRecord] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=lambda: {"format": FORMAT, "stages": {}})

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run's record; an empty one where there is none.

        Raises:
            OutsideError: it is damaged, or of a newer version.
        """
        path = folder / RECORD
        if not path.exists():
            return cls()
        whole = read_record(path, remedy=REMEDY)
        if whole.whole("format", 1) > FORMAT:
            raise OutsideError(path, "was written by a newer emscope", "update emscope, or use another --out")
        stages = {name: StageRecord.of(stage) for name, stage in whole.record("stages").records()}
        return cls(stages, whole.fields)

    def put(self, name: str, entry: dict[str, Any]) -> None:
        """Note a finished stage, of plain values."""
        self.stages[name] = StageRecord.of(Record(entry, name))
        self.fields["stages"][name] = entry
        self.fields["versions"] = versions()

    def drop(self, name: str) -> None:
        """Forget a stage, so that it is made again."""
        del self.stages[name], self.fields["stages"][name]

    def write(self, folder: Path) -> None:
        """Write it whole, in one moment."""
        write_json(folder / RECORD, {"format": FORMAT, **self.fields})
