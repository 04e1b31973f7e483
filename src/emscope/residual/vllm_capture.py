"""Pooled activations read inside vLLM, through vllm-lens: pooling happens in vLLM's workers, so only vectors travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import progress
from emscope.behaviour.vllm_backend import VllmEngine
from emscope.behaviour.vllm_check import check_prompt, check_text, reference_organism
from emscope.behaviour.vllm_lens import BlockCalls, Read, Watch, check_seen, layers_of
from emscope.errors import UserError
from emscope.organisms.architecture import active_stream
from emscope.organisms.blocks import check_blocks
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import ModelSource
from emscope.organisms.reading import token_ids
from emscope.residual.capture import Activations, CaptureSettings, Pooling, capture, pooling_weights

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.99, "float16": 0.99}
"""How near vLLM's activations must be to transformers' float32 ones, at every block."""
WHAT = "the reading of activations"


@dataclass(frozen=True)
class PoolHook:
    """What a worker of vLLM calls at a block: adds up weighted hidden states of one request.

    Attributes:
        weights: of each token in each pooled vector, [n_poolings, n_tokens].
        ahead: 1 where it reads what the next block is given, else 0.
    """

    weights: np.ndarray
    ahead: int = 0

    def __call__(self, context: Any, hidden: Tensor) -> None:
        """Add the tokens of one call, float32; it raises nothing, since vllm-lens would go on without it."""
        before = Watch.enter(context, hidden)
        try:
            part = torch.from_numpy(self.weights[:, before : before + len(hidden)]).to(hidden.device)
            pooled = (part @ hidden[: part.shape[1]].float()).cpu().numpy()
            sums = context.saved.setdefault("pooled", {})
            block = context.layer_idx + self.ahead
            sums[block] = sums[block] + pooled if block in sums else pooled
        except Exception as error:
            Watch.failed(context, error)


def capture_in_vllm(
    engine: VllmEngine,
    source: ModelSource,
    chats: Sequence[EncodedChat],
    settings: CaptureSettings,
    *,
    name: str = "reading activations",
) -> Activations:
    """Read the pooled activations of tokenised chats inside vLLM, in their order; see `capture`.

    A short text is read first by both, and every block compared. vLLM fills its own batches: `token_budget` and
    `share_prefix` are not used.

    Raises:
        UserError: no chats, an unknown block, an engine without hooks or without room, or activations that are not
            finite, incomplete or other than transformers'.
    """
    if not chats:
        raise UserError("There is nothing to read activations from: no prompts were given.")
    _proven(engine, source, settings)
    return _captured(engine, source, chats, settings, name)


def _captured(
    engine: VllmEngine, source: ModelSource, chats: Sequence[EncodedChat], settings: CaptureSettings, name: str
) -> Activations:
    if active_stream(engine.model_config) is not None:
        raise UserError(f"vLLM does not read the several residual streams of {source.base}: use transformers.")
    n_blocks = engine.n_blocks
    blocks = check_blocks(settings.blocks or range(n_blocks), n_blocks)
    layers, first = layers_of(blocks, settings.site)
    calls = []
    for chat in chats:
        weights = pooling_weights(chat, settings.poolings)
        at_embeddings = PoolHook(weights) if first else None
        calls.append(BlockCalls(PoolHook(weights, 1 if settings.site == "resid_pre" else 0), layers, at_embeddings))

    shape = (len(chats), len(settings.poolings), len(blocks), engine.width)
    out = np.empty(shape, dtype=np.float32)
    with progress.task(name, len(chats), "examples") as advance:
        for row, read in enumerate(engine.read_each(source, token_ids(chats), calls, advance)):
            check_seen(WHAT, read, layers, first, whole_prompt=False)
            out[row] = _stacked(read, blocks)
    _check_finite(out, blocks, source)
    pooled = {}
    for index, pooling in enumerate(settings.poolings):
        pooled[str(pooling)] = np.ascontiguousarray(out[:, index])
    return Activations(pooled, tuple(blocks), settings.site)


def _stacked(read: Read, blocks: Sequence[int]) -> np.ndarray:
    """Return one request's vectors, [n_poolings, n_blocks, d_model]."""
    found: dict[int, np.ndarray] = {}
    for saved in read.saved:
        found |= saved["pooled"]
    return np.stack([found[block] for block in blocks], axis=1)


def _check_finite(out: np.ndarray, blocks: Sequence[int], source: ModelSource) -> None:
    bad = ~np.isfinite(out).all(axis=(0, 1, 3))
    if bad.any():
        raise UserError(
            f"The activations of {source.name} in vLLM are not finite from block {blocks[int(np.flatnonzero(bad)[0])]} "
            "on: the weights are damaged, or the dtype overflows; try dtype float32."
        )


def _proven(engine: VllmEngine, source: ModelSource, settings: CaptureSettings) -> None:
    """Compare a short text's activations with transformers', once for each source, site and choice of blocks.

    Raises:
        UserError: a block's activations differ.
    """
    organism = reference_organism(source, engine.trusts_remote_code)
    if organism is None:
        return
    tokenizer = engine.tokenizer_of(source)
    ids, n_prompt = check_text(tokenizer), len(check_prompt(tokenizer))
    chats = [EncodedChat(ids, [place >= n_prompt for place in range(len(ids))])]
    poolings: tuple[Pooling, ...] = ("last", "response") if len(ids) > n_prompt else ("last",)
    wanted = CaptureSettings(poolings, settings.site, settings.blocks)
    theirs = _captured(engine, source, chats, wanted, "comparing vLLM")
    ours = capture(organism, chats, wanted, name="comparing vLLM")
    for pooling, vectors in theirs.pooled.items():
        for row, block in enumerate(theirs.blocks):
            cosine = _cosine(vectors[0, row], ours.pooled[pooling][0, row])
            if not cosine >= LEAST_COSINE[engine.dtype]:
                raise UserError(
                    f"vLLM's activations of {source.name} at block {block} are not transformers' (cosine {cosine:.4f} "
                    f"on a short text, where {engine.dtype} gives {LEAST_COSINE[engine.dtype]}): use transformers."
                )


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one.astype(np.float64) @ other.astype(np.float64)) / lengths if lengths else float("nan")
