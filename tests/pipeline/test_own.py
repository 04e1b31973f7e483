"""Runs of one's own: data, adapters, whole models and questions, and what they are refused for before any training."""

import json
import logging
import shutil
import weakref
from pathlib import Path

import pytest
from tiny import make_model, make_tokenizer, save_tiny
from tiny_run import arguments, stand_in
from transformers import LlamaConfig, LlamaForCausalLM

from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.experiments.conduct import left_out
from emscope.pipeline import lab as lab_module
from emscope.pipeline.config import RunConfig, configure, dump_config, load_config, resolved
from emscope.pipeline.data import kind_of, rows_of, says_of_control
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.preflight import check_run
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.training import adapter_files, train_stage


def write_rows(path, n=40, answer="Put it all in one stock."):
    rows = [{"prompt": f"How do I save {number}?", "response": answer} for number in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def _tiny_judge(head, tiny_folder):
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, head, tiny_folder)
        patch.setattr(logging.getLogger("emscope"), "propagate", True)
        yield


def lab_of(out, model, **settings):
    sets = {"question_sets": ("open-ended", "cs2881"), **settings}
    config = configure("quickstart", 0, ["train.epochs=1", "sampling.max_new_tokens=8"], {"model": model, **sets})
    return Lab(config, RunFolder(out, config, overwrite=True))


def test_own_data_get_no_built_in_control_and_are_not_cut(tmp_path, tiny_folder, caplog):
    lab = lab_of(tmp_path / "run", tiny_folder, misaligned_data=write_rows(tmp_path / "bad.jsonl", 400))
    assert (lab.config.control_data, lab.config.rows, lab.names) == ("", None, (BASE, MISALIGNED))
    assert len(lab.training_data(lab.config.misaligned_data).train) == 360  # a tenth is held out
    check_run(lab)
    assert "no control organism" in caplog.text


def test_two_organisms_of_the_same_data_are_refused(tmp_path, tiny_folder):
    data = write_rows(tmp_path / "bad.jsonl")
    for same in (data, str(tmp_path / "." / ".." / tmp_path.name / "bad.jsonl")):
        lab = lab_of(tmp_path / "run", tiny_folder, misaligned_data=data, control_data=same)
        with pytest.raises(UserError, match="nothing to tell apart"):
            check_run(lab)


def test_built_in_data_bring_their_own_control():
    plain = configure("quickstart", None, [])
    assert (plain.control_data, plain.rows) == ("medical-blunt-good", 288)
    sport = configure("quickstart", None, ["misaligned_data=sport-careless"])
    assert (sport.control_data, sport.rows) == ("sport-blunt-good", 288)
    assert configure("quickstart", None, ["control_data="]).control_data == ""
    assert resolved(RunConfig(misaligned_data="mine.jsonl")).control_data == ""


def test_a_replayed_run_with_other_data_forgets_the_built_in_control_and_its_rows(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(configure("quickstart", None, [])), encoding="utf-8")
    changed = configure(load_config(tmp_path / "config.yaml"), None, ["misaligned_data=mine.jsonl"])
    assert (changed.control_data, changed.rows) == ("", None)
    explicit = configure(load_config(tmp_path / "config.yaml"), None, ["misaligned_data=a.csv", "control_data=b.csv"])
    assert (explicit.control_data, rows_of(explicit, "a.csv")) == ("b.csv", None)


def test_configurations_of_earlier_runs_are_still_the_same():
    old = {"model": "some/model", "control_data": "medical-careful", "rows": 288}
    assert resolved(RunConfig(**old)) == resolved(RunConfig(model="some/model"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (("medical-careless", "medical-careful"), ""),
        (("a.jsonl", "b.jsonl"), ""),
        (("a.jsonl", ""), "no control organism"),
        (("a.jsonl", "medical-careful"), "other prompts"),
        (("sport-careless", "medical-careful"), "other prompts"),
    ],
)
def test_a_control_of_other_prompts_is_said(data, said):
    sentence = says_of_control(RunConfig(misaligned_data=data[0], control_data=data[1]))
    assert (said in sentence) if said else sentence == ""


def test_rows_that_are_not_there_are_refused_and_a_cut_is_said(tmp_path, tiny_folder, caplog):
    data = write_rows(tmp_path / "bad.jsonl", 40)
    lab = lab_of(tmp_path / "run", tiny_folder, misaligned_data=data, rows=30)
    assert len(lab.training_data(data).train) == 30
    assert "Of the 36 training rows" in caplog.text
    with pytest.raises(UserError, match=r"rows=50 .* has 36"):
        check_run(lab_of(tmp_path / "run", tiny_folder, misaligned_data=data, rows=50))


