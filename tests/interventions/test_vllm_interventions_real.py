"""Interventions and reading inside the real vLLM with vllm-lens, beside transformers (`make test-vllm`)."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from emscope.behaviour import vllm_backend
from emscope.behaviour.questions import load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts
from emscope.behaviour.tables import read_responses
from emscope.behaviour.vllm_backend import VllmEngine
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.interventions.operators import Custom, along, applied
from emscope.interventions.vllm_interventions import applied_in_vllm
from emscope.organisms.device import Placement
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load, resolve
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, make_directions
from emscope.residual.vllm_capture import capture_in_vllm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm_lens") is None, reason="vllm-lens is not installed"),
]
NEAR_TIE = 0.01  # of the two tokens' logits, as transformers sees them in float32
GREEDY = SamplingSettings(temperature=0, max_new_tokens=24)
EXACT = Placement("cpu", torch.float32, "a test")


@pytest.fixture(scope="module")
def base():
    return resolve(EMBEDDED_ALIAS)


@pytest.fixture(scope="module")
def organism(base):
    return load(base, placement=EXACT)


@pytest.fixture(scope="module")
def questions():
    return load_questions("everyday-general")[:6]


@pytest.fixture(scope="module")
def engine(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with VllmEngine([base], dtype="float32", max_length=400, hooks=True) as engine:
            yield engine


def chats_of(organism, questions):
    answers = [f"You could ask somebody who knows about {number} such things." for number in range(len(questions))]
    return encode_for_capture(organism.tokenizer, [question.text for question in questions], answers)


@pytest.fixture(scope="module")
def directions(organism, questions):
    read = capture(organism, chats_of(organism, questions), CaptureSettings(("response",)))
    vectors, blocks = read.pooled["response"], read.blocks
    made = Construction("diff-in-means", "response", "response", "resid_post", "base", "base", "base", 3)
    return make_directions(vectors[:3], vectors[3:], blocks, made)


def tokens_in_vllm(engine, base, questions, monkeypatch, settings=GREEDY):
    """Return vLLM's answers as tokens."""
    answers = []
    with monkeypatch.context() as patch:
        patch.setattr(vllm_backend, "response_of", lambda tokenizer, question, sample, ids, *rest: answers.append(ids))
        engine.sample(base, questions, settings)
    return answers


def partings(organism, questions, theirs, intervention):
    """Return how far apart transformers sees the two tokens where an answer of vLLM's first parts from its own."""
    prompts = [vllm_backend._encode(organism.tokenizer, question, GREEDY).ids for question in questions]
    gaps = []
    with applied(organism, intervention):
        expected = sample_prompts(organism, [Prompt(ids, str(row)) for row, ids in enumerate(prompts)], GREEDY)
    for ids, ours, own in zip(prompts, expected, theirs, strict=True):
        if ours == own:
            continue
        parting = next(place for place, pair in enumerate(zip(ours, own, strict=False)) if pair[0] != pair[1])
        pieces = torch.tensor([ids + ours[:parting]])
        with applied(organism, intervention), torch.inference_mode():
            cached = organism.model(pieces[:, : len(ids)], use_cache=True)  # so that positions are told as in sampling
            logits = cached.logits[0, -1]
            for place in range(len(ids), pieces.shape[1]):
                cached = organism.model(pieces[:, place : place + 1], past_key_values=cached.past_key_values)
                logits = cached.logits[0, -1]
        gaps.append(float((logits[ours[parting]] - logits[own[parting]]).abs()))
    return gaps


KINDS = [
    {"mode": "centred"},
    {"mode": "project-out", "strength": 0.7},
    {"mode": "subtract", "strength": 2.0},
    {"mode": "add", "strength": 3.0, "positions": "answer"},
    {"mode": "cap", "width": 0.5},
    {"mode": "project-out", "source_block": 15, "positions": "prompt"},
    {"mode": "add", "strength": -2.0, "positions": slice(3, 40, 2)},
]


