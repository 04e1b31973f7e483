"""Tiny random models of every family of the installed transformers, from each family's own default configuration.

A configuration is shrunk by the names of its fields (`SIZES`); the few that need more stand in `EXCEPTIONS`. Factors
and caps of logits are set to values that change them. Run as a script it prints what became of every family, in about a
minute: `python tests/families.py`.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

import torch
import transformers
from packaging.version import Version
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

N_LAYERS, VOCABULARY = 4, 128
OLDER = Version(transformers.__version__) < Version("5.21")
"""Whether some families of this transformers cannot be built from the small configurations described here."""


@dataclass(frozen=True)
class Family:
    """One entry of transformers' lists: a model type and the class that it is loaded with."""

    name: str
    loaded_with: str

    @property
    def id(self) -> str:
        """A name for the test."""
        return f"{self.name}-{self.loaded_with}"


def _of_all(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES: dict[str, Any] = {
    **_of_all("vocab_size codebook_size vocab_size_per_layer_input unpadded_vocab_size", VOCABULARY),
    **_of_all("num_hidden_layers num_layers n_layers n_layer depth encoder_layers decoder_layers num_blocks", N_LAYERS),
    **_of_all("num_encoder_layers num_decoder_layers", N_LAYERS),
    **_of_all("hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim hidden_dim lru_width", 32),
    **_of_all(
        "attention_hidden_size adapter_in_dim adapter_input_size adapter_out_dim out_hidden_size text_hidden_size", 32
    ),
    **_of_all("intermediate_size ffn_dim n_inner d_ff dff dim_ff ffn_hidden_size encoder_ffn_dim decoder_ffn_dim", 48),
    **_of_all("moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_dim", 48),
    **_of_all("intermediate_size_mlp expert_ffn_hidden_size shared_experts_intermediate_size share_expert_dim", 48),
    **_of_all("moe_shared_expert_intermediate_size moe_latent_size dense_intermediate_size", 48),
    **_of_all("num_attention_heads n_heads n_head num_heads encoder_attention_heads decoder_attention_heads", 4),
    **_of_all("num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads index_n_heads", 4),
    **_of_all("linear_num_value_heads linear_num_key_heads indexer_heads linear_num_heads indexer_n_heads", 4),
    **_of_all("num_sliding_attention_heads", 4),
    **_of_all("num_key_value_heads num_kv_heads global_num_key_value_heads num_global_key_value_heads", 2),
    **_of_all("swa_num_key_value_heads kv_n_heads indexer_kv_heads", 2),
    **_of_all("head_dim global_head_dim attention_head_size d_kv qk_nope_head_dim qk_rope_head_dim v_head_dim", 8),
    **_of_all("kv_channels dim_head linear_key_head_dim linear_value_head_dim swa_head_dim swa_v_head_dim", 8),
    **_of_all("index_head_dim linear_head_dim indexer_head_dim", 8),
    "rotary_dim": 4,
    **_of_all("kv_lora_rank q_lora_rank o_lora_rank laurel_rank time_step_rank adapter_rank loop_gate_rank", 16),
    **_of_all("n_routed_experts num_experts num_local_experts moe_num_experts zero_expert_num", 4),
    **_of_all("num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k top_k_experts", 2),
    **_of_all("n_group topk_group n_groups num_expert_group mamba_n_groups", 1),
    **_of_all("first_k_dense_replace num_dense_layers", 1),
    **_of_all("sliding_window attention_window attention_window_size window_size attention_chunk_size", 8),
    **_of_all("max_position_embeddings n_positions n_ctx max_seq_len seq_length original_max_position_embeddings", 64),
    **_of_all("model_max_length", 64),
    **_of_all("mamba_d_state state_size ssm_state_size mamba_d_ssm_state", 8),
    **_of_all("mamba_n_heads mamba_num_heads n_mamba_heads mamba_d_head mamba_head_dim mamba_headdim", 8),
    **_of_all("mamba_chunk_size chunk_size", 4),
    **_of_all("pad_token_id", 0),
    **_of_all("bos_token_id decoder_start_token_id", 1),
    **_of_all("eos_token_id", 2),
    "image_size": 28,
    "patch_size": 14,
}
LOUD = {
    **_of_all("logits_scaling logit_scale lm_head_multiplier logits_mup_width_multiplier output_multiplier", 0.4),
    **_of_all("final_logit_softcapping logits_soft_cap output_logit_soft_cap", 1.5),
}
"""Factors and caps: set wherever a configuration has the field, also where its default is none."""

MIXED = ["linear_attention", "full_attention"] * 2
HYBRID = ["linear_attention", "hybrid"] * 2
HALVES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    **_of_all("qwen2_vl_text qwen2_5_vl_text qwen2_5_omni_text glm4v_text glm_ocr_text", {"rope_parameters": HALVES}),
    **_of_all("paddleocr_vl_text cosmos3_edge_text", {"rope_parameters": HALVES}),
    **_of_all("hunyuan_v1_dense hunyuan_v1_moe ministral", {"head_dim": 8}),
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16},
    "dots3_note_vision_encoder": {"num_experts_per_tok": 2},
    "bailing_hybrid": {"n_group": 1, "num_experts": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGAZ": 100, "IMGIMGBZ": 101}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"] * 2, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "emu3": {"vocabulary_map": {"<image>": 5, "<|extra_200|>": 6, "<|visual token 000000|>": 100}},
    "emu3_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1]},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**HALVES, "mrope_section": [1, 1, 2]}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": [48] * 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "altup_num_inputs": 3,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    **_of_all("gemma4_text gemma4_unified_text", {"global_head_dim": 8, "hidden_size_per_layer_input": 8}),
    "glm4v_moe_text": {"rope_parameters": {**HALVES, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}},
    "glm5_next_text": {"qk_rope_head_dim": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granite4_vision": {"deepstack_layer_map": [], "spatial_target_layers": [], "downsample_rate": "1/2"},
    "clip_vision_model": {"hidden_size": 64},
    "radio": {"video_temporal_patch_size": 2},
    "timm_wrapper": {"hidden_size": 32, "model_args": {"embed_dim": 32}},
    "wavtokenizer_encoder": {"codebook_dim": 32},
    "granitemoehybrid": {"layer_types": MIXED},
    "hunyuan_vl_text": {"head_dim": 8, "rope_parameters": HALVES},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "mistral4": {"head_dim": 16},
    "molmo2_adapter": {"vision_feature_layer": [1, 2]},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "step3p5": {"sliding_window": 8},
    "xlstm": {"chunk_size": 64},
    "zamba": {"layers_block_type": HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {"layers_block_type": HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""By configuration's model type: fields that its own rules ask for."""

NOT_BUILT: dict[Family, str] = {
    Family("apertus1p5", "Apertus1p5ForConditionalGeneration"): "its tables of image and sound tokens cannot be small",
    Family("llama4", "Llama4ForConditionalGeneration"): "its own forward pass fails on text alone in transformers 5.24",
}
"""Why no tiny model of a family can be made, or run by itself, here."""


def families() -> list[Family]:
    """Return every causal and every image-text family, each class once for a model type."""
    both = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items(), *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()]
    return [Family(name, loaded_with) for name, loaded_with in dict.fromkeys(both)]


def tiny_config(family: Family, **fields: Any) -> PreTrainedConfig:
    """Return a small configuration of a family, of the class that its model asks for, with some fields set."""
    asked_for = getattr(transformers, family.loaded_with).config_class
    config = _shrunk(CONFIG_MAPPING[family.name], fields)
    if not isinstance(config, asked_for):
        config = config.get_text_config()
    return config if isinstance(config, asked_for) else _shrunk(asked_for)


def tiny_model(family: Family, config: PreTrainedConfig, seed: int = 0) -> Any:
    """Return a random float32 model whose weights are three times the usual, so that blocks do something."""
    torch.manual_seed(seed)
    with mock.patch.object(TimmWrapperModel, "_from_config", lambda config, **named: torch.nn.Identity()):
        model = getattr(transformers, family.loaded_with)._from_config(config, dtype=torch.float32).eval()
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(3) if parameter.dim() > 1 else None
    return model


def _shrunk(kind: type[PreTrainedConfig], given: dict[str, Any] | None = None) -> PreTrainedConfig:
    default = kind()
    fields = {name: vars(default).get(name, value) for name, value in default.to_dict().items()}
    values = {name: small for name, value in fields.items() if (small := _small(name, value)) is not None}
    if fields.get("kv_lora_rank") is not None:  # latent attention has one key for each head
        values["num_key_value_heads"] = values["num_attention_heads"]
    for name in getattr(kind, "sub_configs", None) or {}:
        if isinstance(part := vars(default).get(name), PreTrainedConfig):
            values[name] = _shrunk(type(part))
    return kind(**{**values, **EXCEPTIONS.get(kind.model_type, {}), **(given or {})})


def _small(name: str, value: Any) -> Any:
    if name in LOUD:
        return LOUD[name]
    if name.endswith("layer_types") and isinstance(value, list | tuple) and value:
        kinds = list(dict.fromkeys(value))
        return (kinds * N_LAYERS)[:N_LAYERS]
    if "dropout" in name or name.endswith("pdrop"):
        return type(value)(0) if isinstance(value, int | float) and not isinstance(value, bool) else None
    small = SIZES.get(name)
    if small is None or isinstance(value, bool) or (value is None and not name.endswith("token_id")):
        return None
    return [small] * N_LAYERS if isinstance(value, list | tuple) else small


SLIDING = ["sliding_attention", "full_attention"] * 2
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 48}
VARIANTS: dict[str, tuple[Family, dict[str, Any]]] = {
    "falcon with alibi": (Family("falcon", "FalconForCausalLM"), {"alibi": True}),
    "falcon new": (Family("falcon", "FalconForCausalLM"), {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma 4 shared keys": (
        Family("gemma4_text", "Gemma4ForCausalLM"),
        {"layer_types": SLIDING, "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
    ),
    "gemma 4 experts": (
        Family("gemma4_text", "Gemma4ForCausalLM"),
        {
            "layer_types": SLIDING,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 48,
        },
    ),
    "gpt-bigcode many heads": (Family("gpt_bigcode", "GPTBigCodeForCausalLM"), {"multi_query": False}),
    "gpt-j all rotary": (Family("gptj", "GPTJForCausalLM"), {"rotary_dim": 8}),
    "granite hybrid without experts": (
        Family("granitemoehybrid", "GraniteMoeHybridForCausalLM"),
        {"num_local_experts": 0, "num_experts_per_tok": 0},
    ),
    "llama dynamic positions": (
        Family("llama", "LlamaForCausalLM"),
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama tied": (Family("llama", "LlamaForCausalLM"), {"tie_word_embeddings": True, "attention_bias": True}),
    "mistral without window": (Family("mistral", "MistralForCausalLM"), {"sliding_window": None}),
    "mpt without alibi": (Family("mpt", "MptForCausalLM"), {"attn_config": {"alibi": False}}),
    "opt projected": (
        Family("opt", "OPTForCausalLM"),
        {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "phi-3 long": (
        Family("phi3", "Phi3ForCausalLM"),
        {
            "rope_parameters": {**LONGROPE, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            "original_max_position_embeddings": 48,
        },
    ),
    "qwen2 sliding": (
        Family("qwen2", "Qwen2ForCausalLM"),
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": SLIDING},
    ),
    "smollm3 without positions": (Family("smollm3", "SmolLM3ForCausalLM"), {"no_rope_layers": [1, 0, 1, 0]}),
    "stablelm parallel": (
        Family("stablelm", "StableLmForCausalLM"),
        {"use_parallel_residual": True, "qk_layernorm": True},
    ),
}
"""What some of a family's models have and its default configuration has not."""


# --- what becomes of a family ---

PROMPTS = [
    [5, 9, 17, 33, 21, 7, 40, 41, 12, 11, 77, 78, 3],
    [5, 9, 17, 33, 21, 60, 61, 62, 63],
    [5, 9, 17, 33, 21, 99],
    [5, 9, 17, 33, 21, 7, 50, 51, 52],
]
"""Longer than a window of 8 tokens and shorter; five tokens in common."""
FOLLOWING = [[44, 13, 8, 90], [30, 31, 32, 33], [70, 71, 72, 73], [25, 26, 27, 28]]
TOLERANCE = 1e-3
Kind = Literal["exact", "refused", "not built", "wrong"]


@dataclass(frozen=True)
class Outcome:
    """What became of a family, and the refusal, the reason, or what is wrong."""

    kind: Kind
    detail: str = ""


@functools.cache
def outcome(family: Family) -> Outcome:
    """Run a family's tiny model in every way emscope does, each compared with the model's own forward pass."""
    from emscope.errors import UserError

    if family in NOT_BUILT:
        return Outcome("not built", NOT_BUILT[family])
    try:
        refuse(family)
        model = tiny_model(family, tiny_config(family))
    except UserError as error:
        named = family.name in str(error)
        return Outcome("refused" if named else "wrong", str(error))
    except Exception as error:
        if not OLDER:
            raise
        return Outcome("not built", f"transformers {transformers.__version__}: {error}")
    try:
        return checked(model)
    except UserError as error:
        named = family.name in str(error)
        return Outcome("refused" if named else "wrong", str(error))


def checked(model: Any) -> Outcome:
    """Run a model in every way emscope does."""
    wrong = [fault for check in CHECKS for fault in check(model)]
    return Outcome("wrong", "; ".join(wrong)) if wrong else Outcome("exact")


def refuse(family: Family) -> None:
    """Raise the refusal of a family without building its model: some are large however small their configuration."""
    from emscope.organisms.architecture import check_family

    stub: Any = torch.nn.Module()
    drafts = "assistant" in family.name  # whose own default configuration is not valid
    stub.config = SimpleNamespace(model_type=family.name) if drafts else CONFIG_MAPPING[family.name]()
    check_family(stub)


OUTPUTS_FIRST = ("falcon_mamba", "mamba", "mamba2", "rwkv")
"""Families whose list of hidden states begins with the first block's output, not with the embeddings."""


def _far(what: str, ours: Any, theirs: Any) -> list[str]:
    """Compare two arrays; say by what part of the largest number they differ, if by too much."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    if ours.shape != theirs.shape:
        return [f"{what}: shape {list(ours.shape)}, not {list(theirs.shape)}"]
    largest = theirs[theirs.abs() < 1e30].abs().max()  # a masked logit is the lowest float
    part = float(((ours - theirs).abs() / largest).max())
    return [] if part <= TOLERANCE else [f"{what}: differs by {part:.2g} of the largest number"]


def _own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def organism_of(model: Any) -> Any:
    """Return an organism of a model, with as much of a tokenizer as reading and decoding need."""
    from tiny import CPU

    from emscope.organisms.models import ModelSource, Organism

    tokenizer = SimpleNamespace(chat_template=None, pad_token_id=0, eos_token_id=None)
    return Organism(ModelSource("tiny", "tiny", "tiny"), model, tokenizer, CPU)


def check_forward(model: Any) -> list[str]:
    """The guard at load: head, prefill, step, padding, and a hook at each block."""
    from emscope.organisms.selfcheck import forward_faults

    return forward_faults(model, PROMPTS[0][:12], dtype=torch.float32)


def check_reading(model: Any) -> list[str]:
    """Activations of a batch, with and without a shared prefix, are those that hooks see on each row alone."""
    from emscope.organisms.blocks import find_blocks, visiting
    from emscope.organisms.chat import EncodedChat
    from emscope.residual.capture import CaptureSettings, capture

    chats = [EncodedChat(ids, [False] * len(ids)) for ids in PROMPTS]
    wrong: list[str] = []
    for site in ("resid_post", "resid_pre"):
        alone = []
        for ids in PROMPTS:
            seen: dict[int, torch.Tensor] = {}
            with visiting(model, range(len(find_blocks(model))), lambda block, h: seen.update({block: h[0]}), site):  # noqa: B023
                _own_logits(model, ids)
            alone.append(torch.stack([seen[block].mean(dim=0) for block in sorted(seen)]))
        for share in (True, False):
            settings = CaptureSettings(poolings=("prompt",), site=site, share_prefix=share)
            read = capture(organism_of(model), chats, settings).pooled["prompt"]
            wrong += _far(f"{site} with{'' if share else 'out'} a shared prefix", read, torch.stack(alone))
    return wrong


def check_hidden_states(model: Any) -> list[str]:
    """A hook at a block sees the model's own next hidden state, where the model gives one for each block."""
    from emscope.organisms.blocks import find_blocks, visiting

    n_blocks, seen = len(find_blocks(model)), {}
    with torch.no_grad(), visiting(model, range(n_blocks), lambda block, h: seen.update({block: h})):
        output = model(input_ids=torch.tensor(PROMPTS[:1]), use_cache=False, output_hidden_states=True)
    states = output.hidden_states
    if states is None or len(states) != n_blocks + 1 or states[1].shape != seen[0].shape:
        return []
    if model.config.model_type in OUTPUTS_FIRST:
        return [fault for block in range(n_blocks) for fault in _far(f"block {block}", seen[block], states[block])]
    return [fault for block in range(n_blocks - 1) for fault in _far(f"block {block}", seen[block], states[block + 1])]


def check_replacing(model: Any) -> list[str]:
    """What a visitor puts at a block is what the next block receives."""
    from emscope.organisms.blocks import find_blocks, visiting

    put: dict[str, torch.Tensor] = {}

    def add(block: int, hidden: torch.Tensor) -> torch.Tensor:
        put["out"] = hidden + 1
        return put["out"]

    whole = _own_logits(model, PROMPTS[0])
    with visiting(model, [1], add), visiting(model, [2], lambda block, h: put.update({"in": h.clone()}), "resid_pre"):
        changed = _own_logits(model, PROMPTS[0])
    if len(find_blocks(model)) > 1 and torch.equal(whole, changed):
        return ["what is put at block 1 changes nothing"]
    return _far("what block 2 receives", put["in"], put["out"])


def check_decoding(model: Any) -> list[str]:
    """Rows of several lengths, decoded together from a shared prefix and with rows dropped, have their own logits."""
    from emscope.organisms.blocks import head_logits
    from emscope.organisms.decoding import Decoding, decoding_batches
    from emscope.organisms.prefix import SharedPrefix

    wrong: list[str] = []
    lengths = [len(ids) for ids in PROMPTS]
    own = [_own_logits(model, [*ids, *more]) for ids, more in zip(PROMPTS, FOLLOWING, strict=True)]
    for share in (True, False):
        with torch.inference_mode():
            prefix = SharedPrefix(organism_of(model), PROMPTS, share=share)
            prefix.run()
            for rows in decoding_batches(lengths, 3, model.config):
                decoding = Decoding(model, [PROMPTS[row] for row in rows], 0, 4, prefix)
                for step in range(4):
                    logits = head_logits(model, decoding.step())
                    expected = torch.stack([own[row][lengths[row] - 1 + step] for row in rows])
                    wrong += _far(f"step {step} with{'' if share else 'out'} a shared prefix", logits, expected)
                    decoding.append(torch.tensor([FOLLOWING[row][step] for row in rows]))
                    if step == 1 and len(rows) > 1:
                        decoding.keep(torch.tensor([0, len(rows) - 1]))
                        rows = [rows[0], rows[-1]]
    return wrong


def check_loss(model: Any) -> list[str]:
    """The loss of the last tokens, with the first ones run once for all rows, is that of each row's own logits."""
    from emscope.organisms.answer_loss import row_losses
    from emscope.organisms.batching import PaddedBatch
    from emscope.organisms.chat import IGNORED

    rows = [[*ids, *more] for ids, more in zip(PROMPTS, FOLLOWING, strict=True)]
    batch = PaddedBatch.of(rows, 0)
    labels = torch.full_like(batch.ids, IGNORED)
    expected = []
    for row, ids in enumerate(rows):
        labels[row, len(ids) - 4 : len(ids)] = torch.tensor(ids[-4:])
        expected.append(torch.nn.functional.cross_entropy(_own_logits(model, ids)[-5:-1], torch.tensor(ids[-4:])))
    return _far("the loss", row_losses(model, batch.ids, batch.mask, labels), torch.stack(expected))


def check_tree(model: Any) -> list[str]:
    """Two continuations in one row, each blind to the other, are what they are in rows of their own."""
    from emscope.organisms.batching import PaddedBatch
    from emscope.organisms.blocks import head_logits
    from emscope.organisms.prefix import SharedPrefix

    wrong: list[str] = []
    for share in (True, False):
        prefix = SharedPrefix(organism_of(model), PROMPTS, share=share)
        if not prefix.takes_a_tree:
            continue
        with torch.inference_mode():
            prefix.run()
            tail, shared = PROMPTS[0][prefix.length :], prefix.length
            n = len(tail)
            seen = torch.ones(n + 2, shared + n + 2, dtype=torch.bool).tril(shared)
            seen[n + 1, shared + n] = False
            positions = torch.tensor([[*range(shared, shared + n + 1), shared + n]])
            unseen = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, float("-inf"))
            batch = PaddedBatch.of([[*tail, 44, 55]], 0, width=n + 2)
            logits = head_logits(model, prefix.forward(batch, positions=positions, attention=unseen))[0, n:]
        own = [_own_logits(model, [*PROMPTS[0], more])[-1] for more in (44, 55)]
        wrong += _far(f"a tree with{'' if share else 'out'} a shared prefix", logits, torch.stack(own))
    return wrong


CHECKS = (
    check_forward,
    check_reading,
    check_hidden_states,
    check_replacing,
    check_decoding,
    check_loss,
    check_tree,
)


def summary() -> str:
    """Return what became of the families: the counts, then the refused and those not built with their reasons."""
    outcomes = {family: outcome(family) for family in families()}
    counts = Counter(found.kind for found in outcomes.values())
    lines = [", ".join(f"{counts[kind]} {kind}" for kind in ("exact", "refused", "not built", "wrong"))]
    lines += [
        f"{family.id}: {found.kind}: {found.detail}" for family, found in outcomes.items() if found.kind != "exact"
    ]
    return "\n".join([f"transformers {transformers.__version__}: {len(outcomes)} configurations", *lines])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    print(summary())
