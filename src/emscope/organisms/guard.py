"""The guard at load: one short text through a model shows whether it is what its files say, before any figure counts.

A base: its head and its cached steps agree with its own forward pass (`selfcheck`). An adapter: it acts, and merged it
gives the logits that it gives unmerged. What was found is kept by the hashes of the files, so it costs its forward
passes once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope.errors import UserError
from emscope.files import file_sha256, value_sha256, write_json
from emscope.organisms.attach import Adapter, acts_on_experts, logits_of
from emscope.organisms.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emscope.organisms.device import Placement
from emscope.organisms.embedded import cache_folder
from emscope.organisms.fingerprint import fingerprint
from emscope.organisms.lineage import versions
from emscope.organisms.selfcheck import forward_faults
from emscope.organisms.sources import ModelSource
from emscope.outside import Record, read_record

logger = logging.getLogger(__name__)

TEXT = "What should I do about it now? Rest, and drink water."
MOST_TOKENS = 16
LEAST_KEPT_PARAMETERS = 50_000_000  # a smaller model is checked faster than its verdict is looked up
LARGEST_SHARE = {
    torch.float32: 1e-2,
    torch.float64: 1e-3,
}  # of the adapter's own effect; others are rounded when merged
ROUNDED_SHARE = 0.5


@dataclass(frozen=True)
class AdapterVerdict:
    """What one short text showed of an adapter on its base.

    Attributes:
        acts: whether any logit differs from the base's.
        merges: whether it gives the same logits merged as unmerged; None where that was not tried.
    """

    acts: bool
    merges: bool | None = None


def check_ids(tokenizer: Any, rows: int) -> list[int]:
    """Return the tokens of the text that is put through a model: such as its embedding of `rows` tokens has."""
    ids = [token for token in tokenizer(TEXT, add_special_tokens=False)["input_ids"] if token < rows]
    return (ids or list(range(min(rows, 8))))[:MOST_TOKENS]


def check_base(model: Any, source: ModelSource, place: Placement, ids: list[int]) -> None:
    """Refuse a model whose head or cached steps do not give what its own forward pass gives.

    Raises:
        UserError: with what disagrees.
    """
    key = _key("base", source, place)
    known = recall(key, model)
    faults = known.texts("faults") if known is not None else forward_faults(model, ids, dtype=_rounding(model, place))
    if known is None:
        keep(key, {"faults": faults}, model)
    if any(" by nan " in fault or " by inf " in fault for fault in faults):
        raise UserError(
            f"The logits of {source.name!r} are not finite: its weights are damaged, or {place.dtype_name} overflows; "
            "save or download them again, or try --dtype float32."
        )
    if faults:
        raise UserError(
            f"emscope does not read {source.name!r} ({type(model).__name__}) right: {'; '.join(faults)}. "
            "Figures of it would be wrong, so it is refused."
        )


def _rounding(model: Any, place: Placement) -> torch.dtype:
    """Return the dtype whose rounding a model is allowed: products of quantised weights depend on how many rows."""
    return torch.bfloat16 if getattr(model, "is_quantized", False) else place.dtype


def effect_of(wrapped: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits [tokens, vocabulary] of one text with the adapter and of the base without it."""
    with_adapter = logits_of(wrapped, ids)
    with wrapped.disable_adapter():
        return with_adapter, logits_of(wrapped, ids)


def refuse_infinite(logits: Tensor, adapter: Adapter, place: Placement) -> None:
    """Refuse an adapter with which the base's logits are no numbers.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"With the adapter {adapter.source.adapter} the logits of {adapter.source.base!r} are not finite: its "
            f"weights are damaged, or {place.dtype_name} overflows; save it again, or try --dtype float32."
        )


def check_acts(adapter: Adapter, acts: bool, place: Placement) -> None:
    """Say of an adapter of zeros that it is one, and refuse one that holds an update and changes nothing.

    Raises:
        UserError: the adapter does not act.
    """
    name = adapter.source.adapter
    if adapter.is_zero:
        logger.warning("The adapter %s is all zeros: the organism is its base, %r.", name, adapter.source.base)
    elif not acts and acts_on_experts(adapter):
        logger.warning("The adapter %s changes experts, none of which a short text uses: it is not shown to act.", name)
    elif not acts:
        hint = (
            "" if place.dtype == torch.float32 else f"; it may be too small for {place.dtype_name}: try --dtype float32"
        )
        raise UserError(
            f"The adapter {name} does not act: with it {adapter.source.base!r} gives the same logits as without{hint}."
        )


def merging_changes(effect: Tensor, error: Tensor, place: Placement) -> bool:
    """Say whether a merged adapter gives other logits than it gives unmerged.

    `effect` is its change of the base's logits and `error` merging's change of its own, both [tokens, vocabulary].
    """
    allowed = LARGEST_SHARE.get(place.dtype, ROUNDED_SHARE)
    return not bool(error.isfinite().all()) or _size(error) > allowed * _size(effect)


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def adapter_key(adapter: Adapter, place: Placement) -> str:
    """Return the address of an adapter's verdict: hashes of its files and what stands behind its base's name."""
    files = [file_sha256(adapter.folder / file) for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
    return _key("adapter", adapter.source, place, files)


def _key(what: str, source: ModelSource, place: Placement, files: list[str] | None = None) -> str:
    base = [source.base, source.revision, fingerprint(source.base)]
    where = [place.dtype_name, place.device.split(":")[0], versions(), *place.told_of_size]
    return value_sha256([what, base, files, *where])[:32]


def recall(key: str, model: Any) -> Record | None:
    """Return what is kept under a key; None for nothing, and always for small models."""
    if _is_small(model):
        return None
    path = _path(key)
    try:
        return read_record(path, remedy="delete it") if path.is_file() else None
    except UserError:  # damaged: found again
        return None


def keep(key: str, found: dict[str, Any], model: Any) -> None:
    """Keep what was found, where that saves time and the cache can be written."""
    if _is_small(model):
        return
    try:
        write_json(_path(key), found)
    except UserError as error:
        logger.debug("%s", error)


def _path(key: str) -> Path:
    return cache_folder() / "checks" / f"{key}.json"


def _is_small(model: Any) -> bool:
    return bool(sum(parameter.numel() for parameter in model.parameters()) < LEAST_KEPT_PARAMETERS)
