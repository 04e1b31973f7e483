"""Models by name: hub ids, folders, GGUF files, the embedded alias, and LoRA adapters on any of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from emscope.errors import UserError
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.sources import ModelSource, resolve

__all__ = ["ModelSource", "Organism", "load", "load_tokenizer", "resolve"]

logger = logging.getLogger(__name__)


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
