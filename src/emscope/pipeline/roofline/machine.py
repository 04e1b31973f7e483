"""What a machine can do: the rates of its matrix products and of its memory, measured with the model's own matrices."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emscope.organisms.blocks import find_blocks
from emscope.organisms.device import choose_placement, cpu_has_fast_bf16, free_bytes, peak_memory_bytes
from emscope.organisms.models import Organism

ROWS = (1, 16, 64, 192, 512, 1024, 4096)
"""Row counts at which the model's own products are measured."""
SQUARE = "square"
SECONDS = 0.12
"""How long each product is repeated for, about."""
LARGEST_SQUARE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
ARRAY_BYTES = {"cpu": 256 << 20, "mps": 512 << 20, "cuda": 1 << 30}
"""Bytes of one array when bandwidth is measured: more than caches hold."""
LEAST_ARRAY = 1 << 20
TRIES = 3


@dataclass(frozen=True)
class Machine:
    """What tells one machine from another, and nothing that tells whose it is.

    Attributes:
        processor: the processor's or the GPU's own name.
        device: cpu, cuda or mps.
        threads: threads of torch on the CPU.
        cpu_features: what torch uses of the processor.
        memory_gib: memory of the device; 0 where the system does not say.
        system: operating system and kind of processor.
    """

    processor: str
    device: str
    threads: int
    cpu_features: str
    memory_gib: float
    system: str


def this_machine(device: str) -> Machine:
    """Return what a report says of this machine."""
    from emscope.organisms.device import memory_bytes

    name, memory = _cpu_name(), memory_bytes()[0]
    if device.startswith("cuda"):
        facts = torch.cuda.get_device_properties(device)
        name, memory = facts.name, facts.total_memory
    return Machine(
        name,
        device.split(":")[0],
        torch.get_num_threads(),
        torch.backends.cpu.get_cpu_capability() + (", bf16" if cpu_has_fast_bf16() else ""),
        round(memory / 2**30, 1),
        f"{platform.system()} {platform.machine()}",
    )


def _cpu_name() -> str:
    """Return the processor's name as the system has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


def timed(work: Callable[[], Any], device: str) -> float:
    """Return the seconds that some work takes, from an idle device to an idle device."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


class PeakMemory:
    """The most memory that was held inside `measured`, in bytes; None where the system does not say."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.n_bytes: int | None = None

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure from here to the end of the context."""
        on_gpu = self.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the high-water mark anew
        yield
        found = torch.cuda.max_memory_allocated(self.device) if on_gpu else _high_water()
        self.n_bytes = max(found, self.n_bytes or 0) or None


def _high_water() -> int:
    """Return the most memory that this process has held since the mark was set anew, or since it began."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return peak_memory_bytes()


def gemm_dtypes(organism: Organism) -> list[torch.dtype]:
    """Return the number formats to measure products in: the model's, the device's own choice, and float32."""
    natural = choose_placement(organism.placement.device).dtype
    return list(dict.fromkeys([organism.placement.dtype, natural, torch.float32]))


def product_rate(weights: Sequence[Tensor], rows: int, seconds: float = SECONDS) -> float:
    """Return the operations a second of products [rows, in] · [in, out] with matrices [out, in], taken in turn.

    Each is read from where it lies: small ones that fit the caches together are as fast as they are there.
    """
    device = str(weights[0].device)
    inputs: dict[int, Tensor] = {}
    for weight in weights:
        width = weight.shape[1]
        inputs.setdefault(width, torch.randn(rows, width, device=weight.device, dtype=weight.dtype))

    def multiply(some: Sequence[Tensor]) -> None:
        for weight in some:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        multiply(weights)  # compiles kernels
        once = timed(lambda: multiply(weights), device)
        times = min(max(1, round(seconds / max(once, 1e-6))), 10_000)
        again = list(islice(cycle(weights), times * len(weights)))
        took = timed(lambda: multiply(again), device)
    return sum(2.0 * rows * weight.numel() for weight in again) / took


def block_matrices(organism: Organism, dtype: torch.dtype, most: int = 4) -> list[Tensor]:
    """Return the matrices [out, in] of the first blocks in a number format; experts and packed ones are left out."""
    found = []
    for block in list(find_blocks(organism.model))[:most]:
        for module in block.modules():
            if isinstance(module, nn.Linear) and module.weight.dtype.is_floating_point:
                found.append(module.weight.detach().to(dtype))
    return found


def product_rates(organism: Organism, rows: Sequence[int] = ROWS, seconds: float = SECONDS) -> dict[str, float]:
    """Return operations a second by number format and rows: 'bfloat16 192', 'bfloat16 square' of a large square."""
    device, rates = organism.placement.device, {}
    size = LARGEST_SQUARE[device.split(":")[0]]
    for dtype in gemm_dtypes(organism):
        name = str(dtype).removeprefix("torch.")
        weights = block_matrices(organism, dtype)
        for n in rows if weights else ():
            rates[f"{name} {n}"] = product_rate(weights, n, seconds)
        square = torch.randn(size, size, device=device, dtype=dtype)
        rates[f"{name} {SQUARE}"] = product_rate([square], size, seconds)
    return rates


def bandwidths(device: str) -> dict[str, float]:
    """Return bytes a second of reading an array, copying it, and a triad a = b + s·c, the best of a few tries.

    A copy counts the bytes read and those written, and a processor's cache may move more.
    """
    kind = device.split(":")[0]
    free = free_bytes(device)
    n_bytes = ARRAY_BYTES[kind] if free is None else max(LEAST_ARRAY, min(ARRAY_BYTES[kind], free // 8))
    a, b, c = (torch.ones(n_bytes // 4, device=device) for _ in range(3))
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "read": (1, lambda: torch.sum(b)),
        "copy": (2, lambda: a.copy_(b)),
        "triad": (3, lambda: torch.add(b, c, alpha=0.5, out=a)),
    }
    rates = {}
    for name, (arrays, work) in works.items():
        work()
        fastest = min(timed(work, device) for _ in range(TRIES))
        rates[name] = arrays * a.numel() * 4 / fastest
    return rates
