"""A model with a LoRA adapter on it, ready to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from emscope.errors import UserError
from emscope.organisms.blocks import check_blocks, find_blocks

if TYPE_CHECKING:
    from emscope.organisms.train import TrainSettings


def with_adapter(model: Any, settings: TrainSettings) -> Any:
    """Return the model wrapped by PEFT with a fresh adapter where the settings say.

    Raises:
        UserError: an unknown block or module.
    """
    from peft import LoraConfig, get_peft_model

    targets = list(settings.targets)
    blocks = check_blocks(settings.blocks, len(find_blocks(model))) if settings.blocks else None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        use_rslora=settings.rslora,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        layers_to_transform=blocks,
        task_type="CAUSAL_LM",
    )
    if blocks is not None and targets == ["all-linear"]:
        config.target_modules = _linear_names(find_blocks(model))
    model.requires_grad_(True)
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {str(error).splitlines()[0]}") from error
    # a name here would be looked up on the hub at every checkpoint; it is written into the saved files instead
    wrapped.peft_config["default"].base_model_name_or_path = None
    return wrapped


def _linear_names(blocks: torch.nn.Module) -> set[str]:
    return {name.split(".")[-1] for name, module in blocks.named_modules() if isinstance(module, torch.nn.Linear)}
