"""The sweep on a finished run of a tiny random model: figures are there, made once, and shown on the page."""

import json
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from edges import ENDS
from results import check_damage, check_round_trip, holed

from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.shape import open_run, read_result
from emscope.experiments.sweep.ablation import ablations_at_one_disturbance, undisturbed
from emscope.experiments.sweep.measure import SweepSettings
from emscope.experiments.sweep.page import section
from emscope.experiments.sweep.result import Interval, SweepResult
from emscope.report.section import Plot, write_section_page
from emscope.residual.directions import Directions
from emscope.residual.sweep import SweepOptions

SETTINGS = SweepSettings(
    options=SweepOptions(penalties=(10.0, 1000.0), folds=2, halves=2, permutations=4),
    answers=1,
    ablate=True,
    ablation_questions=2,
)


@pytest.fixture(scope="module")
def result(run):
    return conduct(open_run(run), experiment("sweep"), SETTINGS)


@pytest.fixture(scope="module")
def stored(result, run):
    return json.loads((run / "experiments" / "sweep.json").read_text(encoding="utf-8"))


def test_every_construction_has_its_figures_at_every_block(result, run):
    wanted = {
        f"{contrast}-{pooling}-{method}"
        for contrast in ("model", "control")
        for pooling in ("last", "prompt", "response", "token")
        for method in ("diff-in-means", "probe")
    }
    assert wanted <= set(result.constructions)
    for name, swept in result.constructions.items():
        contrast, pooling, method = name.split("-", 2)
        made = swept.construction
        assert (made.contrast, made.pooling, made.method) == (contrast, pooling, method)
        for figure in (swept.auroc, swept.accuracy, swept.d_prime):
            assert len(figure.value) == len(figure.low) == len(figure.high) == 4
        assert len(swept.split_half_cosine) == len(swept.null_accuracy) == 4
        directions = Directions.load(run / "experiments" / "sweep" / "directions" / f"{name}.safetensors")
        assert directions.construction.contrast == contrast
    assert result.prompt_only["control"].auroc.value == [0.5] * 4


def test_the_best_block_has_the_figures_of_that_block(result):
    for swept in result.constructions.values():
        place = result.blocks.index(swept.best.block)
        assert swept.train_d_prime[place] == max(swept.train_d_prime) == swept.best.train_d_prime
        for best, by_block in ((swept.best.auroc, swept.auroc), (swept.best.accuracy, swept.accuracy)):
            assert best == Interval(by_block.value[place], by_block.low[place], by_block.high[place])


def test_ablations_are_compared_at_one_disturbance_with_a_random_control_each(result, run):
    ablation, lab = result.ablation, open_run(run)
    assert set(ablation.trials) == {
        "subtract at the best block",
        "subtract at all blocks",
        "random at the best block",
        "random at all blocks",
        "centred at all blocks",
    }
    name = f"{ablation.construction}.safetensors"
    directions = Directions.load(run / "experiments" / "sweep" / "directions" / name)
    plan, nats = ablations_at_one_disturbance(lab, directions, ablation.block, 1.5)
    assert nats == pytest.approx(ablation.nats, rel=1e-3)
    dev = undisturbed(lab, lab.dev_questions).divergences(list(plan.values()))
    for (what, intervention), disturbance in zip(plan.items(), dev, strict=True):
        assert intervention.strength == pytest.approx(ablation.trials[what].strength, rel=1e-3)
        if what != "centred at all blocks":
            assert disturbance.per_token == pytest.approx(nats, rel=0.051)
    paragraphs = section(result).paragraphs
    assert any("subtracted at all blocks, with the strength that disturbs as much" in words for words in paragraphs)
    assert experiment("sweep").settings_in_full.ablate


def test_the_response_contrast_is_there_or_its_absence_is_explained(result):
    """A tiny random model's answers need not come in two kinds."""
    for pooling in ("last", "prompt", "response", "token"):
        name = f"response-{pooling}"
        assert (name in result.skipped) != (f"{name}-probe" in result.constructions)


def test_a_sweep_is_not_made_twice_and_reads_as_it_was_made(result, run):
    path = run / "experiments" / "sweep.json"
    before = path.stat().st_mtime_ns
    lab = open_run(run)
    again = conduct(lab, experiment("sweep"), SETTINGS)
    assert path.stat().st_mtime_ns == before
    assert "sweep" in lab.folder.reused
    assert again.constructions.keys() == read_result(run, experiment("sweep")).constructions.keys()
    assert 'id="sweep"' in (run / "report.html").read_text(encoding="utf-8")


def test_the_file_keeps_every_byte_as_a_result(result, run, tmp_path):
    check_round_trip(run, "sweep", tmp_path)


def test_a_damaged_file_is_one_sentence(result, run):
    check_damage(run, "sweep")


def test_the_section_opens_with_the_finding_and_its_picture(result):
    shown = section(result)
    assert shown.paragraphs[0].count(". ") == 0
    assert isinstance(shown.parts[0], Plot)
    figures = result.figures()
    assert set(figures) == {part.title for part in shown.parts if isinstance(part, Plot)}
    assert all(isinstance(figure, go.Figure) for figure in figures.values())


def test_the_words_follow_the_figures(result):
    constructions = {}
    for name, swept in result.constructions.items():
        best = replace(swept.best, accuracy=Interval(0.5, 0.4, 0.6), null_accuracy=0.6)
        constructions[name] = replace(swept, best=best)
    weak = section(replace(result, constructions=constructions)).paragraphs
    assert "50 % (40 – 60)" in weak[0]
    assert " 0 of the contrast's 8 constructions" in weak[1]
    assert "further than three points" in weak[2]
    assert weak[0] != section(result).paragraphs[0]


@pytest.mark.parametrize(("coherence", "said"), [(20.0, True), (80.0, False), (float("nan"), False)])
def test_a_restored_share_of_incoherent_answers_is_said_to_be_one(result, coherence, said):
    ablation = result.ablation
    trials = {name: replace(trial, coherent=coherence) for name, trial in ablation.trials.items()}
    shown = section(replace(result, ablation=replace(ablation, trials=trials)))
    assert any("of incoherent answers: mean coherence 20" in words for words in shown.paragraphs) == said
    assert ("of incoherent answers" in str(shown.parts[-1].rows)) == said


def test_figures_with_holes_have_a_section(stored, tmp_path):
    for keys in (ENDS, ("value", *ENDS), ("null_accuracy", "split_half_cosine")):
        shown = section(holed(SweepResult, stored, *keys))
        write_section_page(tmp_path / "page.html", [shown], "Sweep")
        assert 'id="sweep"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_ablation_of_nothing_is_refused():
    with pytest.raises(UserError, match="strength above 0"):
        SweepSettings(ablate=True, strength=0.0)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="contrasts are"):
        SweepSettings(contrasts=("modle",))
