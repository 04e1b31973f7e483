"""Trained vectors on the tiny run: chosen on development, reported on test questions, with their controls."""

import pytest
from results import check_damage, check_round_trip

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.induce.measure import InduceSettings
from emscope.experiments.induce.page import answers
from emscope.experiments.induce.result import CAREFUL, CARELESS, RANDOM
from emscope.experiments.shape import open_run, read_result
from emscope.residual.directions import Directions

FLAGS = [
    "--block",
    "1",
    "--coefficients",
    "1.0",
    "2.0",
    "--dial-questions",
    "3",
    "--kl-questions",
    "3",
    "--test-questions",
    "6",
    "--epochs",
    "1",
]


@pytest.fixture(scope="module")
def result(run):
    assert parse(experiment_command("induce"), "induce", [str(run), *FLAGS]).execute().code == 0
    return read_result(run, experiment("induce"))


def test_the_vector_stands_beside_its_controls(result, run):
    names = [CARELESS, CAREFUL, RANDOM, "control-response-diff-in-means"]
    base = [row for row in result.test if row.organism == "base"]
    assert [row.direction for row in base] == names
    assert len({row.coefficient for row in base[:3]}) == 1
    assert result.induction == base[0]
    assert base[0].coefficient == result.coefficient in (1.0, 2.0)
    taken = result.tested("misaligned", CARELESS)
    assert taken.coefficient == -result.coefficient
    assert [row for row in result.test if row.restored is not None] == [taken]
    assert len(result.dial) == 4
    vector = Directions.load(run / "experiments" / "induce" / "careless.safetensors")
    assert vector.construction.contrast == "medical-blunt-bad"
    assert vector.blocks == (1,)


def test_the_shift_at_the_vectors_own_block_is_the_vector(result):
    start = {
        name: by_block["control-response-diff-in-means"][0] for name, by_block in result.downstream.cosines.items()
    }
    cosine = result.cosines["control-response-diff-in-means"]
    assert start[CARELESS] == pytest.approx(cosine, abs=0.02)  # activations may be bf16
    assert result.downstream.blocks == (1, 2, 3)


def test_claims_are_held_against_all_questions_of_the_same_sets(result, run):
    em, base = result.induction.em, result.bars.base_em
    assert base.n >= result.unsteered["base"].em.n
    assert result.bars.em_ratio_at_least == pytest.approx(em.low / base.high)
    assert result.bars.coherent == result.induction.coherent.value


def test_the_report_has_the_section_and_answers_are_kept(result, run):
    assert ' id="induce"' in (run / "report.html").read_text(encoding="utf-8")
    rows = read_table(run / "judgements" / "induce.parquet", JudgedResponse)
    assert len(rows) == 3 * len(result.dial) + 6 * len(result.test)
    (table,) = answers(run, result)
    assert [str(row[0]).split(":")[0] for row in table.rows] == ["0", "+1", "+2"]


def test_a_second_run_reuses_the_first_and_prints_it(result, run):
    printed = parse(experiment_command("induce"), "induce", [str(run), *FLAGS]).execute().text
    assert "+" + f"{result.coefficient:.2f} trained on careless rows" in printed


def test_the_file_keeps_every_byte_as_a_result(result, run, tmp_path):
    check_round_trip(run, "induce", tmp_path)


def test_a_damaged_file_is_one_sentence(result, run):
    check_damage(run, "induce")


def test_adapters_made_elsewhere_need_rows(run, tmp_path):
    lab = open_run(run)
    object.__setattr__(lab.config, "misaligned_data", str(run / "organisms" / "misaligned"))
    with pytest.raises(UserError, match="with the setting data"):
        conduct(lab, experiment("induce"), InduceSettings(block=1))


@pytest.mark.parametrize("wrong", [{"coefficients": ()}, {"coefficients": (-1.0,)}, {"dial_questions": 1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        InduceSettings(**wrong)
