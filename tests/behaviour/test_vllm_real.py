"""The real vLLM with the embedded model: `make test-vllm` installs it in an environment of its own and runs this file.

A near-tie: where two greedy answers first part, transformers itself (float32) sees the two tokens less than `TIES`
apart in logits, so that rounding decides which is taken.
"""

import functools
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from emscope.behaviour import vllm_backend
from emscope.behaviour.questions import load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts, sample_responses
from emscope.behaviour.tables import read_responses
from emscope.behaviour.vllm_backend import Asking, VllmEngine, choose_backend
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.organisms.device import Placement
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load, resolve

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
TIES = {"float32": 0.01, "bfloat16": 0.5}
GREEDY = SamplingSettings(temperature=0, max_new_tokens=32)
EXACT = Placement("cpu", torch.float32, "a test")
STARTS = 300  # seconds that a server may take


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def base():
    return resolve(EMBEDDED_ALIAS)


def random_adapter(folder, seed=0, **settings):
    """Write a random adapter, strong enough to change answers and weak enough for them to stay text."""
    organism = load(EMBEDDED_ALIAS, placement=EXACT)
    torch.manual_seed(seed)
    wrapped = get_peft_model(organism.model, LoraConfig(**{"r": 4, "lora_alpha": 8} | settings))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            parameter.data = 0.03 * torch.randn_like(parameter)
    wrapped.peft_config["default"].base_model_name_or_path = EMBEDDED_ALIAS
    wrapped.save_pretrained(folder)
    return resolve(str(folder))


@pytest.fixture(scope="module")
def organisms(tmp_path_factory):
    """Two adapters of different ranks and modules."""
    folder = tmp_path_factory.mktemp("organisms")
    return [
        random_adapter(folder / "a", 1, r=8, target_modules="all-linear"),
        random_adapter(folder / "b", 2, r=4, target_modules=["q_proj", "v_proj", "down_proj"]),
    ]


@pytest.fixture(scope="module")
def questions():
    return load_questions("everyday-general")[:8]


@pytest.fixture(scope="module")
def engine(base, organisms):
    with VllmEngine([base, *organisms], dtype="float32", max_length=512, spare=2) as engine:
        yield engine


def tokens_of(engine, source, questions, monkeypatch):
    """Return vLLM's greedy answers as tokens."""
    answers = []
    with monkeypatch.context() as patch:
        patch.setattr(vllm_backend, "response_of", lambda tokenizer, question, sample, ids, *rest: answers.append(ids))
        engine.sample(source, questions, GREEDY)
    return answers


