"""The words of the transfer section follow its figures."""

from dataclasses import replace

import plotly.graph_objects as go
import pytest
from edges import ENDS, without

from emscope.experiments.transfer.page import section
from emscope.experiments.transfer.result import TransferResult
from emscope.plain import fitted, plain
from emscope.report.section import Plot, write_section_page

NAMES = ("medical-0", "finance-0")
NO_VALUES = [[1, 1], [1, 1]]


def estimate(value, half=0.1):
    return {"value": value, "low": value - half, "high": value + half, "n": 48}


def detected(least, relation):
    random = {"auroc_p50": 0.5, "auroc_p95": 0.7, "d_prime_p95": 1.0}
    return {
        "relation": relation,
        "auroc": least,
        "low": least,
        "high": 1.0,
        "d_prime": 9.0,
        "separation": 9.0,
        "accuracy": 0.9,
        "block": 1,
        "control_vs_base": {"auroc": 0.3, "low": 0.2, "high": 0.4},
        "auroc_by_block": [0.5, least],
        "random": random,
    }


def corrected(restored, coherence_change=-1.0):
    return {
        "n": 2,
        "restored": estimate(restored),
        "least": restored,
        "em_before": estimate(0.5),
        "em_after": estimate(0.1),
        "coherence_change": coherence_change,
    }


def geometry_of(cosine):
    table = [[1, cosine], [cosine, 1]]
    by_block = [[[entry, entry] for entry in row] for row in table]
    return {
        "names": list(NAMES),
        "cosine": dict.fromkeys(("value", "low", "high"), table),
        "by_block": dict.fromkeys(("value", "low", "high"), by_block),
        "split_half": [[0.9, 0.9]] * 2,
        "same_domain": None,
        "other_domains": [cosine, cosine],
        "unknown_domains": None,
        "references": {"control − base, other domains": [0.1, 0.1]},
        "component_share": [0.9, 0.9],
        "mean_with_component": [1.0, 1.0],
        "angles": {},
    }


def stored(least=0.98, restored=0.8, random=0.02, gap=40.0, change=-1.0):
    """Return the figures of two pairs as a file has them."""
    pairs = []
    for name in NAMES:
        sides = {"careless": f"{name}-bad", "careful": f"{name}-good"}
        pairs.append({"name": name, "domain": name[:-2], "seed": 0, **sides, "data": "", "made_of": []})
    behaviour = {"em_rate": estimate(0.5), "aligned": estimate(30.0), "coherent_share": estimate(0.9)}
    organisms = ["base", *(f"{name}-{side}" for name in NAMES for side in ("bad", "good"))]
    cell = {
        "relation": "other domain",
        "restored": estimate(restored),
        "em_rate": estimate(0.1),
        "coherence_change": change,
    }
    relations = {"medical-0": ("own", "other domain"), "finance-0": ("other domain", "own")}
    detection = {}
    for name, kinds in relations.items():
        detection[name] = {other: detected(least, kind) for other, kind in zip(NAMES, kinds, strict=True)}
    random_by_block = {
        "auroc_p50_by_block": [0.5, 0.5],
        "auroc_p95_by_block": [0.7, 0.7],
        "d_prime_p95_by_block": [1, 1],
    }
    summary = {
        "n": 2,
        "mean": least,
        "least": least,
        "least_low": least,
        "d_prime": 9.0,
        "above_random": 1,
        "accuracy": 0.9,
        "control_vs_base": 0.3,
    }
    return {
        "pairs": pairs,
        "blocks": [0, 1],
        "questions": {"train": 48, "test": 48},
        "behaviour": dict.fromkeys(organisms, behaviour),
        "geometry": {"response": geometry_of(0.85), "last": geometry_of(0.85)},
        "detection": {
            "cells": detection,
            "random": dict.fromkeys(NAMES, random_by_block),
            "summary": {"other domain": summary},
        },
        "ablation": {
            "block": 1,
            "strength": 1.5,
            "n_questions": 48,
            "cells": {"medical-0": {"finance-0": cell}},
            "without": {name: {"em_rate": estimate(0.5), "gap": gap} for name in NAMES},
            "summary": {"other domain": corrected(restored, change), "random": corrected(random, -40.0)},
        },
        "bars": {},
    }


def result(**figures):
    return fitted(TransferResult, stored(**figures), "figures of a test")


