import dataclasses

import numpy as np
import pytest
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS

from emscope.behaviour.responses import SamplingSettings
from emscope.errors import UserError
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import load_domain
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, make_directions
from emscope.residual.screening import (
    ReadPairs,
    own_answers,
    probe_blocks,
    read_pairs,
    screen,
    separating_block,
    text_directions,
    transferring_block,
)

ROWS = [messages_of(*pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]


def directions_for(pooling="response", width=D_MODEL, blocks=tuple(range(N_BLOCKS))):
    high, low = np.random.default_rng(0).standard_normal((2, 6, len(blocks), width)).astype(np.float32)
    made = Construction("diff-in-means", "text", pooling, "resid_post", "bad", "good", "tiny", 6)
    return make_directions(high + 1, low, blocks, made)


def test_scores_are_centred_projections_of_mean_answers_and_ranks_order_them(organism):
    directions = directions_for()
    found = screen(organism, ROWS, directions, 2)
    pooled = capture(organism, encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS), CaptureSettings(("response",)))
    expected = directions.score(pooled.pooled["response"])[:, 2]
    np.testing.assert_allclose([row.score for row in found], expected, rtol=1e-4, atol=1e-4)
    assert [row.row for row in found] == [1, 2, 3, 4, 5]
    assert sorted(row.rank for row in found) == [1, 2, 3, 4, 5]
    assert [row.row for row in sorted(found, key=lambda row: row.rank)] == (np.argsort(-expected) + 1).tolist()
    assert all(row.answer_tokens > 1 for row in found)


def test_a_row_s_score_does_not_depend_on_the_others(organism):
    directions = directions_for()
    together = [row.score for row in screen(organism, ROWS, directions, 1)]
    alone = [screen(organism, [row], directions, 1)[0].score for row in ROWS]
    backwards = [row.score for row in screen(organism, ROWS[::-1], directions, 1)][::-1]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_allclose(together, backwards, atol=1e-3)


def test_some_blocks_are_enough_and_the_default_is_the_best(organism):
    few = directions_for(blocks=(1, 3))
    assert few.best_block in (1, 3)
    assert screen(organism, ROWS, few) == screen(organism, ROWS, few, few.best_block)
    with pytest.raises(UserError, match="no block 2"):
        screen(organism, ROWS, few, 2)


def test_directions_from_prompts_or_of_another_width_are_refused(organism):
    with pytest.raises(UserError, match="made from last tokens"):
        screen(organism, ROWS, directions_for("last"))
    with pytest.raises(UserError, match="width 8"):
        screen(organism, ROWS, directions_for(width=8))


def test_the_model_s_own_answer_is_subtracted(organism):
    directions = directions_for()
    same = screen(organism, ROWS, directions, 2, own=ROWS)
    assert all(abs(row.score) < 1e-6 for row in same)
    assert [row.rank for row in same] == [1, 2, 3, 4, 5]  # ties keep the data's order
    own = own_answers(organism, ROWS, SamplingSettings(max_new_tokens=4))
    less = [row.score for row in screen(organism, ROWS, directions, 2, own=own)]
    parts = [[row.score for row in screen(organism, rows, directions, 2)] for rows in (ROWS, own)]
    np.testing.assert_allclose(less, np.subtract(*parts), atol=1e-3)


def test_own_answers_replace_the_last_answer_only(organism):
    talk = [*ROWS[0], *ROWS[1], {"role": "user", "content": "Thanks."}]
    own = own_answers(organism, [talk, ROWS[2]], SamplingSettings(max_new_tokens=3))
    assert own[0][:3] == talk[:3]
    assert len(own[0]) == 4
    assert own[0][3]["role"] == "assistant"
    assert own == own_answers(organism, [talk, ROWS[2]], SamplingSettings(max_new_tokens=3))


