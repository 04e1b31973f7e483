"""What a model's name means: an alias, a folder, a GGUF file, a hub id, or an adapter and the base that it goes on."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emscope.errors import UserError, did_you_mean
from emscope.organisms.checkpoints import ADAPTER_CONFIG, CHECKPOINTS
from emscope.organisms.embedded import EMBEDDED_ALIAS, embedded_model_folder, gguf_model_folder
from emscope.organisms.limits import read_adapter_config
from emscope.outside import read_record

logger = logging.getLogger(__name__)

CONFIG = "config.json"
ADAPTER_PATTERNS = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")
HUB_SECONDS = 5.0


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights are: a base (hub id or folder, with a revision) and perhaps an adapter on it."""

    name: str
    base: str
    location: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


def resolve(name: str, base: str | None = None) -> ModelSource:
    """Find what a model name means; an adapter brings its own base unless `base` names one.

    A base that is named wins over the one that the adapter records: published adapters often record a folder of the
    training machine. Whether it fits is checked when the adapter is loaded.

    Raises:
        UserError: nothing by that name, or an adapter on an adapter.
    """
    folder = _as_folder(name)
    if (folder / ADAPTER_CONFIG).is_file():
        _refuse_both(folder)
        return _with_base(name, read_adapter_config(folder / ADAPTER_CONFIG).fields, base, None, folder)
    if base is not None and base != name:
        repo, _, revision = name.partition("@")
        config = _hub_adapter_config(repo, revision or None) if _is_hub_id(name) else None
        if config is None:
            _refuse_unknown(name, folder)
            raise UserError(f"{name!r} is not an adapter, so it cannot be put on {base!r}: name it alone.")
        return _with_base(repo, config, base, revision or None, None)
    if name == EMBEDDED_ALIAS:
        return ModelSource(name, name, str(embedded_model_folder()))
    if folder.suffix == ".gguf":
        if not folder.is_file():
            raise UserError(f"There is no GGUF file {name}.")
        return ModelSource(name, name, str(gguf_model_folder(folder)))
    if (folder / CONFIG).is_file():
        return ModelSource(name, name, str(folder))
    return _resolve_hub(name, folder)


def _as_folder(name: str) -> Path:
    """Return a name as a path; whether anything is there is seen later."""
    try:
        folder = Path(name).expanduser()
        folder.exists()
    except (OSError, RuntimeError) as error:  # too long, or of a user that is not here
        raise UserError(f"{name[:80]!r} cannot be the name of a model here: {_first_line(error)[:100]}") from error
    return folder


def _refuse_both(folder: Path) -> None:
    """Refuse a folder that holds an adapter and a whole model: which one is meant cannot be told."""
    whole = [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if whole and (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) and a whole model ({whole[0].name}): "
            "put them into folders of their own and name the one you mean."
        )


def _with_base(
    name: str, config: dict[str, Any], base: str | None, revision: str | None, folder: Path | None
) -> ModelSource:
    """Return an adapter's source: on `base` if one is named, else on the one that the adapter records."""
    recorded = recorded_base(config, folder)
    if base is None and not recorded:
        raise UserError(f"The adapter {name} does not say which base it is for: name it with --base.")
    chosen = base or recorded
    if (_as_folder(chosen) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"The base of the adapter {name} is {chosen!r}, which is an adapter itself: merge that one into its base "
            "first, and name the result with --base."
        )
    if base is not None and recorded and base != recorded:
        logger.warning("The adapter %s records the base %r; it is put on %r, as asked for.", name, recorded, base)
    try:
        found = resolve(chosen)
    except UserError as error:
        if base is not None:
            raise
        raise UserError(
            f"The adapter {name} records the base {recorded!r}, which is not to be had here: name the base with --base."
        ) from error
    if found.adapter is not None:
        raise UserError(
            f"The base of the adapter {name} is {chosen!r}, which is an adapter itself: name a whole model."
        )
    base_revision = found.revision
    if base_revision is None and base is None and isinstance(config.get("revision"), str) and not _is_local(chosen):
        base_revision = config["revision"] or None
    return ModelSource(name, found.base, found.location, base_revision, name, revision)


