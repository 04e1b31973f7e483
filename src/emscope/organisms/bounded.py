"""What comes with a model's files and is run, in bounded time and memory: chat templates and patterns of names.

A template is a program. Its sandbox keeps it from files and code, not from looping for ever or from padding a word to
the size of the memory; a pattern can back-track for ever. Neither can be seen in its source, nor stopped inside this
process, so a template that is not known by its hash, and a pattern that is more than a name, run in a process of their
own (`bounded_worker`), which the system ends beyond its bounds. One such process serves a whole run; a rendering there
takes about 0.2 ms longer.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError
from emscope.organisms import bounded_worker
from emscope.organisms.bounded_worker import CPU_SECONDS, LEAST_CHARACTERS, MEMORY_BYTES, OUT_OF_MEMORY, Reply

WALL_SECONDS = 120.0
MOST_REPLY = 1 << 30
REMEDY = "give its tokenizer another template"
_active: ContextVar[bool] = ContextVar("bounded_rendering", default=False)


class TemplateRefusalError(Exception):
    """What a template itself raised, in its own words."""


class UnboundedTemplateError(OutsideError):
    """A template that took more time or memory, or wrote more, than any conversation needs; see `problem`."""

    def __init__(self, problem: str, where: str = "The model's chat template") -> None:
        self.problem = problem
        super().__init__(where, problem, REMEDY)


PROBLEMS = {
    "time": f"does not end: it was stopped after {CPU_SECONDS} seconds",
    "memory": f"asks for more than {MEMORY_BYTES >> 20} MiB of memory",
    "length": f"writes more than {LEAST_CHARACTERS:,} characters of a short conversation",
    "crash": "crashes the process that runs it",
}
_UNBOUNDED: dict[str, str] = {}
"""By template: why it was stopped, so that it is not waited for again."""


@contextmanager
def bounded_rendering() -> Iterator[None]:
    """Have every chat template that transformers renders inside, in this thread, rendered within the bounds.

    Raises:
        UnboundedTemplateError: a template exceeds them.
    """
    _install()
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


@cache
def _install() -> None:
    """Stand between transformers' tokenizers and their renderer; outside `bounded_rendering` nothing changes."""
    from transformers import tokenization_utils_base

    library: Any = tokenization_utils_base
    original = library.render_jinja_template

    def render_jinja_template(conversations: Any, **given: Any) -> Any:
        template = str(given.get("chat_template"))
        if not _active.get() or is_known(template):
            return original(conversations=conversations, **given)
        return _rendered(template, {"conversations": conversations, **given})

    library.render_jinja_template = render_jinja_template


@lru_cache(maxsize=64)
def is_known(template: str) -> bool:
    """Say whether a template is one of those in use that emscope knows to end."""
    return hashlib.sha256(template.encode(errors="surrogatepass")).hexdigest() in _known()


@cache
def _known() -> frozenset[str]:
    text = (files("emscope") / "assets" / "known_templates.txt").read_text(encoding="utf-8")
    return frozenset(line.split()[0] for line in text.splitlines() if line and not line.startswith("#"))


def _rendered(template: str, given: dict[str, Any]) -> tuple[list[str], list[Any]]:
    if template in _UNBOUNDED:
        raise UnboundedTemplateError(_UNBOUNDED[template])
    reply = _worker().ask("render", given)
    if "texts" in reply:
        return reply["texts"], reply["more"]
    if reply["ending"] == "type":
        raise TypeError(reply["words"])
    if reply["ending"] == "refusal":
        raise TemplateRefusalError(reply["words"])
    _UNBOUNDED[template] = PROBLEMS[reply["ending"]]
    raise UnboundedTemplateError(_UNBOUNDED[template])


@dataclass(frozen=True)
class Pattern:
    """A regular expression from outside.

    Attributes:
        text: as it stands in its file.
        made: as it is matched, if that differs.
        whole: whether it must match a name as a whole, or its beginning.
    """

    text: str
    made: str = ""
    whole: bool = False


def check_patterns(patterns: Sequence[Pattern], names: Sequence[str], where: str | Path) -> None:
    """Refuse regular expressions that are none, or that cannot be matched with all the names in bounded time.

    Raises:
        OutsideError: with `where` they stand.
    """
    if not patterns:
        return
    asked = [[pattern.made or pattern.text, pattern.whole] for pattern in patterns]
    reply = _worker().ask("match", {"patterns": asked, "names": list(names)})
    remedy = "name the modules themselves"
    if "texts" not in reply:
        problem = PROBLEMS.get(reply["ending"], reply.get("words", ""))
        raise OutsideError(where, f"has a pattern of modules that {problem}", remedy)
    if reply["texts"]:
        raise OutsideError(where, f"has a pattern of modules that is none ({reply['texts'][0]})", remedy)


class _Worker:
    """The process that works within bounds, started when it is first asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, work: str, given: dict[str, Any]) -> Reply:
        """Return the reply of the process, or how it ended."""
        line = json.dumps({"work": work, "given": given}, default=_placeholder).encode() + b"\n"
        with self.lock:
            process = self._running()
            late = threading.Event()
            clock = threading.Timer(WALL_SECONDS, self._stop, [process, late])
            clock.daemon = True
            clock.start()
            try:
                reply = self._exchange(process, line)
            except BaseException:  # interrupted: the next request must not read this one's reply
                self.close()
                raise
            finally:
                clock.cancel()
            return reply if reply is not None else {"ending": self._ending(process, late=late.is_set())}

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = _start()
        return self.process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], line: bytes) -> Reply | None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline(MOST_REPLY)
        except OSError:
            return None
        return json.loads(reply) if reply.endswith(b"\n") else None  # type: ignore[no-any-return]

    @staticmethod
    def _stop(process: subprocess.Popen[bytes], late: threading.Event) -> None:
        late.set()
        process.kill()

    def _ending(self, process: subprocess.Popen[bytes], *, late: bool) -> str:
        """Say why there was no reply, and forget the process."""
        process.kill()  # it may have closed its output and live on
        code = process.wait()
        self.close()
        if late or code == -getattr(signal, "SIGXCPU", 0):
            return "time"
        return "memory" if code == OUT_OF_MEMORY else "crash"

    def close(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _placeholder(value: Any) -> str:
    """Return what transformers shows a template in the place of what is no plain data."""
    return f"<{type(value).__name__}>"


def _start() -> subprocess.Popen[bytes]:
    """Start the process and wait until it listens.

    Raises:
        RuntimeError: it does not, which is no fault of what it would run.
    """
    path = Path(bounded_worker.__file__)
    command = [sys.executable, "-I", str(path), json.dumps([entry for entry in sys.path if entry]), str(CPU_SECONDS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    if process.stdout.readline(1000) != b'{"ready": true}\n':
        process.kill()
        raise RuntimeError(f"the process that runs chat templates does not start: {command[:3]}")
    return process


_workers: dict[int, _Worker] = {}


def _worker() -> _Worker:
    """Return this process's worker; a forked process has one of its own."""
    return _workers.setdefault(os.getpid(), _Worker())


@atexit.register
def _close() -> None:
    worker = _workers.pop(os.getpid(), None)
    if worker is not None:
        worker.close()
