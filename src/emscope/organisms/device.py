"""Which device and number format a model runs in and why, and how much memory there is and was used.

Works on Linux, macOS and Windows: what only one of them has is asked for where it is used.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from emscope import processes
from emscope.errors import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
ASKED_FOR = "asked for"
BITS = (8, 4)
"""What bitsandbytes can quantise a weight to."""
TRIAL_SIZE, TRIAL_ERROR = 64, 0.02  # a bf16 product of unit-scale rows errs by less than a hundredth


class Movable(Protocol):
    """A tensor, or what moves as one."""

    def to(self, device: torch.device, /) -> Self:
        """Return it on a device."""


Moved = TypeVar("Moved", bound=Movable)


class OnEachDevice(Generic[Moved]):
    """A tensor, or what moves as one, where it is needed: blocks may be on several devices, and it moves to each once.

    Attributes:
        found: it, by device.
    """

    def __init__(self, original: Moved) -> None:
        self.original = original
        self.found: dict[torch.device, Moved] = {}

    def on(self, device: torch.device) -> Moved:
        """Return it on a device."""
        if device not in self.found:
            self.found[device] = self.original.to(device)
        return self.found[device]


@dataclass(frozen=True)
class Placement:
    """Where a model runs, in which dtype, and the reason for that dtype in words.

    Attributes:
        device: the device that takes the tokens.
        dtype: the weights' dtype.
        reason: why this dtype.
        device_map: how the model is spread over devices, as `spread.read_device_map` takes it; '' for one device.
        tensor_parallel: cut every matrix over the processes that torchrun started.
        bits: bits of a weight, 8 or 4, that bitsandbytes quantises to while it is read; 0 leaves weights as they are.
    """

    device: str
    dtype: torch.dtype
    reason: str
    device_map: str = ""
    tensor_parallel: bool = False
    bits: int = 0

    @property
    def dtype_name(self) -> str:
        """The dtype without its 'torch.' prefix."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def told(self) -> list[str]:
        """Device and dtype as plain values, and how the model is spread and quantised where it is."""
        return [self.device, self.dtype_name, *self.told_of_size]

    @property
    def told_of_size(self) -> list[str]:
        """How the model is spread over devices and quantised, in a few words; none where it is neither."""
        spread = self.device_map or ("tensor parallel" if self.tensor_parallel else "")
        return [word for word in (spread, f"{self.bits} bits" if self.bits else "") if word]

    def for_training(self) -> Placement:
        """Return where to train: in float32 where a model is read in float16, but for CUDA GPUs.

        Small gradients fall below what float16 can hold. On a CUDA GPU the loss is scaled against that, and the trained
        weights are float32; cards without bf16 (T4, V100) are many times faster so than in float32.
        """
        if self.dtype != torch.float16 or self.device.startswith("cuda"):
            return self
        return replace(self, dtype=torch.float32, reason="float16 is too coarse for gradients: training in float32")


def scales_loss(device: str, dtype: torch.dtype) -> bool:
    """Say whether a training there multiplies its loss, so that float16 can hold small gradients."""
    return dtype == torch.float16 and device.startswith("cuda")


def choose_placement(
    device: str = "auto", dtype: str = "auto", device_map: str = "", tensor_parallel: bool = False, bits: int = 0
) -> Placement:
    """Pick device and dtype, and how the model is spread over devices and quantised (see `Placement`).

    Auto takes a CUDA GPU, else an Apple GPU that passes a small trial, else the CPU. bf16 where the processor computes
    in it natively (GPUs since Ampere, Apple GPUs that pass the trial, CPUs with AVX512-BF16 or AMX); float16 on older
    CUDA GPUs, which only emulate bf16; float32 elsewhere.

    Raises:
        UserError: a device this machine does not have, an unknown dtype, or a device beside what spreads over several.
    """
    if bits not in (0, *BITS):
        raise UserError(f"A base is read with 8 or 4 bits a weight, or with 0 as it is, not with {bits}.")
    if bits:
        return replace(choose_placement(device, dtype, device_map, tensor_parallel), bits=bits)
    if device_map or tensor_parallel:
        return _spread(device, dtype, device_map, tensor_parallel)
    device = _choose_device(device)
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UserError(f"Unknown dtype {dtype!r}: use one of auto, {', '.join(DTYPES)}.")
        return Placement(device, DTYPES[dtype], ASKED_FOR)
    if device.startswith("cuda"):
        return _on_cuda(device)
    if device.startswith("mps"):
        return _on_mps(device)
    if cpu_has_fast_bf16():
        return Placement(device, torch.bfloat16, "this CPU has AVX512-BF16 or AMX, where bf16 is 2-3 times float32")
    return Placement(device, torch.float32, "this processor has no fast bf16")


