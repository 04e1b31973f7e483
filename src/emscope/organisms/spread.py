"""A base over several devices: which block is where, by a device map of accelerate or a tensor parallel plan.

A device map puts whole blocks on devices and runs them one after another; hidden states travel. A tensor parallel plan
of transformers cuts the matrices of every block over the processes that torchrun started; what blocks pass on is whole
in each process. Both are transformers' own; here they are asked for, and what came of it is checked.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from emscope import processes
from emscope.errors import UserError, did_you_mean
from emscope.organisms.device import Placement
from emscope.outside import read_yaml

logger = logging.getLogger(__name__)

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Words for a map that accelerate works out from the free memory of each device."""

DeviceMap = str | dict[str, int | str]


def read_device_map(text: str) -> DeviceMap:
    """Return a device map: one of `STRATEGIES`, or devices by module, written out or in a JSON or YAML file.

    Raises:
        UserError: another word, an unreadable file, or what names no device for each module.
    """
    if text in STRATEGIES:
        return text
    written = text.lstrip().startswith("{")
    if not written and not Path(text).expanduser().is_file():
        raise UserError(
            f"The device map {text!r} is none of {', '.join(STRATEGIES)} and no file.{did_you_mean(text, STRATEGIES)}"
        )
    found = _written(text) if written else read_yaml(Path(text).expanduser())
    if not isinstance(found, dict) or not found:
        raise UserError(f"The device map {text!r} must give a device for each module, for example {_EXAMPLE}.")
    chosen: dict[str, int | str] = {}
    for module, device in found.items():
        if isinstance(device, bool) or not isinstance(device, int | str):
            raise UserError(f"The device map gives {module} the device {device!r}: write a number, 'cpu' or 'cuda:1'.")
        chosen[str(module)] = device
    _refuse_disk("This device map", [module for module, device in chosen.items() if device == "disk"])
    return chosen


_EXAMPLE = json.dumps({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1})


def _written(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The device map {text!r} cannot be read: write {_EXAMPLE}.") from error


def check_tensor_parallel() -> None:
    """Refuse a tensor parallel plan in one process: nothing would be cut.

    Raises:
        UserError: there is one process.
    """
    if processes.count() < 2:
        raise UserError(
            "A tensor parallel plan needs one process for each GPU, and here is one process: start it with "
            "`torchrun --nproc-per-node N -m emscope …`, or give a device map."
        )


def loading_arguments(place: Placement) -> dict[str, Any]:
    """Return what `from_pretrained` is told of where a model goes; nothing where it is moved afterwards."""
    if place.tensor_parallel:
        from transformers.distributed import DistributedConfig

        check_tensor_parallel()
        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {"device_map": read_device_map(place.device_map)} if place.device_map else {}


def check_spread(model: nn.Module, name: str) -> None:
    """Refuse a model of which a part was put on a disk, and say where its parts are.

    Raises:
        UserError: with the parts.
    """
    placed: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    _refuse_disk(f"The device map of {name!r}", [part for part, device in placed.items() if device == "disk"])
    devices = Counter(str(device) for device in placed.values())
    if len(devices) > 1:
        where = ", ".join(f"{number} on {device}" for device, number in devices.items())
        logger.info("The parts of %s: %s.", name, where)
    if is_offloaded(model):
        logger.warning(
            "Some parts of %s lie in main memory and are copied to a GPU for each forward pass, which is many times "
            "slower: more or larger GPUs, or a base in 8 or 4 bits, would hold it.",
            name,
        )


def is_offloaded(model: Any) -> bool:
    """Say whether some parts of a model lie in main memory while a GPU computes."""
    kinds = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    return "cpu" in kinds and len(kinds) > 1


def is_spread(model: Any) -> bool:
    """Say whether a model lies on more than one device, by a device map."""
    return len({str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}) > 1


def _refuse_disk(what: str, parts: list[str]) -> None:
    if parts:
        shown = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
        raise UserError(
            f"{what} puts {len(parts)} parts on the disk ({shown}), which would be read again for every forward pass: "
            "use more or larger GPUs, a base in 8 or 4 bits, or a smaller dtype."
        )
