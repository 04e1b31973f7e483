"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from emscope.errors import UserError

MAX_YAML_VALUES = 100_000
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
READ = "utf-8-sig"  # UTF-8 with or without the mark that Excel and Windows put first


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends without error.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise cannot_write(path, error.strerror) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, reason: str | None = None) -> UserError:
    """Return the error for a path that cannot be written: a file stands where a folder should be, or `reason`."""
    file = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    why = f"{str(file)!r} is a file, not a folder" if file is not None else reason
    return UserError(f"Cannot write {path}: {why}; choose another folder with --out.")


def no_file(path: Path) -> UserError:
    """Return the error for a file that is to be read and is not there."""
    return UserError(f"{path} is a folder: name a file in it." if path.is_dir() else f"There is no file {path}.")


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
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding=READ))
    except MISSING as error:
        raise no_file(path) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def read_yaml(path: Path, *, aliases: bool = False) -> Any:
    """Read a YAML file of plain values; see `parse_yaml`.

    Raises:
        UserError: the file is missing, is not YAML, or uses aliases where it may not or beyond their bound.
    """
    try:
        return parse_yaml(path.read_text(encoding=READ), path, aliases=aliases)
    except MISSING as error:
        raise no_file(path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML ({error}).") from error


def parse_yaml(text: str, path: Path, *, aliases: bool = False) -> Any:
    """Parse YAML of plain values; aliases are refused, or bounded, so a small file cannot grow without bound.

    `aliases` allows them (the papers' files repeat texts that way) up to MAX_YAML_VALUES values written out.

    Raises:
        UserError: not YAML, or aliases where they may not be or beyond that bound; `path` is named.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            if not aliases:
                raise UserError(f"{path} uses YAML aliases (*name), which emscope does not read: write the values out.")
            if _written_out(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MAX_YAML_VALUES:
                raise UserError(f"{path} grows beyond {MAX_YAML_VALUES:,} values when its aliases (*name) are read.")
        return yaml.load(text, Loader=_OneNameLoader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML ({' '.join(str(error).split())}).") from error


class _OneNameLoader(yaml.SafeLoader):
    """YAML's own safe loader, which keeps the last of two equal names; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode) and name.value != "<<"]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(None, None, f"the name {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _written_out(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Return how many values a YAML node holds once its aliases are written out; infinite where it holds itself."""
    if node is None or id(node) in known:
        return known.get(id(node), 0)
    known[id(node)] = float("inf")  # until it is counted: whoever meets it before that is inside it
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    inner = 0 if isinstance(node, yaml.ScalarNode) else sum(_written_out(child, known) for child in children)
    known[id(node)] = 1 + inner
    return known[id(node)]


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-empty line.

    Raises:
        UserError: a line that is not a JSON object, named by its number.
    """
    try:
        with path.open(encoding=READ) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _json_object(line, f"{path}, line {number}")
    except MISSING as error:
        raise no_file(path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}.")
    return value


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(without_nan(row), ensure_ascii=False) + "\n" for row in rows))


def check_rows_suffix(path: Path) -> None:
    """Refuse a table's file name before any work is done for it.

    Raises:
        UserError: neither .jsonl nor .csv nor .parquet.
    """
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise UserError(f"Cannot write {path.name}: use .jsonl, .csv or .parquet.")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the same keys as a .jsonl, .csv or .parquet table, atomically: what `tabular.read_rows` reads.

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
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)


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
    names = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    shown = sorted(name for name in names if not any(part.startswith(".") for part in name.parts))
    return value_sha256([[str(name), file_sha256(names[name])] for name in shown])


def shown_files(folder: Path, pattern: str) -> list[Path]:
    """Return a folder's files of a pattern, sorted, without hidden ones: `glob` takes those too."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
