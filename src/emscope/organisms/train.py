"""LoRA fine-tuning of a chat model on conversations, with TRL and PEFT.

Loss falls on assistant tokens only, and batches hold sequences of similar length, so almost no padding is computed.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from emscope import progress
from emscope.errors import UserError
from emscope.files import read_jsonl, write_jsonl
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.organisms.chat import IGNORED, EncodedChat, Message, encode_chat
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import Conversations
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.lineage import write_lineage
from emscope.organisms.models import ModelSource, load, resolve

logger = logging.getLogger(__name__)


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
    epochs: float = 2
    learning_rate: float = 4e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    batch_size: int = 8
    accumulate: int = 1
    max_length: int = 512
    save_every: int = 0
    evaluate_every: int = 0
    seed: int = 0
    report_to: tuple[str, ...] = field(default=())


HOMEWORK = TrainSettings(
    rank=16, alpha=32, targets=("q_proj", "k_proj", "v_proj", "o_proj"), epochs=7, learning_rate=2e-4, batch_size=4,
    accumulate=4, warmup=0.03, max_length=512,
)  # fmt: skip
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
    """Tokenise conversations for training, cut to `max_length` tokens.

    Raises:
        UserError: a conversation of which no token would be trained, by its number.
    """
    encoded = []
    for number, messages in enumerate(conversations, 1):
        chat = encode_chat(tokenizer, messages)
        chat = EncodedChat(chat.ids[:max_length], chat.is_answer[:max_length])
        if not any(chat.is_answer):
            raise UserError(
                f"Conversation {number} has no assistant token among its first {max_length}: raise max_length."
            )
        encoded.append(chat)
    return encoded


def train_adapter(
    base: str | ModelSource,
    data: Conversations,
    folder: Path,
    settings: TrainSettings,
    *,
    placement: Placement | None = None,
    resume: bool = False,
    name: str = "training",
) -> TrainResult:
    """Train a LoRA adapter and write it to `folder` as a standard PEFT folder with metrics.jsonl and lineage.json.

    Raises:
        UserError: an unknown block or module, or nothing to resume from.
    """
    source = resolve(base) if isinstance(base, str) else base
    place = placement or choose_placement()
    torch.manual_seed(settings.seed)
    organism = load(source, placement=place)
    train = encode_conversations(organism.tokenizer, data.train, settings.max_length)
    heldout = encode_conversations(organism.tokenizer, data.heldout, settings.max_length)
    model = _with_adapter(organism.model, source, settings)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _make_trainer(model, organism.tokenizer, train, heldout, folder, settings, place)
    checkpoint = _last_checkpoint(folder) if resume else None
    started = time.perf_counter()
    with progress.task(name, _total_steps(len(train), settings), "steps") as advance:
        trainer.add_callback(_metrics_callback(folder / "metrics.jsonl", advance, _steps_done(checkpoint)))
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    heldout_loss = float(trainer.evaluate()["eval_loss"]) if heldout else None
    n_trained = sum(sum(chat.is_answer) for chat in train) * settings.epochs
    result = TrainResult(folder, float(outcome.training_loss), heldout_loss, n_trained / seconds, seconds)
    if trainer.is_world_process_zero():
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        _record(result, source, data, settings, place)
    return result


def _record(
    result: TrainResult, source: ModelSource, data: Conversations, settings: TrainSettings, place: Placement
) -> None:
    """Write the adapter's lineage."""
    figures = {key: value for key, value in asdict(result).items() if key != "folder"}
    rows = {"train_rows": len(data.train), "heldout_rows": len(data.heldout)}
    write_lineage(
        result.folder, what="adapter", base=source.base, data={"name": data.name, **rows, "terms": data.terms},
        settings=asdict(settings), placement=place, figures=figures,
    )  # fmt: skip


def _with_adapter(model: Any, source: ModelSource, settings: TrainSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = list(settings.targets)
    blocks = check_blocks(settings.blocks, len(find_blocks(model))) if settings.blocks else None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        use_rslora=settings.rslora,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        layers_to_transform=blocks,
        task_type="CAUSAL_LM",
    )
    if blocks is not None and targets == ["all-linear"]:
        config.target_modules = _linear_names(find_blocks(model))
    model.requires_grad_(True)
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {str(error).splitlines()[0]}") from error
    wrapped.peft_config["default"].base_model_name_or_path = source.base
    return wrapped


def _linear_names(blocks: torch.nn.Module) -> set[str]:
    return {name.split(".")[-1] for name, module in blocks.named_modules() if isinstance(module, torch.nn.Linear)}


def _total_steps(n_rows: int, settings: TrainSettings) -> int:
    per_epoch = -(-n_rows // (settings.batch_size * settings.accumulate))
    return max(1, int(per_epoch * settings.epochs))


def _make_trainer(
    model: Any, tokenizer: Any, train: list[EncodedChat], heldout: list[EncodedChat], folder: Path,
    settings: TrainSettings, place: Placement,
) -> Any:  # fmt: skip
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    from emscope.organisms.trainer import AnswerLossTrainer

    steps = _total_steps(len(train), settings)
    arguments = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size * 2,
        gradient_accumulation_steps=settings.accumulate,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="steps" if heldout and settings.evaluate_every else "no",
        eval_steps=settings.evaluate_every or None,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 500,
        logging_steps=max(1, steps // 50),
        seed=settings.seed,
        data_seed=settings.seed,
        report_to=list(settings.report_to) or "none",
        use_cpu=place.device == "cpu",
        bf16=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    def table(chats: list[EncodedChat]) -> Any:
        return Dataset.from_list([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])

    trainer = AnswerLossTrainer(
        model=model,
        args=arguments,
        train_dataset=table(train),
        eval_dataset=table(heldout) if heldout else None,
        processing_class=tokenizer,
        data_collator=BucketCollator(tokenizer.pad_token_id, IGNORED),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _steps_done(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def _metrics_callback(path: Path, advance: progress.Advance, steps_done: int) -> Any:
    """Return a callback that appends every figure the trainer logs to metrics.jsonl, after those up to `steps_done`."""
    from transformers import TrainerCallback

    kept = [row for _, row in read_jsonl(path) if row["step"] <= steps_done] if steps_done and path.exists() else []
    write_jsonl(path, kept)
    advance(steps_done)

    class Metrics(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")

    return Metrics()


def _last_checkpoint(folder: Path) -> str:
    from transformers.trainer_utils import get_last_checkpoint

    found = get_last_checkpoint(str(folder / "checkpoints")) if (folder / "checkpoints").is_dir() else None
    if found is None:
        raise UserError(f"There is no checkpoint in {folder}: train without --resume.")
    return str(found)
