"""Every fact about model families in one place: where blocks are, how logits are made, how rows decode, who is refused.

A family is a configuration's `model_type`. What is not listed here is run the common way: blocks that pass one residual
stream on, an LM head without a factor, a key-value cache, rows padded on the left. `selfcheck.forward_faults` finds out
whether that is true of a model; tests/organisms/test_families.py does so for every family of transformers.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

from emscope.errors import UserError
from emscope.organisms.batching import ROUND_TO, rounded

Fact = TypeVar("Fact")


def _of_all(families: str, fact: Fact) -> dict[str, Fact]:
    return dict.fromkeys(families.split(), fact)


REFUSED: dict[str, str] = {
    **_of_all(
        "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
        "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod",
        "it is an encoder, whose tokens see what follows them",
    ),
    **_of_all(
        "bart bigbird_pegasus blenderbot blenderbot-small florence2 marian mbart mvp pegasus pix2struct plbart "
        "pp_formulanet prophetnet t5gemma2 trocr udop vision-encoder-decoder whisper",
        "it is an encoder with a decoder, or the decoder of such a pair, not a decoder that stands alone",
    ),
    **_of_all(
        "blip blip-2 git idefics instructblip instructblipvideo kosmos-2 kosmos-2.5",
        "it does not run on text without an image",
    ),
    **_of_all(
        "deepseek_v4 glm5_next glm5_next_text hy_v4 hy_v4_vl qwen4_exp qwen4_exp_text",
        "its blocks pass several residual streams on, and a direction could be read from no one of them",
    ),
    **_of_all(
        "dory hrm_text inkling2_loop inkling2_loop_text",
        "it runs its blocks several times in a pass, so that a block has no one output",
    ),
    **_of_all(
        "gemma4_assistant gemma4_unified_assistant",
        "it drafts tokens from the hidden states of another model and does not run alone",
    ),
    **_of_all("musicgen musicgen_decoder musicgen_melody musicgen_melody_decoder", "it writes sound, not text"),
    "blt": "it reads bytes in patches, not tokens",
    "cpmant": "it reads a prompt in segments of its own, not as one sequence of tokens",
    "diffusion_gemma": "it fills blocks of text in by diffusion, not token after token",
    **_of_all(
        "mllama mllama_text_model",
        "its cross-attention blocks are skipped on text without an image, so that nothing can be read at them",
    ),
    "paligemma": "the tokens of its prompt see what follows them",
    "pi0": "it steers a robot and writes no text",
    "reformer": "its attention sorts tokens into chunks, so that what a token sees depends on the batch's length",
}
"""Families that are refused, and why."""

WRONG_BEFORE = {"doge": "5.18", "recurrent_gemma": "5.23"}
"""Families whose own code in transformers was wrong, or not as it is now, before a version: refused in older ones."""

LOGIT_FACTORS: dict[str, tuple[str, int]] = {
    **_of_all("cohere cohere2 cohere2_moe cohere_compass cohere_compass_text", ("logit_scale", 1)),
    **_of_all(
        "granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared", ("logits_scaling", -1)
    ),
    **_of_all("granite4_vision granite_docling minicpm3", ("logits_scaling", -1)),
    **_of_all("hyperclovax hyperclovax_vision_v2", ("logits_scaling", 1)),
    **_of_all("inkling_text inkling_mm_model", ("logits_mup_width_multiplier", -1)),
    **_of_all("muse_glimmer muse_spark", ("output_multiplier", 1)),
    "falcon_h1": ("lm_head_multiplier", 1),
}
"""What a family's configuration calls the factor of its logits, and the factor's power.

The whole model's family decides, not its language model's: an image model with a Cohere decoder has no factor.
"""

LOGIT_CAPS: dict[str, str] = {
    **_of_all(
        "beam gemma2 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text inkling2 "
        "inkling2_text mistral_large4 muse_glimmer muse_spark nanochat vaultgemma",
        "final_logit_softcapping",
    ),
    "recurrent_gemma": "logits_soft_cap",
    "xlstm": "output_logit_soft_cap",
}
"""What a family's configuration calls the size that its logits stay below: cap · tanh(logits / cap)."""

