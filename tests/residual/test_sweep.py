"""Planted signals are found, null data is at chance, and what the question tells is not taken for a signal."""

from dataclasses import replace

import numpy as np
import pytest

from emscope.errors import UserError
from emscope.residual.contrasts import Rows, balanced, make_examples, permuted, strata_of
from emscope.residual.directions import Construction, unit
from emscope.residual.linear_fits import weighted_differences
from emscope.residual.sweep import SweepOptions, prompt_leak, prompt_only, sweep

BLOCKS, WIDTH = 3, 40
OPTIONS = SweepOptions(penalties=(10.0, 100.0, 1000.0), halves=4, permutations=30)


def construction(contrast="control", pooling="last"):
    return Construction("", contrast, pooling, "resid_post", "m", "c", "tiny", 0)


def rows(activations, questions):
    areas = np.array([question.split("-")[0] for question in questions])
    return Rows(activations.astype(np.float32), np.array(questions), areas, np.ones(len(questions)))


def paired(n=80, shift=(0.0, 1.0, 6.0), seed=0):
    """Two organisms on the same questions: shared content, a shift that grows with the block, a massive dimension."""
    chooser = np.random.default_rng(seed)
    truth = unit(chooser.standard_normal((BLOCKS, WIDTH)))
    content = 2 * chooser.standard_normal((n, BLOCKS, WIDTH))
    content[:, :, 0] += 300
    noise = 0.3 * chooser.standard_normal((2, n, BLOCKS, WIDTH))
    high = content + noise[0] + np.array(shift)[:, None] * truth
    names = [f"{'abcd'[number % 4]}-{number}" for number in range(n)]
    return make_examples(rows(high, names), rows(content + noise[1], names), construction()), truth, names


@pytest.mark.parametrize("method", ["diff-in-means", "probe"])
def test_a_planted_direction_is_found_at_its_block_with_its_controls(method):
    examples, truth, names = paired()
    found = sweep(examples.on(names[:40]), examples.on(names[40:]), method, OPTIONS)
    assert found.best == 2
    assert found.held_out.auroc.value[2] > 0.93
    assert found.held_out.accuracy.value[2] > 0.85
    assert (found.held_out.auroc.low <= found.held_out.auroc.value).all()
    assert (found.held_out.auroc.value <= found.held_out.auroc.high).all()
    assert found.directions.construction.method == method
    assert found.directions.construction.extra["balance"]["by_question"] == 80
    assert found.split_half_cosine[2] > found.split_half_cosine[0] + 0.2
    assert abs(found.null_accuracy.mean(axis=0) - 0.5).max() < 0.03
    assert found.p_value == pytest.approx(1 / 31)
    if method == "diff-in-means":
        assert (found.directions.units[2] * truth[2]).sum() > 0.99


def test_wordings_of_one_question_are_one_question():
    """Each question in three equal wordings: balanced one by one, but folded, halved and resampled as one."""
    examples, _, names = paired(n=40)
    parts = {"once": (examples.on(names[:20]), examples.on(names[20:]))}
    rows_of = np.repeat(np.arange(len(examples.labels)), 3)
    wording = np.tile(["/1", "/2", "/3"], len(examples.labels))
    many = replace(
        examples,
        questions=np.char.add(examples.questions[rows_of], wording),
        **{key: getattr(examples, key)[rows_of] for key in ("activations", "labels", "groups", "areas", "sizes")},
    )
    alone = replace(many, groups=many.questions)
    for key, one in (("grouped", many), ("alone", alone)):
        parts[key] = tuple(
            one.on([f"{name}/{k}" for name in side for k in (1, 2, 3)]) for side in (names[:20], names[20:])
        )
    found = {key: sweep(*both, "diff-in-means", OPTIONS) for key, both in parts.items()}
    np.testing.assert_allclose(found["grouped"].train_d_prime, found["once"].train_d_prime, rtol=1e-4)
    width = {key: (one.held_out.d_prime.high - one.held_out.d_prime.low)[2] for key, one in found.items()}
    assert width["grouped"] == pytest.approx(width["once"], rel=0.01)
    assert width["alone"] < 0.8 * width["once"]


@pytest.mark.parametrize("method", ["diff-in-means", "probe"])
def test_null_data_is_at_chance(method):
    values, covered = [], []
    for seed in range(8):
        examples, _, names = paired(shift=(0.0, 0.0, 0.0), seed=seed)
        found = sweep(examples.on(names[::2]), examples.on(names[1::2]), method, OPTIONS).held_out.auroc
        values.extend(found.value)
        covered.extend((found.low <= 0.5) & (found.high >= 0.5))
    assert abs(np.mean(values) - 0.5) < 0.05
    assert np.mean(covered) > 0.8