def finding(**figures):
    return section(result(**figures)).paragraphs[0]


def words(found):
    return " ".join(section(found).paragraphs)


def test_the_first_sentence_says_what_the_figures_say():
    text = finding()
    assert "detects organisms of another domain (AUROC 0.980 on average over 2 cases, 0.980 in the worst)" in text
    assert "restores most of the alignment: 80 % (70 – 90)." in text
    assert "does not always detect" in finding(least=0.7)
    assert "restores part of the alignment" in finding(restored=0.3)
    assert "no more than chance can explain" in finding(restored=0.05)
    assert "no more than chance can explain" in finding(restored=0.3, random=0.4)
    assert "nothing that it could restore" in finding(gap=1.0)


def test_the_details_follow():
    text = words(result())
    assert "In 1 of the 2 cases d′ is above that of 95 % of random directions at the same block" in text
    assert "changes coherence by -1.0 points" in text
    assert "changes it by -40.0 and restores 2 % (-8 – 12), of answers that lost 40 points of coherence." in text
    assert "have a cosine of 0.85" in text
    assert "own_domain" not in text


def test_a_restored_share_of_incoherent_answers_is_said_to_be_one():
    assert "80 % (70 – 90), of answers that lost 30 points of coherence" in finding(change=-30.0)
    incoherent = stored()
    incoherent["behaviour"]["finance-0-bad"] = {**incoherent["behaviour"]["base"], "coherent_share": estimate(0.2)}
    text = words(fitted(TransferResult, incoherent, "figures"))
    assert "Fewer than half of the answers of finance-0 are coherent before any correction" in text
    assert "coherent before" not in words(result())
    captions = [part.caption for part in section(fitted(TransferResult, incoherent, "figures")).parts]
    assert sum("coherent before any correction" in caption for caption in captions) == 3


@pytest.mark.parametrize(("gap", "title"), [(40.0, "What a direction restores"), (1.0, "What a direction detects")])
def test_the_section_opens_with_one_sentence_and_one_picture(gap, title):
    found = result(gap=gap)
    shown = section(found)
    assert shown.paragraphs[0].count(". ") == 0
    assert isinstance(shown.parts[0], Plot)
    assert shown.parts[0].title == title
    figures = found.figures()
    assert title in figures
    assert all(isinstance(figure, go.Figure) for figure in figures.values())


def test_the_page_holds_tables_and_matrices(tmp_path):
    write_section_page(tmp_path / "page.html", [section(result())], "transfer")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (
        "By what the direction was made from",
        "Correction",
        "Cosines by block",
        "Organisms on test questions",
    ):
        assert text in page
    assert "Angles between" not in page


def test_answers_without_scores_leave_gaps(tmp_path):
    holes = stored()
    for part in ("ablation", "behaviour"):
        holes[part] = without(holes[part], "value", *ENDS, "gap", "coherence_change", "least")
    unscored = fitted(TransferResult, holes, "figures with holes")
    write_section_page(tmp_path / "page.html", [section(unscored)], "transfer")
    assert "no scored answer" in section(unscored).paragraphs[0]
    unsure = stored()
    unsure["ablation"] = without(unsure["ablation"], "coherence_change", *ENDS)
    assert "changes coherence by – points" in words(fitted(TransferResult, unsure, "figures with holes"))


def test_a_pair_of_unknown_domain_is_said_to_be_one(tmp_path):
    unknown = stored()
    unknown["pairs"][0] |= {"name": "own-0", "domain": ""}
    for part in ("detection", "ablation"):
        unknown[part]["summary"]["unknown"] = unknown[part]["summary"].pop("other domain")
    for geometry in unknown["geometry"].values():
        geometry |= {"unknown_domains": [0.5, 0.5], "other_domains": None}
    shown = section(fitted(TransferResult, unknown, "figures of a test"))
    text = " ".join(shown.paragraphs)
    assert "organisms of data that may or may not be of its domain" in text
    assert "have a cosine of 0.50" in text
    assert "What the data of own-0 are about was not said (setting own_domain)" in text
    write_section_page(tmp_path / "page.html", [shown], "transfer")


def test_bars_that_are_not_there_are_no_keys():
    assert plain(result())["bars"] == {}
    assert plain(replace(result(), bars=result().bars)) == plain(result())
