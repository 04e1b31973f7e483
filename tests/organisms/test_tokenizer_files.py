"""Tokenizers from outside: bounded files, bounded growth of a text, and one sentence for any damage."""

import json

import pytest
from tiny import make_tokenizer

from emscope.errors import UserError
from emscope.organisms.models import load_tokenizer
from emscope.organisms.sources import ModelSource

ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
LONG = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
THRICE = {"type": "Sequence", "normalizers": [LONG] * 3}
ENDLESS = {"type": "Split", "pattern": {"Regex": "(([a-z ]+)+)+$"}, "behavior": "Isolated", "invert": False}
MANY = {"x": {"id": "x", "ids": [0] * 1500, "tokens": ["x"] * 1500}}
AROUND = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": []}


def written(folder, **parts):
    make_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return folder


def read(folder):
    return load_tokenizer(ModelSource(str(folder), str(folder), str(folder)))


def test_a_tokenizer_in_use_is_read(tmp_path):
    assert read(written(tmp_path))("Rest.")["input_ids"]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"normalizer": THRICE},
            "makes one character 1,000,000 by its normalizer",
        ),
        ({"normalizer": {**LONG, "pattern": {"Regex": ""}, "content": "a" * 2000}}, "makes one character 2,001"),
        ({"decoder": {"type": "Sequence", "decoders": [LONG] * 5}}, "by its decoder"),
        (
            {"added_tokens": [{"id": 0, "content": "x" * 10**6, **ADDED}]},
            "holds a text of 1,000,002 bytes",
        ),
        ({"added_tokens": [{"id": n, "content": f"<{n}>", **ADDED} for n in range(100_001)]}, "adds 100,001 tokens"),
        (
            {"post_processor": {**AROUND, "special_tokens": MANY}},
            "puts 1,500 tokens around every text",
        ),
        (
            {"pre_tokenizer": ENDLESS},
            "is not one that reads a plain text",
        ),
        ({"model": 5}, "Cannot load the model"),
        ({"model": {"type": "Unigram", "unk_id": 7, "vocab": []}}, "Cannot load the model"),
        ({"version": None}, "Cannot load the model"),
    ],
)
def test_what_would_take_all_time_or_memory_is_refused(parts, sentence, tmp_path):
    folder = written(tmp_path, **parts)
    with pytest.raises(UserError, match=sentence) as found:
        read(folder)
    assert str(tmp_path) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"model_max_length": "long"}'),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 5}}'),
        ("special_tokens_map.json", "5"),
        ("added_tokens.json", "[" * 5000),
        ("chat_template.jinja", "\0" * 2_000_000),
    ],
)
def test_a_damaged_table_is_refused(name, text, tmp_path):
    folder = written(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(UserError) as found:
        read(folder)
    assert str(tmp_path) in str(found.value)


def test_rubbish_in_the_place_of_a_vocabulary_is_refused(tmp_path):
    folder = written(tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UserError, match="Cannot load the model"):
        read(folder)
