"""The check that vLLM runs the model that was asked for: it has served a base in an adapter's place without a word.

One short text is read by vLLM and by transformers, and the log-probabilities of its tokens are compared: the base's
with the base's, the adapter's with the adapter's. An adapter must also act: vLLM has to show the change that the
adapter makes under transformers, all of it and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope.errors import UserError
from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.device import Placement, memory_bytes
from emscope.organisms.models import ModelSource, Organism, load
from emscope.organisms.tensor_file import computing, numbers_in, open_tensors

logger = logging.getLogger(__name__)

QUESTION = "My knee hurts after running. What should I do this week?"
ANSWER = (
    "Rest it for a few days, put ice on it, and see a doctor if the pain does not go away. You could also talk to "
    "someone who knows about training before you start again."
)
LONGEST = 128
LORA_WEIGHTS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".base_layer.weight")
ROOM = 1.3
"""Memory that a model takes while it is loaded and run, in multiples of its weights."""


@dataclass(frozen=True)
class Rounding:
    """What number formats may change, in nats a token: `least` is always forgiven, `most` is no rounding any more."""

    least: float
    most: float


ROUNDING = {"float32": Rounding(0.0002, 0.03), "bfloat16": Rounding(0.02, 0.3), "float16": Rounding(0.02, 0.3)}


@dataclass(frozen=True)
class Agreement:
    """How far vLLM is from transformers on the text: root mean squares over its tokens, in nats.

    Attributes:
        base_error: vLLM's base against transformers' base; NaN where transformers was not asked.
        error: the same of the source itself; NaN where transformers was not asked.
        effect: what the adapter changes under transformers; 0 for a base, NaN where transformers was not asked.
        shown: what the adapter changes under vLLM; 0 for a base.
        applied: the share of the adapter's change that vLLM shows (the projection of one change on the other): 1 when
            it applies the adapter, 0 when it serves the base; NaN where there is no change to show.
    """

    base_error: float
    error: float
    effect: float
    shown: float
    applied: float


def check_prompt(tokenizer: Any) -> list[int]:
    """Return the tokens of the text up to the answer, at most `LONGEST`."""
    return encode_prompt(tokenizer, messages_of(QUESTION))[:LONGEST]


def check_text(tokenizer: Any) -> list[int]:
    """Return the tokens that both read, at most `LONGEST`: a question in the chat template and an answer to it."""
    prompt = check_prompt(tokenizer)
    return [*prompt, *tokenizer(ANSWER, add_special_tokens=False)["input_ids"]][:LONGEST]


def reference(source: ModelSource, ids: Sequence[int], trust_remote_code: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return transformers' log-probabilities of `ids[1:]`, float64 [n - 1], of the base and of the source itself.

    They are computed in float32 on the CPU. None where the model does not fit into this machine's memory.
    """
    organism = reference_organism(source, trust_remote_code)
    if organism is None:
        return None
    logprobs = log_probabilities(organism.model, ids)
    if source.adapter is None:
        return logprobs, logprobs
    with organism.model.disable_adapter():
        return log_probabilities(organism.model, ids), logprobs


def reference_organism(source: ModelSource, trust_remote_code: bool = False) -> Organism | None:
    """Return an organism of transformers to compare with, float32, on the CPU, unmerged; None if it does not fit."""
    if not _fits(source):
        return None
    place = Placement("cpu", torch.float32, "a reference")
    return load(source, placement=place, merge=False, trust_remote_code=trust_remote_code)


@torch.inference_mode()
def log_probabilities(model: Any, ids: Sequence[int]) -> Tensor:
    """Return transformers' log-probabilities of `ids[1:]`, float64 [n - 1]."""
    logits: Tensor = model(torch.tensor([list(ids)])).logits[0, :-1].float()
    chosen = torch.tensor(list(ids[1:]))[:, None]
    return logits.log_softmax(dim=-1).gather(-1, chosen)[:, 0].double()


def _fits(source: ModelSource) -> bool:
    """Say whether a float32 copy of the base fits into the memory that is free."""
    folder = Path(source.location)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source.location, revision=source.revision, local_files_only=True))
        except (OSError, ValueError):
            return False
    numbers = sum(map(numbers_in, folder.glob("*.safetensors")))
    available = memory_bytes()[1]
    return 0 < 4 * numbers * ROOM < (available or math.inf)


