import numpy as np
import pytest
import torch
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS, make_organism

from emscope.errors import UserError
from emscope.interventions import kl
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import along, applied
from emscope.organisms.blocks import find_blocks
from emscope.residual.capture import encode_for_capture
from emscope.residual.directions import Construction, Directions

BLOCKS = tuple(range(N_BLOCKS))


@pytest.fixture(scope="module")
def directions() -> Directions:
    chooser = np.random.default_rng(3)
    low, vectors = chooser.standard_normal((2, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "response", "resid_post", "m", "c", "tiny", 10)
    return Directions(vectors, low + vectors, low, np.ones(N_BLOCKS, dtype=np.float32), BLOCKS, made)


def undisturbed(organism, prompts=PROMPTS, answers=ANSWERS, budget=4096) -> Undisturbed:
    chats = encode_for_capture(organism.tokenizer, prompts, answers)
    return Undisturbed(organism, ForcedText(chats, prompts, budget))


def naive(organism, intervention, other=None) -> np.ndarray:
    """One chat at a time, whole logits, float64: nats summed over each answer."""
    found = []
    for chat in encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS):
        ids = torch.tensor([chat.ids])
        with torch.no_grad():
            ours = organism.model(input_ids=ids).logits[0].double().log_softmax(-1)
            with applied(other or organism, intervention):
                theirs = (other or organism).model(input_ids=ids).logits[0].double().log_softmax(-1)
        nats = (ours.exp() * (ours - theirs)).sum(-1)
        found.append(float(nats[chat.answer_positions - 1].sum()))
    return np.array(found)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])  # gemma2 cannot share a prefix
def test_it_is_the_mean_over_answer_tokens_of_whole_distributions(architecture, directions):
    organism = make_organism(architecture)
    intervention = along(directions, "add", (1,), 0.5)
    found = undisturbed(organism).divergence(intervention)
    np.testing.assert_allclose(found.nats, naive(organism, intervention), rtol=1e-3)
    assert found.per_token == pytest.approx(found.nats.sum() / found.tokens.sum())
    assert found.estimate().low < found.per_token < found.estimate().high


def test_another_model_is_measured_on_the_same_answers(organism):
    other = make_organism(seed=1)
    np.testing.assert_allclose(
        undisturbed(organism).divergence(other=other).nats, naive(organism, None, other), rtol=1e-3
    )


def test_nothing_done_is_exactly_no_divergence(organism, directions):
    same = undisturbed(organism)
    for intervention in (None, along(directions, "add", (1,), 0.0)):
        assert not same.divergence(intervention).nats.any()


def test_batches_chunks_and_order_change_nothing(organism, directions, monkeypatch):
    intervention = along(directions, "add", (1, 2), 0.4)
    reference = undisturbed(organism).divergence(intervention).nats
    monkeypatch.setattr(kl, "LOGITS_AT_A_TIME", 3 * 400)
    np.testing.assert_allclose(undisturbed(organism, budget=1).divergence(intervention).nats, reference, rtol=1e-3)
    back = undisturbed(organism, PROMPTS[::-1], ANSWERS[::-1], budget=64).divergence(intervention).nats
    np.testing.assert_allclose(back[::-1], reference, rtol=1e-3)


def test_several_answers_to_one_question_count_their_first_token_too(organism, directions):
    intervention = along(directions, "add", (1,), 0.5)
    many = undisturbed(organism, PROMPTS[:1] * 3, [ANSWERS[0]] * 3).divergence(intervention)
    alone = undisturbed(organism).divergence(intervention)
    np.testing.assert_allclose(many.nats, alone.nats[0], rtol=1e-3)
    assert (many.tokens == alone.tokens[0]).all()


def test_more_of_a_direction_disturbs_more(organism, directions):
    same = undisturbed(organism)
    sizes = [same.divergence(along(directions, "add", (2,), c)).per_token for c in (0.1, 0.2, 0.4, 0.8)]
    assert sizes == sorted(sizes)
    assert sizes[1] / sizes[0] == pytest.approx(4, rel=0.4)  # a square law for small disturbance


def test_many_at_once_are_each_what_it_is_alone(organism, directions):
    same, cells = undisturbed(organism, budget=64), [along(directions, "add", (1,), c) for c in (0.3, 0.0, -0.6)]
    for found, cell in zip(same.divergences(cells), cells, strict=True):
        np.testing.assert_allclose(found.nats, same.divergence(cell).nats, rtol=1e-4, atol=1e-9)


def test_no_answers_and_exceptions(organism, directions):
    before = [len(block._forward_hooks) for block in find_blocks(organism.model)]  # other tests may have left some
    prompts = encode_for_capture(organism.tokenizer, PROMPTS)
    with pytest.raises(UserError, match="needs answers"):
        ForcedText(prompts, PROMPTS)
    wide = Directions(
        *(np.ones((N_BLOCKS, 48), np.float32) for _ in range(3)),
        np.ones(N_BLOCKS, np.float32),
        BLOCKS,
        directions.construction,
    )
    with pytest.raises(UserError, match="width 48"):
        undisturbed(organism).divergence(along(wide, "add", (1,)))
    assert [len(block._forward_hooks) for block in find_blocks(organism.model)] == before