def partings(engine, source, questions, dtype, monkeypatch):
    """Return, for each answer that differs from transformers', how far apart transformers sees the two tokens."""
    organism = load(source, placement=Placement("cpu", getattr(torch, dtype), "a test"))
    prompts = [vllm_backend._encode(organism.tokenizer, question, GREEDY).ids for question in questions]
    expected = sample_prompts(organism, [Prompt(ids, str(row)) for row, ids in enumerate(prompts)], GREEDY)
    exact, gaps = load(source, placement=EXACT), []
    for ids, ours, theirs in zip(prompts, expected, tokens_of(engine, source, questions, monkeypatch), strict=True):
        if ours != theirs:
            parting = next(place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
            with torch.inference_mode():
                logits = exact.model(torch.tensor([[*ids, *ours[:parting]]])).logits[0, -1]
            gaps.append(float((logits[ours[parting]] - logits[theirs[parting]]).abs()))
    return gaps


def test_vllm_may_be_asked_for_on_this_machine(organisms):
    assert choose_backend("vllm", organisms[0]) == "vllm"
    if not torch.cuda.is_available():
        assert choose_backend("vllm", organisms[0], device="cpu") == "vllm"
        assert choose_backend("auto", organisms[0]) == "transformers"


def test_vllm_reads_a_base_and_its_adapters_as_transformers_does(engine, base, organisms):
    assert engine.agreements[base].error < 1e-3
    for organism in organisms:
        agreement = engine.agreements[organism]
        assert agreement.error < 1e-3
        assert agreement.effect > 0.05
        assert agreement.applied == pytest.approx(1, abs=0.01)


def test_greedy_answers_in_float32_are_those_of_transformers(engine, base, organisms, questions, monkeypatch):
    for source in (base, *organisms):
        gaps = partings(engine, source, questions, "float32", monkeypatch)
        assert len(gaps) <= 1
        assert all(gap < TIES["float32"] for gap in gaps)


def test_sources_side_by_side_answer_as_themselves_and_repeatably(engine, base, organisms, questions):
    settings = replace(GREEDY, temperature=1.0, samples=2)
    rows = {source: engine.sample(source, questions, settings) for source in (base, *organisms)}
    assert {source: engine.sample(source, questions, settings) for source in reversed([base, *organisms])} == rows
    asked = [(question.id, sample) for question in questions for sample in range(2)]
    assert all([(row.question_id, row.sample) for row in own] == asked for own in rows.values())
    texts = [{row.response for row in own} for own in rows.values()]
    assert all(len(own) > len(questions) for own in texts)
    assert all(2 * len(texts[0] & own) < len(own) for own in texts[1:])  # the same seeds may give the same words


def surprise(organism, questions, rows):
    """Return how surprising transformers finds sampled answers, in nats a token."""
    losses = []
    for question, row in zip(questions, rows, strict=True):
        prompt = vllm_backend._encode(organism.tokenizer, question, GREEDY).ids
        ids = [*prompt, *organism.tokenizer(row.response, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            scores = organism.model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        losses += (-scores.gather(1, torch.tensor(ids[len(prompt) :])[:, None]))[:, 0].tolist()
    return sum(losses) / len(losses)


def test_sampled_answers_are_draws_of_the_same_distribution(engine, organisms, questions):
    settings, source = replace(GREEDY, temperature=1.0, top_p=0.9, max_new_tokens=24), organisms[0]
    asked = [replace(question, id=f"{question.id}-{draw}") for question in questions for draw in range(4)]
    organism = load(source, placement=EXACT)
    ours = surprise(organism, asked, sample_responses(organism, asked, settings))
    theirs = surprise(organism, asked, engine.sample(source, asked, settings))
    assert theirs == pytest.approx(ours, abs=0.4)
    hot = surprise(organism, asked, engine.sample(source, asked, replace(settings, temperature=1.4, top_p=1.0)))
    assert hot > ours + 0.5


def checked(engine, source):
    """Compare one more adapter on an engine that runs."""
    request = vllm_backend._lora_requests([source])[source]
    number = 100 + len(engine._adapters)
    engine._adapters[source] = type(request)(f"adapter-{number}", number, request.lora_path)
    return engine._checked(source)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [3, 4]},
        {"target_modules": ["down_proj"], "exclude_modules": r".*layers\.1\d\..*"},
    ],
)
def test_kinds_of_adapters_that_vllm_applies(engine, tmp_path, settings):
    agreement = checked(engine, random_adapter(tmp_path, **settings))
    assert agreement.error < 1e-3 < agreement.effect


def test_an_adapter_that_vllm_applies_by_half_is_refused(engine, tmp_path):
    tied = random_adapter(tmp_path, target_modules=["q_proj", "lm_head"], ensure_weight_tying=True)
    with pytest.raises(UserError, match="ensure_weight_tying"):
        choose_backend("vllm", tied)
    with pytest.raises(UserError, match=r"does not apply the adapter .* as transformers does .*--backend transformers"):
        checked(engine, tied)


