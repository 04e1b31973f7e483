"""Templates and patterns from outside end, whatever they do, and what they write is what transformers writes."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest
from tiny import TEMPLATE, make_tokenizer

from emscope.errors import OutsideError, UserError
from emscope.organisms import bounded
from emscope.organisms.bounded import Pattern, UnboundedTemplateError, bounded_rendering, check_patterns, is_known
from emscope.organisms.templates import check_template, render

TALK = [
    {"role": "user", "content": "What, \ud800 and why? \u2028 \x00 <|end|>"},
    {
        "role": "assistant",
        "content": "Rest.",
        "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1.5, None]}}}],
    },
    {"role": "user", "content": "And?"},
]
NAMES = ("module.layers.0.self_attn.q_proj", "module.layers.0.mlp.down_proj", "module.embed_tokens")
FOLDER = files("trl") / "chat_templates"
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.name.endswith(".jinja")}


@pytest.fixture
def quick(monkeypatch):
    """Stop after a second, in a process of the test's own."""
    monkeypatch.setattr(bounded, "CPU_SECONDS", 1)
    monkeypatch.setattr(bounded, "_UNBOUNDED", {})
    bounded._worker().close()
    yield
    bounded._worker().close()


def tokenizer_with(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "does not end"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "does not end"),
        ("{% set x = namespace(n=9) %}{% for i in range(90) %}{% set x.n = x.n ** 9 %}{% endfor %}", "does not end"),
        ("{{ 'x' * 10**10 }}", "asks for more than 512 MiB"),
        ("{{ 'x'|center(10**10) }}", "asks for more than 512 MiB"),
        ("{{ '{:>9999999999}'.format(1) }}", "asks for more than 512 MiB"),
        (
            "{% set x = namespace(t='xx') %}{% for i in range(40) %}{% set x.t = x.t ~ x.t %}{% endfor %}",
            "asks for more than 512 MiB",
        ),
        ("{{ [[1] * 1000] * 10**9 }}", "asks for more than 512 MiB"),
        ("{{ 'x' * 10**7 }}", "writes more than"),
    ],
)
def test_a_template_without_bound_is_refused_by_the_model_s_name(template, sentence, quick):
    started = time.monotonic()
    with pytest.raises(UnboundedTemplateError, match=f"The chat template of somebody's {sentence}") as found:
        check_template(tokenizer_with(template), "somebody's")
    assert "\n" not in str(found.value)
    with pytest.raises(UserError, match=sentence):  # it is not waited for again
        render(tokenizer_with(template), TALK[:1])
    assert time.monotonic() - started < 30


def test_a_template_that_is_no_text_or_is_endless_itself_is_refused():
    for template, sentence in ((5, "is no text"), ("x" * 2_000_000, "is longer than"), ({"default": []}, "is no text")):
        with pytest.raises(OutsideError, match=sentence):
            check_template(tokenizer_with(template), "somebody's")


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('not this') }}", "{% if", "{{ nothing.at.all }}", "{{ 1 / 0 }}"]
)
def test_what_a_template_says_against_a_conversation_is_told_where_it_is_rendered(template):
    tokenizer = tokenizer_with(template)
    check_template(tokenizer, "somebody's")
    with pytest.raises(UserError, match="refuses this conversation"):
        render(tokenizer, TALK)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_is_written_elsewhere_is_what_transformers_writes(name, monkeypatch):
    monkeypatch.setattr(bounded, "is_known", lambda _: False)
    tokenizer = tokenizer_with(TEMPLATES[name])
    for talk in (TALK, TALK[:1]):
        for generation in (True, False):
            options = {"tokenize": False, "add_generation_prompt": generation, "date_string": "26 Jul 2024"}
            try:
                expected = tokenizer.apply_chat_template(talk, **options)
            except Exception as error:
                expected = str(error)[:500]
            try:
                with bounded_rendering():
                    found = tokenizer.apply_chat_template(talk, **options)
            except Exception as error:
                found = str(error)
            assert found == expected


def test_templates_in_use_need_no_process(monkeypatch):
    monkeypatch.setattr(bounded, "_worker", lambda: pytest.fail("a process was started"))
    known = [text for name, text in TEMPLATES.items() if not name.endswith("_training.jinja")]
    assert known
    assert all(map(is_known, known))
    for text in known:
        check_template(tokenizer_with(text), "somebody's")
    assert not is_known(TEMPLATE)


def test_threads_share_the_process_and_get_their_own_texts():
    tokenizer = tokenizer_with(TEMPLATE)
    talks = [[{"role": "user", "content": f"What {number}?"}] for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda talk: render(tokenizer, talk), talks))
    assert texts == [f"<|start|>user\nWhat {number}?<|end|>\n" for number in range(200)]


def test_a_process_that_was_ended_from_outside_is_started_again():
    tokenizer = tokenizer_with(TEMPLATE)
    before = render(tokenizer, TALK[:1])
    bounded._worker().process.kill()
    bounded._worker().process.wait()
    assert render(tokenizer, TALK[:1]) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_a_worker_of_its_own():
    tokenizer = tokenizer_with(TEMPLATE)
    render(tokenizer, TALK[:1])
    child = os.fork()
    if child == 0:
        code = 3
        try:
            mine = bounded._worker().process
            code = 0 if mine is None and render(tokenizer, TALK[:1]) else 2
            bounded._worker().close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert render(tokenizer, TALK[:1])


@pytest.mark.parametrize("pattern", ["(((.*)*)*)*x", "(?:(.*)*)*y", "(.*.*.*.*.*.*.*.*.*.*)*$x"])
def test_a_pattern_that_back_tracks_for_ever_is_refused_by_its_file(pattern, quick):
    with pytest.raises(OutsideError, match=r"^here has a pattern of modules that does not end.*name the modules"):
        check_patterns([Pattern(pattern, whole=True)], NAMES, "here")


@pytest.mark.parametrize("pattern", ["(((", "a{99999999999}", "(?P<x>", "[", "*"])
def test_a_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(OutsideError, match="that is none"):
        check_patterns([Pattern(pattern)], NAMES, "here")


def test_patterns_in_use_pass():
    usual = [
        r".*\.(q_proj|v_proj)",
        r"^(?!.*visual).*(?:[qkvo]_proj|gate_proj|up_proj|down_proj).*",
        r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp).*?(?:q_proj|k_proj|v_proj|o_proj).*?)",
        r"(?i)model\.layers\.([0-9]|1[0-9])\.mlp\.\w+",
    ]
    check_patterns([Pattern(pattern, whole=True) for pattern in usual], NAMES * 300, "here")