WITHOUT_CACHE = frozenset({"minimax", "moshi", "openai-gpt", "rwkv", "xlstm"})
"""Families whose states emscope's cache cannot hold: every token is sampled from a pass over the whole sequence."""

WITHOUT_PADDING = frozenset({"falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm"})
"""Families whose states would take padding in: rows are batched only with rows of the same length."""

BY_SLOT = frozenset({"gpt_neo", "mpt"})
"""Families that tell tokens' distance from their places in the cache, so that padding may not stand between tokens."""

WITHOUT_TREE = BY_SLOT | frozenset({"bloom", "falcon"})
"""Families that take no mask but the causal one, among those that could share a prefix."""

UNUSED_PARTS = re.compile(
    r"(^|\.)(vision\w*|visual\w*|image_\w+|img_\w+|audio\w*|speech\w*|talker|code2wav|token2wav|multi_modal_projector|"
    r"mm_projector|connector|aligner|mtp|mtp_\w+|nextn\w*)(\.|$)|(^|\.)rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|"
    r"\.attention\.(masked_)?bias$|\.(k|v)_scale$"
)
"""Tensors that a text model does not need: other senses, heads that predict several tokens, constants."""

CLASS_PARTS = frozenset({"model", "language_model", "text_model"})
"""Parts of a module's path that differ between the multimodal and the text-only class of one model."""

BLOCK_LISTS = ("layers", "h", "blocks", "decoder.layers")
_DEPTH = 6
_INNER = ("model", "language_model", "text_model", "transformer", "backbone")


def family_of(config: Any) -> str:
    """Return the name of a configuration's family: its `model_type`."""
    return str(getattr(config, "model_type", "") or type(config).__name__)


def check_family(model: nn.Module) -> None:
    """Refuse a model that emscope would not run rightly.

    Raises:
        UserError: the family of the model, or of the language model in it, is among `REFUSED`, or is in
            `WRONG_BEFORE` and transformers is older.
    """
    config = cast("Any", model).config
    inside = getattr(config, "text_config", None)
    names = [family_of(config), *([family_of(inside)] if hasattr(inside, "model_type") else [])]
    if getattr(config, "is_encoder_decoder", False):
        names.append("vision-encoder-decoder")
    if getattr(text_config(config), "use_bidirectional_attention", None) in (True, "all"):
        names.append("bert")
    for name in names:
        if name in REFUSED:
            raise UserError(f"emscope cannot run {names[0]} models ({type(model).__name__}): {REFUSED[name]}.")
        if name in WRONG_BEFORE and Version(transformers.__version__) < Version(WRONG_BEFORE[name]):
            raise UserError(
                f"emscope cannot run {names[0]} models with transformers {transformers.__version__}: its answers would "
                f"be wrong; install transformers {WRONG_BEFORE[name]} or later."
            )


def text_config(config: Any) -> Any:
    """Return the configuration of the language model inside a model, or the model's own."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def is_multimodal(config: Any) -> bool:
    """Say whether a model reads more than text, so that its language model is a part of it under a name of its own."""
    return text_config(config) is not config


def n_positions(config: Any) -> int | None:
    """Return how many tokens a model can read at once, None where its configuration sets no limit."""
    positions = getattr(text_config(config), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def model_width(model: nn.Module) -> int:
    """Return d_model, which some models' embeddings do not have."""
    whole = cast("Any", model)
    width = getattr(text_config(whole.config), "hidden_size", None)
    return int(width if width else whole.get_input_embeddings().weight.shape[1])


def inner_decoder(model: nn.Module) -> nn.Module | None:
    """Return the module that holds the list of blocks, from embeddings to final norm; None where none is known."""
    module = model
    for _ in range(_DEPTH):
        if any(isinstance(submodule(module, name), nn.ModuleList) for name in BLOCK_LISTS):
            return module
        names = [getattr(module, "base_model_prefix", ""), *_INNER]
        inside = [found for name in names if name and (found := submodule(module, name)) is not None]
        if not inside:
            return None
        module = inside[0]
    return None


