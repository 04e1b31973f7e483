"""Organisms for Python: by name, from files, or a model and tokenizer that are loaded already."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from emscope.errors import UserError
from emscope.organisms import models
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.guard import check_ids
from emscope.organisms.models import ModelSource, Organism
from emscope.organisms.selfcheck import forward_faults
from emscope.organisms.templates import check_template, template_source
from emscope.organisms.tokenizer_files import check_tokenizer


def load(
    model: Any,
    tokenizer: Any = None,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str = "",
    tensor_parallel: bool = False,
    bits: int = 0,
    merge: bool = True,
    trust_remote_code: bool = False,
    name: str = "",
) -> Organism:
    """Return an organism, checked before it counts: from a name, or of a model that is loaded already.

    Args:
        model: `smollm2-135m`, a hub id (`owner/model`, `@revision`), a folder, a `.gguf` file or an adapter on any of
            them; or a loaded causal model of transformers or PEFT, which is put into evaluation mode and stays where
            and as it is.
        tokenizer: a loaded model's fast tokenizer, with a chat template; a copy of it is used.
        base: the base of an adapter that does not name its own.
        device: auto, cpu, cuda, cuda:1 or mps; for models by name.
        dtype: auto, bfloat16, float32 or float16; for models by name.
        device_map: spread the blocks over devices: auto, balanced, balanced_low_0, sequential, or a file with a device
            for each module; for models by name.
        tensor_parallel: cut every matrix over the processes that torchrun started; for models by name.
        bits: quantise weights to 8 or 4 bits while they are read (bitsandbytes); for models by name.
        merge: merge an adapter into the weights where that changes no logit.
        trust_remote_code: run code that comes with a hub model. Only for authors you trust.
        name: what a loaded model is called in tables and figures; by default what its configuration says.

    Raises:
        UserError: nothing by that name, a tokenizer without chat template, or a model that emscope does not read right.
    """
    if isinstance(model, Organism):
        return model
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UserError("A model by name brings its own tokenizer: leave it out, or hand in the loaded model too.")
        place = choose_placement(device, dtype, device_map, tensor_parallel, bits)
        return models.load(str(model), base=base, placement=place, merge=merge, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        raise UserError("A loaded model needs its tokenizer: em.load(model, tokenizer).")
    if (base, device, dtype, device_map, tensor_parallel, bits) != (None, "auto", "auto", "", False, 0):
        raise UserError(
            "base, device, dtype, device_map, tensor_parallel and bits are for models by name: a loaded model stays "
            "where and as it is."
        )
    return of_loaded(model, tokenizer, name)


def of_loaded(model: Any, tokenizer: Any, name: str = "") -> Organism:
    """Return the organism of a model and tokenizer that are loaded already.

    Raises:
        UserError: the tokenizer is slow or has no chat template, or what emscope reads of the model is not what its
            own forward pass gives.
    """
    called = name or str(getattr(getattr(model, "config", None), "_name_or_path", "")) or type(model).__name__
    tokenizer = _checked_tokenizer(tokenizer, called)
    weight = _embedding(model, called)
    model.eval()
    place = Placement(str(weight.device), weight.dtype, "as it was loaded")

    models.usable_pad(tokenizer, weight.shape[0])
    models.check_tokens(tokenizer, weight.shape[0], called)
    faults = forward_faults(model, check_ids(tokenizer, weight.shape[0]), dtype=place.dtype)
    if faults:
        raise UserError(
            f"emscope does not read {called!r} ({type(model).__name__}) right: {'; '.join(faults)}. "
            "Figures of it would be wrong, so it is refused."
        )
    return Organism(ModelSource(called, called, called), model, tokenizer, place)


def _checked_tokenizer(tokenizer: Any, name: str) -> Any:
    """Return a copy of a tokenizer that can tell answers from prompts."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{name} has no fast tokenizer, whose offsets emscope needs to tell answers from prompts.")
    template_source(tokenizer)
    check_tokenizer(tokenizer, name)
    check_template(tokenizer, name)
    return deepcopy(tokenizer)


def _embedding(model: Any, name: str) -> torch.Tensor:
    """Return the weight of a loaded model's embedding, which says where it is and in which dtype."""
    try:
        weight = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError) as error:
        raise UserError(
            f"{name} is no causal language model of transformers: hand in the model itself, such as what "
            "AutoModelForCausalLM.from_pretrained returns."
        ) from error
    if not isinstance(weight, torch.Tensor) or weight.is_meta:
        raise UserError(f"The weights of {name} are not in memory: load them before you hand the model in.")
    return weight
