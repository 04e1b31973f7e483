"""Rows of the usual training formats as conversations: messages, ShareGPT, Alpaca, prompt and completion, batches.

Read are OpenAI's fine-tuning and batch files, and what TRL, axolotl, LLaMA-Factory and unsloth train on. A row that
means something else (preferences, plain text, pictures) is refused by a sentence. Messages keep what templates use:
`role`, `content`, and where there are any `reasoning_content`, `tool_calls`, `name`, `tool_call_id`, and `train`
(False where the file says that a turn is not to be learned).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emscope.cells import ANSWER, CHATS, PROMPT, Cells, canonical, flag_of, is_missing, text_of
from emscope.errors import OutsideError, UserError
from emscope.organisms.chat import Message
from emscope.outside import parse_json

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython", "tool_response"), "tool"),
}
FUNCTION_CALL = ("function_call", "tool_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
SYSTEM = ("system", "system_prompt")
TEXT_PARTS = ("text", "input_text", "output_text")
TRAINED = ("train", "training", "loss", "weight")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
GIVE = "give 'messages', or non-empty 'prompt' and 'response'"


@dataclass(frozen=True)
class ChatRow:
    """A row's conversation, the format it is in, and whether it defines tools that no message holds."""

    messages: list[Message]
    format: str
    has_tools: bool = False


def read_chat(row: dict[str, Any], where: str) -> ChatRow:
    """Return a training row's conversation.

    Raises:
        UserError: a row in no known format, without an answer to learn from, or with what cannot be read whole.
    """
    cells = _cells(row, where)
    name = chat_format(row, where)
    if name == "body":
        messages = _batch(cells, where)
    elif name in CHATS:
        messages = _turns(cells[name], name, where)
    else:
        messages = _pair(cells, where)
    messages = _with_system(messages, cells, where)
    _check_answers(messages, where)
    tools = cells.get("tools") or (cells["body"].get("tools") if name == "body" else None)
    return ChatRow(messages, name, bool(tools) and tools != "[]")


def read_prompt(row: dict[str, Any], where: str) -> tuple[str, str]:
    """Return the system prompt ('' for none) and the question of a chat row that asks one thing.

    Raises:
        UserError: no chat, or one with several turns.
    """
    cells = _cells(row, where)
    system, question, _ = _single_turn(_chat(cells, where), where)
    return system, question


def read_answered(row: dict[str, Any], where: str) -> tuple[str, str]:
    """Return the question and the answer of a chat row with one turn; a system prompt is left aside.

    Raises:
        UserError: no chat, one with several turns, or one without an answer.
    """
    _, question, answer = _single_turn(_chat(_cells(row, where), where), where)
    if answer is None:
        raise UserError(f"{where}: this conversation has no answer.")
    return question, answer


def _chat(cells: dict[str, Any], where: str) -> list[Message]:
    chats = [name for name in CHATS if name in cells]
    if len(chats) > 1:
        raise UserError(f"{where}: {' and '.join(map(repr, chats))} both hold a conversation: leave one.")
    if chats:
        return _with_system(_turns(cells[chats[0]], chats[0], where), cells, where)
    if isinstance(cells.get("body"), dict):
        return _batch(cells, where)
    prompt = _first_of(PROMPT, cells, list)
    if prompt is None:
        raise UserError(f"{where}: no conversation; it holds {', '.join(cells) or 'nothing'}.")
    answer = _first_of(ANSWER, cells, (str, list))
    said = [] if answer is None else cells[answer]
    turns = _turns(said, "answer", where) if isinstance(said, list) else [{"role": "assistant", "content": said}]
    return _with_system([*_turns(cells[prompt], prompt, where), *turns], cells, where)


def _first_of(names: Sequence[str], cells: dict[str, Any], kinds: type | tuple[type, ...]) -> str | None:
    """Return the first of these names whose cell is of one of these kinds."""
    for name in names:
        if isinstance(cells.get(name), kinds):
            return name
    return None


def _said_by(role: str, messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == role]


def _single_turn(messages: list[Message], where: str) -> tuple[str, str, str | None]:
    """Return the system prompt, the question and the answer, if any, of a conversation with one question."""
    questions, answers = _said_by("user", messages), _said_by("assistant", messages)
    if len(questions) != 1 or len(answers) > 1 or _said_by("tool", messages):
        raise UserError(f"{where}: expected one question and at most one answer, found {len(messages)} messages.")
    return "\n\n".join(_said_by("system", messages)), questions[0], answers[0] if answers else None


def chat_format(row: dict[str, Any], where: str) -> str:
    """Return the name of a row's format: the column that holds a chat, `body` of a batch, or 'prompt and response'.

    Raises:
        UserError: no known format, several, or one that is not for training on answers.
    """
    cells = _cells(row, where)
    for name in MEDIA:
        if cells.get(name):
            raise UserError(f"{where}: holds {name!r}, and emscope reads text only.")
    chats = [name for name in CHATS if name in cells]
    if len(chats) > 1:
        raise UserError(f"{where}: {' and '.join(map(repr, chats))} both hold a conversation: leave one.")
    if chats:
        return chats[0]
    if "body" in cells and isinstance(cells["body"], dict):
        return "body"
    _refuse_other_formats(cells, where)
    prompt, answer = _pair_names(cells, where)
    return f"{prompt} and {answer}"


