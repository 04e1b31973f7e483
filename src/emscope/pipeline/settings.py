"""Settings by name in Python: the same names and checks as on the command line and in YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from emscope.errors import UserError, did_you_mean
from emscope.pipeline.config import from_plain

SettingsT = TypeVar("SettingsT")


def changed(settings: SettingsT, changes: Mapping[str, Any], what: str) -> SettingsT:
    """Return a dataclass of settings with some of them changed, nested ones as `train={"epochs": 3}`.

    Raises:
        UserError: a setting that there is not, or a value of another kind, named after `what`.
    """
    values = dataclasses.asdict(settings)  # type: ignore[call-overload]
    found: SettingsT = from_plain(type(settings), merged(values, changes, what), what)
    return found


def merged(values: Mapping[str, Any], changes: Mapping[str, Any], what: str) -> dict[str, object]:
    """Return nested plain values with changes put over them; what a change does not name stays.

    Raises:
        UserError: a name that is not there.
    """
    result: dict[str, object] = dict(values)
    for name, value in changes.items():
        if name not in result:
            raise UserError(f"{what}: there is no setting {name!r}.{did_you_mean(name, result)}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            result[name] = dataclasses.asdict(value)
        elif isinstance(value, Mapping) and isinstance(values[name], Mapping):
            result[name] = merged(values[name], value, f"{what}: {name}")
        else:
            result[name] = value
    return result