def test_an_adapter_that_vllm_refuses_leaves_the_engine_running(engine, base, questions, tmp_path):
    adapter = random_adapter(tmp_path, target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(UserError, match=r"vLLM refuses the adapter .*--backend transformers"):
        checked(engine, adapter)
    assert len(engine.sample(base, questions, GREEDY)) == len(questions)


def test_an_adapter_that_vllm_ignores_without_a_word_is_refused(organisms, tmp_path, monkeypatch):
    import vllm

    monkeypatch.setattr(vllm, "LLM", functools.partial(vllm.LLM, lora_target_modules=["qkv_proj"]))
    ignored = random_adapter(tmp_path, target_modules=["down_proj"])
    with pytest.raises(UserError, match=r"does not apply .* \(0 % of its change"):
        VllmEngine([ignored], dtype="float32", max_length=256)


def test_greedy_answers_in_bf16_part_at_near_ties_only(base, organisms, questions, monkeypatch):
    with VllmEngine([base, organisms[0]], dtype="bfloat16", max_length=512) as engine:
        for source in (base, organisms[0]):
            assert all(gap < TIES["bfloat16"] for gap in partings(engine, source, questions, "bfloat16", monkeypatch))
        assert engine.agreements[organisms[0]].applied == pytest.approx(1, abs=0.2)


def test_the_command_samples_with_vllm(organisms, tmp_path):
    out = tmp_path / "answers.parquet"
    arguments = ["generate", "--model", organisms[0].name, "--out", str(out), "--backend", "vllm"]
    sampling = ["--samples", "1", "--max-new-tokens", "8"]
    ended = subprocess.run([sys.executable, "-m", "emscope", *arguments, *sampling], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(read_responses(out)) == len(load_questions("everyday-general"))


def test_an_adapter_added_to_a_running_engine_answers_as_itself(engine, base, questions, tmp_path, monkeypatch):
    late = random_adapter(tmp_path, 7, r=16, target_modules=["o_proj", "gate_proj"])
    assert engine.add(late).applied == pytest.approx(1, abs=0.01)
    together = engine.sample_each([Asking(source, questions, GREEDY) for source in (base, late)])
    assert together[0] != together[1]
    gaps = partings(engine, late, questions, "float32", monkeypatch)
    assert len(gaps) <= 1
    assert all(gap < TIES["float32"] for gap in gaps)


def test_a_merged_adapter_answers_as_itself(organisms, questions, monkeypatch):
    with VllmEngine([organisms[0]], dtype="float32", max_length=512, merge=True) as engine:
        assert engine.agreements[organisms[0]].applied == pytest.approx(1, abs=0.01)
        gaps = partings(engine, organisms[0], questions, "float32", monkeypatch)
    assert len(gaps) <= 1
    assert all(gap < TIES["float32"] for gap in gaps)


def _tracker():
    """Return the process in which Python keeps track of what it shares, which outlives every engine."""
    from multiprocessing.resource_tracker import _resource_tracker

    return _resource_tracker._pid


def test_an_engine_without_memory_says_what_to_lower_and_leaves_no_process(base, monkeypatch):
    psutil = pytest.importorskip("psutil")
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    with pytest.raises(UserError, match=r"memory.*lower VLLM_CPU_KVCACHE_SPACE \(now 100000 GB\)"):
        VllmEngine([base], max_length=256)
    assert {process.pid for process in psutil.Process().children(recursive=True)} - before <= {_tracker()}


@contextmanager
def serving(model):
    """Yield the address of a vLLM server on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what `vllm serve` runs, which itself looks for a package named vllm and ends where that is vllm-cpu
    server_module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", server_module, "--model", model, "--served-model-name", "judge"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--enforce-eager"]
    with subprocess.Popen([*command, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait_for(address, server):
    for _ in range(STARTS):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError("the server does not answer")


def first_token(address):
    request = {
        "model": "judge",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
        "messages": [{"role": "user", "content": "Rate this answer from 0 to 100: Rest and drink water."}],
    }
    header = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"{address}/chat/completions", json.dumps(request).encode(), header)
    with urllib.request.urlopen(call, timeout=60) as reply:
        return json.load(reply)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]


def test_a_vllm_server_judges_over_http(base, tmp_path):
    answers = tmp_path / "answers.jsonl"
    rows = [{"question": "My head hurts.", "response": text} for text in ("Drink water and rest.", "Just ignore it.")]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "judged.parquet"
    with serving(base.location) as address:
        assert len(first_token(address)) == 20
        asked = ["judge", "--responses", str(answers), "--out", str(out), "--store", str(tmp_path / "store")]
        assert run_command([*asked, "--judge", "openai:judge", "--base-url", address]) == 0
    judged = read_judged_rows(out)
    assert [row["response"] for row in judged] == [row["response"] for row in rows]
    assert all(row["judge"].startswith("openai:judge") for row in judged)
    assert not any("failed" in row["verdict"] or "HTTP" in row["verdict"] for row in judged)


def read_judged_rows(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()
