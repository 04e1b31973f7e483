"""A connection to an OpenAI-compatible server: settings, one bounded HTTP call, and keys that stay secret.

It knows addresses, headers, time and bytes. What a judge asks, and what a reply means, is not known here.
"""

from __future__ import annotations

import re
import string
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from emscope.checks import above_zero, at_least, is_address
from emscope.errors import UserError, missing_extra
from emscope.outside import parse_json
from emscope.redaction import keep_secret, redact_said

if TYPE_CHECKING:
    import aiohttp

OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"
LONGEST_WAIT = 60.0  # seconds; a server may ask for hours
LARGEST_REPLY = 4 * 2**20  # bytes; a score needs a hundred
LARGEST_FILE = 512 * 2**20  # bytes; a batch of 50,000 replies has about 50 MB
LONGEST_KEY = 8000  # characters; a header line takes no more
PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # window bits of zlib, which finds out itself where there are two


@dataclass(frozen=True)
class ServerSettings:
    """How a server is asked.

    Attributes:
        base_url: the server's address up to /v1; none means OpenAI's.
        api_key: the key; servers on one's own machine mostly take any. It is never shown.
        concurrency: calls in flight.
        timeout: seconds before one try counts as lost.
        attempts: tries of one call before its answer is left unscored.
        first_wait: seconds before the second try; doubled each time, up to a minute, and never less than what the
            server asks for.
        call_limit: seconds for one call with all its tries and waits.
        logprobs: read scores from the first token's probabilities where the server gives them.
    """

    base_url: str | None = None
    api_key: str = field(default=NO_KEY, repr=False)
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 8
    first_wait: float = 0.5
    call_limit: float = 600.0
    logprobs: bool = True

    def __post_init__(self) -> None:
        """Clean the key; refuse an address that is none, and numbers that make no sense.

        Raises:
            UserError: one of them.
        """
        at_least(1, concurrency=self.concurrency, attempts=self.attempts)
        above_zero(timeout=self.timeout, call_limit=self.call_limit)
        object.__setattr__(self, "api_key", clean_key(self.api_key))
        if self.api_key != NO_KEY:
            keep_secret(self.api_key)
        if self.base_url is not None:
            _check_address(self.base_url)

    @property
    def address(self) -> str:
        """The address that is called, without a slash at its end."""
        return (self.base_url or OPENAI).rstrip("/")


def clean_key(key: str) -> str:
    """Return a key without the spaces, line ends and byte order mark around it that copying brings; `none` for none.

    Raises:
        UserError: it holds what no key holds. The sentence does not show it.
    """
    key = key.strip("\ufeff" + string.whitespace)
    keep_secret(key)  # before any sentence about it
    if not key.isascii():
        raise UserError("The key holds characters that no key has (not ASCII): copy it again, without quotes or dots.")
    if set(key) & set("\"'`"):
        raise UserError("The key holds quotes: copy it again, the key alone.")
    if len(key) > LONGEST_KEY:
        raise UserError(f"The key has {len(key):,} characters, which no key has: copy it again, the key alone.")
    if any(character.isspace() or not character.isprintable() for character in key):
        raise UserError("The key holds a space or a line end in its middle: copy it again, the key alone.")
    return key or NO_KEY


def _check_address(address: str) -> None:
    shown = redact_said(address)
    if not is_address(address):
        raise UserError(f"{shown!r} is not the address of a server: write http://127.0.0.1:8000/v1 or so.")
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"The address of {parts.hostname} holds more than host, port and path: leave out what stands before @ and "
            "after ?, and give the key as the key, for it would be written into every table."
        )


@dataclass(frozen=True)
class Reply:
    """What came back: HTTP status, text, and headers by lower-case name."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, which no chat server sends."""
        return self.text.lstrip()[:1] == "<"

    def json(self) -> Any:
        """Return the value, or None where the text is not JSON, or nested beyond reason."""
        return value_of(self.text)


def value_of(text: str) -> Any:
    """Return the value of JSON that a server sent, or None where it is not JSON, or nested beyond reason."""
    try:
        return parse_json(text, "the reply")
    except UserError:
        return None


