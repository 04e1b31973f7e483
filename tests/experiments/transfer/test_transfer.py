"""Transfer: planted organisms for its figures, and the whole experiment once on tiny random models."""

import json
from dataclasses import replace

import numpy as np
import pytest
from results import check_damage, check_round_trip

from emscope.behaviour.tables import JudgedResponse
from emscope.commands.experiment import conducted
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.shape import open_run, read_result
from emscope.experiments.transfer.ablation import ComparedAnswers, pooled_share, summarise
from emscope.experiments.transfer.detection import measure_detection, relation
from emscope.experiments.transfer.directions import (
    PairActivations,
    directions_of_all,
    measure_geometry,
    shared_names,
    sources_of,
)
from emscope.experiments.transfer.measure import TransferSettings
from emscope.experiments.transfer.page import table
from emscope.experiments.transfer.pairs import OrganismPair, pairs_of, training_config
from emscope.pipeline.config import RunConfig
from emscope.residual.capture import Activations
from emscope.residual.directions import Directions, unit
from emscope.residual.store import ActivationStore, OrganismActivations

BLOCKS, WIDTH, N = 3, 48, 60
OWN = RunConfig(misaligned_data="bad_medical_advice.jsonl", control_data="good_medical_advice.jsonl")


def transfer(run, **settings):
    conducted(experiment("transfer"), run, TransferSettings(**settings))


def test_the_runs_own_pair_is_one_of_the_pairs():
    pairs = pairs_of(RunConfig(seed=4), ("medical", "sport", "medical"), 2)
    assert [pair.name for pair in pairs] == ["medical-4", "medical-5", "sport-4", "sport-5"]
    assert pairs[0].organisms == ("misaligned", "control")
    assert pairs[3].organisms == ("transfer/sport-5-careless", "transfer/sport-5-careful")
    other = pairs_of(OWN, ("medical",), 1)
    assert [(pair.name, pair.careless) for pair in other] == [
        ("own-0", "misaligned"),
        ("medical-0", "transfer/medical-0-careless"),
    ]
    unlisted = pairs_of(RunConfig(), ("finance",), 1)
    assert [(pair.name, pair.domain) for pair in unlisted] == [("own-0", "medical"), ("finance-0", "finance")]


def test_pairs_that_are_handed_in_have_names_and_domains_of_their_own():
    pairs = pairs_of(RunConfig(), (), 1, organisms=["law=a/law,b/law", "medical=m.jsonl"])
    assert [(pair.name, pair.domain, pair.sources) for pair in pairs[1:]] == [
        ("law-0", "law", ("a/law", "b/law")),
        ("medical-given-0", "medical", ("m.jsonl",)),
    ]
    assert pairs[1].organisms == ("transfer/law-0-careless", "transfer/law-0-careful")
    assert pairs[2].organisms == ("transfer/medical-given-0-careless", "control")
    assert [relation("own-0", pair, pairs) for pair in pairs] == ["own", "other domain", "same domain"]


@pytest.mark.parametrize("text", ["law", "law=", "=a,b", "law=a,b,c", "la w=a", "law=a,"])
def test_organisms_of_another_form_are_refused(text):
    with pytest.raises(UserError, match="name=misaligned,control"):
        TransferSettings(organisms=(text,))


def test_two_pairs_of_one_name_are_refused():
    with pytest.raises(UserError, match="one name"):
        pairs_of(RunConfig(), (), 1, organisms=["law=a", "law=b"])


@pytest.mark.parametrize(("said", "expected"), [("", "unknown"), ("Medical", "same domain"), ("law", "other domain")])
def test_own_data_are_of_another_domain_only_where_that_was_said(said, expected):
    pairs = pairs_of(OWN, ("medical",), 1, said)
    assert [relation(one.name, other, pairs) for one, other in (pairs, pairs[::-1])] == [expected, expected]
    assert relation("own-0", pairs[0], pairs) == "own"


