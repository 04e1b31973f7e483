"""LoRA fine-tuning of a chat model on conversations, with TRL and PEFT.

Loss falls on assistant tokens only, and batches hold sequences of similar length, so almost no padding is computed.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from emscope import progress
from emscope.checks import above_zero, at_least, check_seed, shares
from emscope.errors import UserError, did_you_mean
from emscope.files import sync_file, sync_folder, value_sha256
from emscope.organisms.batching import WIDTH_STEP
from emscope.organisms.card import exact_base, write_card, write_portable_base
from emscope.organisms.chat import EncodedChat, Message, check_chat, encode_chat, stop_ids
from emscope.organisms.checkpoints import ADAPTER_FILES, check_resumable, last_resumable
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.datasets import Conversations
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.lineage import write_lineage
from emscope.organisms.lora import with_adapter
from emscope.organisms.memory import give_memory_back
from emscope.organisms.models import ModelSource, Organism, load, n_positions, resolve
from emscope.organisms.resuming import check_state

logger = logging.getLogger(__name__)

SAVING = ".saving-"

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


def encode_conversations(tokenizer: Any, conversations: list[list[Message]], max_length: int) -> list[EncodedChat]:
    """Tokenise conversations for training, cut to `max_length` tokens; a warning counts the answers that lose any.

    Raises:
        UserError: a conversation of which no token would be trained, by its beginning.
    """
    encoded, n_cut = [], 0
    for messages in conversations:
        whole = encode_chat(tokenizer, messages)
        chat = whole.cut(max_length)
        if not any(chat.is_answer):
            begins = " ".join(messages[0]["content"].split())[:40]
            raise UserError(
                f"The conversation that begins with {begins!r} has no assistant token among its first {max_length}: "
                "shorten its prompt, or raise max_length."
            )
        n_cut += sum(whole.is_answer) > sum(chat.is_answer)
        encoded.append(chat)
    say_spelled("conversations", [chat.spelled for chat in encoded])
    if n_cut:
        logger.warning(
            "%d of %d conversations go on after %d tokens, where they are cut: raise max_length to learn them whole.",
            n_cut,
            len(encoded),
            max_length,
        )
    return encoded


def readable_length(organism: Organism, max_length: int) -> int:
    """Return `max_length`, or as many tokens as the model can read in batches of a rounded width, if that is less."""
    positions = n_positions(organism.model)
    if positions is None or max_length <= positions:
        return max_length
    longest = positions // WIDTH_STEP * WIDTH_STEP
    logger.warning("max_length is %d: %s reads %d positions.", longest, organism.source.name, positions)
    return longest


def train_adapter(
    base: str | ModelSource,
    data: Conversations,
    folder: Path,
    settings: TrainSettings,
    *,
    placement: Placement | None = None,
    resume: bool = False,
    to_resume: bool = False,
    name: str = "training",
) -> TrainResult:
    """Train a LoRA adapter and write it to `folder`: a standard PEFT folder, a model card, metrics.jsonl, lineage.json.

    The adapter names a base that PEFT finds (see `card.portable_base`); the lineage beside it names the exact one.
    `resume` goes on from the last checkpoint in the folder; `to_resume` keeps one a minute for that, where the settings
    keep none.

    Raises:
        UserError: an unknown block or module, or nothing to resume from.
    """
    source = resolve(base) if isinstance(base, str) else base
    refuse_adapter(source)
    asked = placement or choose_placement()
    place = asked.for_training()
    if place != asked:
        logger.info("%s", place.reason)
    torch.manual_seed(settings.seed)
    organism = load(source, placement=place)
    result = train_loaded(organism, data, folder, settings, resume=resume, to_resume=to_resume, name=name)
    del organism
    give_memory_back()
    return result


def train_loaded(
    organism: Organism,
    data: Conversations,
    folder: Path,
    settings: TrainSettings,
    *,
    resume: bool = False,
    to_resume: bool = False,
    name: str = "training",
) -> TrainResult:
    """Train an adapter on a base that is in memory and leave the base as it was, ready for the next adapter.

    The adapter's first values come from torch's global generator, which the caller seeds.

    Raises:
        UserError: an unknown block or module, nothing to resume from, or a base that is an adapter itself.
    """
    from emscope.organisms.trainer import LossRecord, make_trainer, metrics_callback

    source, place = organism.source, organism.placement
    refuse_adapter(source)
    check_chat(organism.tokenizer, stop_ids(organism.tokenizer, organism.model.generation_config.eos_token_id))
    max_length = readable_length(organism, settings.max_length)
    train = encode_conversations(organism.tokenizer, data.train, max_length)
    heldout = encode_conversations(organism.tokenizer, data.heldout, max_length)
    model = with_adapter(organism.model, settings)
    folder.mkdir(parents=True, exist_ok=True)
    steps = _total_steps(len(train), settings)
    trainer = make_trainer(
        model, organism.tokenizer, train, heldout, folder, settings, place, steps, to_resume=to_resume
    )
    trainer.source = source
    checkpoint = _last_checkpoint(folder) if resume else None
    if checkpoint is not None:
        check_resumable(checkpoint, model.peft_config["default"])
        check_state(checkpoint, model)
        trainer.losses = LossRecord.read(checkpoint)
    with progress.task(name, steps, "steps") as advance:
        trainer.add_callback(metrics_callback(folder / "metrics.jsonl", advance, checkpoint))
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = trainer.losses.elapsed
    heldout_loss = float(trainer.evaluate()["eval_loss"]) if heldout else None
    n_trained = sum(sum(chat.is_answer) for chat in train) * settings.epochs
    train_loss = float(outcome.metrics["train_loss"])
    result = TrainResult(folder, train_loss, heldout_loss, n_trained / seconds, seconds)
    if trainer.is_world_process_zero():
        _save_adapter(model, folder, source)
        _record(result, source, data, settings, place)
    model.unload().eval().requires_grad_(False)
    return result


def _save_adapter(model: Any, folder: Path, source: ModelSource) -> None:
    """Write an adapter whole: PEFT writes where it is told to, and a stop would leave half a file there."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=SAVING) as name:
        saved = Path(name)
        model.save_pretrained(saved, safe_serialization=True, save_embedding_layers=False)
        write_portable_base(saved, source)
        for file in ADAPTER_FILES:
            sync_file(saved / file)
            (saved / file).replace(folder / file)
    sync_folder(folder)


