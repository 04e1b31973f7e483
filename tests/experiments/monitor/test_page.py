"""The words of the section say what the figures say, also when there is no effect."""

import pytest
from edges import ENDS, without

from emscope.errors import OutsideError
from emscope.experiments.monitor.page import section, table
from emscope.experiments.monitor.result import MonitorResult
from emscope.plain import fitted
from emscope.report.section import Plot, write_section_page

HOSTILE = "<img src=x onerror=alert(1)>"


def estimate(value, half=0.05, **more):
    return {"value": value, "low": value - half, "high": value + half, "n": 100, **more}


def direction(value):
    return {**estimate(value), "within_question": estimate(value)}


RANDOM = {"mean": 0.5, "least": 0.4, "most": 0.6, "directions": 3}
NO_RANDOM = {"mean": None, "least": None, "most": None, "directions": 0}


def figures(whole=0.8, prompt=0.6, text=0.95, words=0.7, random=RANDOM):
    at = {"contrast": direction(whole), "verdict": direction(whole), "random": random}
    shares = ("0.05", "0.5")
    scores = {"text": text, "probe": text, "organisms": 0.5, "judge": 1.0, "words": words, "random": 0.1}
    half = {name: dict.fromkeys(shares, estimate(value)) for name, value in scores.items()}
    auroc = {name: estimate(value) for name, value in scores.items()}
    domain = {"n_prompts": 9, "n_topics": 3, "blocks": {"text": 1}, "auroc": auroc, "precision_at_half_recall": half}
    curve = {name: {share: [value, value] for share in shares} for name, value in scores.items()}
    return {
        "answers": {
            "block": 2,
            "construction": dict.fromkeys(
                ("method", "contrast", "pooling", "site", "positive", "negative", "base"), HOSTILE
            )
            | {"n_examples": 9},
            "n": {"answers": 30, "em": 9, "other_coherent": 11, "left_out": 10, "questions": 10},
            "auroc": {how: {"1": at, "8": at, "all": at} for how in ("mean", "max")},
            "prompt_only": {
                "contrast": direction(prompt),
                "verdict": direction(prompt),
                "random": random,
                "prompt": direction(prompt),
            },
            "gain_over_prompt": {name: estimate(whole - prompt) for name in ("contrast", "verdict")},
            "spearman_with_alignment": {"contrast": -0.3, "verdict": -0.4},
        },
        "tokens": [
            {
                "organism": "misaligned",
                "question_id": HOSTILE,
                "aligned": 3.0,
                "coherent": 80.0,
                "turns": [{"role": "user", "pieces": [HOSTILE], "scores": [1.0]}],
            }
        ],
        "screening": {
            "trained_on": HOSTILE,
            "domains": {"medical": domain, "sport": domain},
            "mean": {"precision_at_half_recall": half, "recalls": [0.5, 1.0], "precision": curve},
            "areas": domain,
            "own_answers": {
                "n_prompts": 4,
                "auroc": {name: estimate(0.9) for name in ("projection", "projection_difference")},
            },
            "readers": {"n": {"em": 5, "aligned": 6}, "blocks": {}, "auroc": auroc},
        },
    }


def result(**changed):
    return fitted(MonitorResult, figures(**changed), "monitor.json")


def words_of(shown):
    return " ".join(section(shown).paragraphs)


def page_of(shown, tmp_path):
    write_section_page(tmp_path / "page.html", [section(shown)], "Monitor")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_escapes_everything_and_has_every_part(tmp_path):
    page = page_of(result(), tmp_path)
    assert HOSTILE not in page
    assert page.count("&lt;img src=x") == 3
    for words in (
        "Token by token",
        "How early",
        "same question",
        "What is screened",
        "other text",
        "base&#39;s answer",
        "readers scored",
    ):
        assert words in page


def test_it_opens_with_one_sentence_and_one_picture():
    shown = section(result())
    assert shown.paragraphs[0].count(". ") == 0
    assert "first 8 tokens of an answer, the direction between verdicts ranks" in shown.paragraphs[0]
    assert "0.80 (0.75 – 0.85), at the prompt alone 0.60" in shown.paragraphs[0]
    assert "0.95 (0.90 – 1.00), by words alone at 0.70" in shown.paragraphs[0]
    assert isinstance(shown.parts[0], Plot)
    assert set(shown.figures) == set(result().figures())


def test_an_effect_is_stated_only_where_the_interval_shows_it():
    assert "more than the prompt alone tells" in words_of(result(whole=0.8, prompt=0.6))
    assert "cannot be told from what the prompt alone tells" in words_of(result(whole=0.7, prompt=0.69))
    assert "cannot be told from chance" in words_of(result(whole=0.52))
    assert "does not reliably rank" in section(result(whole=0.52)).paragraphs[0]


def test_a_clean_screen_and_easy_text_are_said_as_they_are():
    clean = words_of(result(text=0.95, words=0.7))
    assert ": nine in ten of the rows" in clean
    assert "do worse" in clean
    assert "goes beyond the words" in clean
    other = figures(text=0.6, words=0.7)
    other["screening"]["mean"]["precision_at_half_recall"]["probe"] = dict.fromkeys(("0.05", "0.5"), estimate(1.0))
    assert "fewer than nine in ten" in words_of(fitted(MonitorResult, other, ""))  # the probe does not stand for it
    weak = words_of(result(text=0.6, words=0.7))
    assert "do as well" in weak
    assert "no model is needed" in weak
    assert "the words alone are the better screen" in weak


def one_sided():
    shown = figures()
    shown["answers"] |= {"auroc": {}, "prompt_only": {}, "gain_over_prompt": {}, "spearman_with_alignment": {}}
    shown["screening"] |= {"own_answers": None, "readers": None, "areas": None}
    return fitted(MonitorResult, shown, "")


def test_answers_that_are_all_alike_leave_the_monitor_out(tmp_path):
    assert "too one-sided" in section(one_sided()).paragraphs[0]
    assert "How early" not in page_of(one_sided(), tmp_path)
    assert isinstance(section(one_sided()).parts[0], Plot)


def test_figures_without_random_directions_or_intervals_have_a_section(tmp_path):
    none = figures(random=NO_RANDOM)
    for part in (*none["screening"]["domains"].values(), none["screening"]["areas"], none["screening"]["mean"]):
        for by_score in ("auroc", "precision_at_half_recall", "precision"):
            part.get(by_score, {}).pop("random", None)
    assert "random directions were not tried" in words_of(fitted(MonitorResult, none, ""))
    for keys in (ENDS, ("value", *ENDS)):
        page_of(fitted(MonitorResult, without(none, *keys), ""), tmp_path)


def test_the_table_has_a_line_for_every_number_of_tokens_and_every_score():
    lines = table(result()).splitlines()
    assert [line.split()[0] for line in lines if "tokens" in line] == ["1", "8", "all"]
    assert lines[4].startswith("  prompt only  contrast 0.60 (0.55 – 0.65), verdict")
    assert [line.split()[0] for line in lines[7:]] == ["text", "probe", "organisms", "random", "judge", "words"]
    assert "tokens" not in table(one_sided())


@pytest.mark.parametrize(
    ("damaged", "place"),
    [
        ({"answers": None}, "answers"),
        ({"answers": {"block": "two"}}, "answers.block"),
        ({"tokens": [{"organism": "a"}]}, r"tokens\[0\].question_id"),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_the_place(damaged, place):
    with pytest.raises(OutsideError, match=place):
        fitted(MonitorResult, figures() | damaged, "monitor.json")
