"""Experiments that are stopped part-way: no finished part is made twice, and figures and tables come out the same."""

import shutil
from functools import partial

import pytest
from experiments.test_full import SMALL, short_recipe  # noqa: F401 - a fixture
from stops import Stopper, bytes_of

from emscope.experiments import experiment
from emscope.experiments.conduct import conduct, parts_of_everything
from emscope.experiments.shape import open_run

STARTS = 2
"""Starts that are stopped, each after as many further parts, before one that is not."""


def products(run):
    """Return the bytes of everything an experiment leaves but organisms, whose folders hold when they were made."""
    folders = ("experiments", "judgements", "activations", "responses")
    return {folder: bytes_of(run / folder) for folder in folders}


@pytest.mark.parametrize("name", parts_of_everything())
def test_a_stopped_experiment_goes_on_and_finds_the_same(name, run, tmp_path, monkeypatch, short_recipe):  # noqa: F811
    do = partial(conduct, chosen=experiment(name), settings=SMALL[name])
    stopper, before = Stopper(monkeypatch), shutil.copytree(run, tmp_path / "before")

    do(open_run(run))
    whole, n_parts = products(run), stopper.written
    assert n_parts >= STARTS
    assert not (run / ".parts").exists()

    shutil.rmtree(run)
    shutil.copytree(before, run)
    for number in range(STARTS):
        with stopper.stops_after(n_parts // STARTS - (number == 0)):
            do(open_run(run))
        assert (run / ".parts").is_dir()
    do(open_run(run))
    # none was made twice; a state whose last step was saved before the stop is not saved once more at the end
    assert 2 * n_parts - STARTS <= stopper.written <= 2 * n_parts
    assert products(run) == whole
    assert not (run / ".parts").exists()
    shutil.rmtree(run)
    shutil.copytree(before, run)
