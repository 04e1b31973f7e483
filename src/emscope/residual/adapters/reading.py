"""A LoRA adapter's factors, module by module, read from its safetensors file with the scale that PEFT gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from emscope.errors import OutsideError, UserError
from emscope.organisms.bounded import check_patterns
from emscope.organisms.building import Held, bounded_building
from emscope.organisms.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emscope.organisms.limits import ADAPTER_REMEDY, patterns_of, read_adapter_config
from emscope.organisms.models import ModelSource, resolve
from emscope.organisms.tensor_file import TensorFile, computing, open_tensors
from emscope.organisms.weights import empty_model
from emscope.outside import quoted, reading
from emscope.residual.adapters.lowrank import LowRank

WRITERS = ("o_proj", "down_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "fc2")
"""Names of the modules whose output is added to the residual stream, in the architectures that emscope knows."""
KEEP_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of PEFT's `init_lora_weights` that leave the base's weights as they are; pissa, olora, loftq … change them."""

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class AdapterWeights:
    """An open adapter file; factors are read when they are asked for.

    Attributes:
        name: what to call it.
        base: the model it was made for.
        scales: by module of the base, alpha/rank or alpha/√rank as PEFT computed it.
    """

    name: str
    base: str
    scales: Mapping[str, float]
    file: TensorFile

    @property
    def modules(self) -> list[str]:
        """Names of the base's modules that the adapter changes, in the order of the file."""
        return list(self.scales)

    def update(self, module: str) -> LowRank | None:
        """Return a module's update, or None where the adapter has none.

        Raises:
            UserError: the factors are not finite.
        """
        if module not in self.scales:
            return None
        a, b = self._factor(f"{_PREFIX}{module}{_A}"), self._factor(f"{_PREFIX}{module}{_B}")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise UserError(f"The adapter {self.name} holds NaN or infinite weights in {module}.")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise OutsideError(self.file.path, f"holds factors of {module} that do not fit each other", ADAPTER_REMEDY)
        return LowRank(a, b, self.scales[module])

    def _factor(self, name: str) -> np.ndarray:
        tensor = self.file.tensor(name)
        with computing(self.file.path):
            return tensor.to(torch.float32).numpy(force=True)


def open_adapter(folder: Path, name: str = "") -> AdapterWeights:
    """Open a PEFT folder with a plain LoRA adapter.

    Raises:
        UserError: no adapter there, another kind of adapter (DoRA, saved modules, one whose start changed the base's
            weights), or a damaged file.
    """
    path = folder / ADAPTER_WEIGHTS
    if not (folder / ADAPTER_CONFIG).is_file() or not path.is_file():
        raise UserError(f"{folder} is no adapter folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}.")
    file = open_tensors(path)
    keys = set(file.names)
    modules = [key.removeprefix(_PREFIX).removesuffix(_A) for key in sorted(keys, key=_by_block) if key.endswith(_A)]
    expected = {f"{_PREFIX}{module}{_A}" for module in modules} | {f"{_PREFIX}{module}{_B}" for module in modules}
    if not modules or keys != expected:
        odd = sorted(keys ^ expected)
        raise UserError(
            f"{path} holds more than the factors of linear layers ({odd[0] if odd else 'nothing'}), which BA alone"
            " does not describe."
        )
    source = resolve(str(folder))
    fields = read_adapter_config(folder / ADAPTER_CONFIG).fields
    if fields.get("peft_type") != "LORA" or fields.get("use_dora"):
        raise UserError(f"{folder} is not a plain LoRA adapter (DoRA and others are more than BA).")
    start = fields.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in KEEP_BASE:
        raise UserError(
            f"{folder} was begun with init_lora_weights={quoted(start)}, which changes the base's weights too, so BA is"
            " not its update: save it as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)."
        )
    neutral = {**fields, "init_lora_weights": True, "base_model_name_or_path": None}
    scales = _scales(source, folder, json.dumps(neutral, sort_keys=True))
    for module in modules:
        if module not in scales:
            raise UserError(f"The adapter {folder} changes {module}, which {source.base} does not have.")
    return AdapterWeights(name or folder.name, source.base, {module: scales[module] for module in modules}, file)


def block_of(module: str) -> int:
    """Return the number of the block that a module belongs to.

    Raises:
        UserError: the module is in no block.
    """
    found = re.search(r"\.(\d{1,6})\.", module)
    if found is None:
        raise UserError(f"The module {module} belongs to no decoder block.")
    return int(found.group(1))


def kind_of(module: str) -> str:
    """Return the last part of a module's name, such as down_proj."""
    return module.rpartition(".")[2]


def _by_block(key: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\.(\d{1,6})\.", key)], key


@lru_cache(maxsize=64)
def _scales(source: ModelSource, folder: Path, config: str) -> dict[str, float]:
    """Return the scale of every module, by putting the adapter's configuration on a base without weights."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    path = folder / ADAPTER_CONFIG
    with torch.device("meta"):
        base = empty_model(source)
        with reading(path, "a configuration that PEFT reads", ADAPTER_REMEDY):
            lora = LoraConfig.from_peft_type(**json.loads(config))
        check_patterns(patterns_of(vars(lora)), [name for name, _ in base.named_modules()], path)
        with (
            reading(path, f"that of an adapter which fits {source.base!r}", ADAPTER_REMEDY),
            bounded_building(Held.by([folder / ADAPTER_WEIGHTS]), path, ADAPTER_REMEDY),
        ):
            wrapped = get_peft_model(base, lora, low_cpu_mem_usage=True)
    return {
        name.removeprefix(_PREFIX): float(module.scaling["default"])
        for name, module in wrapped.named_modules()
        if isinstance(module, LoraLayer)
    }
