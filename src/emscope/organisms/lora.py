"""A model with a LoRA adapter on it, ready to train."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from emscope.errors import UserError
from emscope.organisms.architecture import is_multimodal
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.organisms.settings import TrainSettings


def with_adapter(model: Any, settings: TrainSettings) -> Any:
    """Return the model wrapped by PEFT with a fresh adapter where the settings say.

    Raises:
        UserError: an unknown block or module, or quantised weights through which no gradient flows.
    """
    _refuse_without_gradient(model)
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            use_rslora=settings.rslora,
            lora_dropout=settings.dropout,
            target_modules=target_modules(model, settings),
            task_type="CAUSAL_LM",
        )
        if not getattr(model, "is_quantized", False):  # integers take no gradient, and PEFT freezes them anyway
            model.requires_grad_(True)
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {str(error).splitlines()[0]}") from error
    # a name here would be looked up on the hub at every checkpoint; it is written into the saved files instead
    wrapped.peft_config["default"].base_model_name_or_path = None
    return wrapped


def _refuse_without_gradient(model: Any) -> None:
    for name, weight in model.named_parameters():
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            raise UserError(
                f"bitsandbytes has packed {name} for reading on this CPU, and its product has no gradient: train on a "
                "GPU, or load the base with emscope, which keeps it from packing."
            )


def target_modules(model: Any, settings: TrainSettings) -> str | list[str]:
    """Return what gets an adapter, as PEFT wants it: 'all-linear', names, or the whole paths of modules.

    PEFT's 'all-linear' reaches beyond the decoder's blocks in models that also see, and its choice of blocks takes
    no such word; whole paths say exactly what is meant.

    Raises:
        UserError: an unknown block, or a name that no module of the blocks has.
    """
    targets = list(settings.targets)
    if not settings.blocks and not is_multimodal(model.config):
        return "all-linear" if targets == ["all-linear"] else targets
    blocks = find_blocks(model)
    chosen = check_blocks(settings.blocks or range(len(blocks)), len(blocks))
    wanted: set[int] = set()
    for block in chosen:
        wanted |= set(map(id, _targeted(blocks[block], targets)))
    return [name for name, module in model.named_modules() if id(module) in wanted]


def _targeted(block: nn.Module, targets: list[str]) -> list[nn.Module]:
    """Return the linear modules of a block that the targets name; all of them for 'all-linear'."""
    chosen: dict[str, nn.Module] = {}
    known: set[str] = set()
    for name, module in block.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            short = name.split(".")[-1]
            known.add(short)
            if targets == ["all-linear"] or short in targets or name in targets:
                chosen[name] = module

    for target in targets:
        is_there = target == "all-linear" or any(name.endswith(target) for name in chosen)
        if not chosen or not is_there:
            raise UserError(f"No module of the blocks is named {target!r}: they have {', '.join(sorted(known))}.")
    return list(chosen.values())
