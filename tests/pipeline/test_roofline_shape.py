"""The arithmetic counted from shapes is the arithmetic that torch counts while a model runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ARCHITECTURES, make_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from emscope.errors import UserError
from emscope.organisms.lora import with_adapter
from emscope.organisms.settings import TrainSettings
from emscope.pipeline.roofline.shape import Work, decoding_work, shape_of, text_work, texts_work, total
from emscope.pipeline.roofline.subject import SHAPES, named_shape

ROWS, TOKENS = 3, 11
WHOLE = Work(tokens=ROWS * TOKENS, pairs=ROWS * TOKENS * TOKENS, logits=ROWS * TOKENS)
"""Plain attention computes masked-out pairs too, so what torch counts has them all."""
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def tokens():
    return torch.randint(0, 50, (ROWS, TOKENS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_arithmetic_is_what_torch_counts(architecture):
    model = make_model(architecture)
    ids = tokens()
    with torch.no_grad():
        assert shape_of(model).forward_flop(WHOLE) == counted(lambda: model(input_ids=ids))


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **SMALL),
        Qwen3MoeConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8, **SMALL),
    ],
    ids=["mixtral", "qwen3-moe"],
)
def test_a_token_is_counted_with_the_experts_that_it_goes_through(config):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    ids = tokens()
    with torch.no_grad():
        found = counted(lambda: model(input_ids=ids))
    assert shape_of(model).forward_flop(WHOLE) == found


def test_training_arithmetic_is_what_torch_counts_but_for_the_gradient_of_the_first_blocks_input():
    model = make_model()
    shape = shape_of(model)
    attention = model.model.layers[0].self_attn
    frozen = sum(2 * name.weight.numel() for name in (attention.q_proj, attention.k_proj, attention.v_proj))
    settings = TrainSettings(rank=4)
    wrapped = with_adapter(model, settings)
    adapter = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    ids = tokens()
    found = counted(lambda: wrapped(input_ids=ids, labels=ids).loss.backward())

    not_needed = ROWS * TOKENS * (frozen + 3 * 2 * settings.rank * shape.d_model)
    assert shape_of(wrapped) == shape
    assert shape.training_flop(WHOLE, adapter) == found + not_needed


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.integers(0, 8), st.lists(st.integers(1, 9), min_size=5))
def test_texts_cost_the_same_whole_or_in_steps(lengths, shared, new):
    lengths = [shared + length for length in lengths]
    whole = texts_work(lengths)
    once = texts_work(lengths, shared)
    assert whole.tokens - once.tokens == (len(lengths) - 1) * shared
    assert whole.pairs - once.pairs == (len(lengths) - 1) * shared * (shared + 1) // 2

    sampled = decoding_work(lengths, new[: len(lengths)], shared)
    grown = [length + n - 1 for length, n in zip(lengths, new, strict=False)]
    assert (sampled.tokens, sampled.pairs) == (texts_work(grown, shared).tokens, texts_work(grown, shared).pairs)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_text_in_two_parts_is_the_same_work(first, second, before):
    parts = total([text_work(first, before), text_work(second, before + first)])
    whole = text_work(first + second, before)
    assert (parts.tokens, parts.pairs) == (whole.tokens, whole.pairs)


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("1b", 1.24, 1.24),
        ("7b", 6.74, 6.74),
        ("8b", 8.03, 8.03),
        ("70b", 70.6, 70.6),
        ("8x7b", 46.7, 12.9),
        ("30b-a3b", 30.5, 3.3),
    ],
)
def test_named_shapes_have_the_weights_that_their_makers_say(name, billions, active):
    shape = named_shape(name)
    assert shape.n_weights / 1e9 == pytest.approx(billions, rel=0.01)
    used = shape.active_weights + shape.head_weights + shape.embedding_weights
    assert used / 1e9 == pytest.approx(active, rel=0.02)
    assert name in SHAPES


def test_experts_are_read_as_tokens_need_them():
    shape = named_shape("30b-a3b")
    assert shape.touched_weights(1) == pytest.approx(shape.active_weights)
    assert shape.touched_weights(8) < shape.touched_weights(64) < shape.block_weights
    assert shape.touched_weights(10_000) == pytest.approx(shape.block_weights)
    dense = named_shape("7b")
    assert dense.touched_weights(1) == dense.block_weights


def test_compressed_attention_is_refused():
    model = make_model()
    model.config.kv_lora_rank = 8
    with pytest.raises(UserError, match="compresses its keys and values"):
        shape_of(model)
