"""Whether what is on disk is what was made: a run, a bank, an organism, a store of scores. Nothing is written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import emscope
from emscope.behaviour.judges.store import COLUMNS, read_score
from emscope.errors import OutsideError, UserError
from emscope.files import file_sha256, tree_sha256
from emscope.locking import locked
from emscope.organisms.bank import FACTS, MANIFEST
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint, is_local
from emscope.organisms.lineage import LINEAGE, recorded_outputs
from emscope.outside import Record, read_record
from emscope.pipeline.config import RunConfig, load_config
from emscope.pipeline.inventory import BANK, CONFIG, SCORES, files_without_a_name, left_over
from emscope.pipeline.lab import WHOLE_MODEL
from emscope.pipeline.record import RECORD, RunRecord, StageRecord

MISSING, CHANGED, UNREADABLE, DAMAGED = "missing", "changed", "unreadable", "damaged"
BANK_REMEDY = "Delete the folders of bad organisms: the command that made the bank makes them again."
STALE, OTHER_VERSION, OTHER_BASE = "out of date", "of another version", "of another base"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was made.

    Attributes:
        what: the file or the stage.
        problem: one word or two: missing, changed, unreadable, out of date, …
        detail: the rest in words.
        stage: the stage that makes it, '' for none.
    """

    what: str
    problem: str
    detail: str
    stage: str = ""


@dataclass
class Checked:
    """What a check found.

    Attributes:
        kind: what was checked: run, bank, organism or store of scores.
        n_checked: files, or rows of a store, that were compared.
        findings: what is not as it was made.
        notes: what else is to be said; none of it is wrong.
    """

    kind: str
    n_checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        """The stages that have to be made again, in order of the record."""
        return list(dict.fromkeys(finding.stage for finding in self.findings if finding.stage))


def check(path: Path) -> Checked:
    """Check whatever is at a path.

    Raises:
        UserError: there is nothing, or nothing of emscope's.
    """
    if path.is_file():
        return check_store(path)
    if (path / CONFIG).is_file() or _is_run_record(path / RECORD):
        return check_run(path)
    if (path / MANIFEST).is_file():
        return check_bank(path)
    if (path / LINEAGE).is_file():
        return check_organism(path)
    if (path / ADAPTER_WEIGHTS).is_file() or (path / WHOLE_MODEL).is_file():
        raise UserError(f"{path} has no {LINEAGE}: nothing says what its files were when they were made.")
    if not path.exists():
        raise UserError(f"There is nothing at {path}: name a run's folder, a bank, an organism or a store of scores.")
    raise UserError(f"{path} is no run, no bank, no organism and no store of scores: it has none of their records.")


def _is_run_record(path: Path) -> bool:
    try:
        return path.is_file() and "stages" in read_record(path)
    except UserError:
        return False


def check_run(folder: Path) -> Checked:
    """Check a run: every output against its hash, every input against what its stage read, version and base."""
    checked = Checked("run")
    try:
        config = load_config(folder / CONFIG)
    except UserError as error:
        checked.findings.append(Finding(CONFIG, DAMAGED, str(error)))
    try:
        record = RunRecord.read(folder)
    except UserError as error:
        checked.findings.append(Finding(RECORD, DAMAGED, str(error)))
    if checked.findings:
        return checked
    if not record.stages:
        checked.notes.append("No stage is finished yet.")
    hashes = _Hashes(folder)
    made = {name for stage in record.stages.values() for name in stage.outputs}
    for name, stage in record.stages.items():
        checked.findings += [
            *_outputs(hashes, name, stage),
            *_inputs(hashes, name, stage, made),
            *_version(name, stage),
        ]
    checked.findings += _base(config, record, checked.notes)
    for lineage in sorted((folder / "organisms").rglob(LINEAGE)):
        checked.findings += _organism(lineage.parent, str(lineage.parent.relative_to(folder)), made)
    checked.n_checked = hashes.n_files
    if (folder / BANK / MANIFEST).is_file():
        bank = check_bank(folder / BANK)
        checked.n_checked += bank.n_checked
        checked.findings += [replace(item, what=f"{BANK}/{item.what}") for item in bank.findings]
    if (folder / SCORES).is_file():
        store = check_store(folder / SCORES)
        checked.findings += store.findings
        checked.notes.append(f"{SCORES} holds {store.n_checked} scores of servers and local models.")
    checked.notes += _extra(folder, record)
    return checked


