"""Keys stay secret, addresses are checked, and what a server says of waiting is understood."""

import base64
import logging
import re
import time
from email.utils import formatdate

import pytest
from behaviour.judges.faulty_server import ScriptedServer, chat

from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.server import clean_key, retry_after, seconds_of
from emscope.behaviour.judges.store import ScoreStore
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.redaction import REDACTED, keep_secret, redact_said

KEY = "qJ7-Zt9wLm2XvB4nRk8s"


@pytest.mark.parametrize("written", [f" {KEY}", f"{KEY}\n", f"\r\n{KEY}\r\n", f"\t{KEY} "])
def test_what_copying_brings_is_taken_off_a_key(written):
    assert ServerSettings(api_key=written).api_key == KEY


@pytest.mark.parametrize(
    "written", [f"{KEY}é", f"“{KEY}”", f"{KEY}\u200b", f"{KEY[:9]} {KEY[9:]}", f"{KEY}\n{KEY}", f"{KEY}\x00"]
)
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(written):
    with pytest.raises(UserError) as refused:
        clean_key(written)
    assert not shows_key(str(refused.value))


def shows_key(text):
    return any(KEY[start : start + 8] in text for start in range(len(KEY) - 7))


def test_settings_do_not_show_their_key():
    assert not shows_key(repr(ServerSettings("http://127.0.0.1:1/v1", KEY)))


@pytest.mark.parametrize(
    "address", [f"http://{KEY}@h/v1", f"https://me:{KEY}@h/v1", f"https://h/v1?key={KEY}", f"https://h/v1#{KEY}", KEY]
)
def test_an_address_that_holds_a_key_is_refused_and_not_shown(address):
    with pytest.raises(UserError) as refused:
        ServerSettings(address, KEY)
    assert not shows_key(str(refused.value))


@pytest.mark.parametrize(
    "said",
    ["bad key {key}", "no {key}{key}.", "it begins with {part}…", "sk-proj-abcd****wxyz", "Bearer {key} is wrong"],
)
def test_a_key_that_is_repeated_is_hidden(said):
    keep_secret(KEY)
    shown = redact_said(said.format(key=KEY, part=KEY[:10]))
    assert REDACTED in shown
    assert not shows_key(shown)
    assert "wxyz" not in shown


@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 418, 429, 500])
def test_no_key_reaches_a_message_a_table_a_store_or_a_log(tmp_path, monkeypatch, capfd, caplog, code):
    def reply(body):
        echoed = {"error": {"message": f"bad key {KEY}, Bearer {KEY}", "code": f"no-{KEY}"}}
        return (code, echoed) if "Answer 2" in body["messages"][0]["content"] else chat("85")

    rows = "".join(f"{row},Question {row}?,Answer {row}\n" for row in range(4))
    (tmp_path / "a.csv").write_text("id,question,response\n" + rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_KEY", f" {KEY}\r\n")
    caplog.set_level(logging.DEBUG)
    words = ["judge", "--responses", "a.csv", "--out", "j.csv", "--store", "s.sqlite", "--judge", "openai:m"]
    with ScriptedServer(reply) as server:
        ending = run_command(
            [*words, "--base-url", server.url, "--api-key-env", "SOME_KEY", "--attempts", "2", "--debug"]
        )
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert ending == (2 if code in (401, 403, 404) else 0)
    printed = "".join(capfd.readouterr()) + caplog.text
    written = "".join(path.read_text(errors="replace") for path in tmp_path.iterdir())
    assert not shows_key(printed + written)
    assert base64.b64encode(KEY.encode()).decode() not in printed + written


def test_the_key_does_not_follow_a_redirect(tmp_path):
    with ScriptedServer(lambda _: chat("85")) as other:
        with ScriptedServer(lambda _: (307, b"", {"location": f"{other.url}/chat/completions"})) as server:
            judge = OpenAIJudge("m", Rubrics(), ScoreStore(tmp_path / "s"), ServerSettings(server.url, KEY))
            with pytest.raises(UserError, match="sends us elsewhere"):
                judge.judge(["Q?"], ["A."])
        assert not other.headers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("0", 0),
        ("20ms", 0.02),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("2d", 172800),
        ("soon", None),
        ("", None),
        ("1.2.3s", None),
        ("-5", None),
        ("nan", None),
    ],
)
def test_durations_in_headers(text, seconds):
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


def test_moments_in_headers():
    soon = time.time() + 20
    iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon))
    for text in (str(int(soon)), str(int(1000 * soon)), formatdate(soon, usegmt=True), iso):
        assert 17 < seconds_of(text) <= 20.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "9", "x-ratelimit-reset-requests": "1s"}, 9),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "8s"}, 2),
        (
            {"x-ratelimit-reset-tokens": "8s", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-requests": "2s"},
            8,
        ),
        ({"retry-after": "86400"}, 60),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, 0),
        ({"x-ratelimit-reset-tokens": "later"}, 0),
    ],
)
def test_the_wait_that_a_server_asks_for_is_bounded(headers, seconds):
    assert retry_after(headers) == pytest.approx(seconds)


def test_sentences_of_addresses_say_what_to_write():
    with pytest.raises(UserError, match=re.escape("'h:8000' is not the address of a server: write http://127.0.0.1")):
        ServerSettings("h:8000")


def test_the_address_in_the_environment_is_asked_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("id,question,response\n1,Q?,A.\n")
    words = ["judge", "--responses", "a.csv", "--out", "j.csv", "--store", "s.sqlite", "--judge", "openai:m"]
    with ScriptedServer(lambda _: chat("85")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run_command(words) == 0
        assert f"openai:m@{server.url}" in (tmp_path / "j.csv").read_text()
