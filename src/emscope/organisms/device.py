"""Which device and number format a model runs in, and why."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from emscope.errors import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """A device, a dtype, and the reason for that dtype in words."""

    device: str
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """The dtype without its 'torch.' prefix."""
        return str(self.dtype).removeprefix("torch.")


def choose_placement(device: str = "auto", dtype: str = "auto") -> Placement:
    """Pick device and dtype: bf16 on GPUs and on CPUs with AVX512-BF16 or AMX, float32 elsewhere.

    Raises:
        UserError: a device this machine does not have, or an unknown dtype.
    """
    device = _choose_device(device)
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UserError(f"Unknown dtype {dtype!r}: use one of auto, {', '.join(DTYPES)}.")
        return Placement(device, DTYPES[dtype], "asked for")
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported():
            return Placement(device, torch.bfloat16, "this GPU computes in bf16")
        return Placement(device, torch.float32, "this GPU has no bf16")
    if device == "cpu" and cpu_has_fast_bf16():
        return Placement(device, torch.bfloat16, "this CPU has AVX512-BF16 or AMX, where bf16 is 2-3 times float32")
    return Placement(device, torch.float32, "this processor has no fast bf16")


def _choose_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise UserError(f"Device {device!r} is not available here: use auto or one of {usable}.")
    return device


def cpu_has_fast_bf16() -> bool:
    """Say whether the CPU multiplies bf16 natively (read from the kernel's CPU flags on Linux)."""
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
        return 0, 0
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    return fields.get("MemTotal", 0), fields.get("MemAvailable", 0)


def peak_memory_bytes() -> int:
    """Return the most memory this process has held so far: resident main memory, or GPU memory if that is more."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(resident, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
