import numpy as np
import pytest

from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.interventions.ablation import restored_share
from emscope.interventions.search import Candidate, Trial, candidates, choose


def trial(strength, aligned, coherent, error=5.0, coherent_error=1.0):
    return Trial(Candidate("centred", (1,), strength), aligned, coherent, error, coherent_error)


def test_the_most_coherent_of_those_as_good_as_the_best_is_chosen():
    trials = [trial(0.5, 60, 99), trial(1.0, 88, 98), trial(1.5, 91, 96), trial(2.0, 99, 40)]
    assert choose(trials, floor=93).strength == 1.0  # 2.0 is broken text, 0.5 is worse by more than an error
    assert choose([*trials[:2], trial(1.5, 91, 96, error=1.0)], floor=93).strength == 1.5


def test_what_is_aligned_beyond_the_target_does_not_count():
    trials = [trial(1.0, 70, 98), trial(1.5, 85, 94)]
    assert choose(trials, floor=93).strength == 1.5
    assert choose(trials, floor=93, target=72).strength == 1.0


def test_broken_text_is_never_chosen_for_its_alignment():
    assert choose([trial(1.0, 70, 97), trial(2.0, 95, 92.5)], floor=93).strength == 1.0


def test_without_a_coherent_candidate_the_most_coherent_is_chosen():
    assert choose([trial(1.0, 90, 20), trial(2.0, 99, 10)], floor=93).strength == 1.0


def test_the_grid_holds_every_mode_within_the_model():
    grid = candidates(30)
    assert {candidate.mode for candidate in grid} == {"centred", "project-out", "subtract"}
    assert all(0 <= block < 30 for candidate in grid for block in candidate.blocks)


def test_candidates_without_scored_answers_are_passed_over():
    nothing = float("nan")
    trials = [trial(1.0, nothing, 99), trial(1.5, 70, 97), trial(2.0, 80, nothing), trial(0.5, nothing, nothing)]
    assert choose(trials, floor=93).strength == 1.5
    assert choose(trials, floor=nothing, target=nothing).strength == 1.5
    with pytest.raises(UserError, match="has scored answers"):
        choose([trials[0], trials[2]], floor=93)


def answer(aligned, question="q"):
    return JudgedResponse("o", "s", question, "text", 0, "r", 3, False, aligned, 50.0, None, "m", "j", question)


def test_nothing_is_restored_where_nothing_is_scored_on_all_sides_or_nothing_was_lost():
    unscored = restored_share([answer(None)], [answer(50.0)], [answer(80.0)])
    assert unscored.n == 0
    assert np.isnan(unscored.value)
    alike = restored_share(*([answer(score, name) for name in "ab"] for score in (60.0, 50.0, 50.0)))
    assert np.isnan(alike.value)
