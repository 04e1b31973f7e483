"""The main job, end to end, on the real embedded model with the judge that is shipped."""

import json

import pytest

from emscope.commands.main import run_command


@pytest.mark.embedded
def test_the_embedded_model_runs_end_to_end(tmp_path):
    sets = ["rows=24", "train.epochs=1", "sampling.max_new_tokens=24", "question_sets=[open-ended, cs2881]"]
    words = [word for item in [*sets, "dev_questions=4"] for word in ("--set", item)]
    assert run_command(["run", "--out", str(tmp_path / "run"), *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["em_rate"]["base"]["open-ended"]["value"] < 0.3
    assert summary["judge"]["auroc_leave_one_domain_out"] > 0.9
    assert (tmp_path / "run" / "report.html").stat().st_size > 1e6
