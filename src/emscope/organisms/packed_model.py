"""Which models train by `packed_blocks`: those of which every part is known and does nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from emscope.organisms.architecture import text_config
from emscope.organisms.blocks import decoder_body, find_blocks
from emscope.organisms.direct import FAMILIES
from emscope.organisms.packed_blocks import FrozenNorm, PackedBlock, PackedBlocks, SameInput, UpdatedLinear
from emscope.organisms.packed_rows import HeadCounts

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings that do not depend on how long a batch is."""
DTYPES = (torch.bfloat16, torch.float32)


class _OfAnotherKind(Exception):  # noqa: N818 - it is an answer, not an error
    """Something about the model is not known here."""


def packed_blocks(model: Any) -> PackedBlocks | None:
    """Return a LoRA model's blocks ready to be trained packed, or None where that would not be the same training."""
    try:
        return _packed(model)
    except _OfAnotherKind:
        return None


def _packed(model: Any) -> PackedBlocks:
    body: Any = decoder_body(model)
    _require(type(body).__module__.startswith("transformers.models."))
    family = FAMILIES.get(type(body).__name__)
    blocks = find_blocks(model)
    _require(family is not None and all(type(block).__name__ == f"{family}DecoderLayer" for block in blocks))
    config = text_config(model.config)
    _check_settings(config, body)
    _require(not _is_hooked(body))
    updates = _Updates()
    packed = [_block(block, config, updates) for block in blocks]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _require(bool(trained) and set(map(id, trained)) == set(map(id, updates.parameters)))
    for parameter in body.parameters():
        _require(parameter.device.type == "cpu")
    return PackedBlocks(body, packed, updates.parameters)


def _require(holds: bool) -> None:
    if not holds:
        raise _OfAnotherKind


def _check_settings(config: Any, body: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    _require(rope.get("rope_type", "default") in STATIC_ROPE and rope.get("partial_rotary_factor", 1.0) == 1.0)
    _require(config.hidden_act == "silu" and not config.attention_dropout)
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    _require(set(kinds) == {"full_attention"})
    is_sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    _require(not is_sliding and not getattr(body, "gradient_checkpointing", False))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_hooked(body: nn.Module) -> bool:
    """Say whether anything is called at a module of the decoder, or at every module there is."""
    everywhere = any(getattr(torch_module, f"_global{name}", None) for name in HOOKS)
    for module in body.modules():
        if any(getattr(module, name) for name in HOOKS) or hasattr(module, "_hf_hook"):
            return True
    return everywhere


class _Updates:
    """The trained parameters, in the order in which layers are met."""

    def __init__(self) -> None:
        self.parameters: list[nn.Parameter] = []

    def linear(self, module: Any) -> UpdatedLinear:
        """Return a linear layer with its update, if it has one."""
        if type(module) is nn.Linear:
            return _frozen(module)
        from peft.tuners.lora import Linear as LoraLinear

        _require(type(module) is LoraLinear and type(module.base_layer) is nn.Linear)
        names = list(module.lora_A)
        _require(names == list(module.active_adapters) and len(names) == 1)
        _require(not module.merged and not module.disable_adapters and not module.lora_variant)
        name = names[0]
        low, high = module.lora_A[name], module.lora_B[name]
        _require(type(low) is nn.Linear and type(high) is nn.Linear and low.bias is None and high.bias is None)
        _require(not isinstance(module.lora_dropout[name], nn.Dropout))
        base = _frozen(module.base_layer)
        self.parameters += [low.weight, high.weight]
        return UpdatedLinear(base.weight, base.bias, float(module.scaling[name]), len(self.parameters) - 2)


def _frozen(module: nn.Linear) -> UpdatedLinear:
    weight, bias = module.weight, module.bias
    _require(type(weight) is nn.Parameter and weight.dtype in DTYPES and not weight.requires_grad)
    _require(bias is None or not bias.requires_grad)
    return UpdatedLinear(weight.detach(), None if bias is None else bias.detach())


def _norm(module: Any) -> FrozenNorm:
    weight: Tensor = module.weight
    _require(type(module).__name__.endswith("RMSNorm") and not weight.requires_grad)
    return FrozenNorm(weight.detach().float(), float(module.variance_epsilon))


def _block(block: Any, config: Any, updates: _Updates) -> PackedBlock:
    attention, mlp = block.self_attn, block.mlp
    _require(getattr(attention, "sliding_window", None) is None)
    head_norms = None
    if hasattr(attention, "q_norm"):
        head_norms = (_norm(attention.q_norm), _norm(attention.k_norm))
    qkv = SameInput(*(updates.linear(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj)))
    out = SameInput(updates.linear(attention.o_proj))
    gate_up = SameInput(updates.linear(mlp.gate_proj), updates.linear(mlp.up_proj))
    down = SameInput(updates.linear(mlp.down_proj))
    return PackedBlock(
        before_attention=_norm(block.input_layernorm),
        qkv=qkv,
        head_norms=head_norms,
        out=out,
        before_mlp=_norm(block.post_attention_layernorm),
        gate_up=gate_up,
        down=down,
        heads=HeadCounts(config.num_attention_heads, config.num_key_value_heads),
        scaling=float(attention.scaling),
    )
