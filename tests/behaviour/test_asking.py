import pytest
from tiny import PROMPTS

from emscope.behaviour.asking import ask, settings_for
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses

QUESTIONS = [
    Question("a", PROMPTS[0], samples=2, temperature=0.0),
    Question("b", PROMPTS[1], cluster="c", system="Be brief."),
    Question("d", PROMPTS[2], samples=3),
    Question("e", PROMPTS[3], samples=2, temperature=0.0),
]
SETTINGS = SamplingSettings(max_new_tokens=6)


@pytest.mark.parametrize("samples", [None, 1, 4])
@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_what_is_given_beats_the_file_and_the_file_beats_the_default(samples, temperature):
    for question in QUESTIONS:
        found = settings_for(question, SETTINGS, samples, temperature)
        assert found.samples == (samples or question.samples or 1)
        own = 1.0 if question.temperature is None else question.temperature
        assert found.temperature == (own if temperature is None else temperature)


def test_answers_are_those_of_each_question_asked_alone(organism):
    def sampler(questions, settings):
        return sample_responses(organism, questions, settings)

    settings = [settings_for(question, SETTINGS) for question in QUESTIONS]
    alone = [row for question, own in zip(QUESTIONS, settings, strict=True) for row in sampler([question], own)]
    found = ask(sampler, QUESTIONS, settings)
    assert found == alone
    assert [(row.question_id, row.sample) for row in found] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("d", 0),
        ("d", 1),
        ("d", 2),
        ("e", 0),
        ("e", 1),
    ]
    assert [row.group for row in found] == ["a", "a", "c", "d", "d", "d", "e", "e"]


def test_a_questions_own_system_prompt_is_used_after_the_general_one(organism):
    def answer(question, system):
        settings = SamplingSettings(temperature=0, max_new_tokens=8, system=system)
        return sample_responses(organism, [question], settings)[0].response

    with_own, without = Question("q", PROMPTS[0], system="Talk early."), Question("q", PROMPTS[0])
    assert answer(with_own, None) == answer(without, "Talk early.")
    assert answer(with_own, "Water first.") == answer(without, "Water first.\n\nTalk early.")
    assert answer(with_own, None) != answer(without, None)
