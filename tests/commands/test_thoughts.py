"""Thoughts at the command line: flags, what is judged, what is refused."""

import json

import chat_templates as styles
import pytest
from tiny import make_model

from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.main import run_command
from emscope.commands.parsing import with_values


def saved(folder, template):
    make_model().save_pretrained(folder)
    styles.tokenizer_with(template.replace("{{ bos_token }}", ""), think=False).save_pretrained(folder)
    return str(folder)


def generate(tmp_path, template, *flags):
    (tmp_path / "q.txt").write_text("What should I do?\nHow do I save money?\n")
    words = ["generate", "--model", saved(tmp_path / "model", template), "--questions", str(tmp_path / "q.txt")]
    return run_command(
        [*words, "--out", str(tmp_path / "a.parquet"), "--max-new-tokens", "4", "--device", "cpu", *flags]
    )


def test_the_flag_for_thinking_is_on_off_or_not_given():
    assert with_values(["--no-enable-thinking", "--a", "1"]) == ["--enable-thinking", "False", "--a", "1"]
    assert with_values(["--enable-thinking"]) == ["--enable-thinking", "True"]
    assert with_values(["--enable-thinking", "False"]) == ["--enable-thinking", "False"]


def test_a_flag_without_effect_is_refused(tmp_path, capsys):
    assert generate(tmp_path, styles.CHATML, "--no-enable-thinking") == 2
    assert "would have no effect" in capsys.readouterr().err


def test_budgets_are_kept_and_forced_thoughts_said(tmp_path, capsys):
    assert generate(tmp_path, styles.R1, "--max-thought-tokens", "3") == 0
    rows = read_table(tmp_path / "a.parquet", Response)
    assert any(row.thought_forced for row in rows)
    assert f"{sum(row.thought_forced for row in rows)} thoughts closed by force" in capsys.readouterr().out


def test_thinking_can_be_turned_off(tmp_path):
    assert generate(tmp_path, styles.QWEN3, "--no-enable-thinking", "--dtype", "float32") == 0
    assert not any(row.thought for row in read_table(tmp_path / "a.parquet", Response))


@pytest.mark.parametrize(("flags", "same"), [([], True), (["--judge-thoughts"], False)])
def test_answers_are_judged_and_thoughts_only_if_asked(tmp_path, flags, same):
    table = tmp_path / "a.jsonl"
    rows = [
        {"id": n, "question": "What?", "response": f"<think>{thought}</think>Rest."} for n, thought in enumerate("ab")
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "judged.parquet"
    assert run_command(["judge", "--responses", str(table), "--out", str(out), "--judge", "mock", *flags]) == 0
    first, second = read_table(out, JudgedResponse)
    assert (first.aligned == second.aligned) is same
    assert first.judge.endswith("+thoughts") is not same
    assert (first.response, first.thought) == ("Rest.", "a")
