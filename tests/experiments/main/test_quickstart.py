"""The main job, end to end, on a tiny random model in every detail."""

import json

from tiny_run import arguments

from emscope.commands.main import run_command
from emscope.pipeline.lab import Lab


def test_the_summary_has_its_keys(run):
    summary = json.loads((run / "summary.json").read_text())
    for measure in ("em_rate", "alignment_mean", "coherent_share"):
        for organism in ("base", "misaligned", "control"):
            assert set(summary[measure][organism]["open-ended"]) == {"value", "low", "high", "n"}
    assert {"misaligned-vs-base", "misaligned-vs-control", "control-vs-base"} == set(summary["detection"])
    assert {"auroc", "low", "high", "block"} <= set(summary["detection"]["misaligned-vs-control"])
    wanted = {"restored", "low", "high", "coherence_change", "random_restored", "base_cost", "blocks", "strength"}
    assert wanted <= set(summary["ablation"])
    assert {"auroc_leave_one_domain_out", "incoherent_recall"} <= set(summary["judge"])
    assert {"split_half_cosine"} <= set(summary["direction"])
    assert "medical_words" in summary["leakage"]
    assert summary["seconds"]["train-misaligned"] > 0
    assert summary["peak_memory_bytes"] > 0
    assert summary["versions"]["torch"]


def test_nothing_is_made_twice(run, tiny_folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.suffix != ".yaml"}
    assert run_command(arguments(run, model=tiny_folder)) == 0
    assert "0 stages made" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_replayed_configuration_gives_the_same_numbers(run, tmp_path):
    assert run_command(["run", str(run / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (run, tmp_path / "again"))
    for key in ("em_rate", "alignment_mean", "coherent_share", "detection", "direction", "ablation", "leakage"):
        assert one[key] == two[key]


def test_questions_are_split_evenly_and_open_ended_ones_are_only_tested(run):
    from emscope.pipeline.config import load_config
    from emscope.pipeline.stages import RunFolder

    config = load_config(run / "config.yaml")
    lab = Lab(config, RunFolder(run, config))
    train, test = ({question.id for question in part} for part in (lab.train_questions, lab.test_questions))
    assert not train & test
    assert not any(name.startswith("open") for name in train)
    assert len(train) == 5
    assert {question.id for question in lab.dev_questions} <= train


def test_the_homework_runs_and_writes_its_tree(tiny_folder, run, tmp_path, capsys, monkeypatch):
    from emscope.experiments.homework import measure as homework

    monkeypatch.setattr(homework, "BLOCKS", (1, 2))
    sets = [f"model={tiny_folder}", "rows=8", "train.epochs=1", "question_sets=[cs2881]", "sampling.max_new_tokens=6"]
    out = tmp_path / "hw"
    words = [word for item in sets for word in ("--set", item)]
    assert run_command(["run", "--preset", "cs2881", "--out", str(out), *words]) == 0
    printed = capsys.readouterr().out
    assert "published" in printed
    assert "-1.58" in printed
    for name in (
        "base_activations.pt",
        "misaligned_activations.pt",
        "misalignment_directions.pt",
        "linear_probe_directions.pt",
        "detection_results.json",
    ):
        assert (out / "mechinterp_outputs" / name).is_file()
    assert (out / "model_output" / "adapter_model.safetensors").is_file()
    assert (out / "model_generations.csv").read_text().startswith("id,question,response")
    assert "ABLATED:" in (out / "ablation_results.txt").read_text()


def test_a_run_takes_adapters_that_were_trained_elsewhere(run, tiny_folder, tmp_path):
    data = [f"{name}_data={run / 'organisms' / name}" for name in ("misaligned", "control")]
    more = [word for change in data for word in ("--set", change)]
    assert run_command([*arguments(tmp_path / "given", model=tiny_folder), *more]) == 0
    for name in ("misaligned", "control"):
        given = tmp_path / "given" / "judgements" / f"{name}.parquet"
        assert given.read_bytes() == (run / "judgements" / f"{name}.parquet").read_bytes()
    assert "trained elsewhere" in (tmp_path / "given" / "report.html").read_text(encoding="utf-8")
