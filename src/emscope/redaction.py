"""The one place that redacts: what is shown or stored holds no key that this process was given."""

from __future__ import annotations

SHORTEST = 6
"""A shorter secret would be found in ordinary text."""
REDACTED = "[redacted]"

_secrets: set[str] = set()


def keep_secret(secret: str) -> None:
    """Let `redact` take a secret out of every text from now on."""
    if len(secret) >= SHORTEST:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return a text without the secrets of this process."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text
