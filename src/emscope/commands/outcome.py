"""What a command found and wrote, and how that is shown: as text that ends with what was written, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope import terminal
from emscope.errors import EXIT_DONE
from emscope.files import without_nan

NOTHING_WRITTEN = "Nothing was written."


@dataclass(frozen=True)
class Outcome:
    """The end of a command.

    Attributes:
        text: what it found, as lines for people.
        result: the same for programs: a dataclass or plain values.
        files: what it wrote; the first is what one looks at.
        code: the exit code.
        is_file: the text is meant for a file as it is, and no sentence follows it.
    """

    text: str = ""
    result: Any = None
    files: Sequence[Path] = ()
    code: int = EXIT_DONE
    is_file: bool = False


def show(command: str, outcome: Outcome, *, as_json: bool) -> None:
    """Write an outcome to standard output."""
    if as_json:
        terminal.write(json_of(command, outcome))
        return
    if outcome.is_file:
        terminal.write(outcome.text)
        return
    text = outcome.text if not outcome.text or outcome.text.endswith("\n") else f"{outcome.text}\n"
    terminal.write(f"{text}{last_line(outcome.files)}\n")


def last_line(files: Sequence[Path]) -> str:
    """Return the sentence that every command ends with: what it wrote, and where."""
    names = list(map(str, files))
    if not names:
        return NOTHING_WRITTEN
    if len(names) == 1:
        return f"Wrote {names[0]}."
    return f"Wrote {', '.join(names[:-1])} and {names[-1]}."


def json_of(command: str, outcome: Outcome) -> str:
    """Return an outcome as one JSON object: the command, its result, and the files it wrote.

    In ASCII: what a terminal must not be sent would be written out otherwise, and the text would be no JSON any more.
    """
    from emscope.plain import plain

    whole = {
        "command": command,
        "result": plain(outcome.result),
        "files": list(map(str, outcome.files)),
    }
    return json.dumps(without_nan(whole), indent=2, allow_nan=False) + "\n"


def readable(value: Any) -> str:
    """Return nested plain values as indented lines, numbers with four digits."""
    import yaml

    from emscope.plain import plain

    return yaml.safe_dump(_rounded(plain(value)), sort_keys=False, allow_unicode=True, width=110)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(content) for name, content in value.items()}
    if isinstance(value, list):
        return list(map(_rounded, value))
    return float(f"{value:.4g}") if isinstance(value, float) else value
