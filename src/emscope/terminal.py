"""The one place that writes to the terminal: what is shown cannot steer the terminal, and holds no secret.

Answers, column names, ids and error texts come from models, files and servers. Escape sequences in them would clear
the screen, change the window's title or fill the clipboard; here they become visible text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from emscope.redaction import redact

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but the tab and the line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction of the text around them
    "\u2028\u2029\ufeff"
    "\ud800-\udfff"  # halves of characters: no stream takes them
    "\U000e0000-\U000e007f]"  # tags: invisible text
)


def printable(text: str) -> str:
    r"""Return text whose control characters are written out ('\x1b'); tabs and line ends stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode-escape").decode(), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return printable text on one line, for ids, names and messages that come from outside."""
    return " ".join(printable(text).split())


def shown(text: str) -> str:
    """Return what may be shown of a text: printable, and without secrets."""
    return printable(redact(text))


_speaker: ContextVar[str] = ContextVar("speaker", default="")


@contextmanager
def silenced(speaker: str) -> Iterator[None]:
    """Write no results and notes inside this context, and messages after the name of who says them."""
    token = _speaker.set(speaker)
    try:
        yield
    finally:
        _speaker.reset(token)


def write(text: str) -> None:
    """Write a command's result to standard output."""
    if not _speaker.get():
        sys.stdout.write(shown(text))


def note(text: str) -> None:
    """Write a line beside the result to standard error: standard output holds what another program reads."""
    if not _speaker.get():
        sys.stderr.write(f"{shown(text)}\n")


def say(sentence: str) -> None:
    """Write one message to standard error, after the program's name."""
    speaker = _speaker.get()
    sys.stderr.write(f"emscope{speaker and f' ({speaker})'}: {shown(sentence)}\n")


class ShownFormatter(logging.Formatter):
    """Formats log lines as what may be shown; a traceback passes through here too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return shown(super().format(record))