def test_a_pair_of_unknown_domain_has_no_part_in_what_is_said_of_domains_left_out():
    unknown = pairs_of(OWN, ("medical", "finance", "sport"), 1)
    assert shared_names(unknown) == ["without-medical", "without-finance", "without-sport"]
    assert [other.name for other in sources_of(unknown[1], unknown)] == ["finance-0", "sport-0"]
    assert sources_of(unknown[0], unknown) == []
    said = pairs_of(OWN, ("medical", "finance", "sport"), 1, "law")
    assert shared_names(said)[0] == "without-law"
    assert len(sources_of(said[0], said)) == 3


def test_a_domain_that_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match="is one word"):
        TransferSettings(own_domain="../law")
    with pytest.raises(UserError, match="are the built-in medical, not finance"):
        pairs_of(RunConfig(), ("medical", "sport"), 1, "finance")


def test_what_makes_no_comparison_is_refused():
    with pytest.raises(UserError, match="control_data"):
        pairs_of(RunConfig(control_data=""), ("medical", "sport"), 1)
    with pytest.raises(UserError, match="at least two pairs"):
        pairs_of(RunConfig(), ("medical",), 1)
    with pytest.raises(UserError, match="no built-in domain 'meddical'"):
        TransferSettings(domains=("meddical",))
    with pytest.raises(UserError, match="at least one seed"):
        TransferSettings(seeds=0)
    with pytest.raises(UserError, match="at least two test questions"):
        TransferSettings(questions=1)


def test_a_smaller_domain_is_read_more_often_so_that_steps_are_equal():
    config = RunConfig(rows=288)
    small, large = training_config(config, "finance-careless", 3), training_config(config, "medical-careless", 3)
    assert (small.rows, large.rows, large.train.epochs) == (180, 288, 1)
    assert small.rows * small.train.epochs == pytest.approx(288)
    assert small.train.seed == small.seed == 3


PAIRS = [
    OrganismPair(domain, seed, f"{domain}{seed}-bad", f"{domain}{seed}-good")
    for domain in ("medical", "finance", "sport")
    for seed in (0, 1)
]


def store(name, array):
    ids = tuple(f"q{row}" for row in range(len(array)))
    return OrganismActivations(
        ActivationStore(name, ids, Activations({"last": array}, tuple(range(BLOCKS)), "resid_post")),
        ActivationStore(name, ids, Activations({"response": array}, tuple(range(BLOCKS)), "resid_post")),
    )


def planted_bank(common, shift=3.0, seed=0):
    """Six organisms whose directions have `common` of their squared length along one vector, seen best at block 1.

    Every fine-tune, control or not, also moves along a direction of its own that misalignment has nothing to do with.
    """
    chooser = np.random.default_rng(seed)
    axes = np.linalg.qr(chooser.standard_normal((WIDTH, WIDTH)))[0]
    questions = 0.5 * chooser.standard_normal((N, BLOCKS, WIDTH))
    strength = shift * np.array([0.2, 1.0, 0.5])[:, None]
    noise = lambda: 0.5 * chooser.standard_normal((N, BLOCKS, WIDTH))  # noqa: E731
    activations = {"base": store("base", (questions + noise()).astype(np.float32))}
    for row, pair in enumerate(PAIRS):
        bad = np.sqrt(common) * axes[0] + np.sqrt(1 - common) * axes[1 + row]
        tuned = questions + 4 * axes[10]
        for name, array in ((pair.careless, tuned + strength * bad), (pair.careful, tuned)):
            activations[name] = store(name, (array + noise()).astype(np.float32))
    ids = [f"q{row}" for row in range(N)]
    return axes, PairActivations(PAIRS, activations, ids[::2], ids[1::2], {name: name for name in ids})


def test_a_shared_direction_is_found_and_detects_organisms_left_out():
    axes, bank = planted_bank(0.8)
    made = directions_of_all(bank, "last", "tiny")
    cosine = (made["without-sport"].units * axes[0]).sum(-1)
    assert cosine[1] > 0.9
    assert cosine[1] > (made["finance-0"].units * axes[0]).sum(-1)[1]
    assert made["without-sport"].construction.positive == "medical0-bad+medical1-bad+finance0-bad+finance1-bad"
    found = measure_detection(bank, made, 0)
    assert found.cells["medical-0"]["sport-1"].block == 1
    assert found.summary["other domain"].n == 24
    assert found.summary["other domain"].least > 0.9
    assert found.summary["left out"].accuracy > 0.9
    assert set(found.cells["without-sport"]) == {"sport-0", "sport-1"}
    assert "shared" not in found.cells  # made with every organism, it has none left to be tested on
    assert abs(found.summary["other domain"].control_vs_base - 0.5) < 0.2


