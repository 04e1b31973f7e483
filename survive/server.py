"""A chat-completions server on loopback, in a process of its own, that counts what each key asked.

It answers a prompt with a score that only the prompt decides, a few milliseconds later. `set` makes it fail for a key:
with a status, from a number of answers on, for some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DELAY = 0.004  # seconds


@dataclass
class _Key:
    """What one key asked, and how it is failed."""

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    status: int = 200
    after: int = 0
    until: float = float("inf")


@dataclass(frozen=True)
class Counts:
    """What the server saw of one key.

    Attributes:
        calls: calls it answered with a score.
        prompts: different prompts among them.
        again: calls of prompts that it had answered before.
        refused: calls it failed.
    """

    calls: int
    prompts: int
    again: int
    refused: int


@dataclass(frozen=True)
class Served:
    """The server as its user sees it."""

    port: int

    @property
    def url(self) -> str:
        """The address for --base-url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self, key: str) -> Counts:
        """Return what a key asked so far."""
        return Counts(**self._control({"key": key}))

    def fail(self, key: str, status: int, after: int = 0, seconds: float = 1e9) -> None:
        """Fail a key's calls with a status, from its answer `after` on, for some seconds from now."""
        self._control({"key": key, "status": status, "after": after, "seconds": seconds})

    def heal(self, key: str) -> None:
        """Answer a key again."""
        self._control({"key": key, "status": 200})

    def _control(self, order: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", json.dumps(order).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


@contextlib.contextmanager
def served(port: int = 0) -> Iterator[Served]:
    """Run the server in a forked process, on any port or a certain one."""
    listening = socket.create_server(("127.0.0.1", port), backlog=256)
    port = listening.getsockname()[1]
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            asyncio.run(_serve(listening))
        finally:
            os._exit(0)
    listening.close()
    try:
        yield Served(port)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def score(prompt: str) -> int:
    """Return the score that a prompt gets."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 101


async def _serve(listening: socket.socket) -> None:
    keys: dict[str, _Key] = {}

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = [line.partition(":") for line in head.splitlines()[1:]]
                headers = {name.strip().lower(): value.strip() for name, _, value in lines}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path = head.split(" ", 2)[1]
                status, found = await _answer(keys, path, headers, body)
                content = json.dumps(found).encode()
                fields = f"content-type: application/json\r\ncontent-length: {len(content)}"
                writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + content)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(client, sock=listening)
    await server.serve_forever()


async def _answer(keys: dict[str, _Key], path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
    if path == "/control":
        return 200, _control(keys, json.loads(body))
    if path != "/v1/chat/completions":
        return 404, {"error": {"message": "there is only a judge here"}}
    key = keys.setdefault(headers.get("authorization", "").removeprefix("Bearer "), _Key())
    asked = json.loads(body)
    prompt = asked["messages"][0]["content"]
    key.asked[prompt] += 1
    await asyncio.sleep(DELAY)
    if key.status != 200 and key.answered.total() >= key.after and time.monotonic() < key.until:
        return key.status, {"error": {"message": "the judge is away"}}
    key.answered[prompt] += 1
    return 200, _completion(str(score(prompt)), bool(asked.get("logprobs")))


def _control(keys: dict[str, _Key], order: dict[str, Any]) -> dict[str, Any]:
    key = keys.setdefault(order["key"], _Key())
    if "status" in order:
        key.status, key.after = order["status"], order.get("after", 0)
        key.until = time.monotonic() + order.get("seconds", 1e9)
    calls = key.answered.total()
    return {
        "calls": calls,
        "prompts": len(key.answered),
        "again": calls - len(key.answered),
        "refused": key.asked.total() - calls,
    }


def _completion(text: str, logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if logprobs:
        top = [{"token": text, "logprob": -0.1}, {"token": "The", "logprob": -2.5}]
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": top}]}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