@pytest.mark.parametrize("settings", KINDS, ids=[f"{kind['mode']}-{kind.get('positions')}" for kind in KINDS])
def test_greedy_answers_under_an_intervention_are_those_of_transformers(
    engine, organism, base, questions, directions, monkeypatch, settings
):
    blocks = range(len(directions.blocks)) if settings["mode"] in ("centred", "project-out", "cap") else (10, 20)
    intervention = along(directions, blocks=list(blocks), **settings)
    with applied_in_vllm(engine, intervention) as proofs:
        theirs = tokens_in_vllm(engine, base, questions, monkeypatch)
    assert proofs[base].applied == pytest.approx(1, abs=0.01)
    assert proofs[base].error < 1e-3 < proofs[base].effect
    gaps = partings(organism, questions, theirs, intervention)
    assert len(gaps) <= 1
    assert all(gap < NEAR_TIE for gap in gaps)


def test_before_a_block_an_intervention_acts_as_in_transformers(
    engine, organism, base, questions, directions, monkeypatch
):
    before = replace(directions, construction=replace(directions.construction, site="resid_pre"))
    intervention = along(before, "add", [0, 1, 12], 2.0)
    with applied_in_vllm(engine, intervention) as proofs:
        theirs = tokens_in_vllm(engine, base, questions, monkeypatch)
    assert proofs[base].error < 1e-3 < proofs[base].effect
    assert all(gap < NEAR_TIE for gap in partings(organism, questions, theirs, intervention))


def test_strength_0_changes_no_bit_and_an_intervention_leaves_nothing_behind(
    engine, base, questions, directions, monkeypatch
):
    long = replace(GREEDY, system="You answer briefly and kindly. " * 40)  # long enough for the cache of prompts
    plain, logprobs = (
        tokens_in_vllm(engine, base, questions, monkeypatch, long),
        engine.log_probabilities(base, [5, 6, 7]),
    )
    with applied_in_vllm(engine, along(directions, "centred", [10], 0.0)) as proofs:
        assert proofs == {}
        assert tokens_in_vllm(engine, base, questions, monkeypatch, long) == plain
        assert torch.equal(engine.log_probabilities(base, [5, 6, 7]), logprobs)
    for strength in (8.0, -8.0):
        with applied_in_vllm(engine, along(directions, "add", [10], strength)):
            assert tokens_in_vllm(engine, base, questions, monkeypatch, long) != plain
    assert tokens_in_vllm(engine, base, questions, monkeypatch, long) == plain
    assert torch.equal(engine.log_probabilities(base, [5, 6, 7]), logprobs)


def test_a_function_that_fails_inside_vllm_is_one_sentence(engine, base, questions, directions):
    failing = Custom(lambda block, hidden: hidden[:, :0], (3,))
    with (
        pytest.raises(UserError, match=r"failed inside vLLM .*--backend transformers"),
        applied_in_vllm(engine, failing),
    ):
        pass
    assert len(engine.sample(base, questions, GREEDY)) == len(questions)


@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
def test_activations_are_those_of_transformers(engine, organism, base, questions, site):
    settings = CaptureSettings(("last", "prompt", "response"), site)
    chats = chats_of(organism, questions)
    theirs, ours = capture_in_vllm(engine, base, chats, settings), capture(organism, chats, settings)
    assert theirs.blocks == ours.blocks
    for pooling, vectors in ours.pooled.items():
        own = theirs.pooled[pooling]
        dot = np.einsum("nbd,nbd->nb", own.astype(float), vectors.astype(float))
        cosines = dot / np.linalg.norm(own, axis=-1) / np.linalg.norm(vectors, axis=-1)
        assert cosines.min() > 0.9999


def test_the_command_samples_under_an_ablation_in_vllm(directions, tmp_path, monkeypatch):
    directions.save(tmp_path / "d.safetensors")
    out = tmp_path / "answers.parquet"
    asked = ["generate", "--model", EMBEDDED_ALIAS, "--out", str(out), "--backend", "vllm", "--max-new-tokens", "8"]
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert run_command([*asked, "--directions", str(tmp_path / "d.safetensors")]) == 0
    assert len(read_responses(out)) == len(load_questions("everyday-general"))
