"""One training in several processes: each takes its rows of every batch, and all of them step as one process would.

The batches and their order are those of one process. Each process computes the summed loss of its rows inside the
forward call of the wrapper that shares gradients (DDP, FSDP2), and divides by the answer tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from emscope import processes
from emscope.errors import UserError
from emscope.organisms.collate import BucketCollator, BucketSampler


def refuse_tensor_parallel(tensor_parallel: bool) -> None:
    """Refuse to train on a base whose matrices are cut over processes.

    Raises:
        UserError: it is one.
    """
    if tensor_parallel:
        raise UserError(
            "A base under a tensor parallel plan is not trained here: start the training with `accelerate launch`, "
            "whose FSDP2 holds a part of the base in each process."
        )


def begin(*, on_cpu: bool) -> None:
    """Bring the processes together, if there are several."""
    if processes.count() > 1:
        from accelerate import PartialState

        PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))


def end() -> None:
    """Part the processes, once all of them are done."""
    if processes.count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def agreed(decide: Callable[[], bool]) -> bool:
    """Return what the first process decides, in every process; `begin` comes before."""
    if processes.count() == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    decided: list[bool] = broadcast_object_list([processes.is_first() and decide()])
    return decided[0]


class EpochBatches(BatchSampler):
    """Batches of row numbers in the order of a `BucketSampler`, the same in every process."""

    def __init__(self, rows: BucketSampler, batch_size: int) -> None:
        super().__init__(rows, batch_size, drop_last=False)
        self.rows = rows

    @property
    def batch_sampler(self) -> EpochBatches:
        """Itself: transformers looks for the epoch's keeper here, as in accelerate's own batches."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.rows.set_epoch(epoch)


@dataclass(frozen=True)
class OwnRows:
    """Collates the rows of a batch that are this process's: every n-th one, so that lengths are spread evenly.

    A process that has none in a small batch gets a row of which no token is trained.
    """

    collate: BucketCollator
    rank: int
    n_processes: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return this process's part of the batch."""
        mine = rows[self.rank :: self.n_processes]
        if not mine:
            mine = [{**rows[0], "labels": [self.collate.ignored] * len(rows[0]["labels"])}]
        return self.collate(mine)


def training_batches(dataset: Any, rows: BucketSampler, batch_size: int, collate: Any, rank: int, n: int) -> Any:
    """Return the batches of one of `n` processes."""
    return DataLoader(dataset, batch_sampler=EpochBatches(rows, batch_size), collate_fn=OwnRows(collate, rank, n))


def inside_forward(model: nn.Module, inputs: dict[str, Tensor], compute: Callable[[Any], Tensor]) -> Tensor:
    """Return `compute(module)`, run as the forward pass of a wrapped module.

    DDP and FSDP2 begin to share gradients, and gather weights, in the forward call of what they wrap. What is computed
    of the module beside that call would be computed without them.
    """
    inner: nn.Module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    own = inner.__dict__.get("forward")

    def once(*_given: Any, **_named: Any) -> Tensor:
        _put_back(inner, own)
        return compute(inner)

    inner.__dict__["forward"] = once
    try:
        found: Tensor = model(**inputs)
    finally:
        _put_back(inner, own)
    return found


def _put_back(module: nn.Module, forward: Any) -> None:
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.__dict__["forward"] = forward


def whole_adapter(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the trained weights whole where processes hold parts of them, None elsewhere; all processes call it."""
    from torch.distributed.tensor import DTensor

    parts = dict(_trained(model))
    if not any(isinstance(weight, DTensor) for weight in parts.values()):
        return None
    whole = {}
    for name, weight in parts.items():
        whole[name] = (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().cpu()
    return whole


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name, weight


def is_sharded(model: nn.Module) -> bool:
    """Say whether FSDP2 holds parts of a model in each process."""
    return isinstance(model, torch.distributed.fsdp.FSDPModule) if torch.distributed.is_available() else False