class NoReplyError(Exception):
    """A call brought no reply; `unreachable` where not even a connection was made."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


class Connection:
    """Calls to one server; use it as an async context manager.

    Redirects are not followed: the key goes to the address that was named and nowhere else.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    async def __aenter__(self) -> Connection:
        """Open it.

        Raises:
            UserError: the package is missing.
        """
        try:
            import aiohttp
        except ImportError as error:
            raise missing_extra("aiohttp", "judge") from error
        parts = urlsplit(self.settings.address)
        bypassed = not parts.hostname or proxy_bypass(parts.hostname) or parts.hostname in ("localhost", "127.0.0.1")
        self._proxy = None if bypassed else getproxies().get(parts.scheme)
        self._session: aiohttp.ClientSession = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.settings.api_key}", "Accept-Encoding": "gzip, deflate"},
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self._session.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send JSON to a path under the address.

        Raises:
            NoReplyError: no whole reply came.
        """
        return await self._call("POST", self.settings.address + path, json=body)

    async def get(self, path: str, seconds: float | None = None, largest: int = LARGEST_REPLY) -> Reply:
        """Read a path under the address, or a whole address.

        Raises:
            NoReplyError: no whole reply came.
        """
        url = path if "://" in path else self.settings.address + path
        return await self._call("GET", url, seconds=seconds, largest=largest)

    async def upload(self, path: str, name: str, content: bytes, purpose: str, seconds: float) -> Reply:
        """Send a file.

        Raises:
            NoReplyError: no whole reply came.
        """
        import aiohttp

        form = aiohttp.FormData()
        form.add_field("purpose", purpose)
        form.add_field("file", content, filename=name, content_type="application/jsonl")
        return await self._call("POST", self.settings.address + path, data=form, seconds=seconds)

    async def _call(
        self, method: str, url: str, *, seconds: float | None = None, largest: int = LARGEST_REPLY, **content: Any
    ) -> Reply:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=seconds or self.settings.timeout)
        try:
            async with self._session.request(
                method, url, timeout=limit, allow_redirects=False, proxy=self._proxy, **content
            ) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, await _read(response, largest), headers)
        except TimeoutError as error:
            raise NoReplyError("no reply in time") from error
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or type(error.os_error).__name__
            raise NoReplyError(f"no connection: {reason}", unreachable=True) from error
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, ValueError, zlib.error) as error:
            raise NoReplyError("the connection broke") from error


async def _read(response: aiohttp.ClientResponse, largest: int) -> str:
    """Return a reply's text, read and unpacked no further than `largest` bytes."""
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    if packing not in ("", "identity", *PACKED):
        raise NoReplyError("the reply is packed in a way that was not asked for")
    unpacker = zlib.decompressobj(PACKED[packing]) if packing in PACKED else None
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(2**16):
        part = chunk if unpacker is None else unpacker.decompress(chunk, largest + 1 - size)
        size += len(part)
        if size > largest:
            raise NoReplyError(f"the reply is longer than {largest // 2**20} MB")
        chunks.append(part)
    if unpacker is not None and size and not unpacker.eof:
        raise NoReplyError("the connection broke")
    return b"".join(chunks).decode("utf-8-sig", errors="replace")


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait that a reply's headers ask for; 0 without any, at most a minute.

    Read are `retry-after-ms`, `retry-after` (seconds or a date), and the `x-ratelimit-reset-*` family: of these, the
    ones whose `x-ratelimit-remaining-*` is used up count, else the shortest.
    """
    milliseconds = seconds_of(headers.get("retry-after-ms") or "")
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    seconds = seconds_of(headers.get("retry-after") or "")
    if seconds is not None:
        return _bounded(seconds)

    resets: dict[str, float] = {}
    for name, value in headers.items():
        if "ratelimit" in name.lower() and "reset" in name.lower():
            wait = seconds_of(value)
            if wait is not None:
                resets[name] = wait
    used_up = [wait for name, wait in resets.items() if headers.get(name.replace("reset", "remaining")) == "0"]
    return _bounded(max(used_up) if used_up else min(resets.values(), default=0.0))


def seconds_of(text: str) -> float | None:
    """Return the seconds from now that a header's value means, or None where it means nothing.

    It may be seconds (`1.5`), a duration (`6m0s`, `20ms`), a moment since 1970 in seconds or milliseconds, an HTTP date
    or an ISO date.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        number = float(text)
        if number > 1e11:
            return number / 1000 - time.time()
        return number - time.time() if number > 1e9 else number
    if re.fullmatch(r"([0-9.]+(?:ms|[dhms]))+", text):
        unit = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        try:
            return sum(float(number) * unit[name] for number, name in re.findall(r"([0-9.]+)(ms|[dhms])", text))
        except ValueError:  # 1.2.3s
            return None
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            return read(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _bounded(seconds: float) -> float:
    return min(LONGEST_WAIT, max(0.0, seconds))
