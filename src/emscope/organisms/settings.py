"""How an organism is trained, the original homework's settings, and what a training returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from emscope.checks import above_zero, at_least, check_seed, shares
from emscope.errors import UserError, did_you_mean

SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""What transformers has and needs no further settings for."""


@dataclass(frozen=True)
class TrainSettings:
    """How an organism is trained.

    Attributes:
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha/rank, or alpha/√rank with rslora.
        rslora: use rank-stabilised scaling.
        dropout: LoRA dropout.
        targets: module names that get an adapter; 'all-linear' is every linear layer of the blocks.
        blocks: decoder blocks that get adapters; none given means all.
        epochs: passes over the data.
        learning_rate: peak learning rate.
        schedule: learning-rate schedule of transformers (cosine, linear, constant, …).
        warmup: share of the steps in which the rate rises.
        weight_decay: AdamW weight decay.
        batch_size: conversations in one forward pass.
        accumulate: forward passes in one optimiser step.
        gradient_checkpointing: compute activations again in the backward pass: a third slower, far less memory.
        max_length: longest conversation in tokens; longer ones are cut at their end.
        save_every: keep a checkpoint every this many steps; 0 keeps none.
        evaluate_every: measure held-out loss every this many steps; 0 measures it at the end only.
        seed: order of the data and first values of the adapters.
        report_to: experiment trackers (trackio, wandb, tensorboard).
    """

    rank: int = 16
    alpha: float = 32
    rslora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    blocks: tuple[int, ...] = ()
    epochs: float = 1
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    batch_size: int = 8
    accumulate: int = 1
    gradient_checkpointing: bool = False
    max_length: int = 512
    save_every: int = 0
    evaluate_every: int = 0
    seed: int = 0
    report_to: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse settings with which nothing can be learned."""
        at_least(1, rank=self.rank, batch_size=self.batch_size, accumulate=self.accumulate, max_length=self.max_length)
        above_zero(alpha=self.alpha, epochs=self.epochs, learning_rate=self.learning_rate)
        at_least(0, weight_decay=self.weight_decay, save_every=self.save_every, evaluate_every=self.evaluate_every)
        shares(dropout=self.dropout, warmup=self.warmup)
        if not self.targets:
            raise UserError("targets must name at least one module, or all-linear.")
        if self.schedule not in SCHEDULES:
            raise UserError(f"There is no schedule {self.schedule!r}.{did_you_mean(self.schedule, SCHEDULES)}")
        check_seed(self.seed)


HOMEWORK = TrainSettings(
    rank=16,
    alpha=32,
    targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    epochs=7,
    learning_rate=2e-4,
    batch_size=4,
    accumulate=4,
    warmup=0.03,
    max_length=512,
)
"""The original homework's settings (its train.py)."""


@dataclass(frozen=True)
class TrainResult:
    """What training left behind: the adapter folder and its figures."""

    folder: Path
    train_loss: float
    heldout_loss: float | None
    trained_tokens_per_second: float
    seconds: float
