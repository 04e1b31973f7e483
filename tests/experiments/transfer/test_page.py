"""The words of the transfer section follow its figures."""

import copy

from edges import ENDS, without

from emscope.experiments.transfer.page import finding, section
from emscope.report.section import write_section_page


def estimate(value, half=0.1):
    return {"value": value, "low": value - half, "high": value + half, "n": 48}


def found(least=0.98, restored=0.8, random=0.02, cosine=0.85, gap=40.0):
    names = ["medical-0", "finance-0"]
    separation = {
        "auroc": least,
        "low": least,
        "high": 1.0,
        "accuracy": 0.9,
        "block": 1,
        "auroc_by_block": [0.5, least],
    }
    ablation = {"em_rate": estimate(0.1), "coherence_change": -1.0}
    pooled = {
        "n": 2,
        "least": restored,
        "em_before": estimate(0.5),
        "em_after": estimate(0.1),
        "coherence_change": -1.0,
    }
    geometry = {
        "names": names,
        "cosine": {key: [[1, cosine], [cosine, 1]] for key in ("value", "low", "high")},
        "other_domains": [cosine, cosine],
        "same_domain": None,
        "split_half": [[0.9, 0.9]] * 2,
        "references": {"control − base, other domains": [0.1, 0.1]},
        "angles": {},
    }
    item = {"em_rate": estimate(0.5), "aligned": estimate(30.0), "coherent_share": estimate(0.9)}
    relations = {"medical-0": ("own", "other domain"), "finance-0": ("other domain", "own")}
    return {
        "pairs": [
            {"name": name, "careless": f"{name}-bad", "careful": f"{name}-good", "domain": name[:-2]} for name in names
        ],
        "behaviour": {"base": item, **{f"{name}-{side}": item for name in names for side in ("bad", "good")}},
        "geometry": {"response": geometry, "last": copy.deepcopy(geometry)},
        "detection": {
            "cells": {
                one: {two: {**separation, "relation": kind} for two, kind in zip(names, kinds, strict=True)}
                for one, kinds in relations.items()
            },
            "random": {name: {"auroc_p95_by_block": [0.7, 0.7]} for name in names},
            "summary": {
                "other domain": {
                    "n": 2,
                    "mean": least,
                    "least": least,
                    "d_prime": 9.0,
                    "above_random": 1,
                    "accuracy": 0.9,
                    "control_vs_base": 0.3,
                },
            },
        },
        "ablation": {
            "block": 1,
            "strength": 1.5,
            "n_questions": 48,
            "without": {name: {"gap": gap} for name in names},
            "cells": {"medical-0": {"finance-0": {**ablation, "restored": estimate(restored)}}},
            "summary": {
                "other domain": {**pooled, "restored": estimate(restored)},
                "random": {**pooled, "restored": estimate(random), "coherence_change": -40.0},
            },
        },
        "bars": {"auroc": {"bar": 0.9}},
    }


def test_the_first_paragraph_says_what_the_figures_say():
    text = finding(found())
    assert "detects organisms of another domain" in text
    assert "restores most of the alignment: 80 % (70 – 90)" in text
    assert "0.980 in the worst" in text
    assert "coherence changes by -1.0 points" in text
    assert "changes coherence by -40.0" in text
    assert "0.980 in the worst. In 1 of them d′ is above that of 95 % of random directions at the same block" in text
    assert "`--own-domain`" not in text
    assert "does not always detect" in finding(found(least=0.7))
    assert "restores part of the alignment" in finding(found(restored=0.3))
    assert "no more than chance can explain" in finding(found(restored=0.05))
    assert "no more than chance can explain" in finding(found(restored=0.3, random=0.4))
    assert "nothing that it could restore" in finding(found(gap=1.0))


def test_the_page_holds_tables_and_matrices(tmp_path):
    write_section_page(tmp_path / "page.html", [section(found())], "transfer")
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
    holes = found()
    for part in ("ablation", "behaviour"):
        holes[part] = without(holes[part], "value", *ENDS, "gap", "coherence_change", "least")
    write_section_page(tmp_path / "page.html", [section(holes)], "transfer")
    assert "no scored answer" in finding(holes)
    assert "changes by –" in finding({**found(), "ablation": without(found()["ablation"], "coherence_change", *ENDS)})


def test_a_pair_of_unknown_domain_is_said_to_be_one(tmp_path):
    unknown = found()
    unknown["pairs"][0] |= {"name": "own-0", "domain": ""}
    for part in ("detection", "ablation"):
        unknown[part]["summary"]["unknown"] = unknown[part]["summary"].pop("other domain")
    for geometry in unknown["geometry"].values():
        geometry |= {"unknown_domains": [0.5, 0.5], "other_domains": None}
    text = finding(unknown)
    assert "organisms of data that may or may not be of its domain" in text
    assert "have a cosine of 0.50" in text
    assert "What the data of own-0 are about was not said (`--own-domain`)" in text
    write_section_page(tmp_path / "page.html", [section(unknown)], "transfer")
