"""The process that runs what came with a model's files: chat templates and patterns. Its parent is `bounded`.

Run by its path, with the parent's `sys.path` as JSON and the seconds that one request may take. Every line on standard
input is one request, every line on standard output its reply, both JSON. Time is bounded by the processor's, so that a
busy machine changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypedDict

CPU_SECONDS = 3
MEMORY_BYTES = 512 << 20
"""What one request may take beyond what the process takes by itself."""

LEAST_CHARACTERS = 2_000_000
CHARACTERS_PER_CHARACTER = 20
"""A template may write LEAST_CHARACTERS, and so many for each character of what it is given."""

SHOWN = 500
OUT_OF_MEMORY = 75


def main() -> None:
    """Answer requests until standard input ends."""
    sys.path[:] = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    _send(replies, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        work = {"render": _renderer, "match": _matcher}[request["work"]]()
        _bound_memory()
        _bound_time(int(sys.argv[2]))
        _send(replies, _reply(work, request["given"], len(line)))


def _renderer() -> Any:
    """Return transformers' renderer of chat templates, as a function of its arguments that returns what it wrote."""
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template


def _matcher() -> Any:
    """Return a function that matches each pattern with each name, as PEFT does, and says which patterns are none."""

    def match(patterns: list[tuple[str, bool]], names: list[str]) -> tuple[list[str], list[str]]:
        wrong = []
        for pattern, whole in patterns:
            try:
                compiled = re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                wrong.append(f"{pattern[:80]!r}: {error}")
                continue
            for name in names:
                compiled.fullmatch(name) if whole else compiled.match(name)
        return wrong, []

    return match


class Reply(TypedDict, total=False):
    """What the process answers, a line of JSON: what the work gave, or the kind of its ending and its words."""

    ready: bool
    texts: list[str]
    more: Any
    ending: str
    words: str


def _reply(work: Any, given: dict[str, Any], n_characters: int) -> Reply:
    """Return what the work gave, or the kind of its ending and its words."""
    try:
        texts, more = work(**given)
        if sum(map(len, texts)) > max(LEAST_CHARACTERS, CHARACTERS_PER_CHARACTER * n_characters):
            return {"ending": "length"}
        return {"texts": texts, "more": more}
    except MemoryError:
        return {"ending": "memory"}
    except Exception as error:  # a template raises what it likes
        kind = "type" if isinstance(error, TypeError) else "refusal"
        return {"ending": kind, "words": str(error)[:SHOWN] or type(error).__name__}


def _send(replies: Any, reply: Reply) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _bound_memory() -> None:
    """Let an allocation beyond the bound fail; where the system knows no such bound, end the process soon after."""
    try:
        import resource

        with Path("/proc/self/statm").open() as state:
            now = int(state.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        if "watch" not in {thread.name for thread in threading.enumerate()}:
            threading.Thread(target=_watch_memory, daemon=True, name="watch").start()


def _watch_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone
        return
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + MEMORY_BYTES
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < most:
        time.sleep(0.05)
    os._exit(OUT_OF_MEMORY)


def _bound_time(seconds: int) -> None:
    """Have the system end the process when one request takes more than some seconds of a processor."""
    try:
        import resource
    except ImportError:
        return
    most = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
