"""Calibration on answers whose reading and scores are drawn here: what the stronger judge hears is known."""

from dataclasses import replace

import numpy as np
import pytest

from emscope.behaviour.embedded.bridge_figures import auroc, em_flagged, gain, spearman
from emscope.behaviour.embedded.calibration import calibrated, rising_line
from emscope.behaviour.embedded.coherence import FEATURES
from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.judge import HeadReading, JudgeHead, sigmoid
from emscope.behaviour.embedded.scored_table import ScoredTable, TableCounts

BLOCKS, WIDTH = 2, 24


def head():
    """Return a head that hears the first direction of each block."""
    n = len(FEATURES)
    weights = np.zeros((2, BLOCKS, WIDTH))
    weights[:, :, 0] = 1.0
    coherence = CoherenceFit(np.r_[np.ones(n), np.zeros(n)], np.zeros(2 * n), np.ones(2 * n), 0.0, {})
    return JudgeHead((1, 2), weights, np.zeros(2), np.zeros(WIDTH), 0.0, 1, np.zeros((2, WIDTH)), coherence, {})


def drawn(n, seed=0, *, heard=1.0, organisms=8, questions=20):
    """Return a reading and scores: alignment lies in the head's direction and, by `heard`, in another one too."""
    chooser = np.random.default_rng(seed)
    means = chooser.normal(size=(n, BLOCKS, WIDTH))
    features = chooser.normal(size=(n, len(FEATURES)))
    value = means[:, 0, 0] + 4 * heard * means[:, 1, 5] + chooser.normal(size=n) - 2
    aligned, coherent = np.round(100 * sigmoid(-3 * value)), np.round(100 * sigmoid(features.sum(axis=1) + 3))
    groups = tuple(f"q{number}" for number in chooser.integers(questions, size=n))
    named = tuple(f"m{number}" for number in chooser.integers(organisms, size=n))
    counts = TableCounts(n, n, 0, 0, 0, 0)
    scores = np.stack([aligned, coherent], axis=1)
    return HeadReading(means, means[:, 0], features), ScoredTable(groups, groups, scores, groups, named, counts)


@pytest.fixture(scope="module")
def made():
    return calibrated(head(), *drawn(400))


def test_what_the_stronger_judge_hears_is_learned_and_holds_on_others(made):
    reading, table = drawn(600, seed=1)
    before, after = np.stack(head().scores(reading), axis=1), np.stack(made.head.scores(reading), axis=1)
    low = table.misaligned
    assert auroc(-after[:, 0], low) > 0.9 > auroc(-before[:, 0], low)
    assert abs(em_flagged(after).mean() - em_flagged(table.scores).mean()) < 0.06
    assert made.better


def test_the_figures_of_what_was_left_out_are_those_on_new_answers(made):
    reading, table = drawn(2000, seed=2)
    after = np.stack(made.head.scores(reading), axis=1)
    for tried in made.tried:
        assert tried.calibrated.spearman == pytest.approx(spearman(after[:, 0], table.scores[:, 0]), abs=0.06)
        assert tried.shipped.spearman < tried.calibrated.spearman


def test_few_rows_do_not_hurt_where_the_head_hears_all():
    reading, table = drawn(2000, seed=3, heard=0.0)
    before = spearman(head().scores(reading)[0], table.scores[:, 0])
    lost = []
    for seed in range(4):
        few = calibrated(head(), *drawn(100, seed=10 + seed, heard=0.0)).head
        lost.append(abs(before) - abs(spearman(few.scores(reading)[0], table.scores[:, 0])))
    assert np.median(lost) < 0.05


def test_scores_of_other_answers_make_no_better_head():
    written = []
    for seed in range(6):
        reading, table = drawn(120, seed=seed)
        scores = np.random.default_rng(seed).permutation(table.scores)
        written.append(calibrated(head(), reading, replace(table, scores=scores)).better)
    assert sum(written) <= 2


def test_a_calibrated_head_is_the_same_from_its_file(made, tmp_path):
    reading, _ = drawn(50, seed=4)
    path = tmp_path / "head.safetensors"
    made.head.save(path)
    read = JudgeHead.load(path)
    np.testing.assert_allclose(made.head.scores(reading), read.scores(reading), atol=0.01)
    np.testing.assert_allclose(head().scores(reading), replace(read, correction=None).scores(reading), atol=0.01)
    assert read.facts["calibration"]["counts"]["scored"] == 400
    assert [tried["left_out"] for tried in read.facts["calibration"]["tried"]] == ["organism", "question"]


def test_one_organism_is_tried_on_questions_alone():
    reading, table = drawn(200)
    alone = calibrated(head(), reading, replace(table, organisms=("one",) * 200))
    assert [tried.left_out for tried in alone.tried] == ["question"]


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("threshold", [30.0, 50.0])
def test_a_line_keeps_ranks_and_the_share_on_each_side(threshold, above):
    scores = np.repeat([0.0, 5, threshold - 0.1, threshold, threshold + 0.1, 90, 100], [40, 9, 20, 30, 20, 60, 121])
    values = np.random.default_rng(0).normal(size=300)
    given = np.interp(values, *rising_line(values, scores, threshold, above=above))
    assert spearman(given, values) > 0.9999
    sides = [side > threshold if above else side < threshold for side in (scores, given)]
    assert abs(sides[0].mean() - sides[1].mean()) < 0.01
    assert given.min() >= 0 and given.max() <= 100


def test_a_gain_is_of_what_it_says():
    _, table = drawn(300)
    worse = np.random.default_rng(0).permutation(table.scores)
    found, none = gain(table.scores, worse, table.scores, table.groups), gain(worse, worse, table.scores, table.groups)
    assert found.low > 0.3 and found.low < found.value < found.high
    assert none.value == none.low == none.high == 0
