"""The sweep on a finished run of a tiny random model: figures are there, made once, and shown on the page."""

import json

import pytest
from edges import ENDS, without

from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.shape import open_run
from emscope.experiments.sweep.ablation import _at_one_disturbance, _undisturbed
from emscope.experiments.sweep.measure import SweepSettings
from emscope.experiments.sweep.page import section
from emscope.report.section import write_section_page
from emscope.residual.directions import Directions
from emscope.residual.sweep import SweepOptions

SETTINGS = SweepSettings(
    options=SweepOptions(penalties=(10.0, 1000.0), folds=2, halves=2, permutations=4),
    answers=1,
    ablate=True,
    ablation_questions=2,
)


@pytest.fixture(scope="module")
def found(run):
    conduct(open_run(run), experiment("sweep"), SETTINGS)
    return json.loads((run / "experiments" / "sweep.json").read_text())


def test_every_construction_has_its_figures_at_every_block(found, run):
    wanted = {
        f"{contrast}-{pooling}-{method}"
        for contrast in ("model", "control")
        for pooling in ("last", "prompt", "response", "token")
        for method in ("diff-in-means", "probe")
    }
    assert wanted <= set(found["constructions"])
    for name, item in found["constructions"].items():
        contrast, pooling, method = name.split("-", 2)
        made = item["construction"]
        assert (made["contrast"], made["pooling"], made["method"]) == (contrast, pooling, method)
        for figure in ("auroc", "accuracy", "d_prime"):
            assert {len(item[figure][key]) for key in ("value", "low", "high")} == {4}
        assert len(item["split_half_cosine"]) == len(item["null_accuracy"]) == 4
        directions = Directions.load(run / "experiments" / "sweep" / "directions" / f"{name}.safetensors")
        assert directions.construction.contrast == contrast
    assert found["prompt_only"]["control"]["auroc"]["value"] == [0.5] * 4


def test_ablations_are_compared_at_one_disturbance_with_a_random_control_each(found, run):
    ablation, lab = found["ablation"], open_run(run)
    assert set(ablation["trials"]) == {
        "subtract at the best block",
        "subtract at all blocks",
        "random at the best block",
        "random at all blocks",
        "centred at all blocks",
    }
    name = f"{ablation['construction']}.safetensors"
    directions = Directions.load(run / "experiments" / "sweep" / "directions" / name)
    plan, nats = _at_one_disturbance(lab, directions, ablation["block"], 1.5)
    assert nats == pytest.approx(ablation["nats"], rel=1e-3)
    dev = _undisturbed(lab, lab.dev_questions).divergences(list(plan.values()))
    for (what, intervention), one in zip(plan.items(), dev, strict=True):
        assert intervention.strength == pytest.approx(ablation["trials"][what]["strength"], rel=1e-3)
        if what != "centred at all blocks":
            assert one.per_token == pytest.approx(nats, rel=0.051)
    said = section(found).paragraphs
    assert any("subtracted at all blocks, with the strength that disturbs as much" in words for words in said)
    assert experiment("sweep").settings_in_full.ablate


def test_the_response_contrast_is_there_or_its_absence_is_explained(found):
    """A tiny random model's answers need not come in two kinds."""
    for pooling in ("last", "prompt", "response", "token"):
        name = f"response-{pooling}"
        assert (name in found["skipped"]) != (f"{name}-probe" in found["constructions"])


def test_a_sweep_is_not_made_twice(found, run):
    path = run / "experiments" / "sweep.json"
    before = path.stat().st_mtime_ns
    lab = open_run(run)
    conduct(lab, experiment("sweep"), SETTINGS)
    assert path.stat().st_mtime_ns == before
    assert "sweep" in lab.folder.reused
    assert 'id="sweep"' in (run / "report.html").read_text(encoding="utf-8")


def test_the_words_follow_the_figures(found):
    words = section(found).paragraphs[0]
    weak = json.loads(json.dumps(found))
    for item in weak["constructions"].values():
        item["best"]["accuracy"] = {"value": 0.5, "low": 0.4, "high": 0.6}
        item["best"]["null_accuracy"] = 0.6
    paragraphs = section(weak).paragraphs
    assert "50 % (40 – 60)" in paragraphs[0]
    assert " 0 of the contrast's 8 constructions" in paragraphs[0]
    assert "Outside three points" in paragraphs[1]
    assert words != paragraphs[0]


def test_figures_with_holes_have_a_section(found, tmp_path):
    for keys in (ENDS, ("value", *ENDS), ("null_accuracy", "split_half_cosine")):
        write_section_page(tmp_path / "page.html", [section(without(found, *keys))], "Sweep")
        assert 'id="sweep"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_ablation_of_nothing_is_refused():
    with pytest.raises(UserError, match="strength above 0"):
        SweepSettings(ablate=True, strength=0.0)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="contrasts are"):
        SweepSettings(contrasts=("modle",))
