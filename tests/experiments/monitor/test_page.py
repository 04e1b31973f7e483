"""The words of the section say what the figures say, also when there is no effect."""

from edges import ENDS, without

from emscope.experiments.monitor.page import section
from emscope.report.section import write_section_page

HOSTILE = "<img src=x onerror=alert(1)>"


def estimate(value, half=0.05, **more):
    return {"value": value, "low": value - half, "high": value + half, "n": 100, **more}


def direction(value):
    return {**estimate(value), "within_question": estimate(value)}


def found(whole=0.8, prompt=0.6, text=0.95, words=0.7):
    random = {"mean": 0.5, "least": 0.4, "most": 0.6, "directions": 3}
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
            "n": {"answers": 30, "em": 9, "other_coherent": 11, "left_out": 10, "questions": 10},
            "auroc": {how: {"1": at, "8": at, "all": at} for how in ("mean", "max")},
            "prompt_only": {
                "contrast": direction(prompt),
                "verdict": direction(prompt),
                "random": random,
                "prompt": direction(prompt),
            },
            "gain_over_prompt": {name: estimate(whole - prompt) for name in ("contrast", "verdict")},
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


def test_the_page_escapes_everything_and_has_every_part(tmp_path):
    write_section_page(tmp_path / "page.html", [section(found())], "Monitor")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert page.count("&lt;img src=x") == 3
    for words in (
        "Token by token",
        "How early",
        "same question",
        "What is screened",
        "other text",
        "own answer",
        "readers scored",
    ):
        assert words in page


def test_an_effect_is_stated_only_where_the_interval_shows_it():
    first = section(found(whole=0.8, prompt=0.6)).paragraphs[0]
    assert "more than the prompt alone tells" in first
    assert "cannot be told from what the prompt alone tells" in section(found(whole=0.7, prompt=0.69)).paragraphs[0]
    assert "cannot be told from chance" in section(found(whole=0.52)).paragraphs[0]


def test_the_bar_and_the_words_are_said_as_they_are():
    first = section(found(text=0.95, words=0.7)).paragraphs[0]
    assert "reaching the 0.9" in first
    assert "do worse" in first
    other = found(text=0.6, words=0.7)
    other["screening"]["mean"]["precision_at_half_recall"]["probe"] = dict.fromkeys(("0.05", "0.5"), estimate(1.0))
    assert "below the 0.9" in section(other).paragraphs[0]  # the probe is beside it, not instead of it
    weak = section(found(text=0.6, words=0.7)).paragraphs[0]
    assert "below the 0.9" in weak
    assert "do as well" in weak
    assert "no model is needed" in weak
    assert "the words alone are the better screen" in weak
    assert "goes beyond the words" in first


def test_answers_that_are_all_alike_leave_the_monitor_out(tmp_path):
    one_sided = found()
    one_sided["answers"] |= {"auroc": {}, "prompt_only": {}}
    one_sided["screening"] |= {"own_answers": None, "readers": None, "areas": None}
    made = section(one_sided)
    assert "too one-sided" in made.paragraphs[0]
    write_section_page(tmp_path / "page.html", [made], "Monitor")
    assert "How early" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_figures_without_random_directions_or_intervals_have_a_section(tmp_path):
    none = found()
    for part in (*none["screening"]["domains"].values(), none["screening"]["areas"], none["screening"]["mean"]):
        for figures in ("auroc", "precision_at_half_recall", "precision"):
            part.get(figures, {}).pop("random", None)
    none = without(none, "random")
    assert "random directions have not been asked for" in section(none).paragraphs[0]
    for keys in (ENDS, ("value", *ENDS)):
        write_section_page(tmp_path / "page.html", [section(without(none, *keys))], "Monitor")
