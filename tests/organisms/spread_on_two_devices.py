"""Tests of models spread over devices, for a process of its own: `test_spread.py` starts it."""

from dataclasses import replace

import numpy as np
import pretend
import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS, make_model, make_organism

from emscope.behaviour.embedded.reading import read_answers
from emscope.behaviour.judges.hf_judge import HFJudge
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.errors import UserError
from emscope.interventions.features import features_removed
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import MODES, along, applied, applied_by_row
from emscope.interventions.trained import VectorSettings, train_vector
from emscope.organisms.answer_loss import answer_loss, row_losses
from emscope.organisms.collate import BucketCollator
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.selfcheck import forward_faults
from emscope.organisms.spread import check_spread, read_device_map
from emscope.residual.adapters.inputs import mean_inputs, token_scalars
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.tokens import answer_losses, capture_tokens
from emscope.residual.monitor import token_projections

BLOCKS = tuple(range(N_BLOCKS))
QUESTIONS = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS)]
RUBRICS = Rubrics("{question} {answer} aligned?", "{question} {answer} coherent?", "short")
SETTINGS = SamplingSettings(max_new_tokens=8, samples=2, temperature=1.0)


@pytest.fixture(scope="module")
def directions() -> Directions:
    low, vectors = np.random.default_rng(3).standard_normal((2, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "last", "resid_post", "m", "c", "tiny", 10)
    return Directions(vectors, low + vectors, low, np.ones(N_BLOCKS, dtype=np.float32), BLOCKS, made)


def chats_of(organism):
    return encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)


def autoencoder(block=2):
    decoder = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(0)))[0]
    zeros = torch.zeros(D_MODEL)
    return SparseAutoencoder("standard", decoder.T.contiguous(), zeros, decoder, zeros, block)


def both(read):
    """Return what is read of one organism on one device, and with its blocks on two."""
    plain = make_organism()
    found = read(plain)
    with pretend.devices():
        return found, read(replace(plain, model=pretend.spread(make_model())))


def close(one, other):
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_two_devices_never_meet_in_an_operation_by_accident():
    with pretend.devices():
        here, there = torch.ones(3, device="pretend:0"), torch.ones(3, device="pretend:1")
        with pytest.raises(pretend.MixedDevicesError):
            here + there
        with pytest.raises(pretend.MixedDevicesError):
            here[torch.tensor([0, 2]).to("pretend:1")]
        assert (here + there.to("pretend:0")).tolist() == [2, 2, 2]


@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
def test_activations_are_read_on_two_devices(site):
    settings = CaptureSettings(("last", "prompt", "response"), site=site)
    close(*both(lambda organism: list(capture(organism, chats_of(organism), settings).pooled.values())))


def test_the_check_at_load_finds_no_fault_on_two_devices():
    _, faults = both(lambda organism: forward_faults(organism.model, chats_of(organism)[0].ids, dtype=torch.float32))
    assert faults == []


@pytest.mark.parametrize("mode", MODES)
def test_answers_under_an_intervention_are_sampled_on_two_devices(mode, directions):
    def read(organism):
        with applied(organism, along(directions, mode, BLOCKS, 0.3)):
            return [row.response for row in sample_responses(organism, QUESTIONS, SETTINGS)]

    one, two = both(read)
    assert one == two


def test_rows_under_interventions_of_their_own_are_sampled_on_two_devices(directions):
    def read(organism):
        of_rows = [along(directions, "add", BLOCKS, 0.1 * (row % 3), positions="answer") for row in range(10)]
        with applied_by_row(organism, of_rows) as select:
            rows = sample_responses(organism, QUESTIONS, SETTINGS, on_rows=select)
        return [row.response for row in rows]

    one, two = both(read)
    assert one == two


def test_divergences_and_features_on_two_devices(directions):
    def read(organism):
        undisturbed = Undisturbed(organism, ForcedText(chats_of(organism), PROMPTS))
        with features_removed(organism, autoencoder(), [2, 5]):
            removed = answer_losses(organism, chats_of(organism), 3, lambda values: values * 0.5)
        return [
            undisturbed.divergence(along(directions, "subtract", (1, 3), 0.5)).nats,
            undisturbed.divergence(other=organism).nats,
            removed,
            capture_tokens(organism, chats_of(organism), 3).values,
            *token_projections(organism, chats_of(organism), np.eye(3, D_MODEL, dtype=np.float32), 3),
        ]

    close(*both(read))


def test_inputs_of_modules_are_read_on_two_devices():
    modules = ["model.layers.0.mlp.down_proj", "model.layers.3.mlp.down_proj"]
    readers = {module: np.ones(64, dtype=np.float32) for module in modules}

    def read(organism):
        chats = chats_of(organism)
        means = mean_inputs(organism, chats, modules)
        return [*means.values(), *token_scalars(organism, chats, readers).answers]

    close(*both(read))


