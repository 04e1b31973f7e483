"""Whether two folders hold the same: every byte, but for what says when and how fast something was made.

What is left out of a comparison, and why:

- TIMES: fields of JSON and JSON Lines that hold dates, durations, speeds or peak memory, wherever they stand;
- in a record of lineage, the hash of a file that holds such fields, and the key of a stage that reads such a file
  (the files themselves are compared);
- in report.html, the columns of seconds and tokens a second, the peak memory, the beginnings of hashes, and the random
  names that plotly gives to the places of its plots;
- hidden files, which are no outputs, and a store's own bytes: its rows are compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMES = frozenset(
    {
        "made",
        "seconds",
        "peak_memory_bytes",
        "trained_tokens_per_second",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    }
)
SEAL = "files.sha256.json"
"""A checkpoint's own record: the hashes of its files by name."""
RECORDS = ("lineage.json", SEAL)
HASHED = ("inputs", "outputs")
LOCKS = ".locks"  # they stay, and say nothing
STORES = (".sqlite",)
BESIDE_A_STORE = ("-wal", "-shm", "-journal")
SPEEDS = ("seconds", "answer tokens/s")
LONGEST_LINE = 500_000  # plotly's own code is longer, and holds none of ours
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHORT_HASH = re.compile(r'<span class="soft">[0-9a-f]{12}</span>')
PEAK = re.compile(r"peak memory [0-9.]+ GB")
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
CELL = re.compile(r"<(t[hd])([^>]*)>(.*?)</t[hd]>", re.DOTALL)


@dataclass(frozen=True)
class Contents:
    """What a folder holds, in the form that is compared.

    Attributes:
        hashes: by relative name, the hash of a file's comparable form.
        exact: names of the files that were compared whole.
    """

    hashes: dict[str, str]
    exact: frozenset[str]

    def differences(self, other: Contents) -> list[str]:
        """Return the names of files that are missing, extra or different, sorted."""
        names = self.hashes.keys() | other.hashes.keys()
        return sorted(name for name in names if self.hashes.get(name) != other.hashes.get(name))


def contents(folder: Path) -> Contents:
    """Return what a folder holds."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shown = {name: path for name, path in files.items() if not _hidden(name)}
    records = [name for name in shown if Path(name).name in RECORDS]

    forms: dict[str, bytes] = {}
    for name, path in shown.items():
        if name not in records:
            forms[name] = _form(path)
    timed = {name for name in forms if forms[name] != shown[name].read_bytes()} | set(records)
    for name in records:
        forms[name] = _record(shown[name], _seen_from(Path(name).parent, timed))

    exact = frozenset(name for name in forms if forms[name] == shown[name].read_bytes())
    return Contents({name: hashlib.sha256(form).hexdigest() for name, form in forms.items()}, exact)


def leftovers(folder: Path) -> list[str]:
    """Return the hidden files of a folder but for locks: what a killed process left, which no command reads."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and LOCKS not in path.parts and _hidden(str(path.relative_to(folder)))
    )


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts) or name.endswith(BESIDE_A_STORE)


def _form(path: Path) -> bytes:
    """Return a file's comparable form: its bytes, where nothing is left out of it."""
    raw = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _dumped(json.loads(raw), raw)
        if path.suffix == ".jsonl":
            return b"".join(_dumped(json.loads(line), line) for line in raw.splitlines(keepends=True))
    except ValueError:  # half a file: it differs as it is
        return raw
    if path.suffix == ".html":
        return _page(raw.decode()).encode()
    if path.suffix in STORES:
        return _rows(path)
    return raw


def _dumped(value: Any, raw: bytes) -> bytes:
    kept = _without_times(value)
    return raw if kept == value else json.dumps(kept).encode() + b"\n"


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _record(path: Path, timed: set[str]) -> bytes:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:  # half a file: it differs as it is
        return path.read_bytes()
    if path.name == SEAL:
        value = {"outputs": value}
    return json.dumps(_without_hashes(_without_times(value), timed)).encode()


def _seen_from(folder: Path, names: set[str]) -> set[str]:
    """Return the names of files as a record in a folder has them: relative to it."""
    return {str(Path(name).relative_to(folder)) for name in names if Path(name).is_relative_to(folder)}


def _without_hashes(value: Any, timed: set[str]) -> Any:
    if isinstance(value, list):
        return [_without_hashes(item, timed) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_hashes(item, timed) for key, item in value.items()}
    for part in HASHED:
        if isinstance(value.get(part), dict):
            kept[part] = {name: "times in it" if name in timed else hash_ for name, hash_ in value[part].items()}
    if isinstance(value.get("inputs"), dict) and "key" in kept and timed & value["inputs"].keys():
        kept["key"] = "of an input with times in it"
    return kept


def _page(text: str) -> str:
    text = "\n".join(line if len(line) < LONGEST_LINE else _hashed(line) for line in text.split("\n"))
    text = PEAK.sub("peak memory", SHORT_HASH.sub("", UUID.sub("a plot", text)))
    return TABLE.sub(lambda found: _table(found[0]), text)


def _hashed(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _table(text: str) -> str:
    """Return a table of the page without what stands in its columns of speeds."""
    titles = [cell[3] for cell in CELL.finditer(ROW.search(text)[0])] if ROW.search(text) else []  # type: ignore[index]
    speeds = {number for number, title in enumerate(titles) if title in SPEEDS}
    if not speeds:
        return text

    def row(found: re.Match[str]) -> str:
        cells = [
            f"<{cell[1]}{cell[2]}>{'' if n in speeds else cell[3]}" for n, cell in enumerate(CELL.finditer(found[0]))
        ]
        return "".join(cells)

    return ROW.sub(row, text)


def _rows(path: Path) -> bytes:
    """Return the rows of a store of scores, sorted."""
    with closing(sqlite3.connect(path)) as connection:
        return repr(sorted(connection.execute("SELECT * FROM scores"), key=repr)).encode()
