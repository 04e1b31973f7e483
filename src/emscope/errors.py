"""What can go wrong through no fault of ours, and the exit code each kind of ending has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

EXIT_DONE = 0
EXIT_FINDING = 1
EXIT_USER = 2
EXIT_FAULT = 3

REMEDY = "write or fetch it again"


class UserError(Exception):
    """The input or the environment is wrong; the message is one sentence that says what to do.

    What it quotes from files can be of any length: very long words, and very long messages, are shown shortened.
    """

    longest = 2000
    """Characters of a message that are shown."""

    def __str__(self) -> str:
        """Return the sentence."""
        words = re.sub(r"\S{400,}", lambda run: f"{run[0][:200]}…{run[0][-20:]}", super().__str__())
        return words if len(words) <= self.longest else f"{words[: self.longest - 250]} … {words[-200:]}"


class OutsideError(UserError):
    """Something that came from outside cannot be used.

    Its sentence reads 'WHERE PROBLEM: REMEDY.'

    Args:
        where: the file, with a place in it where that helps ('rows.jsonl, line 3').
        problem: what is wrong with it, as the rest of a sentence ('is not valid JSON (…)').
        remedy: what to do about it.
    """

    def __init__(self, where: str | Path, problem: str, remedy: str = REMEDY) -> None:
        self.where = str(where)
        super().__init__(f"{where} {problem}: {remedy}.")


def missing_extra(package: str, extra: str) -> UserError:
    """Return the error for an optional dependency that is not installed."""
    return UserError(
        f"This needs the package {package!r}, which is not installed: "
        f"run `pip install 'emscope[{extra}]'` and try again."
    )


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ' Did you mean …?' for the known names nearest to `wrong`, or a list of them all."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(wrong), known, n=3, cutoff=0.5)
    if near:
        return " Did you mean " + " or ".join(repr(name) for name in near) + "?"
    return " Known: " + ", ".join(known) + "."
