"""Detection of organisms that a direction was not made from."""

import dataclasses

import numpy as np
import pytest

from emscope.errors import OutsideError
from emscope.experiments.main.locating import least_strengths
from emscope.experiments.main.unseen import Tried, carrying, try_out
from emscope.pipeline.config import PRESETS, RunConfig, configure
from emscope.pipeline.unseen import UnseenOrganism, unseen_config, unseen_organisms
from emscope.residual.directions import Construction, Directions, make_directions
from emscope.residual.trial import Trial, TriedOrganism, trial_of

N, BLOCKS, WIDTH = 40, 3, 16
BAD, GOOD = UnseenOrganism("unseen/a", "finance-warm-bad", True), UnseenOrganism("unseen/b", "finance-warm-good", False)


def directions_and_tried(shift=4.0):
    """Bad advice moves prompts along one axis, whoever learned it; each question has a place of its own."""
    rng = np.random.default_rng(0)
    questions = rng.normal(size=(N, BLOCKS, WIDTH)).astype(np.float32)
    axis = np.zeros((BLOCKS, WIDTH), np.float32)
    axis[:, 0] = shift

    def reads(bad):
        return questions + bad * axis + 0.1 * rng.normal(size=questions.shape).astype(np.float32)

    made = Construction("diff-in-means", "control", "last", "resid_post", "misaligned", "control", "tiny", N)
    directions = make_directions(reads(1), reads(0), tuple(range(BLOCKS)), made)
    activations = {
        "base": reads(0),
        "misaligned": reads(1),
        "control": reads(0),
        BAD.name: reads(0.5),
        GOOD.name: reads(0),
    }
    return directions, Tried(activations, [BAD, GOOD], [f"q{number}" for number in range(N)])


def test_organisms_never_used_are_told_and_the_runs_own_do_not_count():
    directions, tried = directions_and_tried()
    found = try_out("control-last", directions, {}, tried, 0)
    assert found.auroc.value > 0.85
    assert found.beside_base.value == 1.0  # what a question alone does to a score is gone
    assert found.in_order == (2, 2)
    assert {score.organism for score in found.organisms if score.counted} == {"base", BAD.name, GOOD.name}
    assert set(found.by_voice) == {"warm"}
    assert 0.5 <= found.random_typical <= found.random_high < found.auroc.value


def test_exchanged_labels_are_told_the_wrong_way_round():
    directions, tried = directions_and_tried()
    swapped = [dataclasses.replace(item, misaligned=not item.misaligned) for item in tried.unseen]
    found = try_out("control-last", directions, {}, dataclasses.replace(tried, unseen=swapped), 0)
    assert found.in_order[0] < found.in_order[1]
    assert found.auroc.value < 0.5


def test_one_kind_of_organism_alone_is_no_trial():
    directions, tried = directions_and_tried()
    assert try_out("control-last", directions, {}, dataclasses.replace(tried, unseen=[GOOD]), 0) is None


def test_a_directions_file_says_what_it_was_tried_on(tmp_path):
    directions, tried = directions_and_tried()
    assert trial_of(directions) is None
    found = try_out("control-last", directions, {}, tried, 0)
    carrying(directions, found).save(tmp_path / "d.safetensors")
    trial = trial_of(Directions.load(tmp_path / "d.safetensors"))
    assert (trial.block, len(trial.harmless), len(trial.misaligned)) == (found.block, 2, 1)
    lowest = min(organism.mean for organism in trial.harmless)
    assert len(trial.as_high(lowest)) == 2
    assert trial.as_high(trial.misaligned[0].mean) == []


@pytest.mark.parametrize(
    ("harmless", "misaligned", "mean", "said"),
    [
        ((-5, -4), (-2, 3), -2.5, "like the misaligned"),
        ((-5, -4), (-2, 3), -3.5, "like the harmless"),
        ((-5, 1), (0, 3), 2, "above every harmless"),
        ((-5, 1), (0, 3), -6, "below every misaligned"),
        ((-5, 1), (0, 3), 0.5, "overlap"),
    ],
)
def test_a_score_is_placed_among_what_was_tried(harmless, misaligned, mean, said):
    """Below 0 is no all-clear where misaligned organisms that the direction never saw lie there too."""
    organisms = [TriedOrganism("h", False, float(value)) for value in harmless]
    organisms += [TriedOrganism("m", True, float(value)) for value in misaligned]
    assert said in Trial(3, 0.9, tuple(organisms)).like(mean)


@pytest.mark.parametrize("damage", [{"organisms": []}, {"organisms": [3]}, {"auroc": "high"}, {"block": -1}])
def test_a_damaged_trial_is_refused(damage):
    directions, tried = directions_and_tried()
    whole = carrying(directions, try_out("control-last", directions, {}, tried, 0)).construction
    broken = {**whole.extra, "tried_on": {**whole.extra["tried_on"], **damage}}
    with pytest.raises(OutsideError, match="the direction"):
        trial_of(dataclasses.replace(directions, construction=dataclasses.replace(whole, extra=broken)))


def test_a_block_where_only_the_control_moves_is_not_chosen():
    rng = np.random.default_rng(0)
    training = {name: rng.normal(size=(N, 2)) for name in ("base", "misaligned", "control")}
    training["control"][:, 0] -= 20  # block 0: the control lies apart, the base beside the misaligned organism
    training["misaligned"][:, 1] += 3  # block 1: the misaligned organism lies apart from both
    strengths = least_strengths(training)
    assert strengths[1] > 2 > strengths[0]


def test_built_in_data_bring_unseen_organisms_and_own_data_none():
    plain = configure("quickstart", None, [])
    found = {item.data: item.misaligned for item in unseen_organisms(plain)}
    assert found == {
        "finance-blunt-bad": True,
        "finance-warm-bad": True,
        "finance-blunt-good": False,
        "finance-warm-good": False,
        "medical-warm-good": False,
    }
    assert unseen_organisms(RunConfig(misaligned_data="mine.jsonl")) == unseen_organisms(PRESETS["cs2881"]) == []
    named = RunConfig(misaligned_data="mine.jsonl", unseen_misaligned=("x/a.jsonl", "y/a.jsonl"))
    assert [item.name for item in unseen_organisms(named)] == ["unseen/a.jsonl", "unseen/a.jsonl-2"]


def test_unseen_organisms_are_trained_otherwise():
    plain = configure("quickstart", None, [])
    other = unseen_config(plain, "finance-warm-bad")
    assert other.seed != plain.seed
    assert other.train.seed != plain.train.seed
    assert other.train.rank < plain.train.rank
    assert other.rows < plain.rows
