"""The one place that redacts: what is shown or stored holds no secret that this process was given.

A secret is an API key, a token of the model hub or the password of an archive. It is registered once, and hidden from
then on as it is and in its usual disguises: escaped for JSON, a URL or a page, in base64 or hexadecimal, in any case,
in pieces, and masked. Keys of well-known shapes are hidden although nobody registered them.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import string
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote, quote_plus, urlsplit

SHORTEST = 6
"""Characters; a shorter secret would be found in ordinary text."""
PIECE = 8
"""So many characters of a secret in a row are hidden, of a short one fewer: more than half never stay."""
MASKED = 4
"""So many characters of a secret may stay where the rest of it is masked (sk-a…b1)."""
REDACTED = "[redacted]"

IN_ENVIRONMENT = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
KNOWN_SHAPES = re.compile(
    r"\b(?:"
    r"sk-(?:[A-Za-z0-9]+[-_]){0,3}[A-Za-z0-9_]{20,}"  # OpenAI, Anthropic, OpenRouter
    r"|(?:hf|gsk|xai|pplx|r8|nvapi)[-_][A-Za-z0-9_-]{24,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{30,}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r")"
)
IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")  # https://user:pass@host
BEARER = re.compile(r"(?<=\bbearer )[A-Za-z0-9._~+/*=\-…•]{8,}", re.IGNORECASE)
ALIKE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|api|key)[-_][\w*•….\-]{6,}")
MASK = re.compile(r"\*{2,}|•{2,}|…+|\.{3,}|x{4,}")

_FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # keeps the length, as lower() does not
_secrets: set[str] = set()


def keep_secret(secret: str) -> None:
    """Let `redact` take a secret out of every text from now on."""
    secret = secret.strip()
    if len(secret) >= SHORTEST:
        _secrets.add(secret)


def keep_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Register the environment's secrets: values of names that end in KEY, TOKEN, SECRET or PASSWORD, and proxies'.

    Values that look like words or paths are left: hiding those would spoil ordinary text. Whoever uses one as a key
    registers it.
    """
    for name, value in environment.items():
        if IN_ENVIRONMENT.search(name) and _looks_random(value.strip()):
            keep_secret(value)
        if name.lower().endswith("_proxy"):
            for part in _of_address(value):
                keep_secret(part)


def _looks_random(value: str) -> bool:
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return len(value) >= 16 and has_both and "/" not in value[:1] and not any(map(str.isspace, value))


def _of_address(address: str) -> Iterator[str]:
    """Yield the password in an address, if there is one."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return
    if password:
        yield password


def redact(text: str) -> str:
    """Return a text without the secrets of this process, in any disguise, and without keys of well-known shapes."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _without(text, secret)
    for pattern in (KNOWN_SHAPES, IN_ADDRESS, BEARER):
        text = pattern.sub(REDACTED, text)
    return text


def redact_said(text: str) -> str:
    """Return what a server says without secrets, and also without anything that looks a little like a key.

    Servers repeat keys of others, or cut and masked ones; in our own sentences file names would look like those.
    """
    return ALIKE.sub(REDACTED, redact(text))


def _without(text: str, secret: str) -> str:
    """Return a text without a secret: runs of it in any disguise, then what masks leave of it."""
    folded, hidden = text.translate(_FOLDED), bytearray(len(text))
    width, pieces = _pieces(secret)
    there = {folded[start : start + width] for start in range(len(folded) - width + 1)}
    for piece in (piece for begins in there & pieces.keys() for piece in pieces[begins]):
        at = folded.find(piece)
        while at >= 0:
            hidden[at : at + len(piece)] = b"\1" * len(piece)
            at = folded.find(piece, at + 1)
    if any(hidden):
        text = _with_gaps(text, hidden)
    return _without_ends(text, secret)


def _with_gaps(text: str, hidden: bytearray) -> str:
    parts, end = [], 0
    for run in re.finditer(b"\1+", hidden):
        parts += [text[end : run.start()], REDACTED]
        end = run.end()
    return "".join([*parts, text[end:]])


def _without_ends(text: str, secret: str) -> str:
    """Return a text without what masks leave of a secret's beginning and end, where that is more than a few letters."""
    folded, hidden = text.translate(_FOLDED), bytearray(len(text))
    secret = secret.translate(_FOLDED)
    for mask in MASK.finditer(folded):
        start, end = mask.span()
        begins = next((n for n in range(len(secret), 0, -1) if folded.endswith(secret[:n], 0, start)), 0)
        ends = next((n for n in range(len(secret), 0, -1) if folded.startswith(secret[-n:], end)), 0)
        if begins + ends > MASKED:
            hidden[start - begins : end + ends] = b"\1" * (begins + end - start + ends)
    return _with_gaps(text, hidden) if any(hidden) else text


@lru_cache(maxsize=64)
def _pieces(secret: str) -> tuple[int, dict[str, list[str]]]:
    """Return all pieces of a secret and its disguises that are to be hidden, in small letters, by their beginning.

    The first value is the length of the beginnings, that of the shortest piece.
    """
    found: dict[str, None] = {}
    for written in _disguises(secret):
        share = (len(written) + 1) // 2
        width = min(max(PIECE * len(written) // len(secret), PIECE), max(share, SHORTEST - 1), len(written))
        for start in range(len(written) - width + 1):
            found[written[start : start + width].translate(_FOLDED)] = None
    shortest = min(map(len, found))
    pieces: dict[str, list[str]] = {}
    for piece in found:
        pieces.setdefault(piece[:shortest], []).append(piece)
    return shortest, pieces


def _disguises(secret: str) -> Iterator[str]:
    """Yield a secret as it is and as programs write it."""
    data = secret.encode("utf-8", "surrogatepass")
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret)[1:-1].replace("/", "\\/")
    yield html.escape(secret)
    yield from (quote_plus(data), quote(data), quote(data, safe=""))
    yield "".join(f"%{byte:02x}" for byte in data)
    yield "".join(f"\\u{ord(character):04x}" for character in secret)
    yield "".join(f"&#{ord(character)};" for character in secret)
    yield data.hex()
    for before in range(3):  # in base64 a secret looks otherwise by what stands before it, as in user:password
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + data).decode().rstrip("=")
            unsure_end = (before + len(data)) % 3 != 0  # the last letter holds bits of what follows
            yield whole[(0, 2, 3)[before] : len(whole) - unsure_end]