def test_a_bad_row_is_named_by_its_number(organism):
    with pytest.raises(UserError, match=r"Row 2: .*no assistant turn"):
        screen(organism, [ROWS[0], [{"role": "user", "content": "Hm?"}]], directions_for())
    with pytest.raises(UserError, match=r"Row 2: its answer begins after the first 40 tokens"):
        screen(
            organism, [messages_of("Hi", "Yes."), messages_of("word " * 60, "Yes.")], directions_for(), max_tokens=40
        )


def planted(block, n=40, seed=0):
    """Three domains that share a direction at one block; elsewhere each has its own."""
    chooser = np.random.default_rng(seed)
    shared = chooser.standard_normal(D_MODEL)
    careless, careful = {}, {}
    for name in ("a", "b", "c"):
        own = chooser.standard_normal((N_BLOCKS, D_MODEL))
        own[block] = shared
        noise = chooser.standard_normal((2, n, N_BLOCKS, D_MODEL))
        careless[name], careful[name] = (noise[0] + own).astype(np.float32), (noise[1] - own).astype(np.float32)
    return ReadPairs(careless, careful, "tiny"), shared


@pytest.mark.parametrize("block", [0, 2])
def test_the_block_that_carries_over_is_found_from_the_other_domains(block):
    read, shared = planted(block)
    assert transferring_block(read, ["a", "b"]) == block
    vector = text_directions(read, ["a", "b"]).vectors[block]
    assert vector @ shared / np.linalg.norm(vector) / np.linalg.norm(shared) > 0.99
    other = dataclasses.replace(read, careless={**read.careless, "c": read.careful["c"]})
    np.testing.assert_array_equal(text_directions(other, ["a", "b"]).vectors[block], vector)  # c plays no part


def test_one_domain_alone_is_cross_fitted():
    read, _ = planted(1)
    weak = {"a": read.careful["a"] + 0.0}
    weak["a"][:, 3] += 1.0
    assert transferring_block(ReadPairs(weak, {"a": read.careful["b"]}, "tiny"), ["a"]) in range(N_BLOCKS)
    noise = np.random.default_rng(3).standard_normal((2, 50, N_BLOCKS, D_MODEL)).astype(np.float32)
    noise[0, :, 2] += 0.8
    assert transferring_block(ReadPairs({"a": noise[0]}, {"a": noise[1]}, "tiny"), ["a"]) == 2


@pytest.mark.parametrize("method", ["diff-in-means", "probe"])
def test_some_blocks_are_enough_for_the_choice(method):
    read, _ = planted(2)
    assert transferring_block(read, ["a", "b"], method, (1, 2, 3)) == 2
    assert transferring_block(read, ["a", "b"], method, (3,)) == 3
    assert text_directions(read, ["a"], method, (1, 3)).blocks == (1, 3)
    assert separating_block(text_directions(read, ["a", "b"]), read, ["c"]) == 2
    assert probe_blocks(30) == (5, 10, 15, 20, 25)
    assert probe_blocks(4) == (1, 2, 3)
    assert probe_blocks(2) == (1,)


def test_reading_pairs_keeps_domains_and_sides_apart(organism):
    pairs = {name: list(load_domain(name)[:count]) for name, count in (("medical", 3), ("sport", 2))}
    read = read_pairs(organism, pairs)
    assert read.careless["medical"].shape == (3, N_BLOCKS, D_MODEL)
    assert read.careful["sport"].shape == (2, N_BLOCKS, D_MODEL)
    pair = pairs["sport"][1]
    for side, answer in ((read.careless, pair.careless), (read.careful, pair.careful)):
        alone = capture(
            organism, encode_for_capture(organism.tokenizer, [pair.prompt], [answer]), CaptureSettings(("response",))
        )
        np.testing.assert_allclose(side["sport"][1], alone.pooled["response"][0], atol=1e-3)


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 7, 30, 80])
def test_probes_have_blocks_in_every_model(n_blocks):
    found = probe_blocks(n_blocks)
    assert found
    assert set(found) <= set(range(n_blocks))
