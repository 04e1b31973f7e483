"""`emscope completion`: scripts for shells that complete commands and flags with the Tab key."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import tyro

from emscope.commands.catalogue import COMMANDS, command_class
from emscope.commands.common import NOTHING_KEPT
from emscope.commands.outcome import Outcome
from emscope.errors import UserError
from emscope.files import write_text

SHELLS = ("bash", "zsh", "fish")
AFTERWARDS = {
    "bash": "New shells complete emscope, where the package bash-completion is installed.",
    "zsh": "Put `fpath+=~/.zfunc; autoload -Uz compinit; compinit` into ~/.zshrc; new shells then complete emscope.",
    "fish": "New shells complete emscope.",
}


@dataclass(frozen=True)
class Completion:
    """Print the completion script of a shell, or put it where the shell looks for it.

    Attributes:
        shell: bash, zsh or fish prints that shell's script; install writes the one of your shell (from $SHELL).
    """

    stopped: ClassVar[str] = NOTHING_KEPT

    shell: Annotated[Literal["bash", "zsh", "fish", "install"], tyro.conf.Positional]

    def execute(self) -> Outcome:
        """Make the script."""
        if self.shell != "install":
            script = completion_script(self.shell)
            return Outcome(script, {"shell": self.shell, "script": script}, is_file=True)
        shell = _shell_in_use()
        path = installed_at(shell)
        write_text(path, completion_script(shell))
        return Outcome(f"{AFTERWARDS[shell]}\n", {"shell": shell}, [path])


def completion_script(shell: str) -> str:
    """Return a shell's script; it holds every command and flag, so it is made again after an update of emscope."""
    kinds = []
    for name in COMMANDS:
        kinds.append(Annotated[command_class(name), tyro.conf.subcommand(name, description=COMMANDS[name].summary)])
    everything: Any = Union[tuple(kinds)]  # noqa: UP007 - made of a list
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(
            everything,
            prog="emscope",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.OmitArgPrefixes,),
        )
    script = printed.getvalue()
    if shell == "bash":  # tyro joins a path to the word before it where no flag stands between: then bash completes it
        script = script.replace("complete -F", "complete -o default -F")
    return script


def installed_at(shell: str) -> Path:
    """Return where a shell looks for a user's completion scripts."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = {
        "bash": data / "bash-completion" / "completions" / "emscope",
        "zsh": home / ".zfunc" / "_emscope",
        "fish": config / "fish" / "completions" / "emscope.fish",
    }
    return places[shell]


def _shell_in_use() -> str:
    """Return the user's shell.

    Raises:
        UserError: it is none that there is a script for.
    """
    shell = Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UserError(
            f"There is no script for the shell {shell or 'in use'}: `emscope completion bash`, zsh or fish prints "
            "those that there are."
        )
    return shell


COMMAND = Completion
