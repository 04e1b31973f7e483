"""Flags become a command: tyro reads them, and what it says of wrong ones holds no secret."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Protocol

from emscope import terminal
from emscope.checks import check_seeds_in
from emscope.commands.catalogue import COMMANDS, examples_of
from emscope.commands.outcome import Outcome
from emscope.errors import EXIT_DONE, UserError
from emscope.redaction import redact

THINKING = {"--enable-thinking": "True", "--no-enable-thinking": "False"}


class Command(Protocol):
    """What every command is: a dataclass whose fields are its flags."""

    @property
    def stopped(self) -> str:
        """What is left after an interruption, as a sentence."""
        ...

    def execute(self) -> Outcome:
        """Do it."""
        ...


def parse(kind: type[Command], name: str, flags: Sequence[str]) -> Command:
    """Build a command from its flags; exits with 2 and says what is wrong when they do not fit, with 0 after --help.

    Raises:
        UserError: a value that makes no sense.
    """
    words = with_values(without_old_words(name, flags))
    command = _built(kind, name, words)
    check_seeds_in(command)
    return command


def _built(kind: type[Command], name: str, words: list[str]) -> Command:
    """Return the command; where there is none, say why, of words without secrets.

    tyro breaks what it prints into boxes, in which a secret would not be found any more. So it prints nothing at first,
    and reads the words once more without the secrets in them.
    """
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            return _read(kind, name, words)
        except SystemExit:
            pass

    try:
        _read(kind, name, [redact(word) for word in words])
    except SystemExit as ending:
        if ending.code in (None, EXIT_DONE) and name in COMMANDS:
            terminal.write(f"\n{examples_of(name)}")
        raise
    raise UserError("A flag does not fit, and what is wrong with it cannot be shown: it holds a secret.")


def _read(kind: type[Command], name: str, words: list[str]) -> Command:
    import tyro

    command: Any = tyro.cli(kind, prog=f"emscope {name}", args=words, config=(tyro.conf.OmitArgPrefixes,))
    read: Command = command
    return read


def without_old_words(name: str, flags: Sequence[str]) -> list[str]:
    """Return flags as they are written today: `emscope sweep layers RUN` is now `emscope sweep RUN`."""
    if name == "sweep" and list(flags[:1]) == ["layers"]:
        return list(flags[1:])
    return list(flags)


def with_values(flags: Sequence[str]) -> list[str]:
    """Write out the flag that is on, off or not given: --enable-thinking and --no-enable-thinking."""
    written = []
    for number, flag in enumerate(flags):
        given = number + 1 < len(flags) and flags[number + 1] in ("True", "False", "None")
        written += ["--enable-thinking", THINKING[flag]] if flag in THINKING and not given else [flag]
    return written
