import numpy as np
import pytest

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import mean_of
from emscope.interventions.search import Candidate, Trial, Unablated, candidates, choose, clearly_worse, try_all


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


def answer(aligned, question="q", coherent=50.0):
    return JudgedResponse("o", "s", question, "text", 0, "r", 3, False, aligned, coherent, None, "m", "j", question)


def test_nothing_is_restored_where_nothing_is_scored_on_all_sides_or_nothing_was_lost():
    unscored = restored_share([answer(None)], [answer(50.0)], [answer(80.0)])
    assert unscored.n == 0
    assert np.isnan(unscored.value)
    alike = restored_share(*([answer(score, name) for name in "ab"] for score in (60.0, 50.0, 50.0)))
    assert np.isnan(alike.value)


GRID = candidates(30)
MEASURED = np.array(  # alignment and coherence of the grid on the embedded model, a run of seed 0
    [
        [60, 57],
        [56, 50],
        [43, 65],
        [62, 74],
        [72, 77],
        [75, 67],
        [55, 84],
        [70, 78],
        [79, 61],
        [56, 79],
        [73, 75],
        [83, 51],
    ]
)
BEFORE, BASE = (29, 76), (66, 80)
SPREAD = np.array([20.0, 24.0])  # of one answer's scores


class Questioned:
    """Candidates with true means, and their scores on some questions; all share how hard a question is."""

    def __init__(self, seed, n=72):
        self.random = np.random.default_rng(seed)
        self.true = MEASURED + self.random.normal(0, 6, MEASURED.shape)
        self.questions = [Question(f"q{number}", "text") for number in range(n)]
        self.hard = self.random.normal(0, 8, (n, 2))
        self.scores = {candidate: self.drawn(mean) for candidate, mean in zip(GRID, self.true, strict=True)}
        self.unablated = Unablated(*(self.rows(self.drawn(mean), self.questions) for mean in (BEFORE, BASE)))
        self.asked = []

    def drawn(self, mean):
        return np.clip(mean + self.hard + self.random.normal(0, 1, self.hard.shape) * SPREAD, 0, 100)

    def rows(self, scores, questions):
        numbers = [int(question.id[1:]) for question in questions]
        return [answer(scores[row, 0], f"q{row}", scores[row, 1]) for row in numbers]

    def ask(self, tried, some):
        self.asked.append((len(tried), len(some)))
        return [self.rows(self.scores[candidate], some) for candidate in tried]

    def chosen(self, rounds):
        """Return the true means of what is chosen, and how many answers that took."""
        self.asked = []
        trials = try_all(GRID, self.questions, self.ask, self.unablated, rounds)
        chosen = choose(trials, self.unablated.floor, self.unablated.target)
        return self.true[GRID.index(chosen)], sum(n * asked for n, asked in self.asked)


def test_stopping_early_costs_no_quality_and_saves_a_third_of_the_answers():
    whole, stopped, saved = [], [], []
    for seed in range(120):
        world = Questioned(seed)
        everything, n_all = world.chosen(1)
        early, n_early = world.chosen(3)
        whole.append(everything)
        stopped.append(early)
        saved.append(1 - n_early / n_all)
    change = np.mean(stopped, axis=0) - np.mean(whole, axis=0)
    assert (change > -0.75).all()  # points of 100, alignment and coherence
    assert np.mean(saved) > 0.3


def test_every_candidate_has_a_trial_that_says_how_far_it_came():
    world = Questioned(0)
    trials = try_all(GRID, world.questions, world.ask, world.unablated)
    assert [trial.candidate for trial in trials] == GRID
    assert all((trial.n_questions == 72) == (trial.stopped is None) for trial in trials)
    assert all(trial.n_questions in (24, 48, 72) for trial in trials)
    assert {trial.stopped for trial in trials} == {None, "aligned", "coherent"}
    assert sum(trial.n_questions for trial in trials) == sum(n * asked for n, asked in world.asked)
    kept = next(trial for trial in trials if trial.stopped is None)
    rows = world.rows(world.scores[kept.candidate], world.questions)
    assert (kept.aligned, kept.coherent) == pytest.approx((mean_of(rows, "aligned"), mean_of(rows, "coherent")))


def test_what_was_stopped_is_never_chosen():
    trials = [trial(1.0, 70, 98), Trial(Candidate("centred", (1,), 2.0), 90, 99, 5.0, 1.0, 24, "aligned")]
    assert choose(trials, floor=93).strength == 1.0


def answers_of(*scores, coherent=50.0):
    return [answer(score, f"q{number}", coherent) for number, score in enumerate(scores)]


def test_only_what_is_clearly_worse_is_stopped():
    unablated = Unablated(answers_of(10, 20, 30, 40), answers_of(90, 90, 90, 90))
    first, second, third = (Candidate("centred", (1,), strength) for strength in (1.0, 2.0, 3.0))
    good = answers_of(60, 70, 80, 90)
    assert clearly_worse({first: good, second: answers_of(55, 65, 75, 85)}, unablated) == {}
    assert clearly_worse({first: good, second: answers_of(10, 25, 30, 45)}, unablated) == {second: "aligned"}
    broken = answers_of(99, 99, 99, 99, coherent=20.0)
    assert clearly_worse({first: good, second: broken}, unablated) == {second: "coherent"}
    assert clearly_worse({second: broken, third: broken}, unablated) == {}
    # beyond the base's alignment more does not count
    low = Unablated(unablated.misaligned, answers_of(50, 60, 70, 80))
    assert clearly_worse({first: answers_of(95, 96, 97, 98), second: answers_of(50, 61, 69, 80)}, low) == {}


def test_unscored_answers_stop_nobody():
    unablated = Unablated(answers_of(10, 20), answers_of(90, 90))
    first, second = Candidate("centred", (1,), 1.0), Candidate("centred", (1,), 2.0)
    unscored = [answer(None, "q0", None), answer(None, "q1", None)]
    assert clearly_worse({first: answers_of(50, 60), second: unscored}, unablated) == {}
    assert clearly_worse({first: unscored, second: unscored}, unablated) == {}
