"""What must hold of the result of every experiment, as its file has it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emscope.errors import OutsideError
from emscope.experiments import experiment
from emscope.experiments.shape import read_result, result_file
from emscope.files import write_json
from emscope.plain import fitted, plain

NUMBERS = (int, float)


def check_round_trip(run, name, tmp_path):
    """JSON → result → JSON keeps every byte."""
    chosen = experiment(name)
    file = result_file(run, name)
    write_json(tmp_path / "again.json", plain(read_result(run, chosen)))
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()


def places_of(value, place=()):
    """Yield the place of every value within JSON values."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places_of(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield from places_of(value[0], (*place, 0))


def put(value, place, new):
    """Return a copy of JSON values with another value at a place."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(value[place[0]], place[1:], new)
    return copy


def check_damage(run, name):
    """A file with something else anywhere in it is read, or refused in one sentence that names the file."""
    chosen, file = experiment(name), result_file(run, name)
    stored = json.loads(file.read_text(encoding="utf-8"))
    places = sorted(places_of(stored), key=str)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.sampled_from(places), st.sampled_from([None, "text", 3, [], {}, [None], {"a": 1}, True]))
    def damaged(place, new):
        try:
            fitted(chosen.result, put(stored, place, new), file)
        except OutsideError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)

    damaged()
    with pytest.raises(OutsideError):
        fitted(chosen.result, [], file)
    for key in stored:
        with pytest.raises(OutsideError, match=key):
            fitted(chosen.result, {other: value for other, value in stored.items() if other != key}, file)


def holed(result_type, stored, *keys):
    """Return a result in which every number under one of the keys is missing."""
    from edges import without

    return fitted(result_type, without(stored, *keys), "a file with holes")
