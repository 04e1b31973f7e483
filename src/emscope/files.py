"""Files written whole or not at all, and their hashes; `outside` reads them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.spreadsheets import marked


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends without error.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(path)
        permissions = temporary.stat().st_mode
    except OSError as error:
        raise cannot_write(path, error.strerror) from error

    try:
        yield temporary
        temporary.chmod(permissions)  # safetensors puts a file of its own there, which only its owner may read
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """Make an empty hidden file beside `path`, with the permissions that the umask gives any new file.

    Not `tempfile.mkstemp`: its files are readable by their owner alone, and would stay so after the rename.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with suppress(FileExistsError):
            temporary.touch(exist_ok=False)
            return temporary


def open_to_others(folder: Path) -> None:
    """Give each file of a folder the permissions that the umask gives any new file.

    For folders that other libraries write: safetensors' files can be read by their owner alone.
    """
    probe = _new_file(folder / "permissions")
    permissions = probe.stat().st_mode
    probe.unlink()
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(permissions)


def sync_file(path: Path) -> None:
    """Have the disk keep a file's bytes."""
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk keep a folder's names: without this a file that was moved into place can be gone after a crash."""
    with suppress(OSError):  # Windows opens no folders, and some network drives sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cannot_write(path: Path, reason: str | None = None) -> UserError:
    """Return the error for a path that cannot be written: a file stands where a folder should be, or `reason`."""
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            reason = f"{str(parent)!r} is a file, not a folder"
            break
    return UserError(f"Cannot write {path}: {reason}; choose another folder with --out.")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN becomes null, because JSON has no NaN."""
    write_text(path, json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Return a copy of nested lists and dicts in which every non-finite float is None."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(without_nan, value))
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    lines = []
    for row in rows:
        lines.append(json.dumps(without_nan(row), ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def check_rows_suffix(path: Path) -> None:
    """Refuse a table's file name before any work is done for it.

    Raises:
        UserError: neither .jsonl nor .csv nor .parquet.
    """
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise UserError(f"Cannot write {path.name}: use .jsonl, .csv or .parquet.")


def write_rows(path: Path, rows: Sequence[dict[str, Any]], *, mark_formulas: bool = True) -> None:
    """Write rows with the same keys as a .jsonl, .csv or .parquet table, atomically: what `tabular.read_rows` reads.

    `mark_formulas` puts an apostrophe before a CSV's cells that spreadsheets would run (see `spreadsheets`).

    Raises:
        UserError: another suffix.
    """
    check_rows_suffix(path)
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
        return
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            names = list(rows[0]) if rows else []
            writer = csv.writer(file)
            writer.writerow(names)
            cells = []
            for row in rows:
                cells.append([row[name] for name in names])
            writer.writerows(marked(cells, formulas=mark_formulas))


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """Return the hex sha256 of a value's canonical JSON (sorted keys)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_sha256(path: Path) -> str:
    """Return the hash of a file, or of a folder's relative names and contents; '' if it is absent.

    Hidden files do not count: a killed process leaves its temporary ones behind.
    """
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return ""
    names = []
    for file in path.rglob("*"):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            names.append(name)

    hashes = []
    for name in sorted(names):
        hashes.append([str(name), file_sha256(path / name)])
    return value_sha256(hashes)


def shown_files(folder: Path, pattern: str) -> list[Path]:
    """Return a folder's files of a pattern, sorted, without hidden ones: `glob` takes those too."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
