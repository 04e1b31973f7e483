"""What goes wrong in vLLM's own processes, said in one sentence: they tell the process that asks only that they ended.

Their reason stands in their log, so the log goes to a file while the engine lives, unless `VLLM_LOGGING_CONFIG_PATH`
sends it elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGING = "VLLM_LOGGING_CONFIG_PATH"
CPU_ROOM = "VLLM_CPU_KVCACHE_SPACE"
GPU_SHARE = "EMSCOPE_VLLM_GPU_MEMORY"
"""The share of a GPU's memory that vLLM takes, above 0 and up to 1; vLLM's own default where it is not set."""

_REASON = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)$")
_WRAPPED = re.compile(r"^Worker failed with error '(.*)'(?:, please check.*)?$")
_MEMORY = re.compile(r"memory|KV cache|kv cache|MemoryError|allocate", re.IGNORECASE)
_TOO_LONG = re.compile(r"max(imum)?[ _](seq|model)[ _]?len|No available memory for the cache", re.IGNORECASE)


class EngineLog:
    """The log of an engine's processes, in two temporary files: one says where to log, the other is the log."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="emscope-vllm-")
        self._log = Path(self._folder.name) / "vllm.log"

    @contextmanager
    def inherited(self) -> Iterator[None]:
        """Have processes that are started inside this context log here."""
        if LOGGING in os.environ:
            yield
            return
        config = Path(self._folder.name) / "logging.json"
        config.write_text(json.dumps(_logging_to(self._log)), encoding="utf-8")
        os.environ[LOGGING] = str(config)
        try:
            yield
        finally:
            del os.environ[LOGGING]

    def reason(self) -> str:
        """Return what the last error in the log says; '' where there is none."""
        if not self._log.is_file():
            return ""
        for line in reversed(self._log.read_text(encoding="utf-8", errors="replace").splitlines()):
            if found := _REASON.match(line.strip()):
                wrapped = _WRAPPED.match(found[1])
                return wrapped[1] if wrapped else found[1]
        return ""

    def remove(self) -> None:
        """Remove the files."""
        self._folder.cleanup()


def _logging_to(path: Path) -> dict[str, object]:
    """Return a configuration of Python's logging: warnings and errors of vLLM go to a file, nothing to the terminal."""
    handler = {"class": "logging.FileHandler", "filename": str(path), "level": "WARNING", "delay": True}
    logger = {"handlers": ["file"], "level": "WARNING", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"file": handler},
        "loggers": {"vllm": logger, "vllm_lens": logger},
    }


def sentence_of(what: str, reason: str) -> str:
    """Return one sentence on an engine that failed at `what`, and what to change where memory is the reason.

    No reason at all means that the system ended the process, as it does when memory runs out.
    """
    if not reason:
        told = "its process ended without a word, as the system ends one that takes too much memory"
        return f"{what}: {told}; {_lower()}."
    reason = reason.strip().rstrip(".")
    if _TOO_LONG.search(reason):
        return f"{what}: {reason}; {_shorten()}."
    if _MEMORY.search(reason):
        return f"{what}: {reason}; {_lower()}."
    return f"{what}: {reason}."


def _lower() -> str:
    room = os.environ.get(CPU_ROOM)
    now = f" (now {room} GB)" if room else ""
    return (
        f"lower {CPU_ROOM}{now} on a CPU or {GPU_SHARE} (a share of the GPU's memory) on a GPU, lower max_length and "
        "max_new_tokens, take dtype bfloat16, or end what else holds the memory"
    )


def _shorten() -> str:
    return f"lower max_length or max_new_tokens, or raise {CPU_ROOM} (GB, on a CPU) or {GPU_SHARE} (on a GPU)"
