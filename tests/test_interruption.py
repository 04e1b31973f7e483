"""Signals that ask a process to end: the command ends as after Ctrl-C, and ignored ones stay ignored."""

import os
import signal
import sys

import pytest

from emscope.commands import main as command_line
from emscope.interruption import ENDING, end_as_interrupted


@pytest.fixture(autouse=True)
def as_before():
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in ENDING}
    yield
    for name, handler in handlers.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", ENDING)
def test_a_signal_that_ends_is_answered_as_an_interruption_is(name, monkeypatch, capsys):
    number = getattr(signal, name)

    def killed(words, begun, *, as_json):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not answered")

    signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr(command_line, "_dispatch", killed)
    monkeypatch.setattr(sys, "argv", ["emscope", "run"])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 2
    assert capsys.readouterr().err.startswith("emscope: Stopped.")
    os.kill(os.getpid(), number)  # a second one does not end the ending


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_as_interrupted()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_closed_terminal_takes_no_words_and_the_exit_code_is_the_same(monkeypatch):
    def interrupted(words, begun, *, as_json):
        raise KeyboardInterrupt

    class Closed:
        def write(self, text):
            raise OSError(5, "Input/output error")

        def flush(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(command_line, "_dispatch", interrupted)
    monkeypatch.setattr(sys, "stderr", Closed())
    assert command_line.run_command(["run"]) == 2
