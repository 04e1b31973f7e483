"""The steering dial on the tiny run: every figure is there, chosen on development and reported on test questions."""

import json

import pytest

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments.shape import open_run
from emscope.experiments.steer.measure import SteerSettings

FLAGS = [
    "--blocks",
    "1",
    "2",
    "--coefficients",
    "-1.0",
    "1.0",
    "--levels",
    "0.5",
    "1.0",
    "--cap-widths",
    "1.0",
    "--dial-questions",
    "3",
    "--curve-questions",
    "3",
    "--kl-questions",
    "3",
    "--test-questions",
    "6",
]


@pytest.fixture(scope="module")
def found(run):
    assert parse(experiment_command("steer"), "steer", [str(run), *FLAGS]).execute().code == 0
    return json.loads((run / "experiments" / "steer.json").read_text())


def test_every_cell_of_the_dial_is_measured_on_every_organism(found):
    cells = {(row["organism"], tuple(row["blocks"]), row["coefficient"]) for row in found["dial"]}
    places = [(1,), (2,), (1, 2)]
    assert cells == {(n, b, c) for n in ("base", "misaligned", "control") for b in places for c in (-1.0, 1.0)}
    for row in found["dial"]:
        at = [found["blocks"].index(block) for block in row["blocks"]]
        shares = [found["directions"][row["direction"]][i] / found["residual_norm"][row["organism"]][i] for i in at]
        assert row["relative"] == pytest.approx(row["coefficient"] * sum(shares) / len(shares))
        assert row["kl"]["value"] > 0


def test_what_is_chosen_is_reported_beside_its_controls_at_equal_disturbance(found):
    chosen = found["chosen"]
    assert chosen["misaligned"]["coefficient"] < 0 < chosen["base"]["coefficient"]
    for name in ("misaligned", "base"):
        rows = [row for row in found["test"] if row["organism"] == name]
        assert [row["role"] for row in rows] == ["correction", "induction", "compared", "compared", "compared"]
        assert len({row["direction"] for row in rows}) == 4
        assert all(row["aligned"]["n"] <= 6 for row in rows)
        assert all(("restored" in row) == (name == "misaligned") for row in rows)
    for row in [*found["curves"], *(row for row in found["test"] if row["role"] == "compared")]:
        assert row["kl_target"] > 0
        assert row["kl_reached"] in (True, False)
    levels = [row["level"] for row in found["curves"]]
    assert levels == [0.5, 1.0] * 8
    assert {tuple(row["blocks"]) for row in found["caps"]} == {tuple(chosen["misaligned"]["blocks"]), (1, 2, 3)}


def test_answers_are_kept_and_the_report_has_the_section(found, run):
    lab = open_run(run)
    rows = read_table(run / "judgements" / "steer.parquet", JudgedResponse)
    assert {row.question_id for row in rows} <= {question.id for question in lab.questions}
    n_cells = [len(found["dial"]) * 3, len(found["curves"]) * 3, len(found["caps"]) * 3, len(found["test"]) * 6]
    assert len(rows) == sum(n_cells)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="steer"' in page
    assert "Steering the misaligned organism by -1 v" in page


def test_a_second_run_reuses_the_first_and_prints_it(found, run):
    lab = open_run(run)
    printed = parse(experiment_command("steer"), "steer", [str(run), *FLAGS]).execute().text
    assert f"-1.00 {found['direction']} at block" in printed
    assert printed.count("nats a token") == 3
    assert lab.folder.record.stages["steer"] == open_run(run).folder.record.stages["steer"]


@pytest.mark.parametrize(
    "wrong",
    [{"coefficients": (1.0,)}, {"coefficients": ()}, {"levels": (0.0,)}, {"cap_widths": (-1.0,)}, {"kl_questions": 1}],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        SteerSettings(**wrong)


def test_a_block_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match="no block 9"):
        parse(experiment_command("steer"), "steer", [str(run), "--blocks", "9"]).execute()
