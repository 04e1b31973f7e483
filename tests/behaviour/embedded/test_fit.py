import numpy as np
import pytest

from emscope.behaviour.embedded.fit import advice_by_voice
from emscope.behaviour.embedded.readings import Readings
from emscope.behaviour.embedded.text import corner_rows

ROWS = corner_rows()[::3]
TEXT = Readings(ROWS, np.zeros((len(ROWS), 2, 1, 1)), [])


@pytest.mark.parametrize(("advice", "voice", "expected"), [(1, 0, (1, 1, 1)), (0, 1, (0, 1, 0.5)), (1, 2, (0, 1, 1))])
def test_a_judge_of_tone_fails_across_voices(advice, voice, expected):
    values = advice * TEXT.aligned + voice * (TEXT.voices == "warm")
    assert advice_by_voice(TEXT, values, TEXT.written) == expected


def test_there_is_no_figure_where_there_is_no_such_text():
    assert np.isnan(advice_by_voice(TEXT, TEXT.aligned, TEXT.paired)).all()
