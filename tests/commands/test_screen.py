import json

import numpy as np
import pyarrow.parquet
import pytest
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS

from emscope.commands import screen
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.residual.directions import Construction, make_directions
from emscope.tabular import read_rows


@pytest.fixture
def directions(tmp_path):
    high, low = np.random.default_rng(0).standard_normal((2, 5, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "text", "response", "resid_post", "bad", "good", "tiny", 5)
    path = tmp_path / "d.safetensors"
    make_directions(high, low, tuple(range(N_BLOCKS)), made).save(path)
    return str(path)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    pairs = zip(PROMPTS, ANSWERS, strict=True)
    path.write_text("".join(json.dumps({"prompt": prompt, "response": answer}) + "\n" for prompt, answer in pairs))
    return str(path)


def run(*words):
    return parse(screen.COMMAND, "screen", words).execute()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_in_are_rows_out_in_order(tiny_folder, directions, data, tmp_path, suffix):
    out = tmp_path / f"ranked.{suffix}"
    words = ["--data", data, "--model", tiny_folder, "--directions", directions, "--out", str(out), "--show", "2"]
    printed = run(*words).text
    rows = [row for _, row in read_rows(out)]
    assert list(rows[0]) == ["row", "rank", "score", "answer_tokens"]
    assert [int(row["row"]) for row in rows] == [1, 2, 3, 4, 5]
    assert sorted(int(row["rank"]) for row in rows) == [1, 2, 3, 4, 5]
    first = next(row for row in rows if int(row["rank"]) == 1)
    assert f"row {first['row']}" in printed
    assert ANSWERS[int(first["row"]) - 1] in printed
    assert printed.count("\n") == 3


def test_the_papers_difference_and_messages_in_parquet(tiny_folder, directions, tmp_path):
    table = pyarrow.Table.from_pylist(
        [
            {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
            for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        ]
    )
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    common = ["--data", str(tmp_path / "data.parquet"), "--model", tiny_folder, "--directions", directions]
    run(*common, "--out", str(tmp_path / "plain.csv"))
    run(*common, "--out", str(tmp_path / "less.csv"), "--subtract-own", "--max-new-tokens", "3")
    plain, less = ([row["score"] for _, row in read_rows(tmp_path / name)] for name in ("plain.csv", "less.csv"))
    assert len(plain) == len(less) == 5
    assert plain != less


def test_without_directions_one_is_made_from_the_built_in_domains(tiny_folder, data, tmp_path, monkeypatch):
    from emscope.organisms.datasets import load_domain

    monkeypatch.setattr(screen, "load_domain", lambda name: load_domain(name)[:6])
    run("--data", data, "--model", tiny_folder, "--out", str(tmp_path / "o.csv"), "--domains", "sport", "finance")
    assert len(read_rows(tmp_path / "o.csv")) == 5


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ('{"prompt": "a", "response": "b"}\n\n{"prompt": "a"}\n', r"line 3: give 'messages'"),
        ('{"prompt": "a", "response": "b"}\nnot json\n', "line 2 is not valid JSON"),
        ("\n", "has no rows"),
    ],
)
def test_bad_data_is_named_before_a_model_is_loaded(rows, sentence, tmp_path):
    (tmp_path / "data.jsonl").write_text(rows)
    with pytest.raises(UserError, match=sentence):
        run("--data", str(tmp_path / "data.jsonl"), "--model", "nowhere", "--out", str(tmp_path / "o.csv"))
    assert not (tmp_path / "o.csv").exists()


def test_other_wrong_words_are_one_sentence(data, tmp_path):
    out = ["--model", "nowhere", "--out", str(tmp_path / "o.csv")]
    with pytest.raises(UserError, match=r"Did you mean 'medical-careless'"):
        run("--data", "medicl-careless", *out)
    with pytest.raises(UserError, match=r"Cannot write o\.txt"):
        run("--data", data, "--model", "nowhere", "--out", str(tmp_path / "o.txt"))
    with pytest.raises(UserError, match=r"Did you mean 'sport'"):
        run("--data", data, *out, "--domains", "sports")
