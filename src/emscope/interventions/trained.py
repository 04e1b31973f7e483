"""Steering vectors trained by gradient: one vector at one block, everything else frozen.

A difference in means says where organisms differ; a trained vector says what one vector can do. It is added at every
position, as `add` adds it, and learns by the loss on answer tokens alone. Sources: Dunefsky & Cohan 2502.18862, whose
vectors trained on one narrow task misalign a model elsewhere; Soligo et al. 2602.07852 train them on narrow advice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.errors import UserError
from emscope.organisms.adam import adam_arrays, restore_adam
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.blocks import check_blocks, find_blocks, visiting
from emscope.organisms.chat import IGNORED, EncodedChat
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.models import Organism
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.directions import Construction, Directions, unit


@dataclass(frozen=True)
class VectorSettings:
    """How a steering vector is trained.

    Attributes:
        epochs: passes over the rows.
        rate: peak step of Adam, as a share of the mean answer activation's length; falls to 0 along a cosine.
        warmup: share of the steps in which the step grows.
        batch_size: conversations a step.
        max_length: longest conversation in tokens; longer ones are cut at their end.
        seed: order of the rows.
    """

    epochs: float = 4
    rate: float = 0.1
    warmup: float = 0.05
    batch_size: int = 8
    max_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that train nothing."""
        if min(self.epochs, self.rate, self.batch_size, self.max_length) <= 0 or not 0 <= self.warmup < 1:
            raise UserError("A vector needs epochs, a rate, a batch size and a length above 0, and a warm-up below 1.")


@dataclass(frozen=True)
class TrainedVector:
    """A vector as directions of one block, and how its training went.

    Attributes:
        directions: the vector; its aligned mean is the unsteered model's over the same answers.
        losses: mean loss of the answer tokens of each step, nats.
        seconds: how long it took.
    """

    directions: Directions
    losses: list[float]
    seconds: float


def train_vector(
    organism: Organism, chats: Sequence[EncodedChat], block: int, settings: VectorSettings, data: str
) -> TrainedVector:
    """Train the vector that, added after `block` at every position, makes the answers of `chats` likeliest.

    `data` names the rows in the construction. The organism stays as it was.

    Raises:
        UserError: no chats, or a block that the model does not have.
    """
    check_blocks([block], len(find_blocks(organism.model)))
    read = capture(organism, chats, CaptureSettings(("response",), blocks=(block,)), name="reading answers")
    means = read.pooled["response"][:, 0]
    length = float(np.linalg.norm(means.mean(axis=0)))
    vector = torch.zeros(means.shape[1], device=organism.device, requires_grad=True)
    started = time.perf_counter()
    slot = parts.Slot("vector", lambda: _inputs(organism, chats, block, settings, data, length))
    losses = _fit(organism, chats, block, vector, settings, settings.rate * length / np.sqrt(len(vector)), slot)
    trained = vector.detach().cpu().numpy()
    construction = Construction(
        "trained",
        data,
        "response",
        "resid_post",
        f"base + vector at block {block}",
        "base",
        organism.source.name,
        len(chats),
        {"epochs": settings.epochs, "rate": settings.rate, "seed": settings.seed},
    )
    deviation = (means @ unit(trained)).std()
    directions = Directions(
        trained[None],
        (means.mean(axis=0) + trained)[None],
        means.mean(axis=0)[None],
        np.maximum(deviation, 1e-6)[None].astype(np.float32),
        (block,),
        construction,
    )
    return TrainedVector(directions, losses, slot.seconds_before + time.perf_counter() - started)


def _inputs(
    organism: Organism, chats: Sequence[EncodedChat], block: int, settings: VectorSettings, data: str, length: float
) -> list[Any]:
    """Return all that a vector is made of."""
    rows = [[chat.ids, chat.labels] for chat in chats]
    return [organism.placement.told, rows, block, asdict(settings), data, length]


def _fit(
    organism: Organism,
    chats: Sequence[EncodedChat],
    block: int,
    vector: Tensor,
    settings: VectorSettings,
    step: float,
    slot: parts.Slot,
) -> list[float]:
    """Move the vector down the loss, from where an earlier start was stopped, and return the loss of each step."""
    batches = _batches(organism, chats, settings)
    warm = max(1, round(settings.warmup * len(batches)))
    optimiser = torch.optim.Adam([vector], lr=step)
    losses: list[float] = []
    if slot.begun is not None:
        losses = list(slot.begun.value)
        restore_adam(optimiser, slot.begun.arrays)

    narrow = organism.placement.dtype == torch.float16 and organism.device.type in ("cuda", "cpu")
    scaler = torch.amp.GradScaler(organism.device.type, enabled=narrow)  # float16 cannot hold small gradients

    def state() -> parts.Part:
        return parts.Part(losses, adam_arrays(optimiser))

    add = lambda _block, hidden: hidden + vector.to(hidden)  # noqa: E731
    with visiting(organism.model, [block], add), progress.task("training a vector", len(batches), "steps") as advance:
        advance(len(losses))
        for done in range(len(losses), len(batches)):
            rate = min(1.0, (done + 1) / warm) * 0.5 * (1 + np.cos(np.pi * done / len(batches)))
            optimiser.param_groups[0]["lr"] = step * rate
            total, n = answer_loss(organism.model, *batches[done])
            optimiser.zero_grad()
            scaler.scale(total / n).backward(inputs=[vector])  # type: ignore[no-untyped-call]
            scaler.step(optimiser)  # leaves the step out where a gradient overflows, and scales less from then on
            scaler.update()
            losses.append(float(total.detach()) / n)
            slot.save(state)
            advance(1)
    slot.finish(state)
    return losses


def _batches(
    organism: Organism, chats: Sequence[EncodedChat], settings: VectorSettings
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return ids, mask and labels of every step, rows of similar length side by side."""
    collate = BucketCollator(organism.tokenizer.pad_token_id or 0, IGNORED)
    sampler = BucketSampler([len(chat.ids) for chat in chats], settings.batch_size, settings.seed)
    order: list[list[int]] = []
    per_epoch = -(-len(chats) // settings.batch_size)
    for epoch in range(int(np.ceil(settings.epochs))):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        for start in range(0, len(rows), settings.batch_size):
            order.append(rows[start : start + settings.batch_size])

    batches = []
    for rows in order[: max(1, round(per_epoch * settings.epochs))]:
        batch = collate([{"input_ids": chats[row].ids, "labels": chats[row].labels} for row in rows])
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        batches.append((ids.to(organism.device), mask.to(organism.device), labels.to(organism.device)))
    return batches