def submodule(module: nn.Module, name: str) -> nn.Module | None:
    """Return the module of that (dotted) name inside another, or None."""
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def active_stream(config: Any) -> int | None:
    """Return which of the residual streams [streams, rows, tokens, d_model] a block computes on; None if it has one.

    Gemma 3n's AltUp keeps several streams and computes each block on the active one; the others are predicted from all
    and corrected by what the block did to the active one (arXiv:2301.13310). Attention and MLP read that stream alone.
    """
    text = text_config(config)
    return int(text.altup_active_idx) if hasattr(text, "altup_active_idx") else None


def finish_logits(model: nn.Module, logits: Tensor) -> Tensor:
    """Apply what a family does to the numbers of its LM head [..., vocabulary]: a factor, a cap, fewer tokens."""
    config = cast("Any", model).config
    family, text = family_of(config), text_config(config)
    if family in LOGIT_FACTORS:
        name, power = LOGIT_FACTORS[family]
        factor = getattr(text, name)
        logits = logits if factor is None else logits * factor**power
    cap = getattr(text, LOGIT_CAPS[family]) if family in LOGIT_CAPS else None
    logits = torch.tanh(logits / cap) * cap if cap else logits
    if family == "chameleon":  # it never writes the tokens of an image
        logits = logits.clone()
        logits[..., cast("Any", model).model.vocabulary_mapping.image_tokens] = torch.finfo(logits.dtype).min
    return logits[..., : getattr(text, "unpadded_vocab_size", None)]


def output_embeddings(model: nn.Module) -> nn.Module:
    """Return the LM head of a model, or that of the language model in it."""
    parts = [model, *(found for name in _INNER if (found := submodule(model, name)) is not None)]
    for part in parts:
        head = cast("Any", part).get_output_embeddings() if hasattr(part, "get_output_embeddings") else None
        if head is not None:
            return cast("nn.Module", head)
    raise UserError(f"Cannot find the LM head of a {family_of(cast('Any', model).config)} model.")


def before_the_head(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return what the output embeddings are applied to: ModernBERT's decoder has a small network before them."""
    whole = cast("Any", model)
    return cast("Tensor", whole.lm_head(hidden) if family_of(whole.config) == "modernbert-decoder" else hidden)


def has_cache(config: Any) -> bool:
    """Say whether decoding can go through emscope's cache, or must pass over the whole sequence for each token."""
    return not _among(WITHOUT_CACHE, config)


def takes_padding(config: Any) -> bool:
    """Say whether rows of several lengths can share a batch, padded on the left."""
    return not _among(WITHOUT_PADDING, config)


def takes_a_prefix(config: Any) -> bool:
    """Say whether padding may stand between a prefix in the cache and the rows that go on from it."""
    return has_cache(config) and not _among(BY_SLOT, config)


def takes_a_tree(config: Any) -> bool:
    """Say whether a mask and positions of the caller's own can put several continuations into one row."""
    return takes_a_prefix(config) and not _among(WITHOUT_TREE, config)


def longest_sequence(config: Any) -> int | None:
    """Return beyond how many tokens a model encodes the positions of a whole batch otherwise, or None if it never does.

    Of a batch with one longer sequence, all rows would be read otherwise, and what is cached from before would not.
    """
    text = text_config(config)
    found = getattr(text, "rope_parameters", None) or {}
    kinds = [kind for kind in (found, *found.values()) if isinstance(kind, dict)]
    changing = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    limits = [kind.get("original_max_position_embeddings") or text.max_position_embeddings for kind in changing]
    return min(limits, default=None)


def check_lengths(config: Any, longest: int) -> None:
    """Refuse sequences that a model reads otherwise than shorter ones in the same batch.

    Raises:
        UserError: the longest sequence, rounded up as batches are, exceeds `longest_sequence`.
    """
    limit = longest_sequence(config)
    if limit is not None and rounded(longest) > limit:
        raise UserError(
            f"A sequence of {longest} tokens is too long: {family_of(config)} models change how they encode positions "
            f"at {limit} tokens, and rows of a batch would depend on each other. Shorten it to {limit - ROUND_TO}."
        )


def _among(families: frozenset[str], config: Any) -> bool:
    return family_of(config) in families or family_of(text_config(config)) in families
