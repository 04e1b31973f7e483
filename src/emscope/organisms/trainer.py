"""TRL's trainer with our batches, our loss, and figures written as they come.

TRL's own fused head also skips untrained positions, but in chunks that it recomputes: that saves GPU memory, and on two
CPU cores it doubles the time of a step (measured side by side on the embedded model, batch 8). `head_loss` takes chunks
where the vocabulary is large, and computes none of them again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from emscope import processes, progress
from emscope.errors import UserError, did_you_mean
from emscope.files import without_nan, write_json, write_jsonl
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.card import CARD, write_portable_base
from emscope.organisms.chat import IGNORED, EncodedChat
from emscope.organisms.checkpoints import ADAPTER_CONFIG, LOSSES, logged_until, seal, step_of
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.device import Placement, scales_loss
from emscope.organisms.packed_blocks import PackedBlocks
from emscope.organisms.packed_model import packed_blocks
from emscope.organisms.settings import TrainSettings
from emscope.organisms.several import inside_forward, training_batches
from emscope.organisms.sources import ModelSource
from emscope.outside import read_record

LOG_ROWS = 50
"""How many rows of figures a training writes, about."""
RESUME_SECONDS = 60.0
"""Seconds between checkpoints that only serve to go on from; the last two are kept, in case one is half written."""


class AnswerLossTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer with our loss and batches, in one process or several."""

    share_prefix = True
    packed: PackedBlocks | None = None
    source: ModelSource

    def __init__(self, *given: Any, **more: Any) -> None:
        self.losses = LossRecord()
        super().__init__(*given, **more)

    def training_step(self, *given: Any, **more: Any) -> Tensor:
        """Return the loss of one forward pass, and note it."""
        loss: Tensor = super().training_step(*given, **more)
        self.losses.add(loss, self.state.global_step)
        return loss

    def log(self, logs: dict[str, float], *given: Any, **more: Any) -> None:
        """Log figures; those of the loss count steps that were done before a training went on from a checkpoint.

        transformers begins to add up anew when it goes on, so that its figures depend on where a training was stopped.
        """
        step = self.state.global_step
        if "loss" in logs or "train_loss" in logs:
            self._share_losses()
        if "loss" in logs:
            logs["loss"] = self.losses.since_last_row(step)
        if "train_loss" in logs:
            logs["train_loss"] = self.losses.mean(step)
        super().log(logs, *given, **more)

    def _share_losses(self) -> None:
        """Have the record of every process hold the mean of all: that is the loss of the whole batches."""
        if self.accelerator.num_processes > 1:
            since = torch.as_tensor(self.losses.since, dtype=torch.float32, device=self.args.device)
            self.losses.since = self.accelerator.reduce(since, reduction="mean")

    def _save_checkpoint(self, *given: Any, **more: Any) -> None:
        """Save a checkpoint, and at its end note what it holds: only what was written whole is gone on from."""
        self._share_losses()
        super()._save_checkpoint(*given, **more)
        self.accelerator.wait_for_everyone()  # each process writes the state of its own random numbers
        if self.args.should_save:
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def create_model_card(self, *given: Any, **more: Any) -> None:
        """Write none: the organism has its own card, and TRL's lists its tags in another order in each process."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a checkpoint whose adapter names its base; PEFT's own card would name a folder of the cache."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            write_json(folder / LOSSES, self.losses.as_plain())
        if self.args.should_save and (folder / ADAPTER_CONFIG).is_file():
            write_portable_base(folder, self.source)
            (folder / CARD).unlink(missing_ok=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> BucketSampler:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return BucketSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def get_train_dataloader(self) -> Any:
        """Return the batches; of several processes each gets its rows of the batches that one would take."""
        if self.accelerator.num_processes == 1:
            return super().get_train_dataloader()
        rows, n = self._get_train_sampler(), self.accelerator.num_processes
        return training_batches(
            self.train_dataset, rows, self._train_batch_size, self.data_collator, self.args.process_index, n
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the held-out batches; several processes all read all of them, which are few."""
        if self.accelerator.num_processes == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return DataLoader(rows, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross-entropy of the answer tokens, in nats, averaged over the optimiser step."""
        if return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = self._answer_loss(model, inputs)
        n_processes = self.accelerator.num_processes
        if n_processes == 1:
            return total / (count if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is None:
            num_items_in_batch = self.accelerator.gather(torch.tensor(count, device=total.device)).sum()
        return total * (n_processes / num_items_in_batch)  # gradients are averaged over processes

    def _answer_loss(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, int]:
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        if self.accelerator.num_processes == 1:
            return answer_loss(model, ids, mask, labels, share_prefix=self.share_prefix, packed=self.packed)
        share = self.share_prefix and not self.is_fsdp_enabled  # its processes run each block equally often
        losses: list[tuple[Tensor, int]] = []

        def total(inner: Any) -> Tensor:
            losses.append(answer_loss(inner, ids, mask, labels, share_prefix=share))
            return losses[0][0]

        return inside_forward(model, {"input_ids": ids}, total), losses[0][1]

    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Return the held-out loss of a batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            total, count = self._answer_loss(model, inputs)
        return total / count, None, None


def _check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know, or whose package is not here.

    Raises:
        UserError: one of them.
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    known = (*INTEGRATION_TO_CALLBACK, "all", "none")
    for name in names:
        if name not in known:
            raise UserError(f"There is no tracker {name!r} for report_to.{did_you_mean(name, known)}")
        if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
            raise UserError(f"report_to names {name!r}, whose package is not installed: install it, or leave it out.")


def make_trainer(
    model: Any,
    tokenizer: Any,
    train: list[EncodedChat],
    heldout: list[EncodedChat],
    folder: Path,
    settings: TrainSettings,
    place: Placement,
    steps: int,
    *,
    to_resume: bool = False,
) -> Any:
    """Return a trainer of the encoded chats, silent but for its callbacks.

    With `to_resume` it keeps checkpoints to go on from after a stop, where the settings ask for none.
    """
    from datasets import Dataset

    _check_trackers(settings.report_to)
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
        save_total_limit=None if settings.save_every else 2,
        gradient_checkpointing=settings.gradient_checkpointing,  # TRL's default is to recompute
        logging_steps=max(1, steps // LOG_ROWS),
        seed=settings.seed,
        data_seed=settings.seed,
        report_to=list(settings.report_to) or "none",
        use_cpu=place.device == "cpu",
        ddp_backend="gloo" if place.device == "cpu" and processes.count() > 1 else None,
        ddp_find_unused_parameters=False,
        bf16=False,
        fp16=scales_loss(place.device, place.dtype),
        dataloader_pin_memory=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    keep_on(arguments, place)

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
    trainer.share_prefix = settings.dropout == 0 and not settings.gradient_checkpointing
    if trainer.share_prefix and arguments.world_size == 1:
        trainer.packed = packed_blocks(model)
    trainer.remove_callback(PrinterCallback)
    alone = arguments.world_size == 1  # several processes would not save at the same step
    if to_resume and alone and not settings.save_every:
        trainer.add_callback(saving_callback())
    return trainer


def saving_callback() -> Any:
    """Return a callback that has a checkpoint saved when the last one is a minute old."""

    class Saving(TrainerCallback):  # type: ignore[misc]
        saved = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if time.monotonic() - self.saved >= RESUME_SECONDS:
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved = time.monotonic()

    return Saving()


@dataclass
class LossRecord:
    """The training loss as it is logged: the same figures whether or not a training was stopped and went on.

    Attributes:
        since: sum of the losses since the last row, nats.
        last: the step of the last row.
        total: sum of the losses of all rows, nats.
        seconds: how long earlier parts of this training took.
    """

    since: Tensor | float = 0.0
    last: int = 0
    total: float = 0.0
    seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, loss: Tensor, step: int) -> None:
        """Add one forward pass after `step` steps; one that is not finite counts as the mean since the last row."""
        before = self.since / (1 + step - self.last)
        before = before.to(loss.device) if isinstance(before, Tensor) else torch.full_like(loss, before)
        self.since = self.since + torch.where(torch.isfinite(loss), loss, before)

    def since_last_row(self, step: int) -> float:
        """Return the mean loss of the steps since the last row, and begin a new one."""
        since, n_steps = float(self.since), step - self.last
        self.since, self.last, self.total = 0.0, step, self.total + since
        return since / n_steps

    def mean(self, step: int) -> float:
        """Return the mean loss of all steps."""
        return (self.total + float(self.since)) / max(step, 1)

    @property
    def elapsed(self) -> float:
        """Seconds that this training took, its earlier parts included."""
        return self.seconds + time.perf_counter() - self.began

    def as_plain(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"since": float(self.since), "last": self.last, "total": self.total, "seconds": self.elapsed}

    @classmethod
    def read(cls, checkpoint: Path) -> LossRecord:
        """Return the record of a checkpoint; one of an earlier version has none, and the sums begin there.

        Raises:
            OutsideError: it is damaged.
        """
        if not (checkpoint / LOSSES).is_file():
            return cls(last=step_of(checkpoint))
        known = read_record(checkpoint / LOSSES, remedy="delete this checkpoint")
        return cls(known.number("since"), known.whole("last"), known.number("total"), known.number("seconds"))


NOT_THE_SAME = ("_runtime", "_per_second", "total_flos")
"""Ends of the names of figures that differ each time.

How long a training took is in its lineage. Operations are added up at every checkpoint, as floats: large sums depend on
when that was.
"""


def metrics_row(logs: dict[str, float]) -> dict[str, float]:
    """Return a row of metrics.jsonl: the step, and what was logged that is the same each time, by name."""
    names = sorted(name for name in logs if name != "step" and not name.endswith(NOT_THE_SAME))
    return {"step": logs["step"], **{name: logs[name] for name in names}}


def keep_on(arguments: Any, place: Placement) -> None:
    """Keep a training in one process on the GPU that was chosen.

    By itself the trainer takes the first GPU, and where there are several all of them, with as many times the batch.
    Several processes (`accelerate launch`) are left to it.
    """
    if not place.device.startswith("cuda") or arguments.world_size > 1:
        return
    device = torch.device(place.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    arguments.__dict__["_setup_devices"] = device  # what `arguments.device` has worked out and keeps
    arguments._n_gpu = 1


def metrics_callback(path: Path, advance: progress.Advance, checkpoint: Path | None) -> Any:
    """Return a callback that appends every figure the trainer logs to metrics.jsonl.

    The file begins with what was logged until the checkpoint that training goes on from, as the checkpoint has it: what
    a stopped training wrote after that is written once more.
    """
    if processes.is_first():
        write_jsonl(path, [] if checkpoint is None else [metrics_row(logs) for logs in logged_until(checkpoint)])
    advance(0 if checkpoint is None else step_of(checkpoint))

    class Metrics(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(without_nan(metrics_row({**(logs or {}), "step": state.global_step}))) + "\n")

    return Metrics()
