"""Moments taken while reading are those of the stored vectors, at any batch size, and enough for a direction."""

import numpy as np
import pytest
from tiny import ANSWERS, PROMPTS

from emscope.errors import UserError
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, make_directions
from emscope.residual.moments import Moments
from emscope.residual.store import ActivationStore
from emscope.residual.streaming import capture_moments, directions_from_moments


def massive(n=60, blocks=2, width=6, seed=0):
    chooser = np.random.default_rng(seed)
    mixing = chooser.standard_normal((blocks, width, width))
    found = np.einsum("nbi,bij->nbj", chooser.standard_normal((n, blocks, width)), mixing)
    found[:, :, 0] += 3000  # one massive dimension, as real models have
    return found.astype(np.float32)


def test_covariances_merge_associatively_and_equal_numpy():
    values = massive()
    a, b, c = (Moments.of(part, covariance=True) for part in (values[:2], values[2:45], values[45:]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)):
        assert merged.count == 60
        for block in range(2):
            expected = np.cov(values[:, block].astype(np.float64), rowvar=False)
            np.testing.assert_allclose(merged.covariance[block], expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(np.diagonal(merged.covariance, axis1=-2, axis2=-1), merged.variance, rtol=1e-9)


def test_a_variance_along_a_direction_is_that_of_the_projections():
    values = massive()
    directions = np.random.default_rng(1).standard_normal((2, 6))
    found = Moments.of(values, covariance=True).variance_along(directions)
    projections = np.einsum("nbd,bd->nb", values.astype(np.float64), directions)
    np.testing.assert_allclose(found, projections.var(axis=0, ddof=1), rtol=1e-8)


def test_a_covariance_that_was_not_taken_is_refused():
    plain, full = Moments.of(massive()), Moments.of(massive(), covariance=True)
    with pytest.raises(UserError, match="no covariance"):
        _ = plain.covariance
    with pytest.raises(UserError, match="cannot be merged"):
        plain.merge(full)


def chats_of(organism):
    return encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)


@pytest.mark.parametrize("token_budget", [1, 60, 4096])
def test_streamed_moments_are_those_of_the_vectors(organism, token_budget):
    settings = CaptureSettings(("prompt", "response"), token_budget=token_budget)
    sides = ["bad", "good", "bad", "good", "bad"]
    streamed = capture_moments(organism, chats_of(organism), settings, sides=sides, covariance=True)
    kept = capture(organism, chats_of(organism), settings)
    assert set(streamed) == {(side, pooling) for side in ("bad", "good") for pooling in ("prompt", "response")}
    for (side, pooling), moments in streamed.items():
        expected = Moments.of(kept.pooled[pooling][np.array(sides) == side], covariance=True)
        assert moments.count == expected.count
        np.testing.assert_allclose(moments.mean, expected.mean, atol=1e-4)
        np.testing.assert_allclose(moments.covariance, expected.covariance, atol=1e-3)


def test_a_direction_from_moments_is_the_direction_from_vectors():
    high, low = massive(seed=1), massive(seed=2)
    high[:, :, 1] += 2
    made = Construction("diff-in-means", "control", "last", "resid_post", "m", "c", "tiny", 60)
    expected = make_directions(high, low, (0, 1), made)
    found = directions_from_moments(Moments.of(high, covariance=True), Moments.of(low, covariance=True), (0, 1), made)
    for name in ("vectors", "positive_mean", "negative_mean"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-4)
    with pytest.raises(UserError, match="no covariance"):
        directions_from_moments(Moments.of(high), Moments.of(low), (0, 1), made)


def test_shards_hold_every_vector_once(organism, tmp_path):
    settings = CaptureSettings(("last", "response"), token_budget=60)
    names = [f"q{number}" for number in range(len(PROMPTS))]
    capture_moments(organism, chats_of(organism), settings, shards=tmp_path, questions=names)
    shards = [ActivationStore.load(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(shards) > 1
    assert sorted(name for shard in shards for name in shard.question_ids) == names
    kept = capture(organism, chats_of(organism), settings)
    for shard in shards:
        for row, name in enumerate(shard.question_ids):
            np.testing.assert_allclose(
                shard.get("response")[row], kept.pooled["response"][names.index(name)], atol=1e-4
            )


def test_shards_name_their_blocks_in_whatever_order_these_were_given(organism, tmp_path):
    settings = CaptureSettings(("last",), blocks=(3, 1, 3), token_budget=60)
    names = [f"q{number}" for number in range(len(PROMPTS))]
    capture_moments(organism, chats_of(organism), settings, shards=tmp_path, questions=names)
    whole = capture(organism, chats_of(organism), CaptureSettings(("last",))).pooled["last"]
    for path in tmp_path.glob("*.safetensors"):
        shard = ActivationStore.load(path)
        assert shard.activations.blocks == settings.blocks == (1, 3)
        rows = [names.index(name) for name in shard.question_ids]
        for block in (1, 3):
            np.testing.assert_allclose(shard.get("last", block), whole[rows, block], atol=1e-4)


def test_a_side_or_question_too_few_is_refused(organism, tmp_path):
    with pytest.raises(UserError, match="side for each chat"):
        capture_moments(organism, chats_of(organism), CaptureSettings(), sides=["bad"])
    with pytest.raises(UserError, match="question for each"):
        capture_moments(organism, chats_of(organism), CaptureSettings(), shards=tmp_path)
