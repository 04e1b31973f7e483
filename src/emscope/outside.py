"""The one module through which bytes from outside enter: bounded in size, nesting and digits, and typed.

What cannot be used ends in an `OutsideError` that names the file and says what to do. Nothing is executed, unpickled
or guessed. Tables of rows have more kinds and are read by `tabular`, on top of this.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from emscope.errors import REMEDY, OutsideError, UserError

ENCODING = "utf-8-sig"  # UTF-8 with or without the mark that Excel and Windows put first
MAX_JSON_BYTES = 256 << 20
MAX_YAML_BYTES = 16 << 20
MAX_YAML_VALUES = 100_000
MAX_NESTING = 100
MAX_BITS = 4096
"""Size of the largest whole number in YAML."""
MAX_LINE_CHARACTERS = 64 << 20
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
OURS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Errors of the machine, not of the file."""
_REQUIRED: Any = object()


@contextmanager
def reading(where: str | Path, what: str = "a whole file", remedy: str = REMEDY) -> Iterator[None]:
    """Turn whatever a parser raises into an `OutsideError`, 'WHERE is not WHAT (…): REMEDY'.

    Parsers of damaged bytes raise almost anything, panics of Rust libraries included. Put only parsing inside: a fault
    of ours would be called the file's.

    Raises:
        OutsideError: something was raised inside that is neither a UserError nor the machine's.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise OutsideError(where, "asks for more memory than there is", remedy) from error
    except OSError as error:
        if error.errno in OURS:
            raise
        raise OutsideError(where, f"cannot be read ({_detail(error)})", remedy) from error
    except Exception as error:
        raise OutsideError(where, f"is not {what} ({_detail(error)})", remedy) from error
    except BaseException as error:  # pyo3's PanicException is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise OutsideError(where, f"is not {what} ({_detail(error)})", remedy) from error


def _detail(error: BaseException) -> str:
    """Return an error's own words on one line, cut where they go on and on."""
    words = " ".join((getattr(error, "strerror", None) or str(error)).split())
    if isinstance(error, RecursionError):
        words = "nested too deeply"
    if isinstance(error, KeyError):
        words = f"no {words}"
    return (words if len(words) <= 200 else f"{words[:200]}…") or type(error).__name__


def no_file(path: Path) -> UserError:
    """Return the error for a file that is to be read and is not there."""
    if path.is_dir():
        return UserError(f"{path} is a folder: name a file in it.")
    if path.exists():
        return UserError(f"{path} is no ordinary file: name one.")
    return UserError(f"There is no file {path}.")


