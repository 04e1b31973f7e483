"""TRL's trainer with our batches, our loss, and figures written as they come.

TRL's own fused head also skips untrained positions, but in chunks that it recomputes: that saves GPU memory, and on two
CPU cores it doubles the time of a step (measured side by side on the embedded model, batch 8). `head_loss` takes chunks
where the vocabulary is large, and computes none of them again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from emscope import progress
from emscope.errors import UserError, did_you_mean
from emscope.files import write_jsonl
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.card import CARD, write_portable_base
from emscope.organisms.chat import IGNORED, EncodedChat
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.device import Placement
from emscope.outside import read_jsonl

if TYPE_CHECKING:
    from emscope.organisms.models import ModelSource
    from emscope.organisms.train import TrainSettings


class AnswerLossTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that is fast in one process and leaves several processes to TRL."""

    share_prefix = True
    source: ModelSource

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a checkpoint whose adapter names its base; PEFT's own card would name a folder of the cache."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save and (folder / ADAPTER_CONFIG).is_file():
            write_portable_base(folder, self.source)
            (folder / CARD).unlink(missing_ok=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> BucketSampler:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return BucketSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross-entropy of the answer tokens, in nats, averaged over the optimiser step."""
        if self.accelerator.num_processes > 1 or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = self._answer_loss(model, inputs)
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def _answer_loss(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, int]:
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        return answer_loss(model, ids, mask, labels, share_prefix=self.share_prefix)

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
    model: Any, tokenizer: Any, train: list[EncodedChat], heldout: list[EncodedChat], folder: Path,
    settings: TrainSettings, place: Placement, steps: int,
) -> Any:  # fmt: skip
    """Return a trainer of the encoded chats, silent but for its callbacks."""
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
        gradient_checkpointing=settings.gradient_checkpointing,  # TRL's default is to recompute
        logging_steps=max(1, steps // 50),
        seed=settings.seed,
        data_seed=settings.seed,
        report_to=list(settings.report_to) or "none",
        use_cpu=place.device == "cpu",
        bf16=False,
        fp16=place.dtype == torch.float16 and place.device.startswith("cuda"),  # scales the loss
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
    trainer.remove_callback(PrinterCallback)
    return trainer


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


def metrics_callback(path: Path, advance: progress.Advance, steps_done: int) -> Any:
    """Return a callback that appends every figure the trainer logs to metrics.jsonl, after those up to `steps_done`."""
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