def _refuse_other_formats(cells: dict[str, Any], where: str) -> None:
    if "chosen" in cells and "rejected" in cells:
        raise UserError(
            f"{where}: 'chosen' and 'rejected' are preferences (DPO): keep the answer to learn as 'response'."
        )
    if isinstance(cells.get("label"), bool) and "completion" in cells:
        raise UserError(f"{where}: 'completion' with a true or false 'label' is feedback (KTO): {GIVE}.")
    if "input_ids" in cells:
        raise UserError(f"{where}: holds tokens ('input_ids'), not text: {GIVE}.")
    if "custom_id" in cells:
        raise UserError(f"{where}: a batch's result without its question: add the request's 'body' by 'custom_id'.")
    if "text" in cells and cells.keys().isdisjoint((*PROMPT, *ANSWER)):
        raise UserError(f"{where}: plain 'text' does not say who speaks: {GIVE}.")


def _cells(row: Cells, where: str) -> Cells:
    """Return the cells that hold something, by their columns' canonical names."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            continue
        if canonical(name) in cells:
            raise UserError(f"{where}: two columns are called {canonical(name)!r}: give every column its own name.")
        cells[canonical(name)] = value
    return cells


# --- one question, one answer


def _pair(cells: dict[str, Any], where: str) -> list[Message]:
    prompt_name, answer_name = _pair_names(cells, where)
    prompt, answer = cells[prompt_name], cells[answer_name]
    if isinstance(prompt, list):
        # TRL trains on the completion alone, whoever speaks in the prompt.
        messages = list(map(_untrained, _turns(prompt, prompt_name, where)))
    else:
        messages = [*_history(cells.get("history"), where), {"role": "user", "content": _prompt_text(cells, where)}]
    if isinstance(answer, list):
        return [*messages, *_turns(answer, answer_name, where)]
    return [*messages, {"role": "assistant", "content": text_of(answer, answer_name, where)}]


def _untrained(message: Message) -> Message:
    return {**message, "train": False} if message["role"] == "assistant" else message


def _pair_names(cells: dict[str, Any], where: str) -> tuple[str, str]:
    """Return which cells are the question and the answer; 'prompt' and 'response' go before all other names."""
    prompt = _name(cells, ("prompt", *PROMPT), where)
    answer = _name(cells, ANSWER, where)
    if prompt is None or answer is None:
        there = ", ".join(cells) or "nothing"
        raise UserError(f"{where}: {GIVE}; it holds {there}.")
    return prompt, answer


def _name(cells: dict[str, Any], spellings: tuple[str, ...], where: str) -> str | None:
    there = [name for name in dict.fromkeys(spellings) if name in cells]
    if "instruction" in there and "input" in there:
        there.remove("input")  # Alpaca: the input belongs to the instruction
    if not there or there[0] == spellings[0]:
        return there[0] if there else None
    if any(cells[name] != cells[there[0]] for name in there):
        raise UserError(
            f"{where}: {' and '.join(map(repr, there))} could each be meant; call the right one {spellings[0]!r}."
        )
    return there[0]


def _prompt_text(cells: dict[str, Any], where: str) -> str:
    """Return the question; Alpaca's `input` follows its `instruction` after an empty line."""
    name = _pair_names(cells, where)[0]
    return with_input(text_of(cells[name], name, where), name, cells.get("input"), where)


def with_input(text: str, name: str, extra: Any, where: str) -> str:
    """Return an Alpaca instruction followed by its input, if it has one; any other question as it is."""
    more = text_of(extra, "input", where) if canonical(name) == "instruction" else ""
    return f"{text}\n\n{more}" if more.strip() else text


def _history(value: Any, where: str) -> list[Message]:
    """Return LLaMA-Factory's earlier turns, a list of [question, answer]."""
    messages: list[Message] = []
    for turn in _listed(value, "history", where) if value else []:
        match turn:
            case [str(question), str(answer)]:
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            case _:
                raise UserError(f"{where}: 'history' must be a list of [question, answer].")
    return messages


# --- chats


def _turns(value: Any, name: str, where: str) -> list[Message]:
    messages = []
    for number, turn in enumerate(_listed(value, name, where), 1):
        messages.append(_message(turn, name, f"{where}, message {number}", where))
    return messages


def _listed(value: Any, name: str, where: str) -> list[Any]:
    """Return a list; as text (a CSV's cell) it must be JSON."""
    if isinstance(value, str):
        try:
            value = parse_json(value, f"{where}, {name!r}")
        except OutsideError as error:
            message = f"{where}: {name!r} must be a list of objects with text in 'role' and 'content' ({error})"
            raise UserError(f"{message.rstrip('.)')}).") from error
    if not isinstance(value, list):
        raise UserError(f"{where}: {name!r} must be a list of objects with text in 'role' and 'content'.")
    return value


