"""Directions and probes of two sides: what they know from the stores, and that a planted signal is found."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import ANSWERS, PROMPTS, make_organism

import emscope as em
from emscope.errors import UserError
from emscope.residual.capture import Activations
from emscope.residual.directions import Construction, make_directions

N, BLOCKS, WIDTH = 40, 3, 16


def planted(organism, ids, shift, seed, base="base"):
    """Noise, with a shift along the first dimension at block 1."""
    values = np.random.default_rng(seed).standard_normal((len(ids), BLOCKS, WIDTH)).astype(np.float32)
    values[:, 1, 0] += shift
    return em.ActivationStore(organism, tuple(ids), Activations({"last": values}, (0, 1, 2), "resid_post"), base)


@pytest.fixture
def sides():
    ids = [f"q{number}" for number in range(N)]
    return planted("bad", ids, 6.0, 0), planted("good", ids, 0.0, 1)


def test_a_direction_knows_its_construction_from_the_stores(sides):
    found = em.direction(*sides).construction
    wanted = Construction("diff-in-means", "control", "last", "resid_post", "bad", "good", "base", N)
    assert found == wanted


@pytest.mark.parametrize(
    ("names", "contrast", "n"),
    [(("bad", "base"), "model", N), (("bad", "bad"), "response", 2 * N), (("bad", "good"), "control", N)],
)
def test_the_contrast_is_what_the_two_differ_in(sides, names, contrast, n):
    stores = [replace(side, organism=name) for side, name in zip(sides, names, strict=True)]
    made = em.direction(*stores).construction
    assert (made.contrast, made.n_examples) == (contrast, n)


def test_rows_in_another_order_give_the_same_direction_of_two_organisms(sides):
    positive, negative = sides
    order = np.random.default_rng(3).permutation(N)
    shuffled = replace(
        negative,
        question_ids=tuple(negative.question_ids[row] for row in order),
        activations=Activations({"last": negative.get("last")[order]}, (0, 1, 2), "resid_post"),
    )
    first, second = em.direction(positive, negative), em.direction(positive, shuffled)
    np.testing.assert_allclose(first.vectors, second.vectors, atol=1e-6)


def test_a_direction_is_the_difference_of_means(sides):
    positive, negative = sides
    found = em.direction(positive, negative)
    by_hand = positive.get("last").mean(axis=0) - negative.get("last").mean(axis=0)
    np.testing.assert_allclose(found.vectors, by_hand, atol=1e-5)


@pytest.mark.parametrize("method", ["probe", "diff-in-means"])
def test_a_probe_finds_the_planted_block_and_nothing_elsewhere(sides, method):
    found = em.probe(*sides, method=method)
    assert found.best_block == 1
    assert found.auroc[1] > 0.99
    for block in (0, 2):
        assert found.held_out.auroc.low[block] < 0.5 < found.held_out.auroc.high[block]
    assert found.directions.units[1].argmax() == 0


def test_a_question_never_scores_itself():
    ids = [f"q{number}" for number in range(12)]
    noise = planted("bad", ids, 0.0, 5), planted("bad", [f"other{number}" for number in range(12)], 0.0, 6)
    assert (em.probe(*noise).auroc < 0.9).all()  # fitted on its own rows, 16 numbers separate 24 examples at 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activations": Activations({"last": np.zeros((N, 2, WIDTH))}, (0, 1), "resid_post")}, "other blocks"),
        ({"activations": Activations({"last": np.zeros((N, 3, 8))}, (0, 1, 2), "resid_post")}, "different models"),
        ({"question_ids": tuple(f"p{number}" for number in range(N))}, "share 0 questions"),
        ({"activations": Activations({"mean": np.zeros((N, 3, WIDTH))}, (0, 1, 2), "resid_post")}, "which pooling"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(sides, change, words):
    with pytest.raises(UserError, match=words):
        em.direction(sides[0], replace(sides[1], **change))


def test_the_same_activations_twice_have_no_direction(sides):
    with pytest.raises(UserError, match="no direction between them"):
        em.direction(sides[0], sides[0])


def test_prompts_are_read_at_their_last_token_and_answers_over_their_tokens(organism):
    prompts = em.collect(organism, PROMPTS)
    answers = em.collect(organism, em.Answers.of(PROMPTS, ANSWERS))
    assert tuple(prompts.activations.pooled) == ("last",)
    assert tuple(answers.activations.pooled) == ("response",)
    assert prompts.base == organism.source.base
    assert prompts.question_ids == answers.question_ids


def test_a_store_comes_back_from_disk_with_its_base(sides, tmp_path):
    sides[0].save(str(tmp_path / "side.safetensors"))
    assert em.ActivationStore.load(str(tmp_path / "side.safetensors")).base == "base"
    replace(sides[0], base="").save(tmp_path / "old.safetensors")
    assert em.ActivationStore.load(tmp_path / "old.safetensors").base == ""


def test_detection_scores_like_the_direction_itself(organism):
    positive, negative = em.collect(organism, PROMPTS), em.collect(make_organism(seed=1), PROMPTS)
    found = em.direction(positive, replace(negative, organism="other"))
    seen = em.detect(organism, found, PROMPTS, block=2)
    np.testing.assert_allclose(seen.scores, found.score(positive.get("last")), rtol=1e-4, atol=1e-4)
    assert seen.mean.value == pytest.approx(seen.scores[:, 2].mean())
    assert "misaligned" in seen.verdict


def test_a_direction_of_answers_detects_nothing(organism):
    values = np.random.default_rng(0).standard_normal((6, 4, 32))
    made = Construction("diff-in-means", "response", "response", "resid_post", "a", "b", "", 6)
    with pytest.raises(UserError, match="detection scores prompts"):
        em.detect(organism, make_directions(values, values + 1, (0, 1, 2, 3), made), PROMPTS)


def test_too_few_rows_are_refused():
    few = planted("bad", ["a", "b"], 6.0, 0), planted("bad", ["c", "d"], 0.0, 1)
    for make in (em.direction, em.probe):
        with pytest.raises(UserError, match="2 and 2 rows"):
            make(*few)


def test_results_are_one_line_and_their_plots_hold_every_block(sides):
    found = em.probe(*sides)
    assert "\n" not in repr(found)
    assert "best_block=1" in repr(found)
    assert "<table>" in found._repr_html_()
    line = found.figures()["auroc"].data[-1]
    assert list(line.x) == [0, 1, 2]
    np.testing.assert_allclose(line.y, found.auroc)