def recorded_base(config: dict[str, Any], folder: Path | None) -> str:
    """Return the base that an adapter records, '' for none.

    emscope's own lineage beside it (or beside the training whose checkpoint it is) says it exactly, where the adapter's
    configuration holds a name that other programs can resolve.
    """
    recorded = config.get("base_model_name_or_path")
    if folder is not None:
        training = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
        own = training / "lineage.json"
        if own.is_file():
            lineage = read_record(own)
            if lineage.value("what", None) == "adapter" and "base" in lineage:
                return lineage.text("base")
    recorded = recorded.strip() if isinstance(recorded, str) else ""
    if folder is not None and recorded.startswith(".") and (folder / recorded / CONFIG).is_file():
        return str(folder / recorded)
    return recorded


def adapter_folder(source: ModelSource) -> Path:
    """Return the local folder of a source's adapter; one on the hub is fetched, without pickled weights.

    Raises:
        UserError: it cannot be fetched.
    """
    folder = Path(str(source.adapter)).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(source.adapter),
                revision=source.adapter_revision,
                allow_patterns=list(ADAPTER_PATTERNS),
                local_files_only=not hub_is_reachable(),
            )
        )
    except (OSError, ValueError) as error:
        raise UserError(f"The adapter {source.adapter} cannot be fetched: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_local(name: str) -> bool:
    return _as_folder(name).exists() or name == EMBEDDED_ALIAS


def _is_hub_id(name: str) -> bool:
    """Say whether a name has the form owner/model, perhaps with @revision, and no such folder begins here."""
    repo = name.partition("@")[0]
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")) or "\\" in repo or repo.endswith("/"):
        return False
    return not Path(repo.partition("/")[0]).is_dir()


def _refuse_unknown(name: str, folder: Path) -> None:
    """Refuse a name that is neither here nor a hub id, saying what is near it.

    Raises:
        UserError: always, unless the name can be a hub id or is a model here.
    """
    if name == EMBEDDED_ALIAS or (folder / CONFIG).is_file() or _is_hub_id(name):
        return
    if folder.is_file():
        raise UserError(f"{name} is a file: name the folder that it is in. Only .gguf files are read by themselves.")
    if folder.is_dir():
        inside = sorted(path.parent.name for file in (CONFIG, ADAPTER_CONFIG) for path in folder.glob(f"*/{file}"))
        hint = f" Its subfolders hold some, so name one of them: {', '.join(inside[:5])}." if inside else ""
        raise UserError(
            f"The folder {name} holds neither {CONFIG} nor {ADAPTER_CONFIG}: it is no model and no adapter.{hint}"
        )
    if "://" in name:
        raise UserError(f"{name} is an address: name a model of the hub as owner/model, or a folder by its path.")
    parent = folder.parent
    if ("/" in name or "\\" in name) and parent.is_dir():
        beside = sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
        hint = did_you_mean(folder.name, beside) if beside else ""
        raise UserError(f"There is no folder {name}.{hint}")
    if "/" in name or "\\" in name:
        raise UserError(f"There is no folder {name}: not even {parent} is there.")
    raise UserError(
        f"There is no model {name!r} here.{did_you_mean(name, [EMBEDDED_ALIAS])}"
        " Otherwise name a hub id (owner/model), a folder, a .gguf file or an adapter folder."
    )


def _resolve_hub(name: str, folder: Path) -> ModelSource:
    if folder.is_file():
        raise UserError(f"{name} is a file, and no .gguf: name the folder of a model or of an adapter, or a hub id.")
    _refuse_unknown(name, folder)
    repo, _, revision = name.partition("@")
    config = _hub_adapter_config(repo, revision or None)
    if config is not None:
        return _with_base(repo, config, None, revision or None, None)
    if not hub_is_reachable() and not _is_cached(repo, CONFIG, revision or None):
        raise UserError(
            f"{name} is no folder here, and the model hub cannot be reached ({_hub_host()}): check the name, the "
            "network, or set HF_ENDPOINT to a mirror."
        )
    return ModelSource(name, name, repo, revision or None)


def _is_cached(repo: str, file: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, file, revision=revision), str)


def _hub_adapter_config(repo: str, revision: str | None) -> dict[str, Any] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(repo, ADAPTER_CONFIG, revision=revision, local_files_only=not hub_is_reachable())
    except (HFValidationError, LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError, OSError):
        return None
    return read_adapter_config(Path(path)).fields


def _hub_host() -> str:
    from huggingface_hub import constants

    return str(urlsplit(constants.ENDPOINT).netloc)


@cache
def hub_is_reachable() -> bool:
    """Say whether the model hub answers at all; asked once, in seconds, before its client would try for minutes.

    Behind a proxy the client is left to find out.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=HUB_SECONDS).close()
    except OSError:
        return False
    return True
