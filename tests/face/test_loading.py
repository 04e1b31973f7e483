"""A model that is loaded already is an organism, unless emscope could not read it right."""

import pytest
from tiny import PROMPTS, make_model, make_tokenizer, save_tiny

import emscope as em
from emscope.errors import UserError


def test_a_loaded_model_answers_like_the_same_model_by_name(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    by_name = em.load(folder, dtype="float32", device="cpu")
    loaded = em.load(make_model(), make_tokenizer())
    settings = {"max_new_tokens": 6, "seed": 1}
    assert em.generate(loaded, PROMPTS, **settings).column("response") == em.generate(
        by_name, PROMPTS, **settings
    ).column("response")


def test_a_model_by_name_is_loaded_where_a_name_is_given(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    assert len(em.generate(folder, PROMPTS[:2], max_new_tokens=2)) == 2


def test_the_users_tokenizer_and_modes_of_weights_stay(tmp_path):
    model, tokenizer = make_model(), make_tokenizer()
    model.requires_grad_(True)
    tokenizer.pad_token = None
    organism = em.load(model, tokenizer)
    assert tokenizer.pad_token is None
    assert organism.tokenizer.pad_token is not None
    assert all(weight.requires_grad for weight in model.parameters())


def test_no_chat_template_is_one_sentence():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        em.load(make_model(), tokenizer)


def test_a_loaded_model_needs_its_tokenizer():
    with pytest.raises(UserError, match=r"em\.load\(model, tokenizer\)"):
        em.load(make_model())


def test_what_is_no_model_is_refused():
    with pytest.raises(UserError, match="no causal language model"):
        em.load(object(), make_tokenizer())


def test_a_name_with_a_tokenizer_and_a_model_with_a_device_are_refused():
    with pytest.raises(UserError, match="brings its own tokenizer"):
        em.load("smollm2-135m", make_tokenizer())
    with pytest.raises(UserError, match="for models by name"):
        em.load(make_model(), make_tokenizer(), device="cpu")


def test_damaged_weights_are_refused():
    model = make_model()
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="refused"):
        em.load(model, make_tokenizer())


def test_one_line_says_what_it_is():
    line = repr(em.load(make_model(), make_tokenizer(), name="mine"))
    assert line == "Organism(name='mine', blocks=4, d_model=32, device='cpu', dtype='float32')"
