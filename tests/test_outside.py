"""Bytes from outside: bounded, typed, and refused in one sentence that names the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emscope.errors import OutsideError, UserError
from emscope.outside import MAX_NESTING, Record, parse_json, parse_yaml, read_json, read_jsonl, read_text, reading

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_within_the_bounds_is_read_as_it_is(value):
    assert parse_json(json.dumps(value), "file") == value


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded_before_parsing(opening, closing):
    fits = opening * MAX_NESTING + "1" + closing * MAX_NESTING
    parse_json(fits, "file")
    for depth in (MAX_NESTING + 1, 1_000, 100_000):
        with pytest.raises(OutsideError, match=r"^deep\.json is nested more than"):
            parse_json(opening * depth + "1" + closing * depth, "deep.json")


def test_brackets_inside_text_are_no_nesting():
    value = ["[" * 500, '\\"[{' * 200, {"a": "]" * 300}]
    assert parse_json(json.dumps(value), "file") == value


@pytest.mark.parametrize("text", ["", "{", "[1,]", "9" * 5_000, '{"a": 1} x', "\0", "nul"])
def test_what_is_not_json_is_named(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(OutsideError, match=r"file\.json is not valid JSON"):
        read_json(path)


def test_other_things_than_files_are_named(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "no ordinary file"), ("missing", "There is no file"), ("", "is a folder")):
        with pytest.raises(UserError, match=said):
            read_text(tmp_path / name)
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(OutsideError, match="larger than"):
        read_text(tmp_path / "large", most=10)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(OutsideError, match="not UTF-8"):
        read_text(tmp_path / "latin")


def test_a_bad_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(OutsideError, match=r"rows\.jsonl, line 3"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a: *b", "? [1, 2]\n: 3", "a: 2024-99-99", "{" * 2_000, "a: !!python/name:os.system"]
)
def test_yaml_beyond_plain_values_is_refused(text):
    with pytest.raises(OutsideError, match=r"^file\.yaml "):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize(
    "raised", [ValueError("x"), KeyError("name"), RecursionError(), MemoryError(), OverflowError(), OSError(5, "I/O")]
)
def test_whatever_a_parser_raises_names_the_file(raised):
    with pytest.raises(OutsideError, match=r"^weights\.bin ") as caught, reading("weights.bin"):
        raise raised
    assert caught.value.__cause__ is raised


def test_a_full_disk_is_not_the_files_fault():
    with pytest.raises(OSError), reading("weights.bin"):
        raise OSError(28, "No space left on device")


GETTERS = ["text", "whole", "number", "flag", "items", "texts", "wholes", "numbers", "record"]


@given(st.sampled_from(GETTERS), VALUES)
def test_a_field_is_of_its_type_or_named(getter, value):
    record = Record({"field": value}, "file.json")
    try:
        found = getattr(record, getter)("field")
    except OutsideError as error:
        assert "'field'" in str(error)
        assert str(error).startswith("file.json ")
    else:
        assert (found.fields if getter == "record" else found) == value
        assert getter != "whole" or type(found) is int


@pytest.mark.parametrize("getter", GETTERS)
def test_a_missing_field_is_named_or_has_its_default(getter):
    record = Record({}, "file.json")
    assert getattr(record, getter)("field", None) is None
    with pytest.raises(OutsideError, match=r"file\.json does not say 'field'"):
        getattr(record, getter)("field")


@pytest.mark.parametrize("value", ["\ud800", {"\udc00x": 1}, [{"a": ["x\ud83d"]}]])
def test_half_a_character_is_refused_wherever_it_stands(value):
    for parse in (parse_json, parse_yaml):
        with pytest.raises(OutsideError, match=r"^file holds half a character"):
            parse(json.dumps(value), "file")
    assert parse_json(json.dumps(["😀", "\\ud800"]), "file") == ["😀", "\\ud800"]


@pytest.mark.parametrize("text", ["0x" + "f" * 5_000, "0b" + "1" * 9_000, "9" * 5_000, "1:" + "59:" * 3_000 + "1"])
def test_a_number_of_thousands_of_digits_is_not_read(text):
    with pytest.raises(OutsideError, match=r"^file is not valid YAML"):
        parse_yaml(f"a: {text}", "file")
    assert parse_yaml("a: 0xff", "file") == {"a": 255}


@pytest.mark.parametrize(
    "text", ["a: !!timestamp x", "a: !!float ''", "a: !!int x", "[a]: b", "a: 2026-13-45", "{<<: 1}"]
)
def test_what_yaml_itself_breaks_on_is_a_sentence(text):
    with pytest.raises(OutsideError, match=r"^file is not valid YAML"):
        parse_yaml(text, "file")


def test_what_a_message_quotes_is_shortened():
    told = str(UserError(f"file: there is no setting {'a' * 50_000!r}: write another."))
    assert len(told) < 500
    assert told.startswith("file: there is no setting")
    assert told.endswith("write another.")
    assert len(str(UserError("word " * 5_000))) <= UserError.longest
