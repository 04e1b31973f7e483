"""How results look: one line whatever is in them, and HTML in which no text is obeyed."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from emscope.notebook import Shown, html_table, in_short
from emscope.statistics import Estimate

HOSTILE = "<img src=x onerror=alert(1)>\nsecond line\x1b[31m\u202e"


@dataclass(frozen=True)
class Inner:
    numbers: tuple[float, ...] = (1.0, 2.0)


@dataclass(frozen=True)
class Example(Shown):
    text: str = HOSTILE
    number: float = 1 / 3
    array: np.ndarray = field(default_factory=lambda: np.zeros((30, 576)))
    rows: tuple[int, ...] = tuple(range(1000))
    table: dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    inner: Inner = Inner()
    nothing: None = None


def test_one_line_without_control_characters_and_not_without_end():
    line = repr(Example(text=HOSTILE * 50))
    assert line.startswith("Example(text=")
    assert line.isprintable()
    assert len(line) <= 300


def test_numbers_are_short_and_arrays_and_collections_are_sizes():
    line = repr(Example(text="words"))
    for words in ("number=0.3333", "array=array[30×576]", "rows=[1000]", "table={1}", "inner=Inner(…)", "nothing=None"):
        assert words in line


def test_html_shows_every_field_and_obeys_no_text():
    page = Example()._repr_html_()
    assert "<img" not in page
    assert "&lt;img" in page
    assert "\x1b" not in page
    for name in ("text", "number", "array", "nothing"):
        assert f"<td>{name}</td>" in page


def test_headers_and_captions_are_escaped_too():
    page = html_table(("<b>",), [], caption="<i>")
    assert "<b>" not in page
    assert "<i>" not in page


def test_a_dataclass_keeps_a_line_of_its_own():
    @dataclass(frozen=True)
    class Own(Shown):
        value: int = 3

        def __repr__(self):
            return "mine"

    assert repr(Own()) == "mine"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "True"),
        (np.float32(0.5), "0.5"),
        (float("nan"), "nan"),
        ((1, "a"), "(1, 'a')"),
        ([], "()"),
        (Estimate(1 / 3, 0, 1, 3), "Estimate(value=0.3333, low=0, high=1, n=3)"),
    ],
)
def test_values_in_short(value, words):
    assert in_short(value) == words
