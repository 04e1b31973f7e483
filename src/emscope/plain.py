"""Results as plain JSON values and back: dataclasses become objects, objects become checked dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emscope.errors import OutsideError
from emscope.outside import kind_of, quoted

Kind = TypeVar("Kind")
ABSENT = {"absent": True}
"""Metadata of a dataclass's field that is left out where it is None."""


REST = {"rest": True}
"""Metadata of a dataclass's field that holds whatever else JSON has beside the other fields: a mapping by name."""


def called(name: str) -> dict[str, str]:
    """Return metadata of a dataclass's field that JSON calls otherwise, by a name that no field can have."""
    return {"name": name}


def _name_of(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("name", field.name))


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: dataclasses become objects in the order of their fields, arrays become lists.

    Raises:
        TypeError: something that JSON has no word for.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {}
        for field in dataclasses.fields(value):
            content = getattr(value, field.name)
            if field.metadata.get("rest"):
                fields.update(plain(content))
            elif content is not None or not field.metadata.get("absent"):
                fields[_name_of(field)] = plain(content)
        return fields
    if isinstance(value, Mapping):
        return {str(key): plain(content) for key, content in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(content) for content in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} is no plain value")


def fitted(kind: type[Kind], value: Any, where: str | Path, remedy: str = "make it again") -> Kind:
    """Return plain JSON values as a dataclass, or as whatever else its fields are annotated with.

    Known are dataclasses, Mapping and dict, Sequence, list and tuple, unions, Literal, Any and JSON's own kinds; fields
    that the dataclass does not have are passed over, those that are missing take their defaults. null stands for a
    float that is not a number, as `write_json` writes it: a field of kind float reads it as NaN.

    Args:
        kind: what is wanted.
        value: what a JSON file holds.
        where: the file, for the error.
        remedy: what its user can do about it, for the error.

    Raises:
        OutsideError: a field that is missing or of another kind, by its place.
    """
    return typing.cast("Kind", _Reading(where, remedy).fit(kind, value, ""))


class _Reading:
    """One file as it is fitted, to name the place where it does not fit."""

    def __init__(self, where: str | Path, remedy: str) -> None:
        self.where, self.remedy = where, remedy

    def wrong(self, place: str, expected: str, value: Any) -> OutsideError:
        """Return the error for a value that does not fit."""
        what = f"says {place!r} is {quoted(value)}" if place else f"holds {kind_of(value)}"
        return OutsideError(self.where, f"{what}, not {expected}", self.remedy)

    def fit(self, kind: Any, value: Any, place: str) -> Any:
        """Return a value as `kind`, at its place in the file."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any or kind is object:
            return value
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, value, place)
        if origin is not None and dataclasses.is_dataclass(origin):
            return self.dataclass(origin, value, place)
        if origin in (typing.Union, types.UnionType):
            return self.union(arguments, value, place)
        if origin is typing.Literal:
            if value not in arguments:
                raise self.wrong(place, " or ".join(map(repr, arguments)), value)
            return value
        if origin is tuple or kind is tuple:
            return self.tuple(arguments, value, place)
        if _is_a(origin or kind, Mapping):
            return self.mapping(arguments, value, place)
        if _is_a(origin or kind, Sequence) and kind is not str:
            return list(self.sequence(arguments[0] if arguments else Any, value, place))
        return self.simple(kind, value, place)

    def simple(self, kind: Any, value: Any, place: str) -> Any:
        """Return text, a number, true, false or null."""
        if kind is float and value is None:
            return float("nan")
        kinds = {
            float: ((int, float), "a number"),
            int: ((int,), "a whole number"),
            str: ((str,), "text"),
            bool: ((bool,), "true or false"),
            types.NoneType: ((types.NoneType,), "null"),
        }
        allowed, expected = kinds[kind]
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(place, expected, value)
        return value

    def dataclass(self, kind: Any, value: Any, place: str) -> Any:
        """Return an object as a dataclass."""
        if not isinstance(value, dict):
            raise self.wrong(place, "an object with named values", value)
        annotations = typing.get_type_hints(kind)
        fields = {}
        for field in dataclasses.fields(kind):
            if not field.init:
                continue
            if field.metadata.get("rest"):
                others = {_name_of(other) for other in dataclasses.fields(kind) if other != field}
                rest = {key: content for key, content in value.items() if key not in others}
                fields[field.name] = self.fit(annotations[field.name], rest, place)
                continue
            name = _name_of(field)
            inner = f"{place}.{name}" if place else name
            if name in value:
                fields[field.name] = self.fit(annotations[field.name], value[name], inner)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise OutsideError(self.where, f"does not say {inner!r}", self.remedy)
        return kind(**fields)

    def union(self, kinds: Sequence[Any], value: Any, place: str) -> Any:
        """Return a value as the first kind that it fits."""
        if value is None and types.NoneType in kinds:
            return None
        problems = []
        for kind in kinds:
            if kind is types.NoneType:
                continue
            try:
                return self.fit(kind, value, place)
            except OutsideError as problem:
                problems.append(problem)
        raise problems[0]

    def mapping(self, arguments: Sequence[Any], value: Any, place: str) -> Mapping[str, Any]:
        """Return an object whose names are not known before."""
        if not isinstance(value, dict):
            raise self.wrong(place, "an object with named values", value)
        kind = arguments[1] if len(arguments) > 1 else Any
        return {key: self.fit(kind, content, f"{place}.{key}") for key, content in value.items()}

    def tuple(self, arguments: Sequence[Any], value: Any, place: str) -> tuple[Any, ...]:
        """Return a list as a tuple, of any length or of one kind for each place."""
        if (len(arguments) == 2 and arguments[1] is Ellipsis) or not arguments:
            return tuple(self.sequence(arguments[0] if arguments else Any, value, place))
        if not isinstance(value, list) or len(value) != len(arguments):
            raise self.wrong(place, f"a list of {len(arguments)}", value)
        return tuple(
            self.fit(kind, content, f"{place}[{number}]")
            for number, (kind, content) in enumerate(zip(arguments, value, strict=True))
        )

    def sequence(self, kind: Any, value: Any, place: str) -> list[Any]:
        """Return a list of one kind."""
        if not isinstance(value, list):
            raise self.wrong(place, "a list", value)
        return [self.fit(kind, content, f"{place}[{number}]") for number, content in enumerate(value)]


def _is_a(kind: Any, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)
