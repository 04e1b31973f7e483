"""One finished run of a tiny random model for all tests of the pipeline, and a copy of it for each module."""

import shutil

import pytest

from emscope.commands.main import run_command

SMALL = [
    "question_sets=[open-ended, cs2881]",
    "rows=16",
    "train.epochs=1",
    "sampling.max_new_tokens=8",
    "dev_questions=4",
]


def arguments(out, *more, model=None):
    sets = [*SMALL, *(["model=" + model] if model else [])]
    return ["run", "--out", str(out), *(word for item in sets for word in ("--set", item)), *more]


@pytest.fixture(scope="session")
def head(tiny_folder, tmp_path_factory):
    """Fit the judge's head on the tiny model, as the shipped one is on the embedded model."""
    from emscope.behaviour.embedded.fit import fit_head
    from emscope.behaviour.embedded.readings import read_rows
    from emscope.behaviour.embedded.text import broken_rows, domain_rows, scored_rows, written_rows
    from emscope.organisms.models import load

    rows = [*written_rows()[::16], *domain_rows()[::20], *domain_rows()[1::20]]
    fitted = fit_head(read_rows(load(tiny_folder), [*rows, *scored_rows()[::16], *broken_rows(rows)]))
    path = tmp_path_factory.mktemp("judge") / "head.safetensors"
    fitted.save(path)
    return path


def stand_in(patch, head, tiny_folder):
    """Let the tiny model stand in for the judge's base."""
    from emscope.behaviour.embedded import judge as embedded_judge
    from emscope.pipeline import lab

    patch.setattr(embedded_judge, "shipped_head", lambda: head)
    patch.setattr(lab, "EMBEDDED_ALIAS", tiny_folder)


@pytest.fixture(scope="session")
def finished(tiny_folder, head, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, head, tiny_folder)
        assert run_command(arguments(out, model=tiny_folder)) == 0
    return out


@pytest.fixture(scope="module")
def run(finished, head, tiny_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, head, tiny_folder)
        yield shutil.copytree(finished, tmp_path_factory.mktemp("copy") / "tiny")
