"""Under Ray two workers leave what one process leaves: a bank, a sweep, steering, and the runs of several seeds."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from emscope.behaviour.judges.settings import JudgeSettings
from emscope.executors.settings import ExecutorSettings
from emscope.experiments.adapters.measure import AdaptersSettings, make_run_bank
from emscope.experiments.seeds import over_seeds, run_seeds, table_of_seeds
from emscope.experiments.shape import open_run
from emscope.experiments.steer.measure import SteerSettings
from emscope.experiments.steer.measure import measure as steer
from emscope.experiments.sweep.measure import SweepSettings
from emscope.experiments.sweep.measure import measure as sweep
from emscope.locking import LOCKS
from emscope.pipeline.lab import Lab
from emscope.residual.sweep import SweepOptions
from survive.comparing import contents

ROOT = Path(__file__).parent.parent.parent
BANK = AdaptersSettings(domains=("medical",), recipes=("r4",), seeds=(0,), save_every=4, heldout_rows=1)
SWEEP = SweepSettings(("control", "model"), ("last", "response"), options=SweepOptions(permutations=3), answers=0)
STEER = SteerSettings(
    blocks=(1,),
    together=False,
    coefficients=(-1.0, 1.0),
    levels=(0.5,),
    cap_widths=(1.0,),
    dial_questions=2,
    curve_questions=2,
    test_questions=3,
    kl_questions=2,
)


def done(finished, folder, execution):
    """Do the experiments on a copy of a run, with a judge that every worker has, and return what they left."""
    shutil.copytree(finished, folder)
    opened = open_run(folder)
    lab = Lab(replace(opened.config, judge=JudgeSettings("mock")), opened.folder)
    with execution.in_force(folder, device="cpu") if execution else nullcontext():
        assert make_run_bank(lab, BANK) == 0
        sweep(lab, SWEEP)
        steer(lab, STEER)
    return contents(folder)


def test_two_workers_leave_the_bytes_of_one_process(finished, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests"))))
    here = done(finished, tmp_path / "here", None)
    there = done(finished, tmp_path / "there", ExecutorSettings("ray", workers=2, cores=1))
    assert here.differences(there) == []
    made = [name for name in here.hashes if name.startswith(("bank/", "experiments/sweep", "experiments/steer"))]
    assert len(made) > 20
    assert [path.name for path in (tmp_path / "there" / "bank").glob(".*")] == [LOCKS]  # no half-made member


def test_a_run_for_each_seed_has_a_folder_of_its_own(finished, tmp_path):
    config = replace(open_run(finished).config, judge=JudgeSettings("mock"), question_sets=("cs2881",))
    result = run_seeds({seed: replace(config, seed=seed) for seed in (3, 4)}, tmp_path)
    assert result.folders == ("seed3", "seed4")
    assert (result.made, result.reused) == (52, 0)
    assert [open_run(tmp_path / name).config.seed for name in result.folders] == [3, 4]
    assert result.figures["seconds in all"].least > 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["seed3", "seed4", "seeds.json"]
    assert run_seeds({seed: replace(config, seed=seed) for seed in (3, 4)}, tmp_path).made == 0


def test_figures_that_no_run_has_are_left_out_and_those_of_some_are_counted():
    summaries = [
        {"em_rate": {"base": {"everyday-general": {"value": rate}}}, "seconds": {"a": 1.0}} for rate in (0.5, 0)
    ]
    del summaries[1]["seconds"]
    figures = over_seeds(summaries)
    assert {name: figure.values for name, figure in figures.items()} == {
        "EM rate, base, everyday-general": (0.5, 0.0),
        "seconds in all": (1.0, None),
    }
    assert figures["EM rate, base, everyday-general"].mean == 0.25
    assert figures["seconds in all"].most == 1.0
    assert "AUROC" not in table_of_seeds(type("Result", (), {"seeds": (0, 1), "figures": figures}))
