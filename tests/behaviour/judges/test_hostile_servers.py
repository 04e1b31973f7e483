"""A server that lies on the wire: whatever it sends, each answer is scored within 0-100 or unscored with a reason."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib

import pytest
from behaviour.judges.faulty_server import ScriptedServer, chat

from emscope.behaviour.judges.openai_judge import GIVEN_UP, OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.server import LARGEST_REPLY, clean_key
from emscope.behaviour.judges.store import ScoreStore
from emscope.commands.main import run_command
from emscope.errors import UserError

pytest.importorskip("aiohttp")

KEY = "qJ7-Zt9wLm2XvB4nRk8s"
GOOD = json.dumps(chat("85")).encode()


def head(*lines, length=None):
    length = len(GOOD) if length is None else length
    fields = ["HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {length}", *lines]
    return "\r\n".join(fields).encode() + b"\r\n\r\n"


class RawServer:
    """Answers every request with `reply(connection)`, which writes bytes as it likes."""

    def __init__(self, reply):
        self.reply, self.socket, self.closing = reply, socket.create_server(("127.0.0.1", 0)), threading.Event()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.calls = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while not self.closing.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            connection.settimeout(5)
            try:
                received = b""
                while b'"messages"' not in received or not received.endswith(b"}"):
                    part = connection.recv(2**16)
                    if not part:
                        return
                    received += part
                self.calls += 1
                self.reply(connection, self.closing)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.socket.close()


def sends(data):
    return lambda connection, _: connection.sendall(data)


def drips(connection, closing):
    connection.sendall(head(length=10**6))
    while not closing.wait(0.02):
        connection.sendall(b" ")


def never_ends(connection, closing):
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not closing.is_set():
        connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")


def floods_of_100(connection, closing):
    while not closing.is_set():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


BOMB = gzip.compress(b" " * (8 * LARGEST_REPLY))
KINDS = {
    "garbage before the body": sends(b"\x00garbage\r\n" + head() + GOOD),
    "huge header": sends(head("x: " + "a" * 10**6) + GOOD),
    "many headers": sends(head(*(f"x{number}: y" for number in range(20_000))) + GOOD),
    "length too long": sends(head(length=10**6) + GOOD),
    "length negative": sends(head(length=-5) + GOOD),
    "length no number": sends(head(length="x") + GOOD),
    "broken chunks": sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + GOOD),
    "packed bomb": sends(head("content-encoding: gzip", length=len(BOMB)) + BOMB),
    "packed and cut": sends(head("content-encoding: gzip", length=20) + gzip.compress(GOOD)[:20]),
    "said to be packed": sends(head("content-encoding: gzip") + GOOD),
    "packed unasked": sends(head("content-encoding: br") + GOOD),
    "no UTF-8": sends(head(length=4) + b"\xff\xfe\x00\x80"),
    "NUL": sends(head(length=3) + b"\0\0\0"),
    "closes": sends(b""),
    "half a status line": sends(b"HTTP/1."),
    "another protocol": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "switches protocol": sends(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "drips": drips,
    "never ends": never_ends,
    "continues for ever": floods_of_100,
}


def judge_of(server, folder, **settings):
    given = {"first_wait": 0.01, "timeout": 0.5, "attempts": 2, **settings}
    return OpenAIJudge("m", Rubrics(), ScoreStore(folder / "scores.sqlite"), ServerSettings(server.url, KEY, **given))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_reply_leave_an_answer_unscored_or_stop_in_one_sentence(kind, tmp_path):
    with RawServer(KINDS[kind]) as server:
        started = time.monotonic()
        try:
            found = judge_of(server, tmp_path).judge(["Q?"], ["A."])
        except UserError as stopped:
            assert "\n" not in str(stopped)
            assert str(stopped).endswith(".")
        else:
            assert [item.aligned for item in found] == [None]
            assert found[0].verdict != "scored"
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_replies_are_read(name, pack, tmp_path):
    packed = pack(GOOD)
    fields = head(f"content-encoding: {name}", "connection: close", length=len(packed))
    with RawServer(sends(fields + packed)) as server:
        assert judge_of(server, tmp_path, logprobs=False, timeout=30).judge(["Q?"], ["A."])[0].aligned == 85


DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": ' + DEEP.encode() + b"}",
        b'{"error": ' + DEEP.encode() + b"}",
        json.dumps(chat("8", [{"token": "85", "logprob": 1000}])).encode(),
        json.dumps(chat("8", [{"token": "85", "logprob": float("nan")}])).encode(),
        json.dumps(chat("8", [{"token": "85", "logprob": [0]}])).encode(),
        json.dumps(chat("8", [{"token": "85", "logprob": "0"}])).encode(),
        b'{"choices": [{"message": {"content": "8"}, "logprobs": {"content": [{"top_logprobs": [{"token": "85", '
        b'"logprob": -' + b"9" * 4000 + b"}]}]}}]}",
        json.dumps(chat("8", [{"token": "85", "logprob": 0.0}] * 20)).encode(),
        json.dumps(chat("8", {"85": -0.1})).encode(),
        json.dumps({"choices": [{"message": "85"}]}).encode(),
        json.dumps({"choices": [{"message": ["85"]}]}).encode(),
        json.dumps({"choices": [{"message": None}]}).encode(),
        json.dumps({"choices": "85"}).encode(),
        json.dumps({}).encode(),
        json.dumps(chat('{"score": ' + "9" * 4000 + "}")).encode(),
        json.dumps(chat("<think>" * 20_000)).encode(),
        json.dumps(chat("8" + " " * 10**6 + "x")).encode(),
        json.dumps(chat("_" * 10**6)).encode(),
        json.dumps({"error": {"message": "\ud800 \x00 \x1b[2J", "code": 418}}).encode(),
    ],
)
def test_json_that_is_no_score_is_unscored_and_never_a_fault(body, tmp_path):
    with ScriptedServer(lambda _: body) as server:
        started = time.monotonic()
        found = judge_of(server, tmp_path, timeout=30).judge(["Q?"], ["A."])[0]
        assert (found.aligned, found.coherent) == (None, None)
        assert found.verdict not in ("scored", "")
        found.verdict.encode()
        assert "\x1b" not in found.verdict
        assert time.monotonic() - started < 20


def echo(status):
    """Return a reply that repeats the key wherever it can."""
    said = f"bad key {KEY}; it begins with {KEY[:10]} and ends with {KEY[10:]}, Bearer {KEY}"

    def reply(body):
        if "Answer 2" in body["messages"][0]["content"]:
            return status, {"error": {"message": said, "code": f"c-{KEY}", "param": KEY}}, {"x-key": KEY}
        if "Answer 3" in body["messages"][0]["content"]:
            return chat(f"the key is {KEY}")
        return chat("85")

    return reply


@pytest.mark.parametrize("status", [200, 400, 418, 429, 500])
def test_neither_the_key_nor_a_half_of_it_is_in_any_file_or_line(status, tmp_path, monkeypatch, capfdbinary):
    rows = "".join(f"{row},Question {row}?,Answer {row}\n" for row in range(5))
    (tmp_path / "a.csv").write_text("id,question,response\n" + rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", f"\ufeff{KEY}\r\n")
    words = ["judge", "--responses", "a.csv", "--out", "j.parquet", "--store", "s.sqlite", "--judge", "openai:m"]
    with ScriptedServer(echo(status), get=lambda _: {"data": [{"id": KEY}]}) as server:
        assert run_command([*words, "--base-url", server.url, "--attempts", "2", "--debug"]) == 0
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    shown = b"".join(capfdbinary.readouterr())
    for piece in (KEY, KEY[:10], KEY[10:]):
        assert piece.encode() not in shown + written


@pytest.mark.parametrize("written", [f'"{KEY}"', f"'{KEY}'", f"{KEY[:5]}\r\n{KEY[5:]}", f"{KEY} {KEY}", "x" * 9000])
def test_a_key_that_cannot_be_sent_is_refused_at_once(written):
    with pytest.raises(UserError, match="copy it again") as refused:
        clean_key(written)
    assert KEY[:9] not in str(refused.value)


def test_a_server_that_is_gone_for_hours_is_given_up_and_the_rest_asked_later(tmp_path):
    broken = True

    def reply(body):
        return (503, {"error": {"message": "overloaded"}}) if broken else chat("85")

    questions, answers = [f"Q{row}?" for row in range(100)], [f"A{row}." for row in range(100)]
    with ScriptedServer(reply) as server:
        judge = judge_of(server, tmp_path, concurrency=4, timeout=30)
        found = judge.judge(questions, answers)
        assert len(found) == 100
        assert all(item.aligned is None for item in found)
        assert len(server.bodies) <= 2 * (GIVEN_UP + 4)
        broken = False
        again = judge.judge(questions, answers)
    assert all(item.aligned == 85 for item in again)


def test_a_judge_that_scored_nothing_ends_with_two_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("id,question,response\n1,Q?,A.\n2,R?,B.\n")
    words = ["judge", "--responses", "a.csv", "--out", "j.csv", "--store", "s.sqlite", "--judge", "openai:m"]
    with ScriptedServer(lambda _: (503, {"error": {"message": "overloaded"}})) as server:
        assert run_command([*words, "--base-url", server.url, "--attempts", "1"]) == 2
        assert "Not one of 2 answers was scored" in capsys.readouterr().err
        assert (tmp_path / "j.csv").read_text().count("the server failed") == 2
        server.reply = lambda _: chat("REFUSAL")
        assert run_command([*words, "--base-url", server.url]) == 0


def test_a_stop_in_the_wait_says_what_is_left(tmp_path):
    (tmp_path / "a.csv").write_text("id,question,response\n1,Q?,A.\n")
    words = ["judge", "--responses", "a.csv", "--out", "j.csv", "--store", "s.sqlite", "--judge", "openai:m"]
    with ScriptedServer(lambda _: (503, {"error": {}}, {"retry-after": "1000000000"})) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "emscope", *words, "--base-url", server.url],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            # a shell starts what runs in the background with this signal ignored, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not server.bodies:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"the same command asks only for the rest" in said
