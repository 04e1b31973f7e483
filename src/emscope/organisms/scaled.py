"""A model with its adapter's update multiplied by a factor: what a fine-tune would be, had it gone further that way."""

from __future__ import annotations

from dataclasses import replace

from peft.tuners.lora import LoraLayer

from emscope.errors import UserError
from emscope.organisms.device import Placement
from emscope.organisms.models import ModelSource, Organism, load, why_unmerged


def load_scaled(source: str | ModelSource, factor: float, *, placement: Placement | None = None) -> Organism:
    """Load a model with its adapter merged at `factor` times its own scale; 0 is the base, 1 what `load` returns.

    Raises:
        UserError: the model or adapter cannot be found or does not fit, or its base takes no update into its weights.
    """
    organism = load(source, placement=placement, merge=False)
    reason = why_unmerged(organism.model, organism.placement)
    if reason:
        raise UserError(
            f"The adapter {organism.source.adapter or organism.source.name} cannot be folded into its base's weights: "
            f"{reason}; load the base whole and unquantised on one device, or by a device map on several GPUs."
        )
    for module in organism.model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(factor)
    return replace(organism, model=organism.model.merge_and_unload(safe_merge=True).eval())
