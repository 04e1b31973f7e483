"""Messages of a conversation: what they hold, and everybody's ways to write them brought to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emscope.errors import OutsideError, UserError
from emscope.organisms.thoughts import REASONING_FIELDS
from emscope.outside import parse_json

Message = dict[str, Any]
"""One message: `role` and `content` (text), and perhaps `reasoning_content` (text), `tool_calls` (list), `name`,
`tool_call_id` and `train` (false for an assistant's turn that is not to be trained on)."""


def messages_of(
    prompt: str, answer: str | None = None, system: str | None = None, thought: str | None = None
) -> list[Message]:
    """Return a one-turn conversation; `thought` is what was thought before the answer."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    if answer is not None:
        messages.append(answer_message(answer, thought))
    return messages


def answer_message(answer: str, thought: str | None = None) -> Message:
    """Return an assistant's message, with its thought if there is one."""
    message: Message = {"role": "assistant", "content": answer}
    return {**message, "reasoning_content": thought} if thought else message


def normalised(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return messages with text as content, one field for the thought and tool arguments as objects.

    Raises:
        UserError: a message without a role, or content that is not text.
    """
    return [_normalised(message) for message in messages]


def is_trained(message: Mapping[str, Any]) -> bool:
    """Say whether an assistant's turn is to be trained on: not with `train: false` or `weight: 0`."""
    return bool(message.get("train", True)) and message.get("weight", 1) != 0


def _normalised(message: Mapping[str, Any]) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise UserError("A message of this conversation has no 'role': give system, user, assistant or tool.")
    plain: Message = {"role": role, "content": content_text(message.get("content"), role)}
    thought = next((text for name in REASONING_FIELDS if isinstance(text := message.get(name), str)), "")
    if role == "assistant" and thought.strip():
        plain["reasoning_content"] = thought
    if message.get("tool_calls"):
        plain["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    for name in ("name", "tool_call_id"):
        if message.get(name):
            plain[name] = message[name]
    if not is_trained(message):
        plain["train"] = False
    return plain


def content_text(content: Any, role: str = "user") -> str:
    """Return a message's content as text; a list of text parts is joined.

    Raises:
        UserError: a part that is not text, such as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return _encodable(content, role)
    if not isinstance(content, (list, tuple)):
        raise UserError(f"The content of a {role} message is neither text nor a list of text parts.")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            kind = part.get("type", "unnamed") if isinstance(part, Mapping) else type(part).__name__
            raise UserError(f"A {role} message holds a part of the type {kind!r}: emscope reads text only.")
        texts.append(text)
    return _encodable("".join(texts), role)


def _encodable(text: str, role: str) -> str:
    """Return a text; half a character, as a cut of the JSON of an emoji leaves it, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"A {role} message holds half a character ({text[error.start]!a}), which no tokenizer reads: mend it."
        ) from error
    return text


def _tool_call(call: Any) -> Any:
    """Return a tool call whose arguments are an object: templates would quote JSON text a second time."""
    if not isinstance(call, Mapping):
        raise UserError("A tool call must be an object with 'function', and in it 'name' and 'arguments'.")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError("A tool call must name its function: give 'function' with 'name' and 'arguments'.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            parsed = parse_json(arguments, "a tool call")
        except OutsideError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    named = {**function, "arguments": arguments}
    return (
        {"type": "function", **call, "function": named}
        if "function" in call
        else {"type": "function", "function": named}
    )
