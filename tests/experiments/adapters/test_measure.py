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
from emscope.errors import OutsideError, UserError
from emscope.experiments.adapters.measure import (
    AdaptersSettings,
    complete_pairs,
    inspect_adapters,
    make_run_bank,
    tell_apart,
)
from emscope.experiments.adapters.page import section, table
from emscope.experiments.adapters.result import AdaptersResult
from emscope.files import without_nan, write_json
from emscope.organisms.bank import RECIPES, Recipe
from emscope.organisms.bank_members import read_bank
from emscope.organisms.datasets import load_conversations
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.outside import read_json
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.plain import fitted, plain
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
def result(lab):
    assert make_run_bank(lab, SETTINGS) == 0
    return tell_apart(lab, SETTINGS)


def in_json(result):
    """Return a result as its file holds it."""
    return json.loads(json.dumps(without_nan(plain(result))))


def read(figures):
    return fitted(AdaptersResult, figures, "adapters.json")


def test_every_organism_is_scored_without_its_domain(result):
    assert result.bank.organisms == 12
    sets = {"write", "weights", "norms", "base", "direction", "random direction"}
    assert set(result.classification) == sets
    for schemes in result.classification.values():
        assert set(schemes) == {"leave-one-domain-out", "leave-one-recipe-out"}
        for left_out in schemes.values():
            share = left_out.balanced_accuracy
            assert 0 <= share.low <= share.value <= share.high <= 1
            assert len(left_out.scores) == 12
            right = [(score > 0) == ("careless" in name) for name, score in left_out.scores.items()]
            assert share.value == pytest.approx(np.mean(right))
            by_group = [accuracy.balanced_accuracy.value for accuracy in left_out.by_group.values()]
            assert np.mean(by_group) == pytest.approx(share.value)
    assert result.by_block.blocks == [0, 1, 2, 3]


def test_the_runs_organisms_are_scored_without_their_domain(result):
    """A random model learns no advice from these words: which of the two scores higher is no matter here."""
    assert (result.run.domain_left_out, result.run.fitted_on) == ("medical", 8)
    assert result.run.log_odds["misaligned"]["write"] != result.run.log_odds["control"]["write"]


def test_the_same_adapter_handed_in_gets_the_same_kind_of_scores(lab, result):
    adapter = lab.folder.path("organisms", "misaligned")
    given = inspect_adapters(lab, SETTINGS, [adapter])
    assert (given.domain_left_out, given.fitted_on) == (None, 12)
    assert set(given.log_odds[str(adapter)]) == set(result.run.log_odds["misaligned"])


def test_scalars_of_equal_answers_say_nothing(result):
    assert result.scalars.answers.misaligned >= 10
    probe = result.scalars.probes["all"]
    assert probe.answer.low <= 0.5 <= probe.answer.high + 0.15


def test_a_result_survives_its_file_to_the_byte(result, tmp_path):
    write_json(tmp_path / "a.json", plain(result))
    write_json(tmp_path / "b.json", plain(read(read_json(tmp_path / "a.json"))))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("place", ["bank", "known_direction.random direction", "classification.write"])
def test_a_damaged_file_is_one_sentence_that_names_the_place(result, place):
    damaged = in_json(result)
    holder = damaged
    *outer, last = place.split(".")
    for name in outer:
        holder = holder[name]
    holder[last] = 3
    with pytest.raises(OutsideError, match=f"'{place}' is 3"):
        read(damaged)


def test_the_section_opens_with_the_finding_and_every_organism(result, tmp_path):
    shown = section(result)
    assert shown.paragraphs[0].count(". ") == 0
    assert "12 small organisms" in shown.paragraphs[1]
    assert shown.parts[0].title == "Every organism, scored without its domain"
    assert list(result.figures()) == [
        "Every organism, scored without its domain",
        "Where it shows",
        "How the organisms lean",
    ]
    write_section_page(tmp_path / "page.html", [shown], "Adapters")


@pytest.mark.parametrize(("low", "words"), [(0.4, "does not reliably tell"), (0.6, " tells careless")])
def test_an_effect_is_stated_only_where_the_interval_shows_it(result, low, words):
    figures = in_json(result)
    figures["classification"]["write"]["leave-one-domain-out"]["balanced_accuracy"]["low"] = low
    assert words in section(read(figures)).paragraphs[0]


def test_a_bank_of_one_domain_says_what_it_does_not_know(result, tmp_path):
    alone = in_json(result)
    for schemes in alone["classification"].values():
        del schemes["leave-one-domain-out"]
    for kind in alone["bank"]["leaning"].values():
        kind["out_of_domain"] = {"value": None, "low": None, "high": None, "n": 0}
    by_direction = alone["known_direction"]["direction"]
    by_direction["by_group"] = {"medical": by_direction["by_group"]["medical"]}
    shown = section(read(alone))
    assert "nothing can be said about a domain left out" in shown.paragraphs[0]
    assert "nothing is known of domains they were not trained on" in shown.paragraphs[2]
    assert "in domains it was not made on: there are none in the bank." in shown.paragraphs[3]
    write_section_page(tmp_path / "page.html", [shown, section(read(without(in_json(result), *ENDS)))], "Adapters")


def test_scalars_are_told_by_balanced_accuracy_or_why_not(result):
    assert "with a balanced accuracy of" in section(result).paragraphs[4]
    few = in_json(result)
    few["scalars"]["probes"] = None
    assert "too few of one kind" in section(read(few)).paragraphs[4]


def test_no_organism_is_called_misaligned_for_its_place_in_the_run(result):
    """The run's organism may be anybody's adapter, and harmless."""
    assert not any("misaligned" in paragraph for paragraph in section(result).paragraphs)


def test_the_table_has_a_line_for_every_kind_of_features_and_every_organism_of_the_run(result):
    lines = table(result).splitlines()
    assert len(lines) == 1 + len(result.classification) + 2 + len(result.run.log_odds)
    assert lines[0].startswith("12 organisms")
    assert lines[-2].startswith("  misaligned: write +")


def test_an_organism_without_its_counterpart_is_left_out(lab, result):
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
