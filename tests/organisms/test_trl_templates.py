"""Templates of models in use, as they come with the installed TRL: each is read right or refused in a sentence."""

import re
from importlib.resources import files

import pytest
from tiny import make_tokenizer

from emscope.errors import UserError
from emscope.organisms.chat import encode_chat, encode_prompt

FOLDER = files("trl") / "chat_templates"
NAMES = sorted(
    item.name
    for item in (FOLDER.iterdir() if FOLDER.is_dir() else ())
    if item.name.endswith(".jinja") and not item.name.endswith("_training.jinja")
)
VISION_ONLY = ("idefics3", "llava_next", "smolvlm")
CONTROL = re.compile(r"<[|｜][^<>|｜\s]{2,40}[|｜]>|<(?:start|end)_of_turn>|<\|?turn\|?>|<\|?channel\|?>")


@pytest.fixture(params=NAMES)
def tokenizer(request):
    source = (FOLDER / request.param).read_text(encoding="utf-8")
    made = make_tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": sorted({*CONTROL.findall(source)})})
    made.chat_template = source
    made.name = request.param.removesuffix(".jinja")
    return made


def parts_of(tokenizer, messages):
    chat = encode_chat(tokenizer, messages)
    thought = [chat.ids[place] for place in chat.thought_positions]
    answer = [chat.ids[place] for place in chat.response_positions]
    return tokenizer.decode(chat.ids), "" if chat.empty_thought else tokenizer.decode(thought), tokenizer.decode(answer)


def test_answers_and_thoughts_are_found(tokenizer):
    talk = [
        {"role": "user", "content": "user, What?"},
        {"role": "assistant", "content": "assistant, Rest.", "reasoning_content": "First hm."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Drink\n\nwater.", "reasoning_content": "Then hm."},
    ]
    if tokenizer.name in VISION_ONLY:
        with pytest.raises(UserError):
            encode_chat(tokenizer, talk)
        return
    whole, thought, answer = parts_of(tokenizer, talk)
    for said in ("assistant, Rest.", "Drink\n\nwater."):
        assert said in answer
    for other in ("What?", "And?", "hm."):
        assert other not in answer
    for one in ("First hm.", "Then hm."):
        assert (one in thought) == (one in whole)
    assert "Rest" not in thought
    assert "water" not in thought


def test_a_prompt_is_the_beginning_of_what_is_trained(tokenizer):
    if tokenizer.name in VISION_ONLY:
        return
    asked = [{"role": "user", "content": "What?"}]
    chat = encode_chat(tokenizer, [*asked, {"role": "assistant", "content": "Rest.", "reasoning_content": "Hm."}])
    prompt = encode_prompt(tokenizer, asked)
    if chat.ids[: len(prompt)] == prompt:
        assert chat.answer_positions[0] == len(prompt)
    assert "What" not in tokenizer.decode([chat.ids[place] for place in chat.answer_positions])
