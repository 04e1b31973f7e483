"""What was registered as a secret is found in no text, however a program wrote it."""

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emscope import redaction
from emscope.redaction import REDACTED, keep_environment, keep_secret, redact, redact_said

KEY = "qJ7+Zt9wLm2/XvB4nRk8s="
PLAIN = "qJ7-Zt9wLm2XvB4nRk8s"


def left_of(secret, text, most=7):
    """Return the longest piece of a secret that a text holds."""
    text, secret = text.lower(), secret.lower()
    pieces = (secret[a:b] for a in range(len(secret)) for b in range(a + most + 1, len(secret) + 1))
    return next((piece for piece in pieces if piece in text), "")


@pytest.mark.parametrize("key", [KEY, PLAIN, "short-1", 'a"b\\c<d>&e f/g', "schlüssel-9876543"])
@pytest.mark.parametrize(
    "disguise",
    [
        str,
        str.upper,
        repr,
        json.dumps,
        html.escape,
        quote,
        lambda key: quote(key, safe=""),
        lambda key: f"Bearer {key}",
        lambda key: f"Authorization: bearer {key}",
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
        lambda key: base64.urlsafe_b64encode(f"me:{key}\n".encode()).decode(),
        lambda key: key.encode().hex(),
        lambda key: json.dumps(json.dumps({"error": f"bad key {key}!"})) if key.isalnum() else json.dumps([key]),
        lambda key: f"https://me:{quote(key, safe='')}@host/v1",
    ],
)
def test_a_secret_is_hidden_in_every_disguise(key, disguise):
    keep_secret(key)
    written = disguise(key)
    shown = redact(f"before {written} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert REDACTED in shown
    assert not left_of(key, shown)


@pytest.mark.parametrize("key", [PLAIN, "ab12cd34ef", "longer-than-all-of-the-others-0123456789-0123456789"])
def test_half_a_secret_is_hidden_too(key):
    keep_secret(key)
    half = len(key) // 2 + len(key) % 2
    for part in (key[:half], key[-half:]):
        assert part not in redact(f"it begins or ends with {part}")


@pytest.mark.parametrize(
    ("masked", "hidden"),
    [
        (f"{PLAIN[:5]}****{PLAIN[-4:]}", True),
        (f"{PLAIN[:3]}…{PLAIN[-2:]}", True),
        (f"{PLAIN[:2]}...{PLAIN[-2:]}", False),
        (f"key={PLAIN[:4]}••••{PLAIN[-4:]};", True),
        ("wait...", False),
        ("and so on…", False),
    ],
)
def test_a_masked_secret_shows_four_characters_at_most(masked, hidden):
    keep_secret(PLAIN)
    shown = redact(f"bad key {masked}")
    assert (REDACTED in shown) == hidden
    assert (shown == f"bad key {masked}") == (not hidden)


@pytest.mark.parametrize(
    "known",
    [
        "sk-proj-Ab3dEf6hIj9lMn2pQr5tUv8x",
        "sk-or-v1-" + "0123456789abcdef" * 4,
        "hf_" + "aBcDeFgHiJ" * 3,
        "ghp_" + "a1B2c3D4e5" * 4,
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF",
    ],
)
def test_keys_of_well_known_shapes_are_hidden_unregistered(known):
    assert redact(f"used {known}, sorry") == f"used {REDACTED}, sorry"


@pytest.mark.parametrize(
    "text",
    [
        "--api-key-env SOME_KEY",
        "emscope/behaviour/judges/hf_judge.py, line 7",
        "runs/sk-learn-experiment-2026-11-28/report.html",
        "Bearer of bad news",
        "http://127.0.0.1:8000/v1",
        "the store of scores /home/me/key_of_things/scores.sqlite",
        "",
    ],
)
def test_ordinary_text_stays(text):
    keep_secret(PLAIN)
    assert redact(text) == text


def test_what_a_server_says_is_read_more_strictly():
    assert "wxyz" in redact("sk-proj-abcd****wxyz")
    assert redact_said("bad key sk-proj-abcd****wxyz") == f"bad key {REDACTED}"


def test_an_address_shows_no_password():
    assert redact("see https://me:open-sesame@host/v1") == f"see https://{REDACTED}@host/v1"


def test_secrets_of_the_environment_are_known(monkeypatch):
    keep_environment({"HF_TOKEN": PLAIN, "SSH_KEY": "/home/me/key-1234567890", "LANG": "x" * 9, "A_KEY": "sesame"})
    keep_environment({"https_proxy": "http://me:pass-word-77@proxy:3128"})
    assert redaction._secrets == {PLAIN, "pass-word-77"}


def test_a_word_too_short_is_no_secret():
    keep_secret("none")
    assert redact("none of them") == "none of them"


@given(st.text(max_size=40), st.text(max_size=40))
def test_redacting_never_fails_and_twice_is_once(before, after):
    redaction._secrets.clear()
    keep_secret(PLAIN)
    once = redact(before + PLAIN + after)
    assert PLAIN not in once
    assert redact(once) == once
