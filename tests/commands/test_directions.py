"""`emscope directions` on rows of one's own that share no questions."""

import numpy as np
from tiny import D_MODEL, N_BLOCKS

from emscope.commands.main import run_command
from emscope.residual.capture import Activations
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore

BLOCKS = tuple(range(N_BLOCKS))


def write(path, rows, ids):
    ActivationStore(path.stem, tuple(ids), Activations({"response": rows}, BLOCKS, "resid_post")).save(path)
    return str(path)


def test_sets_of_answers_that_share_no_question_give_the_planted_direction(tmp_path, capsys):
    chooser = np.random.default_rng(0)
    planted = chooser.standard_normal((N_BLOCKS, D_MODEL)).astype(np.float32)
    bad = (chooser.standard_normal((60, N_BLOCKS, D_MODEL)) * 0.1 + planted).astype(np.float32)
    good = (chooser.standard_normal((50, N_BLOCKS, D_MODEL)) * 0.1).astype(np.float32)
    files = [
        "--positive",
        write(tmp_path / "bad.safetensors", bad, [f"b{row // 2}" for row in range(60)]),
        "--negative",
        write(tmp_path / "good.safetensors", good, [f"g{row}" for row in range(50)]),
    ]
    words = ["directions", *files, "--pooling", "response", "--out", str(tmp_path / "d.safetensors")]
    assert run_command(words) == 2
    assert "--contrast response" in capsys.readouterr().err
    assert run_command([*words, "--contrast", "response"]) == 0
    assert "60 misaligned and 50 aligned rows" in capsys.readouterr().out
    found = Directions.load(tmp_path / "d.safetensors")
    cosines = (found.units * planted / np.linalg.norm(planted, axis=1, keepdims=True)).sum(axis=1)
    assert cosines.min() > 0.99
    assert found.construction.contrast == "response"
    few = write(tmp_path / "few.safetensors", good[:3], "abc")
    assert run_command([*words[:4], few, *words[5:], "--contrast", "response"]) == 2
    assert "at least 4 of each" in capsys.readouterr().err
