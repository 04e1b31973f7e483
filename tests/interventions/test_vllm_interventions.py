"""What is handed to vllm-lens and taken from it, by a stand-in; `test_vllm_interventions_real.py` runs the real one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tiny import CPU, PROMPTS
from vllm_stand_in import LLM, stand_in

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.tables import read_responses
from emscope.behaviour.vllm_backend import VllmEngine
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.interventions.operators import Custom, along, applied
from emscope.interventions.vllm_interventions import applied_in_vllm
from emscope.organisms.models import load, resolve
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, make_directions
from emscope.residual.store import ActivationStore
from emscope.residual.vllm_capture import capture_in_vllm

QUESTIONS = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS[:3])]
GREEDY = SamplingSettings(temperature=0, max_new_tokens=6)


@pytest.fixture
def source(tiny_folder):
    return resolve(tiny_folder)


@pytest.fixture
def engine(monkeypatch, source):
    stand_in(monkeypatch)
    return VllmEngine([source], dtype="float32", hooks=True)


def chats_of(organism):
    return encode_for_capture(organism.tokenizer, PROMPTS[:4], ["one answer", "another", "no", "yes of course"])


def directions_of(source, site="resid_post"):
    organism = load(source, placement=CPU)
    read = capture(organism, chats_of(organism), CaptureSettings(("response",), site))
    made = Construction("diff-in-means", "response", "response", site, "m", "m", "m", 2)
    return make_directions(read.pooled["response"][:2], read.pooled["response"][2:], read.blocks, made)


@pytest.mark.parametrize(
    ("site", "mode", "strength", "positions"),
    [
        ("resid_post", "centred", 1.0, "all"),
        ("resid_pre", "project-out", 1.0, "prompt"),
        ("resid_post", "add", 40.0, "answer"),
        ("resid_pre", "add", 40.0, slice(2, 30, 3)),
        ("resid_post", "cap", 1.0, slice(70, None)),
    ],
)
def test_answers_under_an_intervention_are_those_of_transformers(engine, source, site, mode, strength, positions):
    directions = directions_of(source, site)
    intervention = along(directions, mode, directions.blocks, strength, width=0.0, positions=positions)
    organism = load(source, placement=CPU)
    with applied(organism, intervention):
        expected = sample_responses(organism, QUESTIONS, GREEDY)
    with applied_in_vllm(engine, intervention) as proofs:
        assert engine.sample(source, QUESTIONS, GREEDY) == expected
    assert proofs[source].applied == pytest.approx(1, abs=0.01)


def test_at_strength_0_nothing_is_registered_and_afterwards_nothing_is_left(engine, source):
    directions, plain = directions_of(source), engine.sample(source, QUESTIONS, GREEDY)
    with applied_in_vllm(engine, along(directions, "add", directions.blocks, 0.0)) as proofs:
        assert (proofs, engine._engine.hooks) == ({}, [])
    with applied_in_vllm(engine, along(directions, "add", directions.blocks, 40.0)):
        engine.sample(source, QUESTIONS, GREEDY)
        salted = engine._engine.calls[-1][0]
    assert engine._engine.hooks == []
    assert engine.sample(source, QUESTIONS, GREEDY) == plain
    assert all("cache_salt" in prompt for prompt in salted)  # vLLM must not take their keys and values for plain ones
    assert not any("cache_salt" in prompt for prompt in engine._engine.calls[-1][0])


def test_an_intervention_that_does_not_act_is_refused(engine, source, monkeypatch):
    monkeypatch.setattr(LLM, "deaf", True)
    directions = directions_of(source)
    with (
        pytest.raises(UserError, match=r"does not apply the intervention 'add .* \(0 % of its change"),
        applied_in_vllm(engine, along(directions, "add", directions.blocks, 40.0)),
    ):
        pass
    assert engine._engine.hooks == []


@dataclass
class Fails:
    """A function that fails at its `after`-th call."""

    after: int

    def __call__(self, block, hidden):
        self.after -= 1
        return hidden + 1 if self.after > 0 else hidden[:, :0]


def test_a_function_that_fails_is_seen_though_vllm_lens_goes_on(engine, source):
    with (
        pytest.raises(UserError, match=r"failed inside vLLM .*returned shape"),
        applied_in_vllm(engine, Custom(Fails(1), (1,))),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"failed inside vLLM .*returned shape"),
        applied_in_vllm(engine, Custom(Fails(4), (1,))),
    ):
        engine.sample(source, QUESTIONS, GREEDY)


def test_a_function_that_cannot_be_sent_is_refused(engine, source):
    with (
        pytest.raises(UserError, match="vLLM cannot take this function"),
        applied_in_vllm(engine, Custom(lambda block, hidden: hidden, (1,))),  # the stand-in sends no lambda
    ):
        pass
    assert engine.sample(source, QUESTIONS, GREEDY)


def test_an_engine_without_hooks_and_a_source_without_proof_are_refused(engine, source):
    directions = directions_of(source)
    shift = along(directions, "add", directions.blocks, 40.0)
    with (
        pytest.raises(UserError, match="made with hooks"),
        applied_in_vllm(VllmEngine([source], dtype="float32"), shift),
    ):
        pass
    with pytest.raises(UserError, match="not proven"), applied_in_vllm(engine, shift, sources=[]):
        engine.sample(source, QUESTIONS, GREEDY)


def test_directions_of_another_width_and_unknown_blocks_are_refused(engine, source):
    directions = directions_of(source)
    narrow = replace(
        directions,
        vectors=directions.vectors[:, :8],
        positive_mean=directions.positive_mean[:, :8],
        negative_mean=directions.negative_mean[:, :8],
    )
    with pytest.raises(UserError, match="8"), applied_in_vllm(engine, along(narrow, "add", narrow.blocks)):
        pass
    with (
        pytest.raises(UserError, match="no block 99"),
        applied_in_vllm(engine, Custom(Fails(9), (99,))),
    ):
        pass


@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
@pytest.mark.parametrize("blocks", [(), (0, 2)])
def test_activations_are_those_of_transformers(engine, source, site, blocks):
    organism = load(source, placement=CPU)
    settings = CaptureSettings(("last", "prompt", "response"), site, blocks)
    theirs = capture_in_vllm(engine, source, chats_of(organism), settings)
    ours = capture(organism, chats_of(organism), settings)
    assert (theirs.blocks, theirs.site) == (ours.blocks, ours.site)
    for pooling, vectors in ours.pooled.items():
        np.testing.assert_allclose(theirs.pooled[pooling], vectors, rtol=1e-4, atol=1e-4)


def test_activations_that_vllm_reads_otherwise_are_refused(engine, source, monkeypatch):
    organism = load(source, placement=CPU)
    settings = CaptureSettings(("last",))
    with monkeypatch.context() as patch:
        patch.setattr("vllm_stand_in.load", lambda *given, **named: load(source, placement=CPU))
        add_noise = along(directions_of(source), "add", [0], 30.0)
        inner = LLM._answer

        def altered(self, name, loaded, prompt, wanted):
            with applied(loaded, add_noise):
                return inner(self, name, loaded, prompt, wanted)

        patch.setattr(LLM, "_answer", altered)
        with pytest.raises(UserError, match=r"block 0 are not transformers'"):
            capture_in_vllm(engine, source, chats_of(organism), settings)
    assert len(capture_in_vllm(engine, source, chats_of(organism), settings).pooled["last"]) == 4


def test_either_backend_of_the_command_stores_the_same_activations(engine, source, tiny_folder, tmp_path):
    stores = []
    for backend in ("transformers", "vllm"):
        out = tmp_path / f"{backend}.safetensors"
        asked = ["collect", "--model", tiny_folder, "--questions", "everyday-medical", "--out", str(out)]
        assert run_command([*asked, "--backend", backend, "--dtype", "float32"]) == 0
        stores.append(ActivationStore.load(out))
    assert stores[0].question_ids == stores[1].question_ids
    for pooling, vectors in stores[0].activations.pooled.items():
        np.testing.assert_allclose(stores[1].activations.pooled[pooling], vectors, rtol=1e-4, atol=1e-4)


def test_either_backend_of_the_command_answers_the_same_under_an_ablation(engine, source, tiny_folder, tmp_path):
    directions_of(source).save(tmp_path / "d.safetensors")
    asked = ["generate", "--model", tiny_folder, "--directions", str(tmp_path / "d.safetensors"), "--temperature", "0"]
    tables = []
    for backend in ("transformers", "vllm"):
        out = tmp_path / f"{backend}.parquet"
        more = ["--backend", backend, "--dtype", "float32", "--max-new-tokens", "3", "--out", str(out)]
        assert run_command([*asked, "--questions", "everyday-medical", *more]) == 0
        tables.append(read_responses(out))
    assert tables[0] == tables[1]