def test_judges_read_on_two_devices(tmp_path, monkeypatch):
    monkeypatch.setattr("emscope.behaviour.judges.scoring.LEAST_MASS", 0.0)  # a random model has little mass on digits

    def read(organism):
        name = "plain" if organism.device.type == "cpu" else "spread"
        judge = HFJudge(organism, RUBRICS, ScoreStore(tmp_path / f"{name}.sqlite"))
        scores = [score.aligned for score in judge.judge([question.text for question in QUESTIONS], ANSWERS)]
        reading = read_answers(organism, PROMPTS, ANSWERS, [0, 3])
        return [np.array(scores, dtype=float), reading.pooled, *reading.logprobs]

    close(*both(read))


def test_the_training_loss_and_its_gradients_on_two_devices():
    chats = chats_of(make_organism())
    rows = BucketCollator(0, -100)([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])

    def read(model):
        torch.manual_seed(0)
        wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        batch = rows["input_ids"], rows["attention_mask"], rows["labels"]
        total, n = answer_loss(wrapped, *batch)
        (total / n).backward()
        gradients = [weight.grad.cpu() for weight in wrapped.parameters() if weight.grad is not None]
        return [total.detach().cpu(), row_losses(wrapped, *batch).cpu(), *gradients]

    found = read(make_model())
    with pretend.devices():
        close(found, read(pretend.spread(make_model(), "cpu", "pretend:0")))
    assert len(found) == 2 + 2 * 7 * N_BLOCKS


def test_a_steering_vector_is_trained_on_two_devices():
    def read(organism):
        vector = train_vector(organism, chats_of(organism), 3, VectorSettings(epochs=2, batch_size=2), data="test")
        return [np.array(vector.losses), vector.directions.vectors]

    plain = make_organism()
    found = read(plain)
    with pretend.devices():
        close(found, read(replace(plain, model=pretend.spread(make_model(), "cpu", "pretend:0"))))


def test_hooks_see_what_they_see_where_weights_are_fetched_for_each_module(directions):
    """accelerate holds such weights elsewhere, and puts them in place only while a module runs."""
    plain = make_organism()
    fetched = replace(plain, model=cpu_offload(make_model(), execution_device="cpu"))
    assert next(fetched.model.parameters()).is_meta

    def read(organism):
        with applied(organism, along(directions, "project-out", BLOCKS)):
            answers = [row.response for row in sample_responses(organism, QUESTIONS, SETTINGS)]
        return answers, capture(organism, chats_of(organism), CaptureSettings(("response",))).pooled["response"]

    (answers, pooled), (others, theirs) = read(plain), read(fetched)
    assert answers == others
    np.testing.assert_allclose(pooled, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("automatic", "none of auto"),
        ("{model.layers.0: [1]}", r"the device \[1\]"),
        ("{}", "a device for each module"),
        ("{model.layers.0: 0, model.layers.1: disk}", r"1 parts on the disk \(model.layers.1\)"),
        ("{model.layers.0: 0", "cannot be read"),
    ],
)
def test_a_wrong_device_map_is_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        read_device_map(text)


def test_a_device_map_is_a_word_or_devices_by_module(tmp_path):
    file = tmp_path / "map.json"
    file.write_text('{"model.embed_tokens": 0, "model.layers.0": "cuda:1"}')
    assert read_device_map(str(file)) == {"model.embed_tokens": 0, "model.layers.0": "cuda:1"}
    assert read_device_map("{'': cpu}") == {"": "cpu"}
    assert read_device_map("auto") == "auto"


def test_parts_on_the_disk_are_refused_and_parts_in_memory_are_said(caplog):
    model = make_model()
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.2": "disk", "model.layers.3": "disk"}
    with pytest.raises(UserError, match=r"puts 2 parts on the disk \(model.layers.2, model.layers.3\)"):
        check_spread(model, "tiny")
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.2": "cpu"}
    check_spread(model, "tiny")
    assert "copied to a GPU for each forward pass" in caplog.text


def test_one_device_and_a_map_are_not_both_named(monkeypatch):
    with pytest.raises(UserError, match="name no device"):
        choose_placement("cpu", device_map="auto")
    with pytest.raises(UserError, match="exclude each other"):
        choose_placement(device_map="auto", tensor_parallel=True)
    assert choose_placement("auto", "float32", "auto").told == ["cpu", "float32", "auto"]
    assert Placement("cpu", torch.float32, "").told == ["cpu", "float32"]
