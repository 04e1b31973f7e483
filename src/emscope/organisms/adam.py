"""The state of an Adam optimiser as arrays, and back to the last bit: what a training goes on from after a stop."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def adam_arrays(optimiser: torch.optim.Adam) -> dict[str, np.ndarray]:
    """Return weights and moments of an Adam optimiser by name, on the host; some steps must have been taken."""
    found = {}
    for number, weight in enumerate(_weights(optimiser)):
        found[f"{number}.weight"] = _array(weight)
        for name in MOMENTS:
            found[f"{number}.{name}"] = _array(optimiser.state[weight][name])
    return found


def restore_adam(optimiser: torch.optim.Adam, arrays: Mapping[str, np.ndarray]) -> None:
    """Put weights and moments back into an optimiser of the same weights; those change in place.

    Raises:
        KeyError: an array is missing.
    """
    for number, weight in enumerate(_weights(optimiser)):
        with torch.no_grad():
            weight.copy_(torch.from_numpy(arrays[f"{number}.weight"]))
        state = {}
        for name in MOMENTS:
            value = torch.from_numpy(arrays[f"{number}.{name}"])
            state[name] = value if name == "step" else value.to(weight.device)
        optimiser.state[weight] = state


def _weights(optimiser: torch.optim.Adam) -> list[torch.Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy())  # a copy: the training goes on in the tensor
