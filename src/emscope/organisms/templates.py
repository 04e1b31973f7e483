"""Chat templates: rendered on a fixed date, with or without thinking, and what they end a turn with.

Many templates print today's date into every prompt, so that the same command gives other tokens tomorrow. emscope gives
them one date: 26 July 2024, which is what Llama's own templates fall back to, or the one in EMSCOPE_CHAT_DATE.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from emscope.errors import OutsideError, UserError
from emscope.organisms.bounded import UnboundedTemplateError, bounded_rendering, is_known
from emscope.organisms.messages import Message

logger = logging.getLogger(__name__)

CHAT_DATE = datetime.date(2024, 7, 26)
DATE_VARIABLE = "EMSCOPE_CHAT_DATE"
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINKING_VARIABLES = ("enable_thinking", "thinking")
_said: set[str] = set()


def say_once(sentence: str, example: str = "") -> None:
    """Log a sentence, with an example of what it is about, the first time it is true in this process."""
    if sentence not in _said:
        _said.add(sentence)
        logger.warning("%s%s", sentence, f" For example {example!r}." if example else "")


def chat_date() -> datetime.date:
    """Return the date that templates print.

    Raises:
        UserError: EMSCOPE_CHAT_DATE is not a date.
    """
    given = os.environ.get(DATE_VARIABLE, "").strip()
    try:
        return datetime.date.fromisoformat(given) if given else CHAT_DATE
    except ValueError as error:
        raise UserError(f"{DATE_VARIABLE} is {given!r}: give a date as 2024-07-26.") from error


def template_source(tokenizer: Any) -> str:
    """Return the source of the chat template that conversations are rendered with.

    Raises:
        UserError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "This model's tokenizer has no chat template: emscope studies chat models; name an instruct one."
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise UserError("This model's tokenizer has several chat templates and none of them is the default.") from error


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
) -> str:
    """Return the chat template's text.

    Raises:
        UserError: the tokenizer has no chat template, the template refuses these messages, or it knows no thinking.
    """
    source = template_source(tokenizer)
    options: dict[str, Any] = {} if enable_thinking is None else {thinking_variable(tokenizer): enable_thinking}
    return _render(tokenizer, source, messages, add_generation_prompt, options)


def _render(
    tokenizer: Any, source: str, messages: Sequence[Mapping[str, Any]], generation: bool, options: Mapping[str, Any]
) -> str:
    date = chat_date()
    given = dict(options)
    if "strftime_now" in source:
        given["chat_template"] = dated(source, date)
    if "date_string" in source:
        given["date_string"] = f"{date.day:02d} {MONTHS[date.month - 1][:3]} {date.year}"
    visible = list(map(_visible, messages))
    try:
        return _applied(tokenizer, visible, generation, given)
    except UnboundedTemplateError:
        raise
    except Exception as error:  # jinja2 raises many kinds, all of them about these messages
        raise UserError(f"The model's chat template refuses this conversation ({error}).") from error


def _visible(message: Mapping[str, Any]) -> Message:
    """Return a message as templates see it."""
    fields = {name: value for name, value in message.items() if name != "train"}
    if "reasoning_content" in fields:  # gpt-oss reads another name
        fields["thinking"] = fields["reasoning_content"]
    return fields


def _applied(tokenizer: Any, messages: list[dict[str, Any]], generation: bool, given: Mapping[str, Any]) -> str:
    def apply(chosen: list[dict[str, Any]]) -> str:
        with bounded_rendering():
            return str(tokenizer.apply_chat_template(chosen, tokenize=False, add_generation_prompt=generation, **given))

    try:
        return apply(messages)
    except TypeError:
        if not any(message.get("tool_calls") for message in messages):
            raise
        return apply(list(map(_with_text_arguments, messages)))  # some templates add them to text