def answers(n=60, samples=4, leak=4.0, shift=0.0, seed=0):
    """One organism's answers: some questions are mostly answered badly, and each question has a content of its own."""
    chooser = np.random.default_rng(seed)
    content = leak * chooser.standard_normal((n, BLOCKS, WIDTH))
    names = [f"{'abcd'[number % 4]}-{number}" for number in range(n)]
    bad = chooser.random((n, samples)) < np.where(chooser.random(n) < 0.5, 0.85, 0.15)[:, None]
    truth = unit(chooser.standard_normal((BLOCKS, WIDTH)))
    vectors = (
        content[:, None] + chooser.standard_normal((n, samples, BLOCKS, WIDTH)) + shift * bad[..., None, None] * truth
    )
    flat, flags = vectors.reshape(-1, BLOCKS, WIDTH), bad.reshape(-1)
    every = rows(flat, [name for name in names for _ in range(samples)])
    examples = make_examples(every.where(flags), every.where(~flags), construction("response", "response"))
    return examples, names, {name: content[number].astype(np.float32) for number, name in enumerate(names)}, truth


def test_a_prompt_tells_nothing_on_questions_left_out_but_leaks_where_answers_are_split():
    examples, names, prompts, _ = answers(samples=8)
    figures = prompt_only(examples.on(names[::2]), examples.on(names[1::2]), prompts, OPTIONS)
    assert abs(figures.auroc.value - 0.5).max() < 0.12
    assert prompt_leak((examples.on(names[::2]), examples.on(names[1::2])), prompts, OPTIONS).min() > 0.7


def test_two_organisms_on_the_same_questions_leave_a_prompt_only_probe_nothing():
    examples, _, names = paired()
    prompts = {name: examples.activations[number] for number, name in enumerate(names)}
    figures = prompt_only(examples.on(names[:40]), examples.on(names[40:]), prompts, OPTIONS)
    np.testing.assert_array_equal(figures.auroc.value, 0.5)


def test_the_response_contrast_is_free_of_what_questions_are_about():
    """Unbalanced, the mean difference is mostly the content of badly answered questions; balanced, it is the shift."""
    examples, _, _, truth = answers(n=200, leak=4.0, shift=2.0)
    ones = np.ones((1, len(examples.labels)))
    plain = weighted_differences(examples.activations, examples.labels[None], ones)[0][0]
    even = weighted_differences(examples.activations, examples.labels[None], examples.weights()[None])[0][0]
    assert (unit(even) * truth).sum(-1).min() > 0.9
    assert (unit(plain) * truth).sum(-1).max() < (unit(even) * truth).sum(-1).min()


def test_each_side_of_a_stratum_weighs_the_same_and_rows_are_accounted_for():
    labels = np.array([1, 1, 0, 1, 0, 1, 0, 1])
    questions = np.array(["q1", "q1", "q1", "q2", "q3", "q4", "q5", "q6"])
    areas = np.array(["a", "a", "a", "a", "a", "b", "c", "b"])
    sizes = np.array([1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    strata, levels = strata_of(labels, questions, areas, sizes)
    assert levels.tolist() == [0, 0, 0, 1, 1, 2, 2, -1]
    weights = balanced(labels, strata, sizes)
    for stratum in range(strata.max() + 1):
        own = strata == stratum
        assert weights[own & (labels == 1)].sum() == pytest.approx(weights[own & (labels == 0)].sum())
    assert weights[1] == pytest.approx(3 * weights[0])  # every token counts the same
    assert weights[7] == 0
    assert weights.sum() == pytest.approx(7)


def test_labels_are_exchanged_within_questions_only():
    examples, _, names = paired()
    new = permuted(examples.labels, examples.strata, np.random.default_rng(0))
    changed = 0
    for name in names:
        own = examples.questions == name
        assert new[own].sum() == 1
        changed += int((new[own] != examples.labels[own]).any())
    assert 20 < changed < 60


def test_too_few_examples_and_unknown_names_are_refused():
    examples, _, names = paired()
    with pytest.raises(UserError, match="needs 4"):
        sweep(examples.on(names[:3]), examples.on(names[40:]), "probe", OPTIONS)
    with pytest.raises(UserError, match="Contrasts are"):
        make_examples(
            rows(examples.activations[:2], names[:2]), rows(examples.activations[:2], names[:2]), construction("other")
        )


@pytest.mark.parametrize(("n_train", "n_test"), [(1, 40), (40, 1)])
def test_a_single_question_is_too_few_to_sweep(n_train, n_test):
    examples, _, names = paired()
    sides = (np.repeat(examples.activations[row : row + 1], 4, axis=0) for row in (0, 80))
    one = make_examples(*(rows(side, names[:1] * 4) for side in sides), construction())
    parts = [one if n == 1 else examples.on(names[-n:]) for n in (n_train, n_test)]
    with pytest.raises(UserError, match="a single one of the"):
        sweep(*parts, "diff-in-means", OPTIONS)
