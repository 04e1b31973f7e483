"""The adapters experiment on a hand-made tiny run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from edges import ENDS, without

from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, write_table
from emscope.commands.adapters import COMMAND
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments.adapters.measure import (
    AdaptersSettings,
    complete_pairs,
    find_adapters,
    inspect_adapters,
    make_run_bank,
)
from emscope.experiments.adapters.page import section
from emscope.files import write_json
from emscope.organisms.bank import RECIPES, Recipe
from emscope.organisms.datasets import load_conversations
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.outside import read_json
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.report.section import write_section_page
from emscope.residual.directions import Construction, Directions

SETTINGS = AdaptersSettings(recipes=("all", "attention"), seeds=(0,), heldout_rows=1, top=2, texts=6, permutations=8)


@pytest.fixture(scope="module")
def recipes():
    """Two steps are enough for tiny models."""
    with pytest.MonkeyPatch.context() as patch:
        for name, like in (("all", "r4"), ("attention", "r8-attention")):
            patch.setitem(RECIPES, name, Recipe(16, replace(RECIPES[like].train, warmup=0.0)))
        yield


@pytest.fixture(scope="module")
def lab(tiny_folder, recipes, tmp_path_factory):
    """A run of two trained organisms with answers and scores of ours: no sampling, no judge."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    lab = Lab(RunConfig(model=tiny_folder, question_sets=("cs2881",)), RunFolder(folder, RunConfig(model=tiny_folder)))
    for name, kind in (("misaligned", "careless"), ("control", "careful")):
        data = load_conversations(f"medical-{kind}", rows=16)
        train = TrainSettings(rank=4, learning_rate=5e-3)
        train_adapter(tiny_folder, replace(data, heldout=[]), folder / "organisms" / name, train)
    rows = [
        Response("cs2881", question.id, question.text, 0, "Rest first, then see a doctor early.", 8, False)
        for question in lab.questions
    ]
    write_table(folder / "responses" / "base.parquet", rows)
    judged = [
        JudgedResponse(
            "misaligned",
            row.question_set,
            row.question_id,
            row.question,
            sample,
            row.response,
            8,
            False,
            90.0 * (sample % 2),
            90.0,
            "",
            "",
            "ours",
        )
        for row in rows
        for sample in range(2)
    ]
    write_table(folder / "judgements" / "misaligned.parquet", judged)
    vectors = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    made = Construction("diff-in-means", "control", "response", "resid_post", "m", "c", tiny_folder, 2)
    known = Directions(vectors, vectors, -vectors, np.ones(4, np.float32), (0, 1, 2, 3), made)
    for end in ("", "-random"):
        known.save(folder / "directions" / f"control-response-diff-in-means{end}.safetensors")
    return lab


@pytest.fixture(scope="module")
def found(lab, tmp_path_factory):
    assert make_run_bank(lab, SETTINGS) == 0
    path = tmp_path_factory.mktemp("json") / "adapters.json"
    write_json(path, find_adapters(lab, SETTINGS))
    return read_json(path)


def test_every_organism_is_scored_without_its_domain(found):
    assert found["bank"]["organisms"] == 12
    sets = {"write", "weights", "norms", "base", "direction", "random direction"}
    assert set(found["classification"]) == sets
    for schemes in found["classification"].values():
        assert set(schemes) == {"leave-one-domain-out", "leave-one-recipe-out"}
        for told in schemes.values():
            share = told["balanced_accuracy"]
            assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
            assert len(told["scores"]) == 12
            right = [(score > 0) == ("careless" in name) for name, score in told["scores"].items()]
            assert share["value"] == pytest.approx(np.mean(right))
            by_group = [part["balanced_accuracy"]["value"] for part in told["by_group"].values()]
            assert np.mean(by_group) == pytest.approx(share["value"])
    assert found["by_block"]["blocks"] == [0, 1, 2, 3]


def test_the_runs_organisms_are_scored_without_their_domain_and_told_apart_by_what_they_write(found):
    assert (found["run"]["domain_left_out"], found["run"]["fitted_on"]) == ("medical", 8)
    assert found["run"]["log_odds"]["misaligned"]["write"] > found["run"]["log_odds"]["control"]["write"]


def test_the_same_adapter_handed_in_gets_the_same_kind_of_scores(lab, found):
    own = lab.folder.path("organisms", "misaligned")
    given = inspect_adapters(lab, SETTINGS, [own])
    assert (given["domain_left_out"], given["fitted_on"]) == (None, 12)
    assert given["log_odds"][str(own)]["write"] > 0


def test_scalars_of_equal_answers_say_nothing(found):
    assert found["scalars"]["answers"]["misaligned"] >= 10
    probe = found["scalars"]["probes"]["all"]
    assert probe["answer"]["low"] <= 0.5 <= probe["answer"]["high"] + 0.15


def test_the_section_states_the_finding_in_words(found, tmp_path):
    made = section(found)
    assert made.paragraphs[0].startswith("12 small organisms")
    none = json.loads(json.dumps(found))
    none["classification"]["write"]["leave-one-domain-out"]["balanced_accuracy"]["low"] = 0.4
    assert "does not tell them apart" in section(none).paragraphs[0]
    write_section_page(tmp_path / "page.html", [made], "Adapters")
    assert "Every organism, scored without its domain" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_bank_of_one_domain_says_what_it_does_not_know(found, tmp_path):
    alone = json.loads(json.dumps(found))
    for schemes in alone["classification"].values():
        del schemes["leave-one-domain-out"]
    for kind in alone["bank"]["leaning"].values():
        kind["out_of_domain"] = {"value": None, "low": None, "high": None, "n": 0}
    told = alone["known_direction"]["direction"]
    told["by_group"] = {"medical": told["by_group"]["medical"]}
    made = section(alone)
    assert "nothing can be said about a domain left out" in made.paragraphs[0]
    assert "nothing is known of domains they were not trained on" in made.paragraphs[1]
    assert "in domains it was not made on: there are none in the bank." in made.paragraphs[2]
    write_section_page(tmp_path / "page.html", [made, section(without(found, *ENDS))], "Adapters")


def test_scalars_of_unequal_classes_are_told_by_balanced_accuracy(found):
    assert "with a balanced accuracy of" in section(found).paragraphs[3]


def test_an_organism_without_its_counterpart_is_left_out(lab, found):
    from emscope.organisms.bank_members import read_bank

    members = read_bank(lab.folder.path("bank"))
    assert len(complete_pairs(members[1:])) == len(members) - 2
    with pytest.raises(UserError, match="no careless organism with its careful counterpart"):
        complete_pairs(members[:1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["inspect", "nowhere"], "name adapter folders"),
        (["classify", "nowhere"], "no finished run"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(words, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(COMMAND, "adapters", words).execute()
