"""Interventions on some tokens alone: right with a key-value cache, left padding, batches and a shared prefix."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS, make_organism

from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts
from emscope.errors import UserError
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import Custom, Intervention, Steer, applied, applied_by_row
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import decoder_body, visiting
from emscope.organisms.token_positions import check_token_positions, prompts_end_at
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions

BLOCK = 1
N_NEW = 6
SETTINGS = SamplingSettings(temperature=0, max_new_tokens=N_NEW, batch_size=16)
EVERYWHERE = ["all", "prompt", "answer", slice(2, 7), slice(1, None, 3), slice(30, None)]


@pytest.fixture(scope="module")
def directions() -> Directions:
    chooser = np.random.default_rng(5)
    low, vectors = chooser.standard_normal((2, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "response", "resid_post", "m", "c", "tiny", 10)
    deviation = np.ones(N_BLOCKS, dtype=np.float32)
    return Directions(6 * vectors, low + 6 * vectors, low, deviation, tuple(range(N_BLOCKS)), made)


@pytest.fixture
def shift(directions):
    vector = torch.from_numpy(directions.vectors[BLOCK])
    return lambda block, hidden: hidden + vector.to(hidden.dtype)


@pytest.fixture
def prompts(organism):
    """Prompts of several lengths that begin alike: the sampler shares their beginning and pads the rest on the left."""
    start = organism.tokenizer("The same beginning of every prompt")["input_ids"]
    texts = [organism.tokenizer(text)["input_ids"] for text in PROMPTS[:4]]
    return [start + ids[: 3 + 2 * number] for number, ids in enumerate(texts)]


def meant(positions, n_prompt, n):
    """Return which of `n` places of a text are meant, spelled out."""
    inside = {"all": range(n), "prompt": range(n_prompt), "answer": range(n_prompt, n)}
    return list(range(n)[positions] if isinstance(positions, slice) else inside[positions])


def answer_by_hand(organism, change, positions, prompt, n_new=N_NEW):
    """Return the tokens after a prompt, the whole text read anew for each, and changed at the places meant."""
    ids = list(prompt)
    for _ in range(n_new):
        where = meant(positions, len(prompt), len(ids))

        def visit(block, hidden, where=where):
            changed = hidden.clone()
            changed[:, where] = change(block, hidden)[:, where]
            return changed

        with torch.no_grad(), visiting(organism.model, [BLOCK], visit):
            ids.append(int(organism.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def until_stop(tokens, sampled):
    return tokens[: len(sampled)]


@pytest.mark.parametrize("positions", EVERYWHERE, ids=str)
def test_sampling_in_batches_is_reading_each_text_anew(organism, prompts, shift, positions):
    expected = [answer_by_hand(organism, shift, positions, prompt) for prompt in prompts]
    with applied(organism, shift, blocks=[BLOCK], positions=positions):
        sampled = sample_prompts(organism, [Prompt(ids, str(row)) for row, ids in enumerate(prompts)], SETTINGS)
    assert sampled == [until_stop(*pair) for pair in zip(expected, sampled, strict=True)]


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "gpt-neox", "qwen3"])
def test_every_family_tells_its_tokens(architecture, shift):
    organism = make_organism(architecture)
    prompts = [organism.tokenizer(text)["input_ids"] for text in PROMPTS[:3]]
    for positions in ("prompt", "answer", slice(1, 40, 2)):
        expected = [answer_by_hand(organism, shift, positions, prompt) for prompt in prompts]
        with applied(organism, shift, blocks=[BLOCK], positions=positions):
            sampled = sample_prompts(organism, [Prompt(ids, str(row)) for row, ids in enumerate(prompts)], SETTINGS)
        assert sampled == [until_stop(*pair) for pair in zip(expected, sampled, strict=True)]


def test_the_positions_matter(organism, prompts, shift):
    answers = set()
    for positions in ("all", "prompt", "answer"):
        answers.add(str([answer_by_hand(organism, shift, positions, prompt) for prompt in prompts]))
    assert len(answers) == 3


def test_each_row_may_have_tokens_of_its_own(organism, prompts, directions, shift):
    whole = Steer(directions, (BLOCK,), 1.0)
    cells = [
        None,
        whole,
        replace(whole, positions="prompt"),
        Custom(shift, (BLOCK,), positions="answer"),
        replace(whole, positions=slice(3, 9)),
    ]
    asked = [(cell, ids) for cell in cells for ids in prompts]
    rows = [Prompt(ids, str(row)) for row, (_, ids) in enumerate(asked)]
    with applied_by_row(organism, [cell for cell, _ in asked]) as select:
        together = sample_prompts(organism, rows, SETTINGS, on_rows=select)
    alone = []
    for row, (cell, _) in enumerate(asked):
        with applied(organism, cell):
            alone += sample_prompts(organism, [rows[row]], SETTINGS)
    assert together == alone


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", [slice(2, 5), slice(0, None, 2), "prompt", "answer"], ids=str)
def test_only_the_tokens_meant_are_changed_and_padding_never(organism, prompts, positions, side):
    batch = PaddedBatch.of(prompts, 0, side=side)
    lengths = [len(ids) - 2 for ids in prompts]
    seen = {}
    with (
        torch.no_grad(),
        prompts_end_at(lengths),
        applied(organism, lambda block, hidden: torch.zeros_like(hidden), blocks=[BLOCK], positions=positions),
        visiting(organism.model, [BLOCK], lambda block, hidden: seen.update({block: hidden.clone()})),
    ):
        organism.model(input_ids=batch.ids, attention_mask=batch.mask)
    for row, ids in enumerate(prompts):
        zero = (seen[BLOCK][row] == 0).all(dim=-1)
        shift = batch.ids.shape[1] - len(ids) if side == "left" else 0
        assert np.flatnonzero(zero).tolist() == [place + shift for place in meant(positions, lengths[row], len(ids))]


def test_generating_with_transformers_is_right_too(organism, prompts, shift):
    for positions in ("prompt", "answer", slice(4, None)):
        with applied(organism.model, shift, blocks=[BLOCK], positions=positions):
            whole = organism.model.generate(
                torch.tensor([prompts[2]]),
                attention_mask=torch.ones(1, len(prompts[2]), dtype=torch.long),
                do_sample=False,
                max_new_tokens=N_NEW,
                min_new_tokens=N_NEW,
                eos_token_id=None,
            )
        expected = answer_by_hand(organism, shift, positions, prompts[2])
        assert whole[0, len(prompts[2]) :].tolist() == expected


def test_a_pass_that_does_not_say_where_its_prompts_end_is_refused(organism, prompts, shift):
    ids = torch.tensor([prompts[0]])
    for positions in ("prompt", "answer"):
        with (
            applied(organism, shift, positions=positions),
            pytest.raises(UserError, match="Nothing says where"),
        ):
            organism.model(input_ids=ids, use_cache=False)
    with (
        applied(organism, shift, positions="prompt"),
        prompts_end_at([3, 3]),
        pytest.raises(UserError, match="2 prompt"),
    ):
        organism.model(input_ids=ids)


def test_reading_knows_prompts_and_answers(organism, shift):
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    settings = CaptureSettings(("prompt", "response"), blocks=(BLOCK,))
    before = capture(organism, chats, settings).pooled
    moved = {}
    for positions in ("prompt", "answer"):
        with applied(organism, shift, blocks=[BLOCK], positions=positions):
            moved[positions] = capture(organism, chats, settings).pooled
    vector = shift(BLOCK, torch.zeros(D_MODEL)).numpy()
    np.testing.assert_allclose(moved["answer"]["response"][:, 0], before["response"][:, 0] + vector, atol=1e-4)
    np.testing.assert_allclose(moved["prompt"]["prompt"][:, 0], before["prompt"][:, 0] + vector, atol=1e-4)
    np.testing.assert_array_equal(moved["answer"]["prompt"], before["prompt"])
    np.testing.assert_array_equal(moved["prompt"]["response"][:, 0], before["response"][:, 0])  # the block's own output


def test_disturbance_of_answers_alone_is_less_than_of_all_tokens(organism, directions):
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    undisturbed = Undisturbed(organism, ForcedText(chats, PROMPTS))
    whole = Steer(directions, (BLOCK,), 0.2)
    nats = {}
    for positions in ("all", "answer", slice(0, 0), slice(0, None)):
        nats[str(positions)] = undisturbed.divergence(replace(whole, positions=positions)).nats
    np.testing.assert_array_equal(nats["slice(0, 0, None)"], 0)
    np.testing.assert_allclose(nats["slice(0, None, None)"], nats["all"], rtol=1e-5)
    assert not np.allclose(nats["answer"], nats["all"])


def test_all_tokens_are_changed_as_before_without_following_the_model(organism, prompts, directions):
    batch = PaddedBatch.of(prompts, 0)
    whole = Steer(directions, (BLOCK,), 0.5)
    outputs = []
    for way in (whole, Custom(whole, (BLOCK,))):
        with torch.no_grad(), applied(organism, way):
            assert not decoder_body(organism.model)._forward_pre_hooks
            outputs.append(organism.model(input_ids=batch.ids, attention_mask=batch.mask).logits)
    assert torch.equal(*outputs)
    with applied(organism, replace(whole, positions="answer")):
        assert decoder_body(organism.model)._forward_pre_hooks
    assert not decoder_body(organism.model)._forward_pre_hooks


class Halved:
    """Somebody else's kind of intervention: no class of ours, only what the protocol asks for."""

    blocks, site, positions = (0, 2), "resid_pre", "all"

    def __call__(self, block, hidden):
        return hidden / 2