def _message(turn: Any, name: str, at: str, where: str) -> Message:
    if not isinstance(turn, dict):
        raise UserError(f"{where}: {name!r} must be a list of objects with text in 'role' and 'content'.")
    turn = {key: value for key, value in turn.items() if not is_missing(value)}
    said = turn.get("role", turn.get("from"))
    spoken = turn.get("content", turn.get("value"))
    calls = _calls(said, spoken, turn, at)
    role = "assistant" if said in FUNCTION_CALL else _role(said, name, at, where)
    content, thought = _content("" if said in FUNCTION_CALL else spoken, role, bool(calls), at)
    message: Message = {"role": role, "content": content}
    named = _first_of([key for key in REASONING if turn.get(key)], turn, str)
    thought = thought if named is None else turn[named]
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if key in turn:
            message[key] = text_of(turn[key], key, at)
    if role == "assistant" and not _is_trained(turn, at):
        message["train"] = False
    return message


def _role(said: Any, name: str, at: str, where: str) -> str:
    if not isinstance(said, str):
        raise UserError(f"{where}: {name!r} must be a list of objects with text in 'role' and 'content'.")
    role = ROLES.get(said.strip().casefold())
    if role is None:
        raise UserError(f"{at}: the role {said!r} is not known; use system, user, assistant or tool.")
    return role


def _content(value: Any, role: str, has_calls: bool, at: str) -> tuple[str, str]:
    """Return a message's text, and the thought that stands among its parts, if any."""
    if isinstance(value, str):
        return value, ""
    if isinstance(value, list):
        texts: dict[str, list[str]] = {"text": [], "thinking": []}
        for part in value:
            kind, text = _part(part, at)
            texts[kind].append(text)
        return "".join(texts["text"]), "\n".join(texts["thinking"])  # as chat templates put them
    if value is None and has_calls:
        return "", ""
    if role == "tool" and isinstance(value, (dict, int, float)):
        return json.dumps(value, ensure_ascii=False), ""
    found = "nothing" if value is None else type(value).__name__
    raise UserError(f"{at}: 'content' must be text, or a list of text parts; found {found}.")


def _part(part: Any, at: str) -> tuple[str, str]:
    if isinstance(part, str):
        return "text", part
    kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else type(part).__name__
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind == "thinking" and isinstance(part.get("thinking"), str):
        return "thinking", part["thinking"]
    raise UserError(f"{at}: a part of the kind {kind!r} is no text, and emscope reads text only.")


def _calls(said: Any, spoken: Any, turn: dict[str, Any], at: str) -> list[Any]:
    """Return the calls of tools: a list, OpenAI's old `function_call`, or a turn that is one (LLaMA-Factory)."""
    if said in FUNCTION_CALL:
        try:
            call = parse_json(spoken, at) if isinstance(spoken, str) else spoken
        except OutsideError as error:
            raise UserError(f"{at}: a {said} must be JSON with 'name' and 'arguments'.") from error
        calls = call if isinstance(call, list) else [call]
        return [{"type": "function", "function": call} for call in calls]
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise UserError(f"{at}: 'tool_calls' must be a list.")
    old = turn.get("function_call")
    return [*calls, {"type": "function", "function": old}] if isinstance(old, dict) else calls


def _is_trained(turn: dict[str, Any], at: str) -> bool:
    """Say whether an answer is to be learned; OpenAI knows the weights 0 and 1, axolotl and others a flag."""
    if turn.get("train_detail") or turn.get("training_detail"):
        raise UserError(f"{at}: training on a part of an answer ('train_detail') is not read: split it in messages.")
    return all(flag_of(turn[key], key, at) for key in TRAINED if key in turn)


# --- batches, system prompts, what is to be learned


def _batch(cells: dict[str, Any], where: str) -> list[Message]:
    """Return a request's messages and, where its result stands beside it, the answer."""
    body = cells["body"]
    messages = _turns(body.get("messages"), "body.messages", where)
    result = cells.get("response")
    if result is None:
        return messages
    try:
        choices = (result.get("body") or result)["choices"]
        return [*messages, _message(choices[0]["message"], "response", where, where)]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{where}: 'response' is no answer of a batch (no body.choices[0].message).") from error


def _with_system(messages: list[Message], cells: dict[str, Any], where: str) -> list[Message]:
    """Put a system prompt that stands in a column of its own before the conversation."""
    texts: list[str] = []
    for name in SYSTEM:
        text = text_of(cells.get(name), name, where)
        if name in cells and text not in texts:
            texts.append(text)
    given = _said_by("system", messages)
    if len(texts) > 1 or (texts and given and texts != given):
        raise UserError(f"{where}: has several system prompts that differ: leave one.")
    return messages if given or not texts else [{"role": "system", "content": texts[0]}, *messages]


def _check_answers(messages: list[Message], where: str) -> None:
    answers = [message for message in messages if message["role"] == "assistant"]
    spoken = [message for message in answers if message["content"].strip() or message.get("tool_calls")]
    if not spoken:
        raise UserError(f"{where}: this conversation has no assistant turn, so there is nothing to learn from it.")
    if not any(message.get("train", True) for message in spoken):
        raise UserError(f"{where}: every answer is marked as not to be learned, so there is nothing to learn from it.")
