"""What a model name stands for at this moment, as a short text that changes when the weights behind the name do.

A folder or a file of this machine is known by its contents, so that a copy is the same model wherever it lies. Reading
them takes about a second a gigabyte. Hashes are kept in the cache beside each file's size, times and number, none of
which a program can change back at will; `checked` reads the contents all the same, once in a process.
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError, UserError
from emscope.files import file_sha256, value_sha256, write_json
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.embedded import EMBEDDED_ALIAS, GGUF_SHA256, cache_folder
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.sources import recorded_base

logger = logging.getLogger(__name__)

MODEL = "config.json"
SUFFIXES = (".json", ".jinja", ".txt", ".model", ".safetensors", ".py")
LENGTH = 12
FILES = "files"
"""What the fingerprint of files begins with; others begin with the model's name."""
LARGE = 4 << 30
READERS = 4
SETTLED_NS = 2 * 10**9
"""A file that was changed this shortly before it was hashed can be changed again without another time."""

_read_here: dict[tuple[str, tuple[int, ...]], str] = {}


def fingerprint(name: str, *, checked: bool = False) -> str:
    """Return what is behind a name: a known hash, a hub commit, or the contents of a local folder or file.

    A name that stands for nothing here is returned as it is; whoever loads it says what is wrong.

    Args:
        name: a model's or an adapter's name.
        checked: read local files even where their hashes are known.
    """
    folder, files = _local(name)
    if files:
        own = f"{FILES}@{_contents(files, checked=checked, named=folder.is_dir())}"
        base = _base_of(folder)
        return f"{own} on {fingerprint(base, checked=checked)}" if base else own
    if name == EMBEDDED_ALIAS:
        return f"{name}@{GGUF_SHA256[:LENGTH]}"
    repo, _, revision = name.partition("@")
    commit = _hub_commit(repo, revision or None)
    return f"{repo}@{commit}" if commit else name


def is_local(known: str) -> bool:
    """Say whether a fingerprint is that of local files."""
    return known.startswith(f"{FILES}@")


def earlier_fingerprint(name: str) -> str:
    """Return the fingerprint that earlier versions gave local files: by name, sizes and times, not by contents."""
    folder, files = _local(name)
    if not files:
        return fingerprint(name)
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    own = f"{name}@{value_sha256(state)[:LENGTH]}"
    base = _base_of(folder)
    return f"{own} on {earlier_fingerprint(base)}" if base else own


def _local(name: str) -> tuple[Path, list[Path]]:
    """Return where a name leads on this machine, and the files there that count; none where it stands for others."""
    folder = Path(name).expanduser()
    if (folder / ADAPTER_CONFIG).is_file():
        return folder, _model_files(folder)
    if name != EMBEDDED_ALIAS and folder.suffix == ".gguf" and folder.is_file():
        return folder, [folder]
    if name != EMBEDDED_ALIAS and (folder / MODEL).is_file():
        return folder, _model_files(folder)
    return folder, []


def _base_of(folder: Path) -> str:
    """Return the base that an adapter's folder records, '' for none.

    Raises:
        UserError: one that records itself as its base, by way of others or at once.
    """
    seen: list[Path] = []
    base, at = "", folder
    while (at / ADAPTER_CONFIG).is_file():
        if at.resolve() in seen:
            raise OutsideError(folder / ADAPTER_CONFIG, "names a base that is put on itself", "name the model")
        seen.append(at.resolve())
        recorded = recorded_base(read_adapter_config(at / ADAPTER_CONFIG).fields, at)
        base = base or recorded
        at = Path(recorded).expanduser()
        if not recorded:
            break
    return base


def _model_files(folder: Path) -> list[Path]:
    """Return the files that make a model or an adapter what it is; logs and lineage beside them do not."""
    model_files = []
    for path in sorted(folder.iterdir()):
        is_shown = path.is_file() and not path.name.startswith(".")
        if is_shown and path.suffix in SUFFIXES and path.name != "lineage.json":
            model_files.append(path)
    return model_files


def _contents(files: list[Path], *, checked: bool, named: bool) -> str:
    """Return a short hash of files' contents, and of their names where these tell them apart."""
    size = sum(path.stat().st_size for path in files)
    if checked and size > LARGE and any(_key(path) not in _read_here for path in files):
        logger.info("reading %.0f GB of %s to see that they are as they were", size / 1e9, files[0].parent)
    with ThreadPoolExecutor(READERS) as readers:
        hashes = list(readers.map(lambda path: _sha256(path, checked=checked), files))
    state = [[path.name if named else "", known] for path, known in zip(files, hashes, strict=True)]
    return value_sha256(state)[:LENGTH]


def _sha256(path: Path, *, checked: bool) -> str:
    """Return the hash of a file's bytes: read here before, known to the cache, or read now."""
    key = _key(path)
    if key in _read_here:
        return _read_here[key]
    note = cache_folder() / "hashes" / f"{value_sha256(key[0])[:32]}.json"
    known = None if checked else _noted(note, key[1])
    if known is not None:
        return known
    began = time.time_ns()
    found = file_sha256(path)
    if _key(path) == key and began - max(key[1][1:3]) > SETTLED_NS:
        _read_here[key] = found
        with suppress(UserError, OSError):  # it only saves time
            write_json(note, {"file": key[0], "state": list(key[1]), "sha256": found})
    return found


def _key(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return a file's place and its size, times in ns, and number on its drive."""
    real = path.resolve()
    state = real.stat()
    return str(real), (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def _noted(note: Path, state: tuple[int, ...]) -> str | None:
    try:
        known: Any = json.loads(note.read_text(encoding="utf-8"))
        same = known["state"] == list(state) and isinstance(known["sha256"], str)
        return known["sha256"] if same else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _hub_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit that the cache holds of a hub model; its config is fetched if the cache knows none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    if repo.count("/") != 1:
        return None
    try:
        for file in (MODEL, ADAPTER_CONFIG):
            known = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(known, str):
                return Path(known).parent.name
        return Path(hf_hub_download(repo, MODEL, revision=revision)).parent.name
    except (HFValidationError, EntryNotFoundError, HfHubHTTPError, OSError):
        return None
