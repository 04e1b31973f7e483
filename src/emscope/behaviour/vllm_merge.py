"""An adapter merged into its base for vLLM, which adds an adapter to each product of each step where it is not."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope.behaviour.vllm_check import Agreement, compare, log_probabilities, reference, rms
from emscope.errors import UserError
from emscope.organisms.device import Placement
from emscope.organisms.models import ModelSource, load


@dataclass(frozen=True)
class MergedCopy:
    """A folder that holds an adapter's organism as one model, and what transformers makes of the check's text.

    Attributes:
        folder: the model, its weights in vLLM's number format.
        own: log-probabilities of the merged model, float64 [n].
        expected: those of the base and of the base with the adapter beside it, in float32; None where they do not fit.
    """

    folder: Path
    own: Tensor
    expected: tuple[Tensor, Tensor] | None
    _kept: Any

    @classmethod
    def of(cls, source: ModelSource, dtype: str, ids: list[int], trust_remote_code: bool = False) -> MergedCopy:
        """Write the copy.

        Raises:
            UserError: the adapter cannot be merged.
        """
        from peft import PeftModel

        place = Placement("cpu", getattr(torch, dtype), "for vLLM")
        organism = load(source, placement=place, trust_remote_code=trust_remote_code)
        if isinstance(organism.model, PeftModel):
            raise UserError(f"The adapter {source.adapter} cannot be merged into its base: serve it unmerged.")
        kept = tempfile.TemporaryDirectory(prefix="emscope-merged-")
        organism.model.save_pretrained(kept.name)
        organism.tokenizer.save_pretrained(kept.name)
        own = log_probabilities(organism.model, ids)
        del organism
        return cls(Path(kept.name), own, reference(source, ids, trust_remote_code), kept)

    def agreement(self, logprobs: Tensor) -> Agreement:
        """Compare vLLM's log-probabilities [n] with transformers'.

        vLLM has no base to read here, so transformers' stands in for it; what the number format explains is how far
        transformers' merged model is from the float32 one.
        """
        if self.expected is None:  # it runs transformers' merged model, in which the adapter is
            return Agreement(rms(logprobs - self.own), math.nan, math.nan, math.inf, math.nan)
        base, adapted = self.expected
        found = compare(logprobs, base, self.expected)
        return Agreement(rms(self.own - adapted), found.error, found.effect, found.shown, found.applied)

    def remove(self) -> None:
        """Remove the folder; vLLM has read it."""
        self._kept.cleanup()
