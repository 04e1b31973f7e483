"""What is written as plain values is read back as it was, or refused by the place that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from emscope.errors import OutsideError
from emscope.plain import ABSENT, called, fitted, plain


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    value: float
    by_name: Mapping[str, Inner]
    two_words: Inner = field(metadata=called("two words"))
    pair: tuple[int, str] = (1, "a")
    rows: Sequence[float] = ()
    later: Inner | None = field(default=None, metadata=ABSENT)


WHOLE = {
    "value": 0.5,
    "by_name": {"a": {"size": 1}},
    "two words": {"size": 2},
    "pair": [3, "b"],
    "rows": [1, 2.5],
}


@pytest.mark.parametrize("figures", [WHOLE, WHOLE | {"later": {"size": 3}}])
def test_values_come_back_in_their_order_and_under_their_names(figures):
    assert plain(fitted(Outer, figures, "file")) == figures
    assert list(plain(fitted(Outer, figures, "file"))) == list(figures)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"value": "much"}, "'value'"),
        ({"by_name": {"a": {"size": 1.5}}}, "'by_name.a.size'"),
        ({"two words": None}, "'two words'"),
        ({"pair": [1]}, "'pair'"),
        ({"rows": [1, True]}, r"'rows\[1\]'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(damage, place):
    with pytest.raises(OutsideError, match=place):
        fitted(Outer, WHOLE | damage, "file")


def test_a_missing_name_is_said():
    with pytest.raises(OutsideError, match="does not say 'two words'"):
        fitted(Outer, {key: value for key, value in WHOLE.items() if key != "two words"}, "file")