def test_somebody_elses_kind_is_an_intervention(organism, prompts):
    assert isinstance(Halved(), Intervention)
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        plain = organism.model(input_ids=ids).logits
        with applied(organism, Halved()):
            halved = organism.model(input_ids=ids).logits
        with visiting(organism.model, [0, 2], lambda block, hidden: hidden / 2, "resid_pre"):
            assert torch.equal(halved, organism.model(input_ids=ids).logits)
    assert not torch.equal(plain, halved)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda block, hidden: None, "NoneType"),
        (lambda block, hidden: hidden[:, :1], r"shape \(1, 1, "),
        (lambda block, hidden: hidden.double(), "dtype torch.float64"),
        (lambda block, hidden: hidden.to("meta"), "device meta"),
    ],
)
def test_what_is_not_like_the_hidden_states_is_one_sentence(organism, prompts, change, got):
    wrong = Halved()
    wrong.__class__ = type("Wrong", (Halved,), {"__call__": lambda self, block, hidden: change(block, hidden)})
    for intervention in (change, wrong):
        with applied(organism, intervention), pytest.raises(UserError, match=f"returned {got}.* at block 0") as error:
            organism.model(input_ids=torch.tensor([prompts[0]]))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("positions", ["last", None, 3, slice(-2, None), slice(0, 4, 0), slice(0.5, 2), ["prompt"]])
def test_positions_that_mean_nothing_are_refused(organism, directions, positions):
    with pytest.raises(UserError, match=r"[Tt]oken positions"):
        check_token_positions(positions)
    with pytest.raises(UserError, match=r"[Tt]oken positions"):
        Steer(directions, (BLOCK,), positions=positions)


def test_an_intervention_that_knows_its_blocks_is_not_told_others(organism, directions):
    whole = Steer(directions, (BLOCK,), positions="prompt")
    with pytest.raises(UserError, match="knows its blocks"), applied(organism, whole, blocks=[2]):
        pass
    with pytest.raises(UserError, match="knows its tokens"), applied(organism, whole, positions="answer"):
        pass
    with pytest.raises(UserError, match="no block 9"), applied(organism, lambda block, hidden: hidden, blocks=[9]):
        pass
    with pytest.raises(UserError, match="is a function"), applied(organism, "ablate"):
        pass