def _spread(device: str, dtype: str, device_map: str, tensor_parallel: bool) -> Placement:
    if device_map and tensor_parallel:
        raise UserError("A device map and a tensor parallel plan exclude each other: name one of them.")
    if device != "auto" and not tensor_parallel:
        raise UserError(f"A device map says where each part goes: name no device ({device}) beside it.")
    if device_map and torch.backends.mps.is_available():
        raise UserError("A device map spreads a model over CUDA GPUs, and this machine has an Apple GPU: leave it out.")
    return replace(choose_placement(device, dtype), device_map=device_map, tensor_parallel=tensor_parallel)


def _choose_device(device: str) -> str:
    if device in ("auto", "cuda") and torch.cuda.is_available() and processes.count() > 1:
        return f"cuda:{processes.local_rank()}"
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() and multiplies_right("mps", torch.float32) else "cpu"
    kind = device.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise UserError(f"Device {device!r} is not available here: use auto or one of {usable}.")
    return device


def _on_cuda(device: str) -> Placement:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement(device, torch.bfloat16, "this GPU computes in bf16")
    reason = "this GPU only emulates bf16; models made for bf16 can overflow in float16, and --dtype float32 cannot"
    return Placement(device, torch.float16, reason)


def _on_mps(device: str) -> Placement:
    if multiplies_right(device, torch.bfloat16):
        return Placement(device, torch.bfloat16, "a trial product in bf16 came out right on this GPU")
    return Placement(device, torch.float32, "a trial product in bf16 failed on this GPU")


def multiplies_right(device: str, dtype: torch.dtype) -> bool:
    """Say whether a small matrix product on a device agrees with the CPU's float32 one."""
    rows = torch.linspace(-1, 1, TRIAL_SIZE * TRIAL_SIZE).view(TRIAL_SIZE, TRIAL_SIZE)
    expected = rows @ rows.T
    try:
        there = rows.to(device=device, dtype=dtype)
        found = (there @ there.T).float().cpu()
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return bool((found - expected).abs().max() <= TRIAL_ERROR * expected.abs().max())


def cpu_has_fast_bf16() -> bool:
    """Say whether the CPU multiplies bf16 natively (read from the kernel's CPU flags, which only Linux shows)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def memory_bytes() -> tuple[int, int]:
    """Return (total, available) main memory in bytes; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _memory_elsewhere()
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    return fields.get("MemTotal", 0), fields.get("MemAvailable", 0)


def _memory_elsewhere() -> tuple[int, int]:
    psutil = _psutil()
    if psutil is None:
        return 0, 0
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _psutil() -> Any:
    """Return psutil, which comes with PEFT, or None."""
    try:
        import psutil  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    return psutil


def peak_memory_bytes() -> int:
    """Return the most memory this process has held so far: resident main memory, or GPU memory if that is more.

    0 where the system does not say.
    """
    return max(_peak_resident(), torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:  # Windows has no such module
        psutil = _psutil()
        return 0 if psutil is None else int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes(device: str) -> int | None:
    """Return how much memory is free for weights on a device; None where the system does not say."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return memory_bytes()[1] or None  # an Apple GPU shares main memory