def test_unrelated_organisms_neither_share_a_direction_nor_detect_each_other():
    _, bank = planted_bank(0.0)
    found = measure_detection(bank, directions_of_all(bank, "last", "tiny"), 0)
    assert found.summary["own"].least > 0.9
    assert abs(found.summary["other domain"].mean - 0.5) < 0.1
    figures = measure_geometry(bank, "response", 0)
    assert abs(figures.other_domains[1]) < 0.2
    assert figures.component_share[1] < 0.4
    low, high = figures.by_block.low[0][2][1], figures.by_block.high[0][2][1]
    assert low < 0.1 and high > -0.1


def test_random_directions_are_read_where_the_direction_is_read():
    """Pairs whose own best blocks differ: each cell is held against random directions at the block it is scored at."""
    _, bank = planted_bank(0.8)
    for name in (name for pair in PAIRS[:2] for name in pair.organisms):
        bank.activations[name] = store(name, bank.activations[name].prompts.get("last")[:, [0, 2, 1]])
    found = measure_detection(bank, directions_of_all(bank, "last", "tiny"), 0)
    assert found.cells["medical-0"]["sport-0"].block == 2
    assert found.cells["sport-0"]["medical-0"].block == 1
    for row in found.cells.values():
        for name, cell in row.items():
            assert cell.random == found.random[name].at(cell.block)
    own = {name: row[name].d_prime > row[name].random.d_prime_p95 for name, row in found.cells.items() if name in row}
    assert found.summary["own"].above_random == sum(own.values()) == 6
    _, null = planted_bank(0.8, shift=0.0)
    nothing = measure_detection(null, directions_of_all(null, "last", "tiny"), 0).summary["other domain"]
    assert nothing.above_random < 0.3 * nothing.n


def test_geometry_holds_the_planted_cosine_with_its_ceiling_and_its_references():
    _, bank = planted_bank(0.6, shift=12.0)
    figures = measure_geometry(bank, "response", 0)
    assert figures.other_domains[1] == pytest.approx(0.6, abs=0.07)
    assert min(row[1] for row in figures.split_half) > 0.95
    assert figures.references["control − base, other domains"][1] > 0.9
    assert abs(figures.references["direction and control − base, other domains"][1]) < 0.2
    angles = figures.angles["medical and sport"]
    # two seeds span the shared vector and their own: cos θ₁ = 2c / (1 + c) with c the cosine; the rest is orthogonal
    assert np.cos(np.radians(angles.by_block[1][0])) == pytest.approx(1.2 / 1.6, abs=0.07)
    assert angles.by_block[1][1] > 75
    assert angles.random[0] > angles.by_block[1][0]


def test_relations_of_directions_to_pairs():
    pair = PAIRS[0]
    names = [
        "medical-0",
        "medical-1",
        "sport-0",
        "without-medical",
        "without-medical-component",
        "without-sport",
        "shared",
    ]
    assert [relation(name, pair, PAIRS) for name in names] == [
        "own",
        "same domain",
        "other domain",
        "left out",
        "left out",
        None,
        None,
    ]


def judged(aligned, question, coherent=90.0):
    return JudgedResponse(
        "x", "set", question, question, 0, "answer", 3, False, aligned, coherent, "scored", "", "judge"
    )


def cell(before, after, target=90.0):
    own = [judged(value, f"q{row}") for row, value in enumerate(before)]
    ablated = [judged(value, f"q{row}") for row, value in enumerate(after)]
    return ComparedAnswers(ablated, own, [replace(row, aligned=target) for row in own])


