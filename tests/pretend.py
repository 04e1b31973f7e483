"""Pretended devices: tensors on `pretend:0` and `pretend:1` that are computed on the CPU, and refuse to mix.

A machine without a GPU cannot show that hooks move what they need to where a block is. Here each operation looks at its
tensors first: two that lie on different devices, one of them more than a single number, are an error, as on GPUs. What
CUDA allows (copies, an index that lies on the CPU) is allowed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
CPU = torch.device("cpu")
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"}


class MixedDevicesError(RuntimeError):
    """An operation with tensors of two devices."""


class Pretended(torch.Tensor):
    """A tensor that says it is on a pretended device, around one on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=False,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """Return the values."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the CPU."""
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    with _Factories():
        parts = func.decompose(*args, **kwargs)  # inference mode hands whole composites in
    if parts is not NotImplemented:
        return parts
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    meant = args[:1] if name in INDEXED else (args, kwargs)
    where = {leaf.device for leaf in tree_leaves(meant) if isinstance(leaf, torch.Tensor) and leaf.dim()}
    if name in INDEXED:
        others = {tensor.device for tensor in tensors if tensor.dim()}
        where |= others - {CPU}
    if len(where) > 1 and name != "aten::copy_":
        raise MixedDevicesError(f"{func} on {sorted(map(str, where))}")

    asked = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    args, kwargs = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
    if asked:
        device = asked[0]
    elif name == "aten::copy_" or not where:
        device = tensors[0].device if tensors else CPU
    else:
        device = next(iter(where))
    given, named = tree_map_only(Pretended, lambda tensor: tensor.held, (args, kwargs))
    out = func(*given, **named)
    if name.endswith("_") and isinstance(args[0], Pretended):
        return args[0]
    return out if device.type == "cpu" else tree_map_only(torch.Tensor, lambda tensor: Pretended(tensor, device), out)


class _Factories(TorchDispatchMode):
    """Has tensors made on a pretended device be pretended ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Has tensors that Python's numbers become made on the CPU and moved: torch makes them unseen otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return func(*args, **named).to(device)
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=named.get("dtype", args[0].dtype)).to(args[0].device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = args[0], tuple(torch.tensor(one) if isinstance(one, list) else one for one in where), *args[2:]
        return func(*args, **named)


@contextmanager
def devices() -> Iterator[None]:
    """Have pretended devices inside this context."""
    with _Factories(), _Made():
        yield


def put(module: torch.nn.Module, device: str) -> None:
    """Move a module to a pretended device, with accelerate's own hook on it that moves what it is given there."""
    for inside in module.modules():
        for kind in (inside._parameters, inside._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    moved = tensor.detach().to(device)
                    is_weight = kind is inside._parameters
                    kind[name] = torch.nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
    add_hook_to_module(module, AlignDevicesHook(execution_device=device, io_same_device=False, place_submodules=True))


def spread(model: Any, first: str = "pretend:0", second: str = "pretend:1") -> Any:
    """Put the blocks of a tiny model on two devices, as a device map of accelerate does, and return it.

    A backward pass works on the CPU and `pretend:0` alone: torch counts one device of a backend in Python.
    """
    parts = {"model.embed_tokens": first, "model.rotary_emb": first}
    n_blocks = len(model.model.layers)
    for number in range(n_blocks):
        parts[f"model.layers.{number}"] = first if number < n_blocks // 2 else second
    parts |= {"model.norm": second, "lm_head": second}
    for name, device in parts.items():
        put(model.get_submodule(name), device)
    model.hf_device_map = parts
    return model
