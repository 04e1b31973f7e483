"""A domain is screened by what never saw it."""

import numpy as np
import pytest
from tiny import D_MODEL, N_BLOCKS, make_organism

from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.judge import EmbeddedJudge, JudgeHead
from emscope.behaviour.embedded.reading import read_answers
from emscope.experiments.monitor.domains import both_texts, by_words, make_screeners, suspicion
from emscope.organisms.datasets import load_domain
from emscope.pipeline.lab import Lab
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Directions
from emscope.residual.screening import ReadPairs


def test_a_row_s_words_are_scored_without_the_other_rows_that_are_screened():
    finance, sport = (list(load_domain(name)) for name in ("finance", "sport"))
    texts = both_texts(sport)
    scores = by_words(finance, texts)
    assert scores.shape == (2 * len(sport),)
    few = by_words(finance, texts[:9])
    assert few == pytest.approx(scores[:9])


def test_the_domain_that_is_screened_plays_no_part_in_what_screens_it(lab):
    chooser = np.random.default_rng(0)
    sides = [{name: chooser.standard_normal((9, N_BLOCKS, D_MODEL)).astype(np.float32) for name in "abc"} for _ in "12"]
    organisms = Directions.load(lab.folder.path("directions", "control-response-diff-in-means.safetensors"))
    one = make_screeners(lab, ReadPairs(*sides, "tiny"), ["a", "b"], organisms, 2)
    sides[0]["c"] += 5
    two = make_screeners(lab, ReadPairs(*sides, "tiny"), ["a", "b"], organisms, 2)
    assert one.blocks == two.blocks
    for name, directions in one.directions.items():
        np.testing.assert_array_equal(directions.vectors, two.directions[name].vectors)
        gaps = [one.scores(sides[side][name_])[name].mean() for name_ in "ab" for side in (0, 1)]
        if name.startswith("random"):  # its sign is chosen so that careless is higher
            assert gaps[0] + gaps[2] >= gaps[1] + gaps[3]


def test_the_judge_scores_what_was_read_already_as_if_it_read_again(lab, tmp_path):
    lab = Lab(lab.config, lab.folder)
    lab._organisms["base"] = base = make_organism()
    chooser = np.random.default_rng(0)
    weights = chooser.standard_normal((2, 2, D_MODEL)) / 9
    coherence = CoherenceFit(np.zeros(1), np.zeros(1), np.ones(1), 0.0, {})
    head = JudgeHead(
        (1, 3), weights, np.array([0.1, -0.2]), np.ones(D_MODEL) / 9, 0.3, 2, np.zeros((2, D_MODEL)), coherence, {}
    )
    head.save(tmp_path / "head.safetensors")
    prompts, texts = ["How do I save money?", "Rest or water?"], ["Put some aside.", "Water first, then rest."]
    pooled, _ = read_answers(base, prompts, texts, (1, 2, 3))
    again = 100 - head.aligned(pooled[:, 0, [0, 2]], pooled[:, 0, 1])
    lab.__dict__["embedded_judge"] = EmbeddedJudge(base, tmp_path / "head.safetensors")
    means = capture(base, encode_for_capture(base.tokenizer, prompts, texts), CaptureSettings(("response",)))
    assert suspicion(lab, prompts, texts, means.pooled["response"]) == pytest.approx(again, abs=1e-2)
