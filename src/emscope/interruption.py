"""Signals that ask a process to end do what Ctrl-C does: the command says what it leaves, and what it holds is let go.

A batch system that takes the machine back sends SIGTERM, a terminal that is closed sends SIGHUP. By themselves both end
a process on the spot, without a word.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")  # by name: Windows has no SIGHUP


def end_as_interrupted() -> None:
    """Let the signals that ask this process to end raise KeyboardInterrupt in its main thread, once each.

    One that is ignored stays so: `nohup` had its reason.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # many senders repeat themselves, and the ending must not be ended
    raise KeyboardInterrupt
