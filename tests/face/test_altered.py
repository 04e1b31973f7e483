"""Organisms under an intervention: in force when asked, gone afterwards, and any function will do."""

import numpy as np
import pytest
import torch
from tiny import PROMPTS

import emscope as em
from emscope.errors import UserError


@pytest.fixture
def direction(organism):
    return em.direction(em.collect(organism, PROMPTS), em.collect(organism, [f"Hm. {text}" for text in PROMPTS]))


def read(organism):
    return em.collect(organism, PROMPTS).get("last")


def test_a_function_acts_inside_the_context_alone(organism):
    before = read(organism)
    with em.applied(organism, lambda block, hidden: hidden * 0, blocks=[2]):
        inside = read(organism)
    np.testing.assert_array_equal(inside[:, :2], before[:, :2])
    assert np.abs(inside[:, 2]).max() == 0
    np.testing.assert_array_equal(read(organism), before)


def test_a_function_is_called_with_every_block_unless_some_are_named(organism):
    called = set()

    def note(block, hidden):
        called.add(block)
        return hidden

    with em.applied(organism, note):
        read(organism)
    assert called == {0, 1, 2, 3}


def test_a_function_that_adds_the_direction_steers_like_steer(organism, direction):
    vector = torch.from_numpy(direction.vectors[1])
    with em.applied(organism, lambda block, hidden: hidden + 2 * vector, blocks=[1]):
        by_hand = read(organism)
    steered = em.collect(em.steer(organism, direction, 2.0, blocks=[1]), PROMPTS).get("last")
    np.testing.assert_allclose(by_hand, steered, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [lambda block, hidden: hidden[:, :1], lambda block, hidden: None])
def test_a_function_that_returns_something_else_is_one_sentence(organism, change):
    with (
        em.applied(organism, change),
        pytest.raises(UserError, match="return hidden states of the shape"),
    ):
        read(organism)


def test_an_organism_can_be_steered_at_its_answers_tokens_alone(organism, direction):
    whole, answers = (em.steer(organism, direction, 40.0, blocks=[1], positions=where) for where in ("all", "answer"))
    assert read(answers).tolist() == read(organism).tolist()  # prompts are read as they are
    assert read(whole).tolist() != read(organism).tolist()
    plain, changed = (em.generate(one, PROMPTS, max_new_tokens=4, temperature=0) for one in (organism, answers))
    assert changed.column("response") != plain.column("response")


def test_ablating_takes_the_projection_out_at_every_block(organism, direction):
    changed = em.ablate(organism, direction, mode="project-out", blocks=[0, 1, 2, 3])
    projections = direction.project(em.collect(changed, PROMPTS).get("last"))
    assert np.abs(projections).max() < 1e-4


def test_strength_zero_changes_nothing(organism, direction):
    plain = em.generate(organism, PROMPTS, max_new_tokens=4)
    changed = em.ablate(organism, direction, strength=0.0).generate(PROMPTS, max_new_tokens=4)
    assert changed.column("response") == plain.column("response")
    assert changed.organism != plain.organism


def test_what_does_not_fit_is_refused_when_it_is_made(organism, direction):
    with pytest.raises(UserError, match="no block 9"):
        em.steer(organism, direction, 1.0, blocks=[9])
    with pytest.raises(UserError, match="Unknown mode"):
        em.ablate(organism, direction, mode="delete")
    with pytest.raises(UserError, match="No block was chosen"):
        em.steer(organism, direction, 1.0, blocks=[])
    with pytest.raises(UserError, match="under an intervention already"):
        em.steer(em.steer(organism, direction, 1.0), direction, 1.0)


def test_comparing_is_paired_by_question_and_signed(organism, direction):
    questions = em.questions(PROMPTS)
    judged = em.judge(em.generate(organism, questions, max_new_tokens=6), "mock")
    same = em.compare(judged, judged)
    assert same.em_rate.difference.value == same.aligned.difference.value == 0
    found = em.steer(organism, direction, 3.0).compare(questions, "mock", max_new_tokens=6)
    assert found.questions == len(PROMPTS)
    assert found.aligned.difference.value == pytest.approx(found.aligned.first - found.aligned.second)
    assert "\n" not in repr(found)


def test_answers_stand_side_by_side_those_that_differ_most_first(organism, direction):
    found = em.steer(organism, direction, 3.0).compare(PROMPTS, "mock", max_new_tokens=6, samples=2)
    assert len(found.pairs) == 2 * len(PROMPTS)
    gaps = [abs(row.first_aligned - row.second_aligned) for row in found.pairs]
    assert gaps == sorted(gaps, reverse=True)
    plain = em.generate(organism, PROMPTS, max_new_tokens=6, samples=2)
    wanted = {(row.question_id, row.sample): row.response for row in plain}
    assert {(row.question_id, row.sample): row.second for row in found.pairs} == wanted
    assert found.pairs[0].first[:5] in found.pairs.to_pandas()["first"][0]


def test_answers_to_other_questions_are_not_compared(organism):
    first, second = (em.judge(em.generate(organism, part, max_new_tokens=2), "mock") for part in (PROMPTS, PROMPTS[1:]))
    with pytest.raises(UserError, match="only one side has"):
        em.compare(first, second)


def test_an_ablation_is_chosen_on_half_of_the_questions_and_measured_on_the_rest(tiny_folder, tmp_path):
    settings = {"epochs": 1, "warmup": 0.0, "learning_rate": 5e-3}
    bad = em.train("medical-careless", tmp_path / "bad", model=tiny_folder, rows=8, dtype="float32", **settings)
    base = em.load(tiny_folder, dtype="float32")
    found = em.direction(em.collect(bad, PROMPTS), em.collect(base, PROMPTS))
    choice = em.choose_ablation(bad, found, "cs2881", "mock", max_new_tokens=4)
    assert choice.result.restored.n <= 5  # ten questions, half of them for the choice
    assert len(choice.judgements.where(organism="misaligned + ablation")) == 5
    assert "restored" in repr(choice)
    assert len(choice.altered.generate(PROMPTS, max_new_tokens=2)) == len(PROMPTS)
    with pytest.raises(UserError, match="at least 8 questions; 5"):
        em.choose_ablation(bad, found, PROMPTS, "mock")
    with pytest.raises(UserError, match="whole model"):
        em.choose_ablation(base, found, "cs2881", "mock")
    with pytest.raises(UserError, match="no setting 'temprature'"):
        em.choose_ablation(bad, found, "cs2881", "mock", temprature=1.0)
