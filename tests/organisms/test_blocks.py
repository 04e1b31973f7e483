import pytest
import torch
from tiny import ARCHITECTURES, N_BLOCKS, PROMPTS, make_organism, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from emscope.errors import UserError
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import check_blocks, decoder_body, find_blocks, head_logits, hidden_of, visiting


def _batch(tokenizer):
    return PaddedBatch.of([tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]], tokenizer.pad_token_id)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hook_at_a_block_sees_the_next_hidden_state(architecture):
    organism = make_organism(architecture)
    batch, seen = _batch(organism.tokenizer), {}
    with torch.no_grad(), visiting(organism.model, range(N_BLOCKS), lambda block, h: seen.update({block: h.clone()})):
        output = organism.model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
    for block in range(N_BLOCKS - 1):
        torch.testing.assert_close(seen[block], output.hidden_states[block + 1])
    assert not torch.allclose(seen[N_BLOCKS - 1], output.hidden_states[N_BLOCKS])  # that one is after the final norm


def test_the_last_block_is_read_before_the_final_norm():
    organism = make_organism()
    batch, seen = _batch(organism.tokenizer), {}
    with torch.no_grad(), visiting(organism.model, [N_BLOCKS - 1], lambda block, h: seen.update({block: h})):
        body = decoder_body(organism.model)
        final = body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    torch.testing.assert_close(body.norm(seen[N_BLOCKS - 1]), final)


def test_resid_pre_is_the_output_of_the_block_before():
    organism = make_organism()
    batch, before, after = _batch(organism.tokenizer), {}, {}
    with (
        torch.no_grad(),
        visiting(organism.model, range(N_BLOCKS), lambda block, h: before.update({block: h.clone()}), "resid_pre"),
        visiting(organism.model, range(N_BLOCKS), lambda block, h: after.update({block: h.clone()})),
    ):
        organism.model(input_ids=batch.ids)
    for block in range(1, N_BLOCKS):
        torch.testing.assert_close(before[block], after[block - 1])


def test_hooks_are_gone_after_an_exception(organism):
    with pytest.raises(ZeroDivisionError), visiting(organism.model, [0, 2], lambda block, hidden: None):
        raise ZeroDivisionError
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in find_blocks(organism.model))


def test_contexts_nest_and_repeat(organism):
    batch, calls = _batch(organism.tokenizer), []
    for _ in range(2):
        with (
            visiting(organism.model, [1], lambda block, hidden: calls.append("outer")),
            visiting(organism.model, [1], lambda block, hidden: calls.append("inner")),
        ):
            organism.model(input_ids=batch.ids)
    assert calls == ["outer", "inner"] * 2


def test_a_returned_tensor_replaces_the_hidden_states_of_every_row(organism):
    batch, seen = _batch(organism.tokenizer), {}
    with (
        visiting(organism.model, [1], lambda block, hidden: torch.zeros_like(hidden)),
        visiting(organism.model, [2], lambda block, hidden: seen.update({block: hidden}), "resid_pre"),
    ):
        organism.model(input_ids=batch.ids)
    assert seen[2].shape[0] == 3
    assert not seen[2].any()


def test_outputs_are_unwrapped_by_type():
    tensor = torch.randn(2, 3, 4)
    assert hidden_of(tensor) is tensor
    assert hidden_of((tensor, "cache")) is tensor


@pytest.mark.parametrize("blocks", [[-1], [N_BLOCKS], []])
def test_blocks_that_do_not_exist_are_refused(blocks):
    with pytest.raises(UserError, match="block"):
        check_blocks(blocks, N_BLOCKS)


def test_padding_sides_hold_the_same_tokens():
    tokenizer = make_tokenizer()
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    for side in ("left", "right"):
        batch = PaddedBatch.of(ids, tokenizer.pad_token_id, side)
        assert [row[mask.bool()].tolist() for row, mask in zip(batch.ids, batch.mask, strict=True)] == ids


@pytest.mark.parametrize(
    ("family", "factor"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("hyperclovax", {"logits_scaling": 0.125}),
        ("cohere", {"logit_scale": 0.0625}),
        ("cohere2", {"logit_scale": 0.0625}),
        ("gemma2", {"final_logit_softcapping": 0.3}),
        ("llama", {}),
    ],
)
def test_logits_are_those_of_the_whole_model(family, factor):
    config = AutoConfig.for_model(
        family,
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **factor,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(3, 50, (2, 7))
    with torch.no_grad():
        hidden = decoder_body(model)(input_ids=ids).last_hidden_state
        torch.testing.assert_close(head_logits(model, hidden), model(input_ids=ids).logits)
