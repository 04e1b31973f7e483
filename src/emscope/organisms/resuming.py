"""Whether training can go on from a checkpoint: its settings, weights and state fit this model and this machine.

The trainer finds out in the middle, at the first step. Nothing is unpickled (`weights_only`).
"""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope.errors import OutsideError, UserError
from emscope.organisms.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS, REMEDY, STATE, step_of
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.tensor_file import open_tensors
from emscope.outside import read_record, reading

MUST_MATCH = ("r", "lora_alpha", "use_rslora", "lora_dropout")


def check_resumable(checkpoint: Path, model: Any) -> None:
    """Refuse a checkpoint that training of a PEFT model could not go on from.

    Raises:
        UserError: it was trained with other settings.
        OutsideError: a file of it is damaged, or of another training.
    """
    _check_settings(checkpoint, model.peft_config["default"])
    _check_trainer_state(checkpoint / STATE, step_of(checkpoint))
    _check_weights(checkpoint / ADAPTER_WEIGHTS, model)
    if (checkpoint / "optimizer.pt").is_file():
        _check_optimizer(checkpoint / "optimizer.pt", model)
    if (checkpoint / "rng_state.pth").is_file():
        _check_random_state(checkpoint / "rng_state.pth")
    for path in (checkpoint / "scheduler.pt", checkpoint / "scaler.pt"):
        if path.is_file():
            with reading(path, "a state of training", REMEDY):
                torch.load(path, weights_only=True, map_location="cpu")


def _check_settings(checkpoint: Path, adapter: Any) -> None:
    """See that a checkpoint's adapter was trained with this configuration (PEFT's)."""
    known = read_adapter_config(checkpoint / ADAPTER_CONFIG)
    for name in MUST_MATCH:
        before, now = known.value(name, None), getattr(adapter, name)
        if before is not None and before != now:
            raise UserError(
                f"{checkpoint} was trained with {name} {before}, not {now}: go on with that, or train anew in another "
                "folder."
            )


def _check_trainer_state(path: Path, step: int) -> None:
    from transformers import TrainerState

    state = read_record(path, remedy=REMEDY)
    unknown = sorted(set(state.fields) - {field.name for field in fields(TrainerState)})
    if unknown:
        raise OutsideError(path, f"says {unknown[0][:80]!r}, which this transformers does not know", REMEDY)
    if state.whole("global_step") != step:
        raise state.wrong("global_step", f"{step} as the folder's name says", state.fields["global_step"])
    state.number("epoch", 0.0)
    for name in ("max_steps", "num_train_epochs", "save_steps", "logging_steps", "eval_steps"):
        if state.fields.get(name) is not None:
            state.number(name)
    if state.fields.get("train_batch_size") is not None:
        state.whole("train_batch_size")


def _check_weights(path: Path, model: Any) -> None:
    from peft import get_peft_model_state_dict

    file = open_tensors(path)
    stored = {name: file.shape(name) for name in file.names}
    learned = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(learned):
        if stored.get(name) != tuple(learned[name].shape):
            raise OutsideError(path, f"is of an adapter of another shape ({name})", "train anew in another folder")


def _check_optimizer(path: Path, model: Any) -> None:
    """Refuse an optimiser's state whose moments have other shapes than what is trained."""
    with reading(path, "the state of an optimiser", REMEDY):
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        n_trained = sum(len(group["params"]) for group in state["param_groups"])
        moments: set[tuple[int, ...]] = set()
        for values in state["state"].values():
            for tensor in values.values():
                if isinstance(tensor, Tensor) and tensor.dim() > 0:
                    moments.add(tuple(tensor.shape))
    trained = [tuple(parameter.shape) for parameter in model.parameters() if parameter.requires_grad]
    if n_trained != len(trained) or moments - set(trained):
        raise OutsideError(path, "is the state of an optimiser of other weights", REMEDY)


def _check_random_state(path: Path) -> None:
    """Refuse a state that no generator takes."""
    from transformers.trainer_pt_utils import safe_globals

    with reading(path, "the state of random generators", REMEDY), safe_globals():
        state = torch.load(path, weights_only=True)
        random.Random().setstate(state["python"])
        np.random.RandomState().set_state(state["numpy"])
        torch.Generator().set_state(state["cpu"])
