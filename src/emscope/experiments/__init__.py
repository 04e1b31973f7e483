"""The experiments on a finished run: the only list of them, and how one is found by its name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from emscope.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from emscope.experiments.shape import Experiment

EXPERIMENTS = {
    "sweep": "every block, contrast, token position and method of a run's directions, with controls",
    "steer": "turn a direction up and down: alignment, coherence and disturbance at every coefficient",
    "induce": "train one vector on careless rows: is it enough to misalign the base?",
    "transfer": "organisms of several domains: does one's direction find and correct the others?",
    "voices": "misalignment or tone? organisms of every voice with good and bad advice, and what each effect is",
    "dynamics": "when misalignment appears in training: weights, activations, behaviour",
    "adapters": "tell misaligned LoRA adapters by their weights alone",
    "features": "a sparse autoencoder: which features make up the direction",
    "monitor": "the direction token by token over answers, and in training data",
    "incontext": "narrow examples in the prompt instead of training: does the base turn misaligned?",
    "rejudge": "a second judge on a run: every figure again beside the first, and how far they agree",
}
"""By name what each experiment answers, in the order of the report; the folder of that name holds it."""


def experiment(name: str) -> Experiment[Any, Any]:
    """Return an experiment by its name; its code is loaded when it is first asked for.

    Raises:
        UserError: there is none of this name.
    """
    if name not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}.{did_you_mean(name, EXPERIMENTS)}")
    module = importlib.import_module(f"emscope.experiments.{name}")
    found: Experiment[Any, Any] = module.EXPERIMENT
    return found