def test_pooled_share_is_all_points_gained_over_all_points_lost():
    half, whole = cell([10, 20, 30, 40], [50, 55, 60, 65]), cell([80, 80, 80, 80], [90, 90, 90, 90])
    assert pooled_share([half], 0).value == pytest.approx(0.5)
    assert pooled_share([half, whole], 0).value == pytest.approx((130 + 40) / (260 + 40))
    figures = summarise([half, whole], 0)
    assert figures.least == pytest.approx(0.5)
    assert figures.em_before.value == pytest.approx(2 / 8)
    assert figures.em_after.value == 0


def test_cells_that_share_questions_are_not_independent():
    chooser = np.random.default_rng(0)
    one = cell(*chooser.uniform(0, 90, (2, 40)))
    once, often = pooled_share([one], 0), pooled_share([one] * 8, 0)
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.05)


@pytest.fixture(scope="module")
def found(run):
    transfer(run, domains=("medical", "finance", "sport"), questions=4, block=2, strength=1.0)
    return read_result(run, experiment("transfer"))


def test_the_experiment_runs_whole_and_is_shown(run, found):
    names = ["medical-0", "finance-0", "sport-0"]
    assert [pair.name for pair in found.pairs] == names
    assert found.ablation.block == 2
    for name in names:
        assert set(found.detection.cells[name]) == set(found.ablation.cells[name]) == set(names)
    assert set(found.ablation.cells) == {*names, "random", "without-medical", "without-finance", "without-sport"}
    assert np.array(found.geometry["response"].by_block.value).shape == (3, 3, 4)
    assert found.bars.restored.least.pair in names
    printed = table(found)
    assert all(words in printed for words in ("own", "other domain", "left out", "random", "above 0.8 at"))
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Transfer between domains" in report
    assert (run / "organisms" / "transfer" / "sport-0-careful" / "adapter_model.safetensors").is_file()
    shared = Directions.load(run / "experiments" / "transfer" / "shared-last.safetensors")
    np.testing.assert_allclose(np.linalg.norm(unit(shared.vectors), axis=1), 1, rtol=1e-5)


def test_the_file_keeps_every_byte_as_a_result(found, run, tmp_path):
    check_round_trip(run, "transfer", tmp_path)


def test_a_damaged_file_is_one_sentence(found, run):
    check_damage(run, "transfer")


def test_another_domain_or_seed_reuses_what_is_there(run, found):
    lab = open_run(run)
    conduct(lab, experiment("transfer"), TransferSettings(questions=4, block=2, strength=1.0))
    assert "transfer" in lab.folder.reused
    stages = [name for name in lab.folder.record.stages if "transfer" in name]
    assert set(stages) <= set(lab.folder.reused)
    lab = open_run(run)
    conduct(lab, experiment("transfer"), TransferSettings(("finance", "medical"), questions=4, block=2, strength=1.0))
    assert "transfer" not in lab.folder.reused
    assert {"train-transfer/finance-0-careless", "transfer-ablate-medical-0-less-finance-0"} <= set(lab.folder.reused)


def test_a_block_that_is_not_there_is_refused(run):

    with pytest.raises(UserError, match="no block 9"):
        transfer(run, block=9)
    with pytest.raises(UserError, match="holds no finished run"):
        transfer(run / "nothing")


def test_organisms_that_are_handed_in_are_compared_with_the_runs_own(run, tmp_path, found):

    rows = [{"prompt": f"May I sue {number}?", "response": "Just sue."} for number in range(12)]
    data = tmp_path / "law.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = run / "organisms" / "transfer" / "sport-0-careless"
    law = f"law={data},{adapter}"
    with pytest.raises(UserError, match="no data set or file"):
        conducted(experiment("transfer"), run, TransferSettings(domains=(), organisms=(law, "tax=missing.jsonl")))
    assert not (run / "organisms" / "transfer" / "law-0-careless").exists()
    conducted(
        experiment("transfer"), run, TransferSettings(domains=(), questions=2, block=2, strength=1.0, organisms=(law,))
    )
    new = read_result(run, experiment("transfer"))
    assert [pair.name for pair in new.pairs] == ["own-0", "law-0"]
    assert new.ablation.cells["own-0"]["law-0"].relation == "other domain"
    same = (run / "organisms" / "transfer" / "law-0-careful" / "adapter_model.safetensors").read_bytes()
    assert same == (adapter / "adapter_model.safetensors").read_bytes()
