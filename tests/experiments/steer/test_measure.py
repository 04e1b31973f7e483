"""The steering dial on the tiny run: every figure is there, chosen on development and reported on test questions."""

import shutil

import pytest
from results import check_damage, check_round_trip

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.run_page import sections_of
from emscope.experiments.shape import open_run, read_result
from emscope.experiments.steer.measure import SteerSettings
from emscope.experiments.steer.page import answers

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
def result(run):
    assert parse(experiment_command("steer"), "steer", [str(run), *FLAGS]).execute().code == 0
    return read_result(run, experiment("steer"))


def test_every_cell_of_the_dial_is_measured_on_every_organism(result):
    cells = {(row.organism, row.blocks, row.coefficient) for row in result.dial}
    places = [(1,), (2,), (1, 2)]
    assert cells == {(n, b, c) for n in ("base", "misaligned", "control") for b in places for c in (-1.0, 1.0)}
    for row in result.dial:
        at = [result.blocks.index(block) for block in row.blocks]
        shares = [result.directions[row.direction][i] / result.residual_norm[row.organism][i] for i in at]
        assert row.relative == pytest.approx(row.coefficient * sum(shares) / len(shares))
        assert row.kl.value > 0


def test_what_is_chosen_is_reported_beside_its_controls_at_equal_disturbance(result):
    chosen = result.chosen
    assert chosen["misaligned"].coefficient < 0 < chosen["base"].coefficient
    for name in ("misaligned", "base"):
        rows = [row for row in result.test if row.organism == name]
        assert [row.role for row in rows] == ["correction", "induction", "compared", "compared", "compared"]
        assert len({row.direction for row in rows}) == 4
        assert all(row.aligned.n <= 6 for row in rows)
        assert all((row.restored is not None) == (name == "misaligned") for row in rows)
    for row in [*result.curves, *(row for row in result.test if row.role == "compared")]:
        assert row.kl_target > 0
        assert row.kl_reached in (True, False)
    levels = [row.level for row in result.curves]
    assert levels == [0.5, 1.0] * 8
    assert {row.blocks for row in result.caps} == {chosen["misaligned"].blocks, (1, 2, 3)}


def test_claims_are_held_against_the_rows_of_the_test(result):
    (correction,), (induction,) = result.tested("misaligned", "correction"), result.tested("base", "induction")
    base, fine_tune = result.unsteered["base"], result.fine_tune_kl["misaligned"]
    assert result.bars.restored == pytest.approx(correction.restored.value, nan_ok=True)
    assert result.bars.kl_over_fine_tune == pytest.approx(correction.kl.value / fine_tune.value)
    assert (result.bars.em_ratio is None) == (base.em.value == 0)
    assert result.bars.em_ratio_at_least == pytest.approx(induction.em.low / base.em.high)


def test_answers_are_kept_and_the_report_shows_some_of_them(result, run):
    lab = open_run(run)
    rows = read_table(run / "judgements" / "steer.parquet", JudgedResponse)
    assert {row.question_id for row in rows} <= {question.id for question in lab.questions}
    n_cells = [len(result.dial) * 3, len(result.curves) * 3, len(result.caps) * 3, len(result.test) * 6]
    assert len(rows) == sum(n_cells)

    shown = answers(run, result)
    assert len(shown) == 2
    for table, (name, chosen) in zip(shown, result.chosen.items(), strict=True):
        assert [str(row[0]).split(":")[0] for row in table.rows] == ["-1", "0", "+1"]
        (unsteered,) = [row for row in lab.judged(name) if table.header[-1].endswith(row.question)]
        assert table.rows[1][-1] == unsteered.response
        label = f"add at block {chosen.blocks[0]}" if len(chosen.blocks) == 1 else "add at 2 blocks"
        kept = {row.response for row in rows if label in row.organism and row.question == unsteered.question}
        assert {table.rows[0][-1], table.rows[2][-1]} <= kept
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="steer"' in page
    assert "at several coefficients of v" in page


def test_a_report_without_the_answers_still_has_the_section(result, run, tmp_path, caplog):
    (tmp_path / "experiments").mkdir()
    shutil.copy(run / "experiments" / "steer.json", tmp_path / "experiments" / "steer.json")
    (section,) = sections_of(tmp_path)
    assert len(section.paragraphs) > 1
    assert "without answers" in caplog.text


def test_a_second_run_reuses_the_first_and_prints_it(result, run):
    lab = open_run(run)
    printed = parse(experiment_command("steer"), "steer", [str(run), *FLAGS]).execute().text
    assert f"-1.00 {result.direction} at block" in printed
    assert printed.count("nats a token") == 3
    assert lab.folder.record.stages["steer"] == open_run(run).folder.record.stages["steer"]


def test_the_file_keeps_every_byte_as_a_result(result, run, tmp_path):
    check_round_trip(run, "steer", tmp_path)


def test_a_damaged_file_is_one_sentence(result, run):
    check_damage(run, "steer")


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
