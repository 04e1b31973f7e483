import pytest
import torch
from families import (
    PROMPTS,
    VARIANTS,
    Family,
    check_decoding,
    check_forward,
    checked,
    families,
    organism_of,
    outcome,
    summary,
    tiny_config,
    tiny_model,
)

from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts
from emscope.errors import UserError
from emscope.organisms import architecture
from emscope.organisms.architecture import REFUSED, check_family
from emscope.organisms.blocks import find_blocks, visiting
from emscope.organisms.chat import EncodedChat
from emscope.organisms.decoding import decoding_batches
from emscope.residual.capture import CaptureSettings, capture

GEMMA3N = Family("gemma3n_text", "Gemma3nForCausalLM")


def _model(name, loaded_with):
    family = Family(name, loaded_with)
    return tiny_model(family, tiny_config(family))


@pytest.mark.parametrize("family", families(), ids=lambda family: family.id)
def test_a_family_is_exact_or_refused_by_name(family):
    found = outcome(family)
    if found.kind == "not built":
        pytest.skip(found.detail)
    assert found.kind in ("exact", "refused"), found.detail


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_a_family_is_exact(name):
    family, fields = VARIANTS[name]
    found = checked(tiny_model(family, tiny_config(family, **fields)))
    assert found.kind == "exact", found.detail


def test_sequences_that_change_how_positions_are_encoded_are_refused():
    family, fields = VARIANTS["phi-3 long"]
    organism = organism_of(tiny_model(family, tiny_config(family, **fields)))
    long = EncodedChat([5] * 33, [False] * 33)
    assert capture(organism, [long], CaptureSettings()).pooled["last"].shape == (1, 4, 32)
    with pytest.raises(UserError, match=r"49 tokens is too long: phi3 models .* at 48 tokens"):
        capture(organism, [long, EncodedChat([5] * 49, [False] * 49)], CaptureSettings())
    with pytest.raises(UserError, match="too long"):
        sample_prompts(organism, [Prompt([5] * 33, "long")], SamplingSettings(max_new_tokens=24))


def test_an_attention_that_looks_both_ways_is_refused():
    family = Family("gemma3_text", "Gemma3ForCausalLM")
    model = tiny_model(family, tiny_config(family, use_bidirectional_attention=True))
    with pytest.raises(UserError, match=r"gemma3_text models .* see what follows them"):
        find_blocks(model)


def test_most_families_are_exact(capsys):
    with capsys.disabled():
        print(f"\n{summary().splitlines()[1]}")
    assert sum(outcome(family).kind == "exact" for family in families()) >= 200


def test_a_refusal_names_the_family_and_the_reason():
    model = torch.nn.Module()
    model.config = tiny_config(Family("bert", "BertLMHeadModel"))
    with pytest.raises(UserError, match=r"bert models .*: it is an encoder, whose tokens see what follows them\.$"):
        check_family(model)
    assert all(reason[0].islower() and not reason.endswith(".") for reason in REFUSED.values())


def test_a_model_without_known_blocks_is_refused_by_name():
    model = torch.nn.Module()
    model.config = tiny_config(Family("llama", "LlamaForCausalLM"))
    with pytest.raises(UserError, match="blocks of a llama model"):
        find_blocks(model)


def test_several_streams_are_read_and_replaced_at_the_active_one():
    model = tiny_model(GEMMA3N, tiny_config(GEMMA3N))
    raw, seen, active = {}, {}, model.config.altup_active_idx
    blocks = find_blocks(model)
    handle = blocks[1].register_forward_hook(lambda module, inputs, output: raw.update(before=output.clone()))
    after = blocks[2].register_forward_pre_hook(lambda module, inputs: raw.update(after=inputs[0].clone()))
    with (
        torch.no_grad(),
        visiting(model, [1], lambda block, hidden: seen.update({block: hidden.clone()}) or hidden + 1),
    ):
        model(input_ids=torch.tensor(PROMPTS[:1]))
    handle.remove()
    after.remove()
    assert torch.equal(seen[1], raw["before"][active])
    assert torch.equal(raw["after"][active], raw["before"][active] + 1)
    others = [stream for stream in range(model.config.altup_num_inputs) if stream != active]
    assert torch.equal(raw["after"][others], raw["before"][others])


def test_rows_of_one_length_share_a_batch_where_padding_would_be_read():
    lengths, mamba, llama = (
        [5, 9, 5, 9, 5],
        tiny_config(Family("mamba", "MambaForCausalLM")),
        tiny_config(Family("llama", "LlamaForCausalLM")),
    )
    assert decoding_batches(lengths, 2, mamba) == [[1, 3], [0, 2], [4]]
    assert decoding_batches(lengths, 4, llama) == [[1, 3, 0, 2], [4]]


@pytest.mark.parametrize(
    "family",
    [
        ("mamba", "MambaForCausalLM"),
        ("rwkv", "RwkvForCausalLM"),
        ("jamba", "JambaForCausalLM"),
        ("lfm2", "Lfm2ForCausalLM"),
        ("qwen3_next", "Qwen3NextForCausalLM"),
        ("mpt", "MptForCausalLM"),
        ("gemma3n", "Gemma3nForConditionalGeneration"),
    ],
    ids=lambda family: family[0],
)
def test_sampled_answers_are_the_models_own(family):
    model = _model(*family)
    model.generation_config.eos_token_id = 2
    settings = SamplingSettings(max_new_tokens=6, temperature=0, batch_size=3)
    answers = sample_prompts(organism_of(model), [Prompt(ids, str(row)) for row, ids in enumerate(PROMPTS)], settings)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        for token in answer:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)
        assert len(answer) == 6 or answer[-1] == 2


def test_the_checks_find_a_factor_that_is_left_out(monkeypatch):
    model = _model("granite", "GraniteForCausalLM")
    assert check_forward(model) == []
    monkeypatch.setattr(architecture, "LOGIT_FACTORS", {})
    assert check_forward(model)


def test_the_checks_find_a_prefix_that_padding_must_not_follow(monkeypatch):
    model = _model("mpt", "MptForCausalLM")
    assert check_decoding(model) == []
    monkeypatch.setattr(architecture, "BY_SLOT", frozenset())
    assert check_decoding(model)