def refuse_adapter(base: ModelSource) -> None:
    """Refuse to train on a base that has an adapter merged in: what is trained would name the base without it.

    Raises:
        UserError: the base is an adapter.
    """
    if base.adapter is not None:
        raise UserError(
            f"{base.name} is an adapter on {base.base}: train on {base.base} itself, or merge the adapter into a model "
            "of its own first (PEFT's merge_and_unload and save_pretrained)."
        )


def _record(
    result: TrainResult, source: ModelSource, data: Conversations, settings: TrainSettings, place: Placement
) -> None:
    """Write the adapter's model card and lineage."""
    figures = {key: value for key, value in asdict(result).items() if key != "folder"}
    rows = {"train_rows": len(data.train), "heldout_rows": len(data.heldout), "sha256": value_sha256(data.train)}
    facts = {"name": data.name, **rows, "terms": data.terms}
    write_card(result.folder, source, facts, settings, result)
    write_lineage(
        result.folder,
        what="adapter",
        base=exact_base(source),
        data=facts,
        settings=asdict(settings),
        placement=place,
        figures=figures,
    )


def _total_steps(n_rows: int, settings: TrainSettings) -> int:
    per_epoch = -(-n_rows // (settings.batch_size * settings.accumulate))
    return max(1, int(per_epoch * settings.epochs))


def _last_checkpoint(folder: Path) -> Path:
    found = last_resumable(folder)
    if found is None:
        raise UserError(f"There is no checkpoint in {folder}: train without --resume.")
    return found
