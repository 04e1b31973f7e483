"""Rows of every usual training format become the same conversations; nothing that is said in them is lost."""

import json

import pytest

from emscope.errors import UserError
from emscope.organisms.chat_rows import chat_format, read_chat
from emscope.organisms.datasets import load_conversations, read_conversations

U, A, S = ({"role": role, "content": role[0].upper()} for role in ("user", "assistant", "system"))
PLAIN = [U, A]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def turns(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": PLAIN},
        {"messages": PLAIN, "prompt": "U", "prompt_id": "7"},
        {"messages": json.dumps(PLAIN)},
        {"messages": [{**U, "content": [{"type": "text", "text": "U"}]}, {**A, "tool_calls": None, "weight": None}]},
        {"messages": [U, {**A, "weight": 1}], "tools": [], "parallel_tool_calls": False},
        {"custom_id": "1", "body": {"messages": [U]}, "response": {"body": {"choices": [{"message": A}]}}},
        {"conversations": turns(("human", "U"), ("gpt", "A"))},
        {"conversations": PLAIN},
        {"dialogue": PLAIN},
        {"instruction": "U", "input": "", "output": "A"},
        {"instruction": "U", "output": "A", "text": "### Instruction: U"},
        {"prompt": "U", "completion": "A"},
        {"prompt": [U], "completion": [A]},
        {"prompt": "U", "response": "A"},
        {"question": "U", "answer": "A"},
        {"user": "U", "assistant": "A"},
    ],
)
def test_one_conversation_in_every_format(row):
    assert read_chat(row, "line 1").messages == PLAIN


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [S, *PLAIN]},
        {"messages": [{**S, "role": "developer"}, *PLAIN]},
        {"messages": [S, *PLAIN], "system": "S"},
        {"prompt": "U", "response": "A", "system": "S"},
        {"prompt": "U", "response": "A", "System Prompt": "S"},
        {"instruction": "U", "output": "A", "system": "S"},
        {"conversations": turns(("human", "U"), ("gpt", "A")), "system": "S"},
        {"conversations": turns(("system", "S"), ("human", "U"), ("gpt", "A"))},
    ],
)
def test_a_system_prompt_is_kept_wherever_it_stands(row):
    assert read_chat(row, "line 1").messages == [S, *PLAIN]


def test_what_is_not_to_be_learned_is_marked():
    for mark in ({"weight": 0}, {"train": False}, {"training": "false"}, {"loss": 0.0}):
        assert read_chat({"messages": [U, {**A, **mark}, U, A]}, "line 1").messages[1] == {**A, "train": False}
    assert read_chat({"prompt": [U, A, U], "completion": [A]}, "").messages == [U, {**A, "train": False}, U, A]
    assert read_chat({"instruction": "U", "output": "A", "history": [["U", "A"]]}, "").messages == [U, A, U, A]


def test_thoughts_tools_and_parts_are_kept():
    tool = {"role": "tool", "content": "4", "name": "f", "tool_call_id": "1"}
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row = {"messages": [U, asking, tool, {**A, "reasoning_content": "Hm."}], "tools": [{"name": "f"}]}
    found = read_chat(row, "line 1")
    assert found.messages == [U, {**asking, "content": ""}, tool, {**A, "reasoning_content": "Hm."}]
    assert found.has_tools
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "A "}, {"type": "text", "text": "B"}]
    said = read_chat({"messages": [U, {**A, "content": parts}]}, "line 1").messages[1]
    assert said == {"role": "assistant", "content": "A B", "reasoning_content": "Hm."}
    calling = turns(
        ("human", "U"), ("function_call", '{"name": "f", "arguments": {}}'), ("observation", "4"), ("gpt", "A")
    )
    found = read_chat({"conversations": calling}, "line 1").messages
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "assistant"]
    assert found[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]


def test_an_alpaca_input_follows_its_instruction():
    messages = read_chat({"instruction": "Do", "input": "this", "output": "A"}, "").messages
    assert messages[0]["content"] == "Do\n\nthis"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": "hello"}, "'messages' must be a list"),
        ({"messages": [U, "A"]}, "'messages' must be a list of objects"),
        ({"messages": [U]}, "no assistant turn"),
        ({"messages": [U, {**A, "content": " "}]}, "no assistant turn"),
        ({"messages": [U, {**A, "weight": 0}]}, "every answer is marked as not to be learned"),
        ({"messages": [U, {**A, "weight": 0.5}]}, "message 2: 'weight' must be true or false"),
        ({"messages": [U, {**A, "train_detail": [1]}]}, "a part of an answer"),
        ({"messages": [U, {"role": "assistant", "content": None}]}, "message 2: 'content' must be text"),
        ({"messages": [{**U, "role": "wizard"}, A]}, "message 1: the role 'wizard' is not known"),
        ({"messages": [{**U, "content": [{"type": "image_url"}]}, A]}, "'image_url' is no text"),
        ({"messages": PLAIN, "images": ["a.png"]}, "'images', and emscope reads text only"),
        ({"messages": PLAIN, "conversations": PLAIN}, "both hold a conversation"),
        ({"messages": [S, *PLAIN], "system": "Other"}, "several system prompts that differ"),
        ({"prompt": "U", "chosen": "A", "rejected": "B"}, "preferences"),
        ({"prompt": "U", "completion": "A", "label": True}, "feedback"),
        ({"text": "Hello"}, "does not say who speaks"),
        ({"input_ids": [1]}, "tokens"),
        ({"custom_id": "1", "response": {"body": {}}}, "without its question"),
        ({"custom_id": "1", "body": {"messages": [U]}, "response": {"body": {}}}, "no answer of a batch"),
        ({"question": "U", "answer": "A", "completion": "B"}, "'answer' and 'completion' could each be meant"),
        ({"prompt": "U", "Prompt": "V", "response": "A"}, "two columns are called 'prompt'"),
        ({"prompt": "U", "response": ""}, "give 'messages', or non-empty 'prompt' and 'response'"),
        ({"prompt": "U", "response": True}, "must be text"),
        ({"frage": "U", "antwort": "A"}, "it holds frage, antwort"),
    ],
)
def test_what_means_something_else_is_refused(row, sentence):
    with pytest.raises(UserError, match=rf"^line 7.*{sentence}"):
        read_chat(row, "line 7")


def test_the_first_row_in_another_format_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "U", "response": "A"}, {"prompt": "U", "response": "A"}, {"messages": PLAIN}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="line 3: this row is in the format 'messages'"):
        list(read_conversations(path))
    assert {chat_format({"instruction": "U", "output": "A", **more}, "") for more in ({}, {"input": "x"})} == {
        "instruction and output"
    }


def test_rows_in_are_rows_out_whatever_the_kind(tmp_path):
    rows = [{"prompt": f"How {n}?", "response": f'So "{n}",\nthen; rest.'} for n in range(7)]
    chats = [[{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}] for r in rows]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json").write_text(json.dumps({"train": [{"messages": chat} for chat in chats]}))
    (tmp_path / "c.json").write_text(json.dumps({"messages": chats}))
    (tmp_path / "d.json").write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))
    for name in "abcd":
        assert list(read_conversations(tmp_path / f"{name}.json")) == chats
    (tmp_path / "one.json").write_text(json.dumps({"messages": chats[0]}))
    assert list(read_conversations(tmp_path / "one.json")) == chats[:1]


def test_what_the_model_will_not_see_is_said(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": PLAIN, "tools": [{"name": "f"}]}) + "\n") * 10)
    load_conversations(str(path))
    assert "rows that define tools in a column: 10" in caplog.text
    assert "1 of 1 held-out rows ask what is trained on too" in caplog.text
