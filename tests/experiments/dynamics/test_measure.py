"""When misalignment appears in training, on a tiny random model: every part, resumed and repeated."""

import dataclasses
import re

import pytest

from emscope.commands.main import run_command
from emscope.errors import OutsideError, UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.dynamics.checkpoints import read_measurement
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.dynamics.training import train_settings
from emscope.experiments.shape import open_run, read_result, result_file
from emscope.files import write_json
from emscope.outside import read_json
from emscope.plain import fitted, plain

SETTINGS = DynamicsSettings(
    adapters=("all", "rank1"),
    seeds=(0, 1),
    epochs=3,
    batch_size=8,
    save_every=1,
    in_domain="cs2881",
    out_of_domain="open-ended",
    questions=4,
    samples=2,
    max_new_tokens=4,
    heldout_rows=4,
    spans=(1, 2),
    scales=(1, 2),
    scaled_at=(1.0,),
)


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """A finished run of the tiny model, which stands in for the judge's base too."""
    from emscope.behaviour.embedded import judge as embedded_judge
    from emscope.behaviour.embedded.fit import fit_head
    from emscope.behaviour.embedded.readings import read_rows
    from emscope.behaviour.embedded.text import broken_rows, domain_rows, scored_rows, written_rows
    from emscope.organisms.models import load
    from emscope.pipeline import lab

    rows = [*written_rows()[::16], *domain_rows()[::20], *domain_rows()[1::20]]
    head = tmp_path_factory.mktemp("judge") / "head.safetensors"
    fit_head(read_rows(load(tiny_folder), [*rows, *scored_rows()[::16], *broken_rows(rows)])).save(head)
    out = tmp_path_factory.mktemp("runs") / "tiny"
    sets = [
        "question_sets=[open-ended, cs2881]",
        "rows=16",
        "sampling.max_new_tokens=6",
        "dev_questions=2",
        f"model={tiny_folder}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_judge, "shipped_head", lambda: head)
        patch.setattr(lab, "EMBEDDED_ALIAS", tiny_folder)
        assert run_command(["run", "--out", str(out), *(word for item in sets for word in ("--set", item))]) == 0
        conduct(open_run(out), experiment("dynamics"), SETTINGS)
        yield out


@pytest.fixture(scope="module")
def result(folder):
    return read_result(folder, experiment("dynamics"))


def test_every_checkpoint_is_measured(result):
    assert list(result.adapters) == ["all", "rank1"]
    dynamics = result.adapters["all"]
    assert dynamics.steps == [0, 1, 2, 3, 4, 5, 6]
    assert dynamics.seeds == [0, 1]
    for name, curve in dynamics.curves.items():
        assert len(curve.trainings) == 2, name
        for training in curve.trainings:
            assert len(training.times) == len(training.values)
    for name in ("projection-in", "alignment-out", "em-in", "loss-in", "preference-out"):
        assert dynamics.curves[name].trainings[0].times == dynamics.steps
    losses = dynamics.curves["loss-in"].trainings[0].values
    assert losses[-1] < losses[0]
    assert dynamics.curves["norm"].trainings[0].values[0] == 0
    assert dynamics.curves["turn"].trainings[0].values[-1] == pytest.approx(1)


def test_step_0_is_the_base_and_the_same_for_every_training(result):
    first, second = result.adapters["all"].curves["projection-in"].trainings
    assert first.values[0] == second.values[0]
    assert first.values[1:] != second.values[1:]


def test_every_sampled_answer_is_kept_and_questions_are_what_is_drawn(folder):
    measured = read_measurement(folder / "experiments" / "dynamics" / "all" / "seed0" / "step-3.json")
    assert [len(measured.aligned.of(side)) for side in ("in", "out")] == [8, 8]
    assert [len(measured.projection_last.of(side)) for side in ("in", "out")] == [4, 4]


def test_a_result_and_its_measurements_survive_their_files_to_the_byte(folder, result, tmp_path):
    write_json(tmp_path / "result.json", plain(result))
    assert (tmp_path / "result.json").read_bytes() == result_file(folder, "dynamics").read_bytes()
    files = list((folder / "experiments" / "dynamics").rglob("*.json"))
    assert any("times" in file.name for file in files)  # a scaled adapter's holds less
    for file in files:
        write_json(tmp_path / "again.json", plain(read_measurement(file)))
        assert (tmp_path / "again.json").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        ("questions.in", None),
        ("adapters.all.order.pairs", 3),
        ("adapters.all.paths.0.matrices.A.norm", "none"),
        ("settings.seeds", [0.5]),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_the_place(folder, result, place, damage):
    damaged = read_json(result_file(folder, "dynamics"))
    holder = damaged
    *outer, last = place.split(".")
    for name in outer:
        holder = holder[name]
    holder[last] = damage
    with pytest.raises(OutsideError, match=re.escape(place)):
        fitted(type(result), damaged, "dynamics.json")


def test_a_careful_organism_is_trained_beside_the_first_seed(result):
    dynamics = result.adapters["all"]
    assert dynamics.control_seeds == [0]
    for name in ("alignment-in", "answer-projection-out"):
        curve = dynamics.curves[name]
        (careful,) = curve.controls
        assert careful.times == dynamics.steps
        assert careful.values[0] == curve.trainings[0].values[0]  # both start at the base
        assert curve.apart.value == pytest.approx(curve.trainings[0].values[-1] - careful.values[-1])
    preference = dynamics.curves["preference-in"]
    assert preference.controls[0].values[-1] != preference.trainings[0].values[-1]


def test_presets_put_adapters_where_they_say(result, folder):
    assert result.adapters["rank1"].paths["0"].modules == ["model.layers.2.mlp.down_proj"]
    few = train_settings(open_run(folder), SETTINGS, "few", 0)
    assert (few.rank, few.targets, few.blocks) == (1, ("down_proj",), (0, 1, 2, 3))


def test_scaled_adapters_are_sampled_and_factor_1_is_the_checkpoint_itself(result):
    rows = {(row.seed, row.step, row.factor, row.side): row for row in result.adapters["all"].scaled}
    assert set(rows) == {(0, 6, factor, side) for factor in (1, 2) for side in ("in", "out")}
    curve = result.adapters["all"].curves["alignment-in"].trainings[0].values
    assert rows[0, 6, 1, "in"].aligned.value == pytest.approx(curve[-1])


def test_only_adapters_are_kept_of_a_checkpoint(folder):
    checkpoints = list((folder / "organisms" / "dynamics" / "all" / "seed0" / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 6
    for checkpoint in checkpoints:
        assert {path.name for path in checkpoint.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_is_done_is_reused_and_a_lost_measurement_is_made_again(folder):
    before = (folder / "experiments" / "dynamics.json").read_bytes()
    lost = folder / "experiments" / "dynamics" / "all" / "seed0" / "step-3.json"
    lost.unlink()
    lab = open_run(folder)
    conduct(lab, experiment("dynamics"), SETTINGS)
    assert lost.is_file()
    assert "dynamics-all-seed0-step3" not in lab.folder.reused
    assert {"dynamics-all-seed0-train", "dynamics-all-seed0-step2", "dynamics"} <= set(lab.folder.reused)
    assert (folder / "experiments" / "dynamics.json").read_bytes() == before


def test_the_report_has_the_section(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="dynamics"' in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_domain": "everyday-medical"}, "no test questions of 'everyday-medical'"),
        ({"other_domains": ("law",)}, "no built-in domain 'law'"),
        ({"seeds": ()}, "at least one seed"),
        ({"samples": 0}, "samples must be 1 or more, not 0"),
        ({"control_seeds": -1}, "control_seeds must be 0 or more, not -1"),
    ],
)
def test_settings_that_leave_nothing_to_measure_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        conduct(open_run(folder), experiment("dynamics"), dataclasses.replace(SETTINGS, **changes))


def test_the_command_prints_what_it_found(folder):
    from emscope.commands.experiment import conducted

    printed = conducted(experiment("dynamics"), folder, SETTINGS).text
    assert "all: Over 2 trainings of 6 steps, mean alignment changes" in printed
    assert "alignment out of domain" in printed
