"""A sample of the fuzz suite's hostile model folders, and command lines on some of them: exit code 2, one sentence."""

import json
from pathlib import Path

import pytest
from tiny import save_tiny

from emscope.commands.main import run_command
from fuzz import harness, models

N_INPUTS = 20


@pytest.mark.parametrize("name", sorted(models.READERS))
def test_hostile_inputs_are_read_or_refused(name, tmp_path):
    endings = []
    for seed in range(N_INPUTS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        endings.append(harness.end_of(name, models.READERS[name], seed, folder))
    assert not [ending for ending in endings if ending.kind == harness.FAILED]
    assert any(ending.kind == harness.REFUSED for ending in endings)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"num_hidden_layers": 10**7}),
        ("config.json", {"vocab_size": 10**12}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"rope_parameters": {"rope_type": "nonsense"}}),
        ("config.json", {"quantization_config": [1]}),
        ("tokenizer_config.json", {"model_max_length": "long"}),
        ("generation_config.json", {"eos_token_id": "x"}),
    ],
)
def test_a_command_says_what_is_wrong(file, fields, tmp_path, capsys):
    folder = Path(save_tiny(tmp_path / "model"))
    path = folder / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **fields}))
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "a", "question": "What now?"}\n')
    words = ["generate", "--model", str(folder), "--questions", str(questions), "--out", str(tmp_path / "out.csv")]
    assert run_command([*words, "--samples", "1", "--device", "cpu", "--dtype", "float32"]) == 2
    said = capsys.readouterr().err
    assert "fault" not in said
    assert str(folder) in said.replace("\n", "")
    assert not (tmp_path / "out.csv").exists()
