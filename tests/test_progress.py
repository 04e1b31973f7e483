"""Progress as lines of a log, and the pace that both bars and lines speak of."""

import io
import itertools
import logging

import pytest
from rich.console import Console

from emscope import progress
from emscope.progress import Pace, Plan, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    monkeypatch.setattr(Pace.__init__, "__defaults__", (clock, 0.0))
    return clock


@pytest.fixture
def terminal(monkeypatch):
    for name in ("JPY_PARENT_PID", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("emscope"), "propagate", True)


def logged(caplog, clock, seconds, total):
    caplog.set_level(logging.INFO, "emscope")
    with progress.shown_on(Console(file=io.StringIO())), progress.task("training", total, "steps") as advance:
        for _ in range(total):
            clock.now += seconds
            advance(1)
    return [record.message for record in caplog.records]


def test_a_log_gets_a_first_line_after_ten_seconds_and_then_ever_fewer(caplog, clock):
    lines = logged(caplog, clock, 1.0, 1000)
    assert lines[0] == "  training: 10 of 1,000 steps, 1 steps/s, 16 min 30 s left"
    at = [int(line.split()[1].replace(",", "")) for line in lines]
    waits = [after - before for before, after in itertools.pairwise(at)]
    assert waits == sorted(waits)
    assert len(lines) < 12
    assert not any("\n" in line or "\x1b" in line or "\r" in line for line in lines)


def test_a_short_task_leaves_no_line(caplog, clock):
    assert logged(caplog, clock, 1.0, 9) == []


def test_time_left_is_known_from_the_first_step_and_work_done_before_is_not_counted_as_speed():
    clock = Clock()
    pace = Pace(100, "steps", clock)
    pace.advance(60)  # what an earlier run did
    assert pace.seconds_left is None
    clock.now = 2.0
    pace.advance(1)
    assert (pace.rate, pace.seconds_left) == (0.5, 78)
    assert pace.in_words() == "61 of 100 steps, 0.5 steps/s, 1 min 18 s left"


@pytest.mark.parametrize(("seconds", "words"), [(4.4, "4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_bars_are_drawn_on_terminals_alone(terminal, monkeypatch):
    assert progress.draws_bars(Console(file=io.StringIO(), force_terminal=True))
    assert not progress.draws_bars(Console(file=io.StringIO()))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert not progress.draws_bars(Console(file=io.StringIO(), force_terminal=True))


def test_a_bar_shows_the_time_left(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with progress.shown_on(console), progress.task("training", 10, "steps") as advance:
        advance(1)
        progress.time.sleep(progress.HEAD_START + 0.1)
        advance(1)
        progress.time.sleep(0.2)
    assert " left" in text.getvalue()


def planned(clock, works=(10.0, 10.0, 20.0, 40.0)):
    return Plan(dict(zip("abcd", works, strict=True)), clock=clock)


def test_a_plan_says_where_it_stands_and_what_is_left_once_something_is_measured():
    clock = Clock()
    plan = planned(clock)
    assert plan.begin("a") == "stage 1 of 4: a"
    clock.now = 60.0
    plan.end("a", 60.0)
    assert plan.begin("b") == "stage 2 of 4: b (about 7 min left)"
    clock.now += 30.0
    assert plan.seconds_left == 6 * 70 - 30
    clock.now += 600.0  # longer than it should: the others still have to come
    assert plan.seconds_left == 6 * 60


def test_what_was_made_before_takes_no_time_and_tells_how_fast_it_goes():
    plan = planned(Clock())
    plan.end("a", 100.0)
    plan.end("c", 200.0)
    assert plan.begin("b") == "stage 2 of 4: b (about 8 min left)"


def test_one_slow_step_does_not_speak_for_all():
    plan = planned(Clock())
    plan.end("a", 1000.0)
    plan.end("b", 10.0)
    plan.end("c", 20.0)
    assert plan.seconds_left == 40


def test_nothing_is_said_where_nothing_tells():
    unknown = planned(Clock(), (10.0, 10.0, None, 40.0))
    unknown.end("a", 10.0)
    assert unknown.begin("b") == "stage 2 of 4: b"
    short = planned(Clock())
    short.end("a", 0.5)  # of what was loaded rather than of the work
    assert short.begin("b") == "stage 2 of 4: b"
    assert short.begin("of another plan") == "of another plan"


def test_a_step_within_a_step_of_the_same_name_is_a_part_of_it(clock):
    with progress.plan({"steer": 1.0, "sweep": 1.0}, "experiment"):
        with progress.step("steer") as whole, progress.step("steer") as stage:
            assert (whole.words, stage.words) == ("experiment 1 of 2: steer", "steer")
            stage.seconds = 120.0
        with progress.step("sweep") as other:
            assert other.words == "experiment 2 of 2: sweep (about 2 min left)"


def test_parts_that_were_finished_before_count_in_how_fast_it_goes(clock):
    with progress.plan({"one": 1.0, "two": 2.0}):
        with progress.step("one"):
            progress.saved(50.0)
            clock.now += 10.0
        with progress.step("two") as made:
            assert made.words == "stage 2 of 2: two (about 2 min left)"


def test_steps_are_logged_with_the_plan_in_force_and_a_stopped_one_is_not_finished(caplog, clock):
    caplog.set_level(logging.INFO, "emscope")
    with progress.plan({"one": 1.0, "two": 2.0}, "step"):
        with progress.logged_step("one"):
            clock.now += 30.0
        with pytest.raises(KeyboardInterrupt), progress.logged_step("two"):
            raise KeyboardInterrupt
        with progress.logged_step("two"):
            pass
    with progress.step("no plan") as made:
        assert made.words == "no plan"
    about = "  step 2 of 2: two (about 1 min left)"
    assert [record.message for record in caplog.records] == ["  step 1 of 2: one", about, about]


def test_a_bar_says_where_the_plan_stands(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    with progress.shown_on(console), progress.plan({"train": 1.0, "judge": 2.0}):
        progress.passed("train", 60.0)
        with progress.step("judge"), progress.task("asking", 10, "calls") as advance:
            advance(1)
    assert "stage 2 of 2: judge (about 2 min left) · asking" in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "10 s"), (44, "40 s"), (89, "1 min"), (200, "3 min"), (7500, "2 h 5 min")]
)
def test_estimates_are_said_roughly(seconds, words):
    assert progress.roughly(seconds) == words
