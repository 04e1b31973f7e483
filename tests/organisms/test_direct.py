from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import D_MODEL, PROMPTS, make_model, make_organism
from torch import nn

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.organisms import direct
from emscope.organisms.blocks import decoder_body, find_blocks, visiting
from emscope.organisms.cache import cache_argument, growing_cache
from emscope.organisms.direct import DirectDecoder, fast_decoder
from emscope.organisms.token_positions import following

PLAIN = ["llama", "mistral", "qwen2", "qwen3"]
FAR = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def passes(decoder, body, steps=3, side="left"):
    """Return the final hidden states of real tokens: of a padded prefill and of some decoding steps."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (4, 9 + steps), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.long)
    for row in range(1, 4):
        mask[row, : 2 * row] = 0
    mask = mask if side == "left" else mask.flip(1)
    cache, found = growing_cache(body.config, 4), []
    with torch.inference_mode():
        for end in range(9, 10 + steps):
            seen = torch.cat([mask, mask.new_ones(4, end - 9)], dim=1)
            new = slice(0, 9) if end == 9 else slice(end - 1, end)
            positions = (seen.cumsum(1) - 1).clamp(min=0)[:, new]
            given = {"attention_mask": seen, "position_ids": positions, "use_cache": True}
            hidden = decoder(input_ids=ids[:, new], **given, **cache_argument(body, cache)).last_hidden_state
            found.append(hidden[seen[:, new].bool()])
    return torch.cat(found)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", list(FAR))
@pytest.mark.parametrize("architecture", PLAIN)
def test_it_computes_what_the_decoder_computes(architecture, dtype, side):
    model = make_model(architecture).to(dtype)
    body, own = decoder_body(model), fast_decoder(model)
    assert isinstance(own, DirectDecoder)
    usual = passes(body, body, side=side)
    torch.testing.assert_close(passes(own, body, side=side), usual, rtol=0, atol=FAR[dtype] * float(usual.abs().max()))


@pytest.mark.parametrize("architecture", PLAIN)
def test_packed_weights_give_the_same(architecture):
    model = make_model(architecture).bfloat16()
    body = decoder_body(model)
    if not direct.can_pack(body):
        pytest.skip("this processor or version multiplies no packed bf16 weights")
    packed, plain = passes(DirectDecoder(body, pack=True), body), passes(DirectDecoder(body, pack=False), body)
    torch.testing.assert_close(packed, plain, rtol=0, atol=0.02 * float(plain.abs().max()))


def test_a_mask_of_the_callers_own_is_heeded():
    model = make_model("llama")
    body, own = decoder_body(model), fast_decoder(model)
    ids = torch.arange(10, 17)[None]
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    seen[5:, 2:5] = False
    given = {"attention_mask": direct.added_to(seen[None, None], torch.float32), "use_cache": False}
    with torch.inference_mode():
        torch.testing.assert_close(own(input_ids=ids, **given)[0], body(input_ids=ids, **given)[0])
        whole = body(input_ids=ids, use_cache=False)[0]
        assert not torch.allclose(own(input_ids=ids, **given)[0], whole)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_hooks_on_blocks_and_decoder_act_as_ever(site):
    model = make_model("llama")
    body, own = decoder_body(model), fast_decoder(model)

    def hooked(decoder):
        seen = []

        def visit(block, hidden):
            seen.append((block, hidden.clone()))
            return hidden + block + 1

        with visiting(model, [1, 3], visit, site), following(model) as current:
            found = passes(decoder, body)
        return found, seen, current.places

    usual, ours = hooked(body), hooked(own)
    torch.testing.assert_close(ours[0], usual[0], rtol=1e-4, atol=1e-4)
    assert [block for block, _ in ours[1]] == [block for block, _ in usual[1]]
    assert torch.equal(ours[2], usual[2])
    assert not torch.allclose(ours[0], passes(own, body))


def test_a_hook_inside_a_block_is_called():
    model = make_model("llama")
    own, seen = fast_decoder(model), []
    handle = find_blocks(model)[0].mlp.register_forward_hook(lambda module, given, output: seen.append(output))
    passes(own, decoder_body(model), steps=1)
    handle.remove()
    assert len(seen) == 2


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "gpt-neox", "phi"])
def test_other_families_run_as_they_are(architecture):
    model = make_model(architecture)
    assert fast_decoder(model) is decoder_body(model)


def changed_linear(model):
    class Own(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * 2

    own = Own(D_MODEL, 64, bias=False)
    find_blocks(model)[2].mlp.up_proj = own


def changed_forward(model):
    block = find_blocks(model)[1]
    block.forward = lambda *given, **named: type(block).forward(block, *given, **named)


def sliding_window(model):
    model.config.sliding_window = 4


def mixed_types(model):
    find_blocks(model)[0].mlp.double()


def in_training(model):
    model.train()


CHANGES = [changed_linear, changed_forward, sliding_window, mixed_types, in_training]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_plain_runs_as_it_is(change):
    model = make_model("mistral")
    change(model)
    assert fast_decoder(model) is decoder_body(model)


def test_a_block_that_computes_otherwise_than_known_runs_as_it_is(monkeypatch):
    model = make_model("llama")
    kind = type(find_blocks(model)[0])
    usual = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, hidden, **given: usual(self, hidden, **given) * 1.01)
    assert fast_decoder(model) is decoder_body(model)


def test_the_model_is_left_as_it_was_after_an_error_too():
    model = make_model("llama")
    body, own = decoder_body(model), fast_decoder(model)

    def fail(block, hidden):
        raise ValueError("of a hook")

    with visiting(model, [2], fail), pytest.raises(ValueError, match="of a hook"):
        passes(own, body)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_changed_weights_are_used_by_what_is_sampled_next():
    organism = make_organism()
    organism.model.bfloat16()
    questions = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS)]
    settings = SamplingSettings(max_new_tokens=12, samples=20)
    before = [row.response for row in sample_responses(organism, questions, settings)]
    for block in find_blocks(organism.model):
        block.mlp.down_proj.weight.data.mul_(-1)  # as adapters are merged, past what counts versions
    assert [row.response for row in sample_responses(organism, questions, settings)] != before


def test_threads_do_not_disturb_each_other():
    model = make_model("llama")
    body, own = decoder_body(model), fast_decoder(model)
    usual = passes(body, body)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda number: passes(own if number % 2 else body, body), range(24)):
            torch.testing.assert_close(found, usual, rtol=0, atol=1e-4)