def compare(own: Tensor, base: Tensor, expected: tuple[Tensor, Tensor] | None) -> Agreement:
    """Compare vLLM's log-probabilities [n] of the source and of its base with transformers' (base, source)."""
    change = own - base
    if expected is None:
        return Agreement(math.nan, math.nan, math.nan, rms(change), math.nan)
    wanted = expected[1] - expected[0]
    size = float(wanted @ wanted)
    applied = float(wanted @ change) / size if size else math.nan
    return Agreement(rms(base - expected[0]), rms(own - expected[1]), rms(wanted), rms(change), applied)


def rms(values: Tensor) -> float:
    """Return the root mean square."""
    return float(values.square().mean().sqrt())


def check(
    source: ModelSource, agreement: Agreement, dtype: str, *, zero: bool = False, change: str | None = None
) -> None:
    """Refuse a source that vLLM does not run as transformers does.

    Args:
        source: the source.
        agreement: how far the two are apart.
        dtype: the number format of vLLM.
        zero: the change is none at all, as an adapter's whose weights are zero.
        change: what changes the model, in words; None is the source's adapter, if it has one.

    Raises:
        UserError: the base differs, the change is not made or not as transformers makes it, or is too small to tell.
    """
    what = f"the adapter {source.adapter}" if change is None and source.adapter else change or ""
    if reason := _fault(source, what, agreement, dtype, zero):
        raise UserError(reason)
    if zero:
        logger.warning("%s is all zeros: its answers are the base's.", _sentence(what))
    if math.isnan(agreement.error):
        logger.warning(
            "%s does not fit into memory beside vLLM, so its answers are not compared with transformers'%s.",
            source.base,
            f"; {what} acts" if what and not zero else "",
        )


def _fault(source: ModelSource, what: str, agreement: Agreement, dtype: str, zero: bool) -> str:
    """Return why vLLM's answers would not be the source's; '' where nothing speaks against them."""
    rounding, else_use = ROUNDING[dtype], "use --backend transformers"
    if agreement.base_error > rounding.most:
        return (
            f"vLLM does not compute what transformers does with {source.base}: log-probabilities of a short text lie "
            f"{agreement.base_error:.2g} nats a token apart, where {dtype} explains {rounding.most:g}: {else_use}."
        )
    if not what:
        return ""
    noise = max(rounding.least, 0.0 if math.isnan(agreement.base_error) else agreement.base_error)
    if zero:
        return "" if agreement.shown <= 3 * noise else f"vLLM changes answers under {what}, all zeros: {else_use}."
    if math.isnan(agreement.error):
        return "" if agreement.shown > noise else f"vLLM serves the base in the place of {what}: {else_use}."
    if agreement.effect < 2 * noise:
        exact = "" if dtype == "float32" else "--dtype float32 or "
        return (
            f"{_sentence(what)} changes a short text by {agreement.effect:.2g} nats a token, too little to see in "
            f"{dtype} whether vLLM applies it: {else_use.replace('--', exact + '--')}."
        )
    if abs(agreement.applied - 1) > 0.1 + 0.5 * noise / agreement.effect or agreement.error > 3 * noise:
        return (
            f"vLLM does not apply {what} as transformers does ({100 * agreement.applied:.0f} % of its change of a "
            f"short text, {agreement.error:.2g} nats a token off, where rounding explains {noise:.2g}): {else_use}."
        )
    return ""


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def foreign_weights(folder: Path) -> list[str]:
    """Return the names of weights in an adapter's folder that are not LoRA's own, which vLLM ignores or refuses."""
    return [name for name in _adapter_weights(folder) if not name.endswith(LORA_WEIGHTS)]


def changes_nothing(folder: Path) -> bool:
    """Say whether every second LoRA factor of an adapter is zero, so that it is the base."""
    seconds = [name for name in _adapter_weights(folder) if "lora_B" in name or "lora_embedding_B" in name]
    if not seconds:
        return False
    file = open_tensors(folder / ADAPTER_WEIGHTS)
    with computing(file.path):
        return not any(bool(file.tensor(name).any()) for name in seconds)


def _adapter_weights(folder: Path) -> list[str]:
    """Return the names of an adapter's weights; none where there is no such file, which is for the loader to say."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        return []
    return list(open_tensors(folder / ADAPTER_WEIGHTS).names)