class _Hashes:
    """Hashes of what is in a run now, each read once; None for what cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n_files = folder, 0
        self._known: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        if name not in self._known:
            path = self.folder / name
            try:
                self._known[name] = tree_sha256(path)
                self.n_files += 1 if path.is_file() else sum(file.is_file() for file in path.rglob("*"))
            except OSError:
                self._known[name] = None
        return self._known[name]


def _outputs(hashes: _Hashes, name: str, stage: StageRecord) -> Iterator[Finding]:
    for file, recorded in stage.outputs.items():
        now = hashes(file)
        if now is None:
            yield Finding(file, UNREADABLE, "it cannot be read: see to its permissions, or to the drive", name)
        elif now == "" and recorded:
            yield Finding(file, MISSING, f"{name} made it", name)
        elif now != recorded:
            yield Finding(file, CHANGED, f"it is not what {name} left", name)


def _inputs(hashes: _Hashes, name: str, stage: StageRecord, made: set[str]) -> Iterator[Finding]:
    """Yield what a stage was made from that is another now; what lies outside the run is not compared."""
    for file, recorded in stage.inputs.items():
        inside = file in made or (hashes.folder / file).exists()
        if inside and hashes(file) not in (recorded, None):
            yield Finding(name, STALE, f"it was made from another {file}", name)


def _version(name: str, stage: StageRecord) -> Iterator[Finding]:
    if stage.version not in ("", emscope.__version__):
        yield Finding(name, OTHER_VERSION, f"emscope {stage.version} made it, this is {emscope.__version__}", name)


def _base(config: RunConfig, record: RunRecord, notes: list[str]) -> Iterator[Finding]:
    """Compare what stands behind the base's name now with what did when each stage was made."""
    now = fingerprint(config.model, checked=True)
    if now == config.model and any(stage.base not in ("", now) for stage in record.stages.values()):
        notes.append(f"The base {config.model} is not on this machine: it was not compared.")
        return
    before = earlier_fingerprint(config.model).rpartition("@")[2] if is_local(now) else ""
    for name, stage in record.stages.items():
        as_before = bool(before) and not is_local(stage.base) and stage.base.rpartition("@")[2] == before
        if stage.base not in ("", now) and not as_before:
            yield Finding(name, OTHER_BASE, f"{config.model} is not the model that it was made with", name)


def _extra(folder: Path, record: RunRecord) -> list[str]:
    try:
        n_left = len(left_over(folder))
    except (UserError, OSError):
        n_left = sum(1 for _ in files_without_a_name(folder, record))
    return [f"{n_left} files or folders belong to no stage: `emscope clean {folder}` lists them."] if n_left else []


def check_organism(folder: Path) -> Checked:
    """Check an organism: every file against the hash in its lineage."""
    checked = Checked("organism")
    checked.findings += _organism(folder, "", set())
    if not any(finding.problem == DAMAGED for finding in checked.findings):
        checked.n_checked = len(recorded_outputs(folder))
    return checked


def _organism(folder: Path, shown: str, made: set[str]) -> Iterator[Finding]:
    """Yield what is not as an organism's lineage has it, but for what a run's record tells of anyway."""
    prefix = f"{shown}/" if shown else ""
    try:
        outputs = recorded_outputs(folder)
    except UserError as error:
        yield Finding(f"{prefix}{LINEAGE}", DAMAGED, str(error))
        return
    for name, recorded in outputs.items():
        if f"{prefix}{name}" not in made:
            yield from _file(folder / name, f"{prefix}{name}", recorded)


