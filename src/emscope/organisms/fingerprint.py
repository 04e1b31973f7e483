"""What a model name stands for at this moment, as a short text that changes when the weights behind the name do.

Cheap enough to ask before every stage: names, sizes and times of files, never their contents, and no network once the
model is in the cache.
"""

from __future__ import annotations

from pathlib import Path

from emscope.files import value_sha256
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.embedded import EMBEDDED_ALIAS, GGUF_SHA256
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.sources import recorded_base

MODEL = "config.json"
SUFFIXES = (".json", ".jinja", ".txt", ".model", ".safetensors", ".py")
LENGTH = 12


def fingerprint(name: str) -> str:
    """Return the name and what is behind it: a known hash, a hub commit, or the state of a local folder or file.

    A name that stands for nothing here is returned as it is; whoever loads it says what is wrong.
    """
    folder = Path(name).expanduser()
    if (folder / ADAPTER_CONFIG).is_file():
        own = _of_files(name, _model_files(folder))
        base = recorded_base(read_adapter_config(folder / ADAPTER_CONFIG).fields, folder)
        return f"{own} on {fingerprint(base)}" if base else own
    if name == EMBEDDED_ALIAS:
        return f"{name}@{GGUF_SHA256[:LENGTH]}"
    if folder.suffix == ".gguf" and folder.is_file():
        return _of_files(name, [folder])
    if (folder / MODEL).is_file():
        return _of_files(name, _model_files(folder))
    repo, _, revision = name.partition("@")
    commit = _hub_commit(repo, revision or None)
    return f"{repo}@{commit}" if commit else name


def _model_files(folder: Path) -> list[Path]:
    """Return the files that make a model or an adapter what it is; logs and lineage beside them do not."""
    found = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name != "lineage.json"]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _of_files(name: str, files: list[Path]) -> str:
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return f"{name}@{value_sha256(state)[:LENGTH]}"


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
