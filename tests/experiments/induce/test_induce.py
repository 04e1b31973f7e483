"""Trained vectors on the tiny run: chosen on development, reported on test questions, with their controls."""

import json

import pytest

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.induce.measure import InduceSettings
from emscope.experiments.shape import open_run
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
def found(run):
    assert parse(experiment_command("induce"), "induce", [str(run), *FLAGS]).execute().code == 0
    return json.loads((run / "experiments" / "induce.json").read_text())


def test_the_vector_stands_beside_its_controls(found, run):
    names = ["trained on careless rows", "trained on careful rows", "random", "control-response-diff-in-means"]
    base = [row for row in found["test"] if row["organism"] == "base"]
    assert [row["direction"] for row in base] == names
    assert len({row["coefficient"] for row in base[:3]}) == 1
    assert base[0]["coefficient"] == found["coefficient"] in (1.0, 2.0)
    taken = next(row for row in found["test"] if row["organism"] == "misaligned")
    assert taken["coefficient"] == -found["coefficient"]
    assert "restored" in taken
    assert len(found["dial"]) == 4
    vector = Directions.load(run / "experiments" / "induce" / "careless.safetensors")
    assert vector.construction.contrast == "medical-careless"
    assert vector.blocks == (1,)


def test_the_shift_at_the_vectors_own_block_is_the_vector(found):
    start = {name: own["control-response-diff-in-means"][0] for name, own in found["downstream"]["cosines"].items()}
    cosine = found["cosines"]["control-response-diff-in-means"]
    assert start["trained on careless rows"] == pytest.approx(cosine, abs=0.02)  # activations may be bf16
    assert found["downstream"]["blocks"] == [1, 2, 3]


def test_the_report_has_the_section_and_answers_are_kept(found, run):
    assert ' id="induce"' in (run / "report.html").read_text(encoding="utf-8")
    rows = read_table(run / "judgements" / "induce.parquet", JudgedResponse)
    assert len(rows) == 3 * len(found["dial"]) + 6 * len(found["test"])


def test_a_second_run_reuses_the_first_and_prints_it(found, run):
    printed = parse(experiment_command("induce"), "induce", [str(run), *FLAGS]).execute().text
    assert "+" + f"{found['coefficient']:.2f} trained on careless rows" in printed


def test_adapters_made_elsewhere_need_rows(run, tmp_path):
    lab = open_run(run)
    object.__setattr__(lab.config, "misaligned_data", str(run / "organisms" / "misaligned"))
    with pytest.raises(UserError, match="--data"):
        conduct(lab, experiment("induce"), InduceSettings(block=1))


@pytest.mark.parametrize("wrong", [{"coefficients": ()}, {"coefficients": (-1.0,)}, {"dial_questions": 1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        InduceSettings(**wrong)
