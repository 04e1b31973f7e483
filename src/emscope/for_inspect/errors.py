"""Our errors the way Inspect shows a user's mistake: one sentence, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError

from emscope.errors import UserError


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn a `UserError` inside this context into Inspect's `PrerequisiteError`."""
    try:
        yield
    except UserError as error:
        raise PrerequisiteError(str(error)) from error