def read_bytes(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """Return a file's bytes.

    Raises:
        UserError: there is no such file, it cannot be read, or it is larger than `most` bytes.
    """
    try:
        if not path.is_file():  # a named pipe or a device would be waited for, or never end
            raise no_file(path)
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        raise OutsideError(path, f"cannot be read ({_detail(error)})", "see that you may read it") from error
    if len(data) > most:
        raise OutsideError(path, f"is larger than {_size(most)}, which emscope does not read", "use a smaller file")
    return data


def _size(n_bytes: int) -> str:
    return f"{n_bytes >> 30} GiB" if n_bytes >= 1 << 30 else f"{n_bytes >> 20} MiB"


def read_text(path: Path, most: int = MAX_JSON_BYTES) -> str:
    """Return a file's UTF-8 text, without a mark at its start.

    Raises:
        UserError: as `read_bytes`, or the file is not UTF-8.
    """
    data = read_bytes(path, most)
    try:
        return data.decode(ENCODING)
    except UnicodeDecodeError as error:
        raise OutsideError(path, f"is not UTF-8 text ({error.reason})", "save it as UTF-8") from error


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, too large or not JSON.
    """
    return parse_json(read_text(path, most), path)


def parse_json(text: str, where: str | Path, *, unique: bool = False, halves: bool = False) -> Any:
    """Parse JSON that is nested at most MAX_NESTING deep.

    `unique` refuses an object that names a thing twice; `halves` leaves halves of characters to the caller.

    Raises:
        OutsideError: not JSON, nested deeper, half a character, or a number of more digits than Python reads.
    """
    _check_nesting(text, where)
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except json.JSONDecodeError as error:
        raise OutsideError(where, f"is not valid JSON ({error})") from error
    except (ValueError, RecursionError) as error:
        raise OutsideError(where, f"is not valid JSON ({_detail(error)})") from error
    if not halves and _HALF.search(text):
        check_characters(value, where)
    return value


def check_characters(value: Any, where: str | Path) -> None:
    """Refuse halves of characters (lone surrogates, which JSON can escape): no tokenizer and no file takes them.

    Raises:
        OutsideError: a text in `value`, or a name, holds one.
    """
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start].encode("unicode-escape").decode()
            problem = f"holds half a character ({half}), which is no text"
            raise OutsideError(where, problem, "write the whole one or delete it") from error
    elif isinstance(value, dict):
        for name, part in value.items():
            check_characters(name, where)
            check_characters(part, where)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            check_characters(part, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


def _check_nesting(text: str, where: str | Path) -> None:
    """Refuse deep nesting before parsing: what walks through the value afterwards calls itself at every level."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', text, re.DOTALL):
        mark = match[0]
        depth += (mark in "[{") - (mark in "]}") if len(mark) == 1 else 0
        if depth > MAX_NESTING:
            raise OutsideError(where, f"is nested more than {MAX_NESTING} deep", "write it flatter")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-empty line.

    Raises:
        UserError: no such file, or a line that is not a JSON object, named by its number.
    """
    if not path.is_file():
        raise no_file(path)
    try:
        with path.open(encoding=ENCODING) as lines:
            for number in _numbers():
                line = lines.readline(MAX_LINE_CHARACTERS + 1)
                if not line:
                    return
                if line.strip():
                    yield number, json_object(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise OutsideError(path, f"is not UTF-8 text ({error.reason})", "save it as UTF-8") from error


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


def json_object(line: str, where: str, *, unique: bool = False) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        OutsideError: not JSON, not an object, or longer than MAX_LINE_CHARACTERS.
    """
    if len(line) > MAX_LINE_CHARACTERS:
        raise OutsideError(where, f"is longer than {_size(MAX_LINE_CHARACTERS)}", "cut it into rows")
    value = parse_json(line, where, unique=unique)
    if not isinstance(value, dict):
        raise OutsideError(where, f"is no JSON object but {kind_of(value)}", "write one object a line")
    return value


def read_yaml(path: Path, *, aliases: bool = False) -> Any:
    """Read a YAML file of plain values; see `parse_yaml`.

    Raises:
        UserError: the file is missing, is not YAML, or uses aliases where it may not or beyond their bound.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), path, aliases=aliases)


def parse_yaml(text: str, where: str | Path, *, aliases: bool = False, halves: bool = False) -> Any:
    """Parse YAML of plain values; aliases are refused, or bounded, so a small file cannot grow without bound.

    `aliases` allows them (the papers' files repeat texts that way) up to MAX_YAML_VALUES values written out; `halves`
    leaves halves of characters to the caller.

    Raises:
        UserError: not YAML, or aliases where they may not be or beyond that bound; `where` is named.
    """
    with reading(where, "valid YAML"):
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            if not aliases:
                raise OutsideError(where, "uses YAML aliases (*name), which emscope does not read", "write them out")
            if _written_out(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MAX_YAML_VALUES:
                problem = f"grows beyond {MAX_YAML_VALUES:,} values when its aliases (*name) are read"
                raise OutsideError(where, problem, "write out what is needed")
        value = yaml.load(text, Loader=_PlainLoader)  # a SafeLoader
        if not halves:
            check_characters(value, where)
        return value


class _PlainLoader(yaml.SafeLoader):
    """YAML's own safe loader, which keeps the last of two equal names; this one refuses them, and endless numbers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > MAX_BITS:  # Python does not write longer ones out
            raise yaml.MarkedYAMLError(None, None, "a number has thousands of digits", node.start_mark)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode) and name.value != "<<"]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise yaml.MarkedYAMLError(None, None, f"the name {name!r} stands twice", node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _written_out(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Return how many values a YAML node holds once its aliases are written out; infinite where it holds itself."""
    if node is None or id(node) in known:
        return known.get(id(node), 0)
    known[id(node)] = float("inf")  # until it is counted: whoever meets it before that is inside it
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    inner = 0 if isinstance(node, yaml.ScalarNode) else sum(_written_out(child, known) for child in children)
    known[id(node)] = 1 + inner
    return known[id(node)]


def kind_of(value: Any) -> str:
    """Return in words what kind of JSON value this is."""
    names = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def quoted(value: Any) -> str:
    """Return a value from outside as a sentence shows it: short, and by its kind where it is no plain value."""
    text = repr(value) if isinstance(value, (str, int, float)) else kind_of(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


class Record:
    """A JSON object from outside, whose fields are read by name with the type they must have.

    Every getter takes a default for a field that is not there; without one the field must be there. A field that does
    not fit is an `OutsideError` that names file, field and what is expected.
    """

    def __init__(self, value: Any, where: str | Path, *, remedy: str = REMEDY) -> None:
        self.where, self.remedy = where, remedy
        if not isinstance(value, dict):
            raise OutsideError(where, f"holds {kind_of(value)} where an object with named values is expected", remedy)
        self.fields: dict[str, Any] = value

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a field as it is.

        Raises:
            OutsideError: it is not there and has no default.
        """
        if name in self.fields:
            return self.fields[name]
        if default is _REQUIRED:
            raise OutsideError(self.where, f"does not say {name!r}", self.remedy)
        return default

    def wrong(self, name: str, expected: str, value: Any) -> OutsideError:
        """Return the error for a field that does not fit."""
        return OutsideError(self.where, f"says {name!r} is {quoted(value)}, not {expected}", self.remedy)

    def _fitting(self, name: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
        """Return a field that fits, or the caller's own default."""
        value = self.value(name, default)
        if value is not default and not fits(value):
            raise self.wrong(name, expected, value)
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """Return a field that is text."""
        text: str = self._fitting(name, default, lambda value: isinstance(value, str), "text")
        return text

    def whole(self, name: str, default: Any = _REQUIRED, *, least: int = 0, most: int = 2**53) -> int:
        """Return a field that is a whole number from `least` to `most`."""
        expected = f"a whole number from {least:,} to {most:,}"
        number: int = self._fitting(name, default, lambda value: _is_whole(value, least, most), expected)
        return number

    def number(self, name: str, default: Any = _REQUIRED, *, finite: bool = True) -> float:
        """Return a field that is a number; a finite one unless `finite` is False."""
        fits, expected = (_is_finite, "a finite number") if finite else (_is_number, "a number")
        value: float = self._fitting(name, default, fits, expected)
        return value if value is default else float(value)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """Return a field that is true or false."""
        flag: bool = self._fitting(name, default, lambda value: isinstance(value, bool), "true or false")
        return flag

    def items(self, name: str, default: Any = _REQUIRED) -> list[Any]:
        """Return a field that is a list."""
        items: list[Any] = self._fitting(name, default, lambda value: isinstance(value, list), "a list")
        return items

    def texts(self, name: str, default: Any = _REQUIRED) -> list[str]:
        """Return a field that is a list of texts."""
        values = self.items(name, default)
        if not all(isinstance(value, str) for value in values or ()):
            raise self.wrong(name, "a list of texts", values)
        return values

    def wholes(self, name: str, default: Any = _REQUIRED, *, least: int = 0, most: int = 2**53) -> list[int]:
        """Return a field that is a list of whole numbers from `least` to `most`."""
        values = self.items(name, default)
        if not all(_is_whole(value, least, most) for value in values or ()):
            raise self.wrong(name, f"a list of whole numbers from {least:,} to {most:,}", values)
        return values

    def numbers(self, name: str, default: Any = _REQUIRED) -> list[float]:
        """Return a field that is a list of finite numbers."""
        values = self.items(name, default)
        if not all(_is_finite(value) for value in values or ()):
            raise self.wrong(name, "a list of finite numbers", values)
        return values

    def record(self, name: str, default: Any = _REQUIRED) -> Record:
        """Return a field that is an object, to be read in the same way."""
        value = self._fitting(name, default, lambda value: isinstance(value, dict), "an object")
        if value is default:
            return value  # type: ignore[no-any-return]  # the caller's own default
        return Record(value, f"{self.where}, {name}", remedy=self.remedy)

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield every field of an object whose fields are all objects."""
        for name in self.fields:
            yield name, self.record(name)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e308 and not math.isnan(value)


def _is_number(value: Any) -> bool:
    return _is_finite(value) or (isinstance(value, float) and not math.isfinite(value))


def read_record(path: Path, *, remedy: str = REMEDY) -> Record:
    """Read a JSON file that holds one object.

    Raises:
        UserError: as `read_json`, or another value.
    """
    return Record(read_json(path), path, remedy=remedy)


def check_one_of(record: Record, name: str, known: Sequence[str], default: Any = _REQUIRED) -> str:
    """Return a field that is one of the known texts.

    Raises:
        OutsideError: another one.
    """
    value = record.text(name, default)
    if value is not default and value not in known:
        raise record.wrong(name, f"one of {', '.join(known)}", value)
    return value