def _file(path: Path, shown: str, recorded: str) -> Iterator[Finding]:
    try:
        if not path.is_file():
            yield Finding(shown, MISSING, "it was there when the organism was made")
        elif file_sha256(path) != recorded:
            yield Finding(shown, CHANGED, "it is not what was made")
    except OSError as error:
        yield Finding(shown, UNREADABLE, str(error.strerror))


def check_bank(folder: Path) -> Checked:
    """Check a bank: the weights of every member against the manifest, and its files against its own record."""
    checked = Checked("bank")
    try:
        rows = _members(folder)
    except UserError as error:
        checked.findings.append(Finding(MANIFEST, DAMAGED, str(error)))
        return checked
    for name, where, recorded in rows:
        member = folder / where
        if not member.resolve().is_relative_to(folder.resolve()):
            checked.findings.append(Finding(MANIFEST, DAMAGED, f"it names {where}, which is outside the bank"))
            continue
        checked.n_checked += 1
        checked.findings += _file(member / ADAPTER_WEIGHTS, f"{where}/{ADAPTER_WEIGHTS}", recorded)
        if (member / LINEAGE).is_file():
            checked.findings += _organism(member, where, {f"{where}/{ADAPTER_WEIGHTS}"})
        elif name == where:
            checked.findings.append(Finding(f"{where}/{LINEAGE}", MISSING, "it says what the organism was made from"))
    known = {part for _, where, _ in rows for part in Path(where).parts[:1]}
    extra = [path.name for path in sorted(folder.glob(f"*/{FACTS}")) if path.parent.name not in known]
    if extra:
        checked.notes.append(f"{len(extra)} organisms are in no manifest: the bank was stopped, or is still made.")
    return checked


def _members(folder: Path) -> list[tuple[str, str, str]]:
    """Return the name, folder and hash of every member that a bank's manifest names."""
    rows = read_record(folder / MANIFEST, remedy="make the bank again").items("organisms")
    records = [Record(row, f"{folder / MANIFEST}, organism {number}") for number, row in enumerate(rows, 1)]
    return [(record.text("name"), record.text("folder"), record.text("sha256")) for record in records]


def check_store(path: Path) -> Checked:
    """Check a store of scores: that SQLite finds it whole, and that every value can be a score.

    Raises:
        UserError: the file is no store of scores.
    """
    checked = Checked("store of scores")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            connection = sqlite3.connect(_read_only(path, Path(scratch)), uri=True)
            try:
                columns = tuple(row[1] for row in connection.execute("PRAGMA table_info(scores)"))
                if columns != COLUMNS:
                    raise OutsideError(path, "is no store of scores", "name a run's folder or a store")
                said = [row[0] for row in connection.execute("PRAGMA quick_check")]
                checked.findings += [Finding(path.name, DAMAGED, text) for text in said if text != "ok"]
                n_bad = 0
                for value, verdict, mode in connection.execute("SELECT value, verdict, mode FROM scores"):
                    checked.n_checked += 1
                    n_bad += read_score(value, verdict, mode) is None
                if n_bad:
                    checked.findings.append(Finding(path.name, DAMAGED, f"{n_bad} rows can be no scores"))
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise OutsideError(path, "is no store of scores", "name a run's folder or a store") from error
            checked.findings.append(Finding(path.name, DAMAGED, str(error)))
    return checked


def _read_only(path: Path, scratch: Path) -> str:
    """Return the address at which SQLite reads a store and writes nothing beside it."""
    log = path.with_name(f"{path.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        return f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    for part in (path, log):  # what others have just written is in the log, and reading that writes
        shutil.copyfile(part, scratch / part.name)
    return f"{(scratch / path.name).as_uri()}?mode=ro"


def drop_stages(folder: Path, names: Sequence[str]) -> None:
    """Take stages off a run's record, so that they are made again; their files stay until then.

    Raises:
        UserError: the record cannot be read or written.
    """
    with locked(folder, RECORD):
        record = RunRecord.read(folder)
        for name in names:
            if name in record.stages:
                record.drop(name)
        record.write(folder)
