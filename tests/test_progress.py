"""Progress as lines of a log, and the pace that both bars and lines speak of."""

import io
import itertools
import logging

import pytest
from rich.console import Console

from emscope import progress
from emscope.progress import Pace, duration


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
