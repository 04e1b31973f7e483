"""The words about a training's course say what its curves show, and no more."""

from dataclasses import replace

import numpy as np
import pytest

from emscope.experiments.dynamics.curves import Curve
from emscope.experiments.dynamics.page import MORE, curves_plot, findings, reference_plot, section, table, together_plot
from emscope.experiments.dynamics.result import (
    AdapterPath,
    DynamicsResult,
    Matrices,
    MatrixCurves,
    QuestionIds,
    TrainingDynamics,
)
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.dynamics.summary import order_of_changes, over_trainings_of
from emscope.report.section import Plot, Table, write_section_page

TIMES = np.arange(0, 73, 4.0)
PLACES = {"alignment-in": 24, "alignment-out": 44, "projection-in": 16, "turn": 10}
MATRIX = MatrixCurves([[0.0, 1.0]], [[float("nan"), 0.5]], [[float("nan"), 1.0]])
PATH = AdapterPath([[0.0, 0.0], [1.0, 0.0]], [0.9, 0.1], ["model.layers.0.<b>"], Matrices(MATRIX, MATRIX))


def trainings(shape_of, size=0.02):
    chooser = np.random.default_rng(0)
    curves = {}
    for name, place in PLACES.items():
        curves[name] = []
        for shift in (-1, 0, 1):
            noisy = shape_of(place + shift) + chooser.normal(0, size, len(TIMES))
            curves[name].append(Curve("behaviour", name, "step", TIMES, 60 - 50 * noisy))
    changes = {name: [curve.change(0) for curve in of_name] for name, of_name in curves.items()}
    over_trainings = {}
    for name, of_name in curves.items():
        over_trainings[name] = over_trainings_of(dict(enumerate(of_name)), changes[name], {})
    return TrainingDynamics(
        seeds=[0, 1, 2],
        control_seeds=[],
        steps=[int(time) for time in TIMES],
        curves={
            name: over_trainings_of(dict(enumerate(of_name)), changes[name], {}) for name, of_name in curves.items()
        },
        order=order_of_changes(changes),
        paths={"0": PATH},
        scaled=[],
    )


def result_of(dynamics, **more):
    settings = DynamicsSettings(save_every=4, samples=3, in_domain="one", out_of_domain="two")
    return DynamicsResult(settings, QuestionIds(["a"], ["b"]), {"all": dynamics, **more})


def step(at):
    return 1 / (1 + np.exp(-(TIMES - at) / 2))


def drift(at):
    return TIMES / 72


@pytest.fixture(scope="module")
def planted():
    return trainings(step)


def test_planted_transitions_are_told_with_their_order(planted):
    said = " ".join(findings(planted))
    assert " as a transition in 3 of 3, half of it done at step 24" in said
    assert planted.order.events == ["turn", "projection-in", "alignment-in", "alignment-out"]
    assert "alignment in domain leads by 19.8 (" in said
    assert "Of 12 changes, 12 have an interval narrower than 15 % of the training, and 12 are transitions." in said


def test_a_gradual_drift_is_not_called_a_transition():
    said = " ".join(findings(trainings(drift, 0.1)))
    assert "without a transition that stands out from a gradual drift" in said
    assert "alignment in domain (gradual)" in said
    assert " 0 are transitions." in said


def averaged_curve(values):
    return Curve("behaviour", "alignment", "step", TIMES, values, replicates=np.stack([values - 1, values + 1] * 50))


def test_careful_trainings_are_told_and_drawn(planted):
    careless, careful = averaged_curve(60 - 50 * step(24)), averaged_curve(60 + TIMES / 72)
    curve = over_trainings_of({0: careless, 1: careless}, [careless.change(0)] * 2, {0: careful})
    assert curve.apart.value == pytest.approx(-51, abs=0.1)
    assert curve.apart.low == pytest.approx(-51, abs=0.1)  # both ends of a pair took the same draw
    controlled = replace(planted, control_seeds=[0], curves={**planted.curves, "alignment-in": curve})
    said = " ".join(findings(controlled))
    assert "One training on the control's data, intervals of questions alone: alignment in domain from 60 to 61" in said
    assert "careless minus careful -51 (-51 – -51) at the end" in said
    names = [line.name for line in curves_plot({"a": curve}, "", [0, 1]).data if line.mode == "lines" and line.name]
    assert names == ["a, trained on careful answers"]


def test_without_a_careful_training_that_is_said(planted):
    assert "No careful organism was trained beside it." in " ".join(findings(planted))


def test_one_training_says_nothing_about_others(planted):
    assert "One training says nothing about others." in " ".join(findings(replace(planted, seeds=[0])))


def test_the_section_opens_with_one_sentence_and_alignment(planted):
    shown = section(result_of(planted))
    assert shown.paragraphs[0].count(". ") == 0
    assert " ".join(shown.paragraphs[:5]) == " ".join(findings(planted))
    assert shown.parts[0].title == "Alignment of sampled answers"
    assert list(result_of(planted).figures()) == [part.title for part in shown.parts if isinstance(part, Plot)]


def test_the_section_has_its_tables(planted, tmp_path):
    shown = section(result_of(planted))
    assert {part.title for part in shown.parts}.isdisjoint(MORE)  # none of these was measured
    tables = {part.title: part for part in shown.parts if isinstance(part, Table)}
    assert len(tables["Changes by training"].rows) == 12
    assert len(tables["Order of the changes"].rows) == 6
    write_section_page(tmp_path / "page.html", [section(result_of(planted, rank1=planted))], "Dynamics")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Adapters on every linear layer: Over 3 trainings" in page
    assert "0.<b>" not in page
    (heatmap,) = shown.figures["Turn of every B matrix"].data
    assert list(heatmap.y) == ["0.&lt;b&gt;"]  # plotly would read a module's name as HTML


def test_means_over_trainings_are_taken_at_the_steps_all_of_them_have(planted):
    like, nan = planted.curves["turn"], float("nan")
    first = replace(like.trainings[0], times=[0, 1, 2, 3], values=[0.0, 1.0, 2.0, nan])
    second = replace(like.trainings[0], times=[0, 2, 3], values=[2.0, 4.0, 5.0])
    by_name = {"a": replace(like, trainings=[first, second])}
    drawn = reference_plot(by_name, "").data[0]
    assert list(drawn.x) == [0, 2, 3]
    np.testing.assert_array_equal(drawn.y, [1.0, 3.0, nan])
    assert list(together_plot(by_name).data[0].x) == [0, 2]


def test_loss_norms_and_coherence_are_shown_where_they_were_measured(planted):
    names = ("loss-in", "loss-out", "norm", "update-norm", "coherence-in", "coherence-out")
    more = {name: replace(planted.curves["turn"], label=name) for name in names}
    shown = section(result_of(replace(planted, curves={**planted.curves, **more}))).figures
    assert set(MORE) <= set(shown)
    drawn = []
    for title in MORE:
        drawn += dict.fromkeys(line.name for line in shown[title].data)
    assert sorted(drawn) == sorted(names)


def test_the_table_has_a_line_for_every_curve_that_belongs_to_an_order(planted):
    lines = table(result_of(planted)).splitlines()
    assert lines[1].startswith("all: Over 3 trainings of 72 steps, mean alignment changes in domain from")
    assert [line[:28].strip() for line in lines[-4:]] == [
        "weights: turn of B",
        "prompt activations in domain",
        "alignment in domain",
        "alignment out of domain",
    ]