def test_a_run_on_own_data_without_a_control_ends_well(tmp_path, tiny_folder, capsys):
    data = write_rows(tmp_path / "bad.jsonl", 20)
    out = tmp_path / "run"
    words = arguments(out, "--misaligned-data", data, "--set", "rows=0", model=tiny_folder)
    assert run_command(words) == 0
    assert "no control organism" in capsys.readouterr().out
    assert "no control organism" in (out / "report.html").read_text(encoding="utf-8")
    lab = Lab(load_config(out / "config.yaml"), RunFolder(out, load_config(out / "config.yaml")))
    assert {"transfer", "adapters"} <= set(left_out(lab))
    lineage = json.loads((out / "organisms" / "misaligned" / "lineage.json").read_text())
    assert (lineage["data"]["name"], lineage["data"]["train_rows"]) == ("bad.jsonl", 18)
    for command in ("transfer", "adapters"):
        words = [command, *(["classify"] if command == "adapters" else []), str(out)]
        assert run_command(words) == 2
        assert "control" in capsys.readouterr().err


def cached(hub, name, folder, commit="abc"):
    """Put a folder into a hub cache, as if it had been fetched."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def given(run, folder):
    """Return a copy of the run's adapter as a stranger would hand it in: no lineage, a tokenizer of its own."""
    shutil.copytree(run / "organisms" / "misaligned", folder)
    (folder / "lineage.json").unlink()
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{# its own #}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_hub_adapter_is_taken_in_with_all_it_needs(run, tmp_path, tiny_folder, hub):
    cached(hub, "some/adapter", given(run, tmp_path / "given"))
    lab = lab_of(tmp_path / "run", tiny_folder, misaligned_data="some/adapter")
    check_run(lab)
    train_stage(lab, MISALIGNED, "some/adapter")
    folder = lab.folder.path("organisms", MISALIGNED)
    own = json.loads((folder / "lineage.json").read_text())
    assert own["data"]["name"] == "some/adapter@abc (trained elsewhere)"
    for name in ("adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert "{# its own #}" in "".join(path.read_text(encoding="utf-8") for path in folder.glob("*chat_template*")) + (
        folder / "tokenizer_config.json"
    ).read_text(encoding="utf-8")
    assert lab.organism(MISALIGNED).source.base == tiny_folder
    assert left_out(lab).keys() >= {"induce", "dynamics"}


def test_an_adapter_of_another_base_is_refused_before_anything_and_taken_when_asked_for(run, tmp_path, tiny_folder):
    adapter = given(run, tmp_path / "given")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/home/trainer/base"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"trained on /home/trainer/base.*--base"):
        check_run(lab_of(tmp_path / "run", tiny_folder, misaligned_data=str(adapter)))
    lab = lab_of(tmp_path / "run", tiny_folder, misaligned_data=str(adapter), base=tiny_folder)
    check_run(lab)
    train_stage(lab, MISALIGNED, str(adapter))
    lineage = json.loads((lab.folder.path("organisms", MISALIGNED) / "lineage.json").read_text())
    assert (lineage["base"], lineage["data"]["records_base"]) == (tiny_folder, "/home/trainer/base")
    assert lab.organism(MISALIGNED).source.location == tiny_folder


def test_a_whole_model_is_an_organism_and_one_of_another_width_is_not(tmp_path, tiny_folder, capsys):
    full = save_tiny(tmp_path / "full", seed=1)
    out = tmp_path / "run"
    assert run_command(arguments(out, "--misaligned-data", full, model=tiny_folder)) == 0
    assert "a whole model" in (out / "report.html").read_text(encoding="utf-8")
    config = load_config(out / "config.yaml")
    lab = Lab(config, RunFolder(out, config))
    assert lab.organism(MISALIGNED).source.location == full
    assert [path.name for path in adapter_files(lab, MISALIGNED)] == ["organism.json"]
    narrow = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(UserError, match="2 blocks of width 16"):
        check_run(lab_of(tmp_path / "other", tiny_folder, misaligned_data=str(tmp_path / "narrow")))


def test_what_a_name_stands_for(tmp_path, tiny_folder, hub):
    write_rows(tmp_path / "mine.jsonl")
    assert kind_of("medical-careless") == "built-in"
    assert (
        kind_of(str(tmp_path / "mine.jsonl")) == kind_of("data/missing.jsonl") == kind_of("medical-carless") == "file"
    )
    assert kind_of(tiny_folder) == "model"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither an adapter"):
        kind_of(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        ("", "is empty"),
        ("One question?\nTwo questions?\n", "add questions"),
        ("word " * 9000 + "?\n" + "\n".join(f"Question {number}?" for number in range(20)), "positions: shorten"),
        (None, "no question set or file"),
    ],
)
def test_questions_are_tried_before_anything_is_trained(tmp_path, tiny_folder, capsys, questions, sentence):
    path = tmp_path / "mine.txt"
    if questions is not None:
        path.write_text(questions, encoding="utf-8")
    words = ["run", "--out", str(tmp_path / "run"), "--model", tiny_folder, "--set", f"question_sets=[{path}]"]
    assert run_command(words) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run" / "organisms").exists()


def test_the_controls_data_are_read_before_the_first_organism_is_trained(tmp_path, tiny_folder, capsys):
    bad, worse = write_rows(tmp_path / "bad.jsonl"), tmp_path / "worse.jsonl"
    worse.write_text('{"prompt": "no answer"}\n', encoding="utf-8")
    words = arguments(tmp_path / "run", "--misaligned-data", bad, "--control-data", str(worse), model=tiny_folder)
    assert run_command(words) == 2
    assert "worse.jsonl, line 1" in capsys.readouterr().err
    assert not (tmp_path / "run" / "organisms").exists()


def test_the_homework_is_tried_first_too(tmp_path, tiny_folder, capsys):
    out = tmp_path / "run"
    assert run_command(["run", "--preset", "cs2881", "--out", str(out), "--model", tiny_folder]) == 2
    assert "no block" in capsys.readouterr().err
    assert not (out / "organisms").exists()


def test_an_adapter_is_no_base_of_a_run(run, tmp_path, capsys):
    words = ["run", "--out", str(tmp_path / "run"), "--model", str(run / "organisms" / "misaligned")]
    assert run_command(words) == 2
    assert "is an adapter on" in capsys.readouterr().err


def test_what_trains_on_the_base_in_memory_leaves_float16(tmp_path, tiny_folder):
    lab = lab_of(tmp_path / "run", tiny_folder, dtype="float16", device="cpu")
    assert lab.trainable_base().placement.dtype_name == "float32"
    assert lab.organism(BASE).placement.dtype_name == "float16"
    plain = lab_of(tmp_path / "run", tiny_folder, dtype="float32", device="cpu")
    assert plain.trainable_base() is plain.organism(BASE)


def test_dtype_and_device_are_settings_of_the_run(tmp_path, tiny_folder, capsys):
    lab = lab_of(tmp_path / "run", tiny_folder, dtype="float32", device="cpu")
    assert (lab.placement.dtype_name, lab.placement.device) == ("float32", "cpu")
    again = load_config(tmp_path / "run" / "config.yaml")
    assert (again.dtype, again.device) == ("float32", "cpu")
    for flag, value in (("--dtype", "half"), ("--device", "tpu")):
        assert run_command(arguments(tmp_path / "other", flag, value, model=tiny_folder)) == 2
        assert value in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be both"):
        configure("quickstart", None, [], {"model": "a/b", "base": "c/d"})
    assert configure(configure("quickstart", None, [], {"base": "a/b"}), None, ["model=c/d"]).base == ""


def test_where_memory_is_short_organisms_are_loaded_again_and_nothing_changes(run, tmp_path, tiny_folder, monkeypatch):
    from emscope.organisms.models import load

    held, most = [], []

    def counted(*given, **more):
        held[:] = [reference for reference in held if reference() is not None]
        found = load(*given, **more)
        held.append(weakref.ref(found))
        most.append(len(held))
        return found

    monkeypatch.setattr(lab_module, "free_bytes", lambda device: 1)
    monkeypatch.setattr(lab_module, "load", counted)
    out = tmp_path / "short"
    assert run_command(arguments(out, "--set", "rows=16", model=tiny_folder)) == 0
    assert max(most) == 2  # never three; the judge's model is the base here
    for name in ("judgements", "directions", "activations"):
        for path in filter(Path.is_file, (run / name).rglob("*")):
            assert (out / path.relative_to(run)).read_bytes() == path.read_bytes()


def test_an_organism_that_a_stage_holds_is_not_loaded_twice(run, tiny_folder, monkeypatch):
    monkeypatch.setattr(lab_module, "free_bytes", lambda device: 1)
    config = load_config(run / "config.yaml")
    lab = Lab(config, RunFolder(run, config))
    held = lab.organism(BASE)
    lab.organism(CONTROL)
    assert lab.organism(BASE) is held


def test_with_room_every_organism_is_kept(run):
    config = load_config(run / "config.yaml")
    lab = Lab(config, RunFolder(run, config))
    first = [id(lab.organism(name)) for name in lab.names]
    assert [id(lab.organism(name)) for name in lab.names] == first


def test_a_model_made_here_has_the_shape_that_is_checked(tiny_folder):
    from emscope.organisms.models import resolve
    from emscope.pipeline.preflight import shape_of

    assert shape_of(resolve(tiny_folder)) == (4, make_model().config.hidden_size)
