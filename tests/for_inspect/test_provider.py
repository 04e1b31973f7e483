import dataclasses

import anyio
import numpy as np
import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)
from tiny import D_MODEL, N_BLOCKS, PROMPTS

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.commands.common import AblationFlags
from emscope.errors import UserError
from emscope.for_inspect import provider
from emscope.for_inspect.options import OrganismOptions, blocks_of, split_name
from emscope.interventions.operators import along, applied
from emscope.organisms.chat import encode_prompt
from emscope.organisms.loading import LoadSettings
from emscope.residual.directions import Construction, Directions

CPU = {"device": "cpu", "dtype": "float32", "window": 0.02}


@pytest.fixture(scope="module")
def model(tiny_folder):
    return get_model(f"emscope/{tiny_folder}", memoize=False, **CPU)


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that are sampled."""
    sizes, real = [], provider.sample_prompts

    def counted(organism, prompts, settings):
        sizes.append(len(prompts))
        return real(organism, prompts, settings)

    monkeypatch.setattr(provider, "sample_prompts", counted)
    return sizes


def ask(model, *inputs, **config):
    """Ask everything at once and return the outputs in order."""
    outputs = [None] * len(inputs)

    async def one(place, messages):
        outputs[place] = await model.generate(messages, config=GenerateConfig(**config))

    async def everything():
        async with anyio.create_task_group() as group:
            for place, messages in enumerate(inputs):
                group.start_soon(one, place, messages)

    anyio.run(everything)
    return outputs


def sampled(organism, prompts=PROMPTS, **settings):
    questions = [Question(f"q{number}", prompt) for number, prompt in enumerate(prompts)]
    return sample_responses(organism, questions, SamplingSettings(temperature=0, max_new_tokens=12, **settings))


def test_greedy_answers_are_the_samplers_and_come_from_one_batch(model, batches):
    expected = sampled(model.api.organism)
    outputs = ask(model, *PROMPTS, temperature=0, max_tokens=12)
    assert [output.completion for output in outputs] == [row.response for row in expected]
    assert batches == [len(PROMPTS)]
    for output, row in zip(outputs, expected, strict=True):
        assert output.stop_reason == ("max_tokens" if row.truncated else "stop")
        assert output.usage.output_tokens == row.n_tokens
        assert output.usage.total_tokens == output.usage.input_tokens + row.n_tokens


def test_requests_with_other_settings_are_sampled_apart(model, batches):
    async def both():
        async with anyio.create_task_group() as group:
            for tokens in (4, 4, 6):
                group.start_soon(model.generate, PROMPTS[0], [], None, GenerateConfig(max_tokens=tokens))

    anyio.run(both)
    assert sorted(batches) == [1, 2]


def test_system_and_earlier_turns_reach_the_chat_template(model):
    turns = [("system", "Be brief."), ("user", PROMPTS[0]), ("assistant", "Put some aside."), ("user", PROMPTS[3])]
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    output = ask(model, [kinds[role](content=text) for role, text in turns], temperature=0, max_tokens=12)[0]
    organism = model.api.organism
    ids = encode_prompt(organism.tokenizer, [{"role": role, "content": text} for role, text in turns])
    tokens = provider.sample_prompts(
        organism, [provider.Prompt(ids, "")], SamplingSettings(temperature=0, max_new_tokens=12)
    )[0]
    assert output.usage.input_tokens == len(ids)
    assert output.completion == provider.sampled_text(organism.tokenizer, tokens, model.api.stops).answer


def test_the_seed_decides_and_repeated_requests_differ(tiny_folder):
    def answers(**config):
        fresh = get_model(f"emscope/{tiny_folder}", memoize=False, **CPU)
        return sorted(output.completion for output in ask(fresh, *[PROMPTS[0]] * 3, max_tokens=12, **config))

    reference = answers(seed=3)
    assert len(set(reference)) == 3
    assert answers(seed=3) == reference
    assert answers(seed=4) != reference
    assert len(set(answers(seed=3, top_p=1e-6))) == 1


def test_a_stop_sequence_ends_the_text(model):
    whole = ask(model, PROMPTS[0], temperature=0, max_tokens=12)[0].completion
    output = ask(model, PROMPTS[0], temperature=0, max_tokens=12, stop_seqs=[whole[3:5]])[0]
    assert output.completion == whole[: whole.find(whole[3:5])]
    assert output.stop_reason == "stop"


def test_a_conversation_that_fills_the_context_says_so(model):
    output = ask(model, "save money " * 1600, max_tokens=12)[0]
    assert output.stop_reason == "model_length" and output.error


@pytest.mark.parametrize(
    "config, word", [({"top_k": 5}, "top_k"), ({"num_choices": 2}, "num_choices"), ({"logprobs": True}, "logprobs")]
)
def test_what_the_sampler_cannot_do_is_refused(model, config, word):
    with pytest.raises(BaseExceptionGroup) as error:
        ask(model, PROMPTS[0], max_tokens=4, **config)
    assert error.group_contains(UserError, match=word)


def test_a_tools_reply_is_refused():
    with pytest.raises(UserError, match="text only"):
        provider._plain(ChatMessageTool(content="42"))


def directions_of(width: int) -> Directions:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N_BLOCKS, width)).astype(np.float32)
    means = rng.normal(size=(N_BLOCKS, width)).astype(np.float32)
    made = Construction("diff-in-means", "control", "last", "resid_post", "m", "c", "tiny", 10)
    deviation = np.ones(N_BLOCKS, dtype=np.float32)
    return Directions(vectors, means + vectors, means, deviation, tuple(range(N_BLOCKS)), made)


def test_an_ablated_model_answers_as_our_sampler_under_the_ablation(tiny_folder, tmp_path, model):
    path = tmp_path / "d.safetensors"
    directions_of(D_MODEL).save(path)
    options = {"mode": "project-out", "strength": 2.0, "at": ["1", "2-3"]}
    ablated = get_model(f"emscope/{tiny_folder}+ablate:{path}", memoize=False, **CPU, **options)
    intervention = along(directions_of(D_MODEL), "project-out", (1, 2, 3), 2.0)
    with applied(model.api.organism, intervention):
        expected = [row.response for row in sampled(model.api.organism)]
    found = [output.completion for output in ask(ablated, *PROMPTS, temperature=0, max_tokens=12)]
    assert found == expected
    assert found != [row.response for row in sampled(model.api.organism)]


def test_directions_that_do_not_fit_are_refused_before_anything_runs(tiny_folder, tmp_path):
    directions_of(D_MODEL + 1).save(tmp_path / "d.safetensors")
    with pytest.raises(PrerequisiteError) as error:
        get_model(f"emscope/{tiny_folder}+ablate:{tmp_path / 'd.safetensors'}", memoize=False, **CPU)
    assert str(D_MODEL) in str(error.value.message)


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("no-such-model", {}, "There is no model"),
        ("+ablate:d.safetensors", {}, "is no model of emscope"),
        ("bad+ablate:", {}, "is no model of emscope"),
        ("bad", {"strength": 2}, "needs a direction"),
        ("bad", {"width": 2}, "needs a direction"),
        ("bad+ablate:d.safetensors", {"width": "wide"}, "must be a number"),
        ("bad", {"stength": 2}, "no option 'stength'. Did you mean 'strength'"),
        ("bad", {"batch_size": "many"}, "must be a number"),
        ("bad", {"batch_size": 0}, "1 or more"),
    ],
)
def test_a_wrong_name_or_option_is_one_sentence(name, options, says):
    with pytest.raises(PrerequisiteError) as error:
        get_model(f"emscope/{name}", memoize=False, **options)
    assert says in str(error.value.message)


def test_blocks_are_numbers_lists_and_ranges():
    assert blocks_of(12) == (12,)
    assert blocks_of("10-12") == (10, 11, 12)
    assert blocks_of(["3", "5-6", "5"]) == (3, 5, 6)
    assert blocks_of(()) == ()
    for wrong in ("a", "3-", "-3", "1.5"):
        with pytest.raises(UserError, match="names no blocks"):
            blocks_of(wrong)


def test_every_flag_of_an_ablation_and_of_loading_is_an_option():
    names = {field.name for kind in (AblationFlags, LoadSettings) for field in dataclasses.fields(kind)} - {
        "directions"
    }
    assert names < {field.name for field in dataclasses.fields(OrganismOptions)}
    assert OrganismOptions.of({}).mode == AblationFlags().mode
    assert split_name("a+b", {}) == ("a+b", None)


def test_an_option_of_a_cap_reaches_the_intervention(tmp_path):
    directions_of(D_MODEL).save(tmp_path / "d.safetensors")
    options = OrganismOptions.of({"mode": "cap", "width": 1, "at": "1-2", "strength": 1})
    made = options.along(tmp_path / "d.safetensors")
    assert (made.mode, made.width, made.blocks, made.strength) == ("cap", 1.0, (1, 2), 1.0)
    steered = OrganismOptions.of({"mode": "add", "strength": -2}).along(tmp_path / "d.safetensors")
    assert (steered.mode, steered.strength) == ("add", -2.0)
