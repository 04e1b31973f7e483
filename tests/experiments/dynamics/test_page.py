"""The words about a training's course say what its curves show, and no more."""

import numpy as np
import pytest

from emscope.experiments.dynamics import plots as figures
from emscope.experiments.dynamics.curves import Curve
from emscope.experiments.dynamics.figures import _curve_figures, _order
from emscope.experiments.dynamics.page import MORE, findings, section

TIMES = np.arange(0, 73, 4.0)
PLACES = {"alignment-in": 24, "alignment-out": 44, "projection-in": 16, "turn": 10}


def own_figures(shape_of, size=0.02):
    chooser = np.random.default_rng(0)
    curves = {
        name: [
            Curve(
                "behaviour",
                name,
                "step",
                TIMES,
                60 - 50 * (shape_of(place + shift) + chooser.normal(0, size, len(TIMES))),
            )
            for shift in (-1, 0, 1)
        ]
        for name, place in PLACES.items()
    }
    changes = {name: [curve.change(0) for curve in own] for name, own in curves.items()}
    path = {
        "coordinates": [[0.0, 0.0], [1.0, 0.0]],
        "explained": [0.9, 0.1],
        "modules": ["model.layers.0.q_proj"],
        "matrices": {"B": {"cosine_to_final": [[None, 1.0]]}},
    }
    return {
        "seeds": [0, 1, 2],
        "control_seeds": [],
        "steps": [int(time) for time in TIMES],
        "paths": {"0": path},
        "scaled": [],
        "curves": {name: _curve_figures(dict(enumerate(own)), changes[name], {}) for name, own in curves.items()},
        "order": _order(changes),
    }


def step(at):
    return 1 / (1 + np.exp(-(TIMES - at) / 2))


def drift(at):
    return TIMES / 72


@pytest.fixture(scope="module")
def planted():
    return own_figures(step)


def test_planted_transitions_are_told_with_their_order(planted):
    said = " ".join(findings(planted))
    assert " as a transition in 3 of 3, half of it done at step 24" in said
    assert planted["order"]["events"] == ["turn", "projection-in", "alignment-in", "alignment-out"]
    assert "alignment in domain leads by 19.8 (" in said
    assert "Of 12 changes, 12 have an interval narrower than 15 % of the training, and 12 are transitions." in said


def test_a_gradual_drift_is_not_called_a_transition():
    said = " ".join(findings(own_figures(drift, 0.1)))
    assert "without a transition that stands out from a gradual drift" in said
    assert "alignment in domain (gradual)" in said
    assert " 0 are transitions." in said


def averaged_curve(values):
    return Curve("behaviour", "alignment", "step", TIMES, values, replicates=np.stack([values - 1, values + 1] * 50))


def test_careful_trainings_are_told_and_drawn():
    careless, careful = averaged_curve(60 - 50 * step(24)), averaged_curve(60 + TIMES / 72)
    curve = _curve_figures({0: careless, 1: careless}, [careless.change(0)] * 2, {0: careful})
    assert curve["apart"]["value"] == pytest.approx(-51, abs=0.1)
    assert curve["apart"]["low"] == pytest.approx(-51, abs=0.1)  # both ends of a pair took the same draw
    own = {**own_figures(step), "control_seeds": [0]}
    own["curves"]["alignment-in"] = curve
    said = " ".join(findings(own))
    assert "One training on the control's data, intervals of questions alone: alignment in domain from 60 to 61" in said
    assert "careless minus careful -51 (-51 – -51) at the end" in said
    names = [line.name for line in figures.curves({"a": curve}, "", [0, 1]).data if line.mode == "lines" and line.name]
    assert names == ["a, trained on careful answers"]


def test_without_a_careful_training_that_is_said(planted):
    assert "No careful organism was trained beside it." in " ".join(findings(planted))


def test_one_training_says_nothing_about_others(planted):
    alone = {**planted, "seeds": [0]}
    assert "One training says nothing about others." in " ".join(findings(alone))


def test_the_section_has_its_tables(planted):
    found = {
        "adapters": {"all": planted},
        "questions": {"in": ["a"], "out": ["b"]},
        "settings": {"save_every": 4, "samples": 3, "in_domain": "one", "out_of_domain": "two"},
    }
    made = section(found)
    assert made.paragraphs[:4] == findings(planted)
    assert {part.title for part in made.parts}.isdisjoint(MORE)  # none of these was measured
    tables = {part.title: part for part in made.parts if hasattr(part, "rows")}
    assert len(tables["Changes by training"].rows) == 12
    assert len(tables["Order of the changes"].rows) == 6


def test_means_over_trainings_are_taken_at_the_steps_all_of_them_have():
    one = {"times": [0, 1, 2, 3], "values": [0.0, 1.0, 2.0, None], "reference": None}
    two = {"times": [0, 2, 3], "values": [2.0, 4.0, 5.0], "reference": None}
    by_name = {"a": {"trainings": [one, two]}}
    drawn = figures.against_reference(by_name, "").data[0]
    assert (list(drawn.x), list(drawn.y)) == ([0, 2, 3], [1.0, 3.0, None])
    assert list(figures.together(by_name).data[0].x) == [0, 2]


def test_loss_norms_and_coherence_are_shown_where_they_were_measured(planted):
    like = planted["curves"]["turn"]
    names = ("loss-in", "loss-out", "norm", "update-norm", "coherence-in", "coherence-out")
    more = {**planted, "curves": {**planted["curves"], **{name: {**like, "label": name} for name in names}}}
    found = {
        "adapters": {"all": more},
        "questions": {"in": ["a"], "out": ["b"]},
        "settings": {"save_every": 4, "samples": 3, "in_domain": "one", "out_of_domain": "two"},
    }
    plots = {part.title: part.figure for part in section(found).parts if part.title in MORE}
    assert set(plots) == set(MORE)
    shown = [name for figure in plots.values() for name in dict.fromkeys(line.name for line in figure.data)]
    assert sorted(shown) == sorted(names)
