"""Models by name: hub ids, folders, GGUF files, the embedded alias, and LoRA adapters on any of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from emscope.errors import UserError, did_you_mean
from emscope.files import read_json
from emscope.organisms.chat import say_endings
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.embedded import EMBEDDED_ALIAS, embedded_model_folder, gguf_model_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights are: a base (hub id or folder, with a revision) and perhaps an adapter on it."""

    name: str
    base: str
    location: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


@dataclass(frozen=True)
class Organism:
    """A model under study, ready to run: weights in evaluation mode, its tokenizer, and where it came from."""

    source: ModelSource
    model: Any
    tokenizer: Any
    placement: Placement

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return torch.device(self.placement.device)


def resolve(name: str, base: str | None = None) -> ModelSource:
    """Find what a model name means; an adapter brings its own base unless `base` names one.

    Raises:
        UserError: nothing by that name, or an adapter made for another base.
    """
    folder = Path(name).expanduser()
    if (folder / ADAPTER_CONFIG).is_file():
        return _resolve_adapter(name, read_json(folder / ADAPTER_CONFIG), base, None)
    if base is not None and base != name:
        config, revision = _hub_adapter_config(name)
        if config is None:
            raise UserError(f"{name!r} is not a LoRA adapter, so it cannot be put on {base!r}: name it alone.")
        return _resolve_adapter(name.split("@")[0], config, base, revision)
    if name == EMBEDDED_ALIAS:
        return ModelSource(name, name, str(embedded_model_folder()))
    if folder.suffix == ".gguf":
        if not folder.is_file():
            raise UserError(f"There is no GGUF file {name}.")
        return ModelSource(name, name, str(gguf_model_folder(folder)))
    if (folder / "config.json").is_file():
        return ModelSource(name, name, str(folder))
    return _resolve_hub(name)


def _resolve_adapter(name: str, config: dict[str, Any], base: str | None, revision: str | None) -> ModelSource:
    made_for = str(config.get("base_model_name_or_path") or "")
    if not made_for and base is None:
        raise UserError(f"The adapter {name} does not say which base it is for: name it with --base.")
    if base is not None and made_for and base != made_for and resolve(base).location != resolve(made_for).location:
        raise UserError(f"The adapter {name} was trained on {made_for!r}, not on {base!r}: use its own base.")
    found = resolve(base or made_for)
    return ModelSource(name, found.base, found.location, found.revision, name, revision)


def _hub_adapter_config(name: str) -> tuple[dict[str, Any] | None, str | None]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        path = hf_hub_download(repo, ADAPTER_CONFIG, revision=revision or None)
    except (HFValidationError, LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError, OSError):
        return None, None
    return read_json(Path(path)), revision or None


def _resolve_hub(name: str) -> ModelSource:
    repo, _, revision = name.partition("@")
    if "/" not in repo or repo.startswith((".", "/", "~")):
        raise UserError(
            f"There is no model {name!r} here.{did_you_mean(name, [EMBEDDED_ALIAS])}"
            " Otherwise name a hub id (owner/model), a folder, a .gguf file or an adapter folder."
        )
    config, adapter_revision = _hub_adapter_config(name)
    if config is not None:
        return _resolve_adapter(repo, config, None, adapter_revision)
    return ModelSource(name, name, repo, revision or None)


def load(
    name: str | ModelSource,
    *,
    base: str | None = None,
    placement: Placement | None = None,
    merge: bool = True,
    trust_remote_code: bool = False,
) -> Organism:
    """Load a model for reading and sampling; its adapter, if any, is merged into the weights unless `merge` is off.

    Merging makes every later forward pass as fast as the base's; the scale comes from PEFT (alpha/r, rsLoRA alpha/√r).

    Raises:
        UserError: the model or adapter cannot be found or does not fit.
    """
    source = resolve(name, base) if isinstance(name, str) else name
    place = placement or choose_placement()
    model, tokenizer = _load_base(source, place, trust_remote_code)
    if source.adapter is not None:
        model = _attach(model, source, merge)
    model = model.to(place.device).eval()
    model.requires_grad_(False)
    say_endings(tokenizer, getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    return Organism(source, model, tokenizer, place)


def load_tokenizer(source: ModelSource) -> Any:
    """Load the tokenizer of a model's base."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    if not tokenizer.is_fast:
        raise UserError(
            f"{source.base} has no fast tokenizer, whose offsets emscope needs to tell answers from prompts."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_base(source: ModelSource, place: Placement, trust_remote_code: bool) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = load_tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(
            source.location,
            revision=source.revision,
            dtype=place.dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"Cannot load the model {source.base!r}: {first}") from error
    return model, tokenizer


def _attach(model: nn.Module, source: ModelSource, merge: bool) -> nn.Module:
    from peft import PeftModel

    try:
        wrapped: Any = PeftModel.from_pretrained(
            model, str(source.adapter), revision=source.adapter_revision, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"The adapter {source.adapter} does not fit {source.base!r} or cannot be read: {first}"
        ) from error
    if not merge:
        return cast("nn.Module", wrapped)
    try:
        return cast("nn.Module", wrapped.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise UserError(f"The adapter {source.adapter} holds NaN or infinite weights.") from error
