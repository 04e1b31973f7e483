"""A model with its adapter's update multiplied by a factor: what a fine-tune would be, had it gone further that way."""

from __future__ import annotations

from dataclasses import replace

from peft.tuners.lora import LoraLayer

from emscope.organisms.device import Placement
from emscope.organisms.models import ModelSource, Organism, load


def load_scaled(source: str | ModelSource, factor: float, *, placement: Placement | None = None) -> Organism:
    """Load a model with its adapter merged at `factor` times its own scale; 0 is the base, 1 what `load` returns.

    Raises:
        UserError: the model or adapter cannot be found or does not fit.
    """
    organism = load(source, placement=placement, merge=False)
    for module in organism.model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(factor)
    return replace(organism, model=organism.model.merge_and_unload(safe_merge=True).eval())
