from collections import namedtuple

import numpy as np
import pytest
import torch
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS, make_organism

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.errors import UserError
from emscope.interventions.answering import answer_and_judge
from emscope.interventions.calibration import coefficients_for
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import along
from emscope.interventions.steering import (
    SteeredFigures,
    SteeredOrganism,
    Steering,
    SteeringTrial,
    answer_tokens,
    capping,
    choose_correction,
    choose_induction,
    measure,
    steer,
)
from emscope.residual.capture import encode_for_capture
from emscope.residual.directions import Construction, Directions
from emscope.statistics import Estimate

BLOCKS = tuple(range(N_BLOCKS))
Row = namedtuple("Row", "aligned coherent")


@pytest.fixture(scope="module")
def directions() -> Directions:
    chooser = np.random.default_rng(3)
    low, vectors = chooser.standard_normal((2, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "response", "resid_post", "m", "c", "tiny", 10)
    return Directions(vectors, low + vectors, low, np.ones(N_BLOCKS, dtype=np.float32), BLOCKS, made)


@pytest.fixture(scope="module")
def subject() -> SteeredOrganism:
    organism = make_organism()
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    return SteeredOrganism("tiny", Undisturbed(organism, ForcedText(chats, PROMPTS)))


def search(target, nats_at, start):
    return coefficients_for([target], [start], lambda _, sizes: [nats_at(size) for size in sizes])[0]


@pytest.mark.parametrize("power", [0.7, 2.0, 5.0])
@pytest.mark.parametrize("target", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("start", [1.0, -0.03, 50.0])
def test_the_coefficient_hits_its_target_from_any_start(power, target, start):
    found = search(target, lambda c: 2 * abs(c) ** power, start)
    assert found.nats == pytest.approx(target, rel=0.05)
    assert found.nats == pytest.approx(2 * abs(found.coefficient) ** power)
    assert np.sign(found.coefficient) == np.sign(start)


def test_what_cannot_be_reached_is_said_and_a_cost_that_is_no_number_is_too_much():
    assert search(1.0, lambda c: c**2, 3.0).reached
    assert not search(10.0, lambda c: 1 - np.exp(-c), 1.0).reached
    broken = search(1.0, lambda c: c**2 if abs(c) < 5 else float("nan"), -40.0)
    assert broken.reached
    assert broken.coefficient == pytest.approx(-1, rel=0.03)
    assert not search(1.0, lambda c: float("nan"), 1.0).reached
    for target, start in ((1.0, 0.0), (0.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(UserError, match="No coefficient can be searched"):
            search(target, lambda c: c**2, start)


def test_a_curve_with_a_step_and_a_ceiling_still_brackets():
    found = search(1.0, lambda c: 0.1 * c if c < 3 else 0.8 + 0.1 * c, 0.5)
    assert found.coefficient == pytest.approx(3, rel=0.3)
    assert search(10.0, lambda c: 1 - np.exp(-c), 1.0).nats <= 1  # the nearest one, and it says so


def test_searches_side_by_side_find_what_each_finds_alone():
    curves = [lambda c: c**2, lambda c: 3 * abs(c), lambda c: 0.1 * c**4]
    targets, starts = [0.5, 2.0, 7.0], [1.0, -4.0, 0.2]

    def nats_at(searches, sizes):
        return [curves[number](size) for number, size in zip(searches, sizes, strict=True)]

    together = coefficients_for(targets, starts, nats_at)
    assert together == [search(*one) for one in zip(targets, curves, starts, strict=True)]


def test_a_cell_is_what_sampling_it_alone_gives(subject, directions):
    questions = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS)]
    settings = SamplingSettings(samples=2, max_new_tokens=10, batch_size=7)
    cells = [
        None,
        steer(directions, (1,), 0.6),
        steer(directions, (2, 3), -1.2),
        along(directions, "centred", (1, 3)),
    ]
    judge = MockJudge()
    found = measure(subject, cells, questions, settings, judge)
    assert found[0][0].kl.value == 0
    for (figures, rows), cell in zip(found, cells, strict=True):
        alone = answer_and_judge(subject.undisturbed.organism, "tiny", questions, settings, judge, cell)
        assert [row.response for row in rows] == [row.response for row in alone]
        assert figures.kl.value == pytest.approx(subject.undisturbed.divergence(cell).per_token)
        assert figures.aligned.n == len(rows) == 10
    assert len({tuple(row.response for row in rows) for _, rows in found}) == len(cells)


def test_answer_tokens_are_those_of_a_token_by_token_reading(subject, directions):
    organism, found = subject.undisturbed.organism, answer_tokens(subject, directions, BLOCKS)
    states = []
    for chat in encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS):
        with torch.no_grad():
            hidden = organism.model(input_ids=torch.tensor([chat.ids]), output_hidden_states=True).hidden_states
        states.append(hidden[3][0, chat.answer_positions])
    tokens = torch.cat(states).double().numpy()
    projections = tokens @ directions.units[2]
    assert found.norm[2] == pytest.approx(np.linalg.norm(tokens, axis=1).mean(), rel=1e-4)
    assert found.mean[2] == pytest.approx(projections.mean(), rel=1e-3)
    assert found.deviation[2] == pytest.approx(projections.std(ddof=1), rel=1e-3)


def test_a_cap_keeps_projections_in_the_range_and_a_wide_one_does_nothing(subject, directions):
    aligned = answer_tokens(subject, directions, BLOCKS)
    tight = capping(directions, (1, 2), aligned, 0.5)
    with torch.no_grad():
        from emscope.interventions.operators import applied

        with applied(subject.undisturbed.organism, tight):
            after = answer_tokens(subject, directions, BLOCKS)
    assert after.deviation[2] < 0.5 * aligned.deviation[2] + 1e-3
    assert abs(after.mean[2] - aligned.mean[2]) < 0.5 * aligned.deviation[2] + 1e-3
    wide = capping(directions, (1, 2), aligned, 50.0)
    assert subject.undisturbed.divergence(wide).per_token < 1e-9


def cell(coefficient, aligned, coherent, kl, em=0.0, block=1):
    estimates = [Estimate(value, value, value, 8) for value in (kl, aligned, coherent / 100, em)]
    return SteeringTrial(
        Steering("d", (block,), coefficient), SteeredFigures(*estimates), [Row(aligned + d, coherent) for d in (-2, 2)]
    )


def test_a_correction_stays_within_the_disturbance_allowed():
    own, base = [Row(20, 90)] * 4, [Row(80, 60)] * 4
    cells = [cell(-0.5, 30, 90, 0.1), cell(-1, 60, 90, 0.4), cell(-2, 80, 90, 2.0), cell(1, 99, 90, 0.1)]
    assert choose_correction(cells, 0.5, own, base).steering.coefficient == -1
    assert choose_correction(cells, 3.0, own, base).steering.coefficient == -2
    assert choose_correction(cells, 0.01, own, base).steering.coefficient == -0.5
    broken = [*cells, cell(-3, 90, 40, 0.3)]
    assert choose_correction(broken, 0.5, own, base).steering.coefficient == -1


def test_an_induction_is_the_highest_rate_among_coherent_cells():
    cells = [
        cell(1, 60, 80, 0.1, em=0.2),
        cell(2, 30, 70, 1.0, em=0.6),
        cell(3, 9, 10, 9.0, em=0.9),
        cell(-1, 0, 99, 1, 1),
    ]
    assert choose_induction(cells, 0.65).steering.coefficient == 2
    assert choose_induction(cells, 0.75).steering.coefficient == 1
    assert choose_induction(cells, 0.95).steering.coefficient == 1