def _with_text_arguments(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


@lru_cache(maxsize=32)
def dated(source: str, date: datetime.date) -> str:
    """Return a template in which `strftime_now` gives a fixed date (at noon).

    It is put before the template as a macro, because transformers hands no functions to a template.
    """
    day_of_year = f"{date.timetuple().tm_yday:03d}"
    month, day = MONTHS[date.month - 1], DAYS[date.weekday()]
    twelve = {"%I": "12", "%-I": "12", "%l": "12", "%p": "PM", "%H": "12", "%-H": "12", "%M": "00", "%S": "00"}
    values = {
        "%-d": str(date.day),
        "%-m": str(date.month),
        "%F": date.isoformat(),
        "%Y": f"{date.year:04d}",
        "%y": f"{date.year % 100:02d}",
        "%m": f"{date.month:02d}",
        "%d": f"{date.day:02d}",
        "%e": f"{date.day:2d}",
        "%B": month,
        "%b": month[:3],
        "%h": month[:3],
        "%A": day,
        "%a": day[:3],
        "%j": day_of_year,
        "%T": "12:00:00",
        "%Z": "",
        "%z": "",
        **twelve,
    }
    replaced = "".join(f"|replace('{directive}','{value}')" for directive, value in values.items())
    # the newline is the block's own and is not printed, so that the template begins on a line of its own
    return "{%- macro strftime_now(format) -%}{{ format" + replaced + " }}{%- endmacro %}\n" + source


PROBES: tuple[tuple[str, ...], ...] = (("user",), ("system", "user", "assistant", "user"), ("user", "assistant") * 20)
"""The roles of the conversations that a template is tried on when it is loaded."""

MOST_TEMPLATE = 1_000_000


def check_template(tokenizer: Any, name: str) -> None:
    """Refuse the template of the model `name` if it is no text, or does not end on ordinary conversations.

    What a template says against a conversation is no fault: it is told where that conversation is rendered.

    Raises:
        OutsideError: the tokenizer's template is not one.
    """
    where, remedy = f"The chat template of {name}", "give its tokenizer another template"
    given = tokenizer.chat_template
    if given is None or given == "":
        return
    templates = list(given.values()) if isinstance(given, dict) else [given]
    if not all(isinstance(template, str) for template in templates):
        raise OutsideError(where, "is no text", remedy)
    if sum(map(len, templates)) > MOST_TEMPLATE:
        raise OutsideError(where, f"is longer than {MOST_TEMPLATE:,} characters", remedy)
    if all(map(is_known, templates)):
        return
    for roles in PROBES:
        for generation in (True, False):
            messages = [{"role": role, "content": f"What is this ({number})?"} for number, role in enumerate(roles)]
            try:
                render(tokenizer, messages, add_generation_prompt=generation)
            except UnboundedTemplateError as error:
                raise UnboundedTemplateError(error.problem, where) from error
            except UserError as error:
                logger.debug("%s: %s", name, error)


@lru_cache(maxsize=32)
def _thinking_variable(tokenizer: Any, source: str) -> str:
    probe = [{"role": "user", "content": "What is this?"}]
    for name in THINKING_VARIABLES:
        thinking = _render(tokenizer, source, probe, True, {name: True})
        if thinking != _render(tokenizer, source, probe, True, {name: False}):
            return name
    return ""


def thinking_variable(tokenizer: Any) -> str:
    """Return the template's variable that turns thinking on and off.

    Raises:
        UserError: it has none, so the wish would have no effect.
    """
    name = _thinking_variable(tokenizer, template_source(tokenizer))
    if not name:
        raise UserError(
            "This model's chat template cannot turn thinking on or off, so enable_thinking would have no effect: "
            "leave it unset."
        )
    return name


def can_stop_thinking(tokenizer: Any) -> bool:
    """Say whether the template can turn thinking off."""
    return bool(_thinking_variable(tokenizer, template_source(tokenizer)))


@lru_cache(maxsize=8)
def _control_pattern(tokenizer: Any, n_tokens: int) -> str:
    names = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    longest_first = sorted(filter(str.strip, names), key=len, reverse=True)
    return "|".join(map(re.escape, longest_first))


def leading_control_tokens(tokenizer: Any, text: str, *, many: bool = True) -> str:
    """Return the run of control tokens that a text begins with (the first alone without `many`), '' if none.

    Control tokens are special and added ones, which no ordinary text is cut into.
    """
    names = _control_pattern(tokenizer, len(tokenizer))
    found = re.match(rf"\s*(?:{names}){'+' if many else ''}", text) if names else None
    return found[0] if found else ""
