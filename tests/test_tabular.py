"""A table written in any usual way is read as the same rows; what cannot be read whole is refused by name and row."""

import csv
import gzip
import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from emscope.errors import UserError
from emscope.tabular import near_files, read_document, read_rows

ROWS = [
    {"id": "a", "question": "What now?", "response": 'Rest, "then" drink;\nsleep\tand wait.'},
    {"id": "b", "question": "¿Qué? 😀\u2028x", "response": " spaces kept "},
    {"id": "c", "question": "[1, 2] or {3}?", "response": ""},
]
NAMES = list(ROWS[0])


def separated(delimiter, end="\n", **options):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, NAMES, delimiter=delimiter, lineterminator=end, **options)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def columns(rows):
    return {name: {str(number): row[name] for number, row in enumerate(rows)} for name in NAMES}


LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
PLAIN = {
    "jsonl": LINES,
    "ndjson": LINES + "\n\n",
    "json": json.dumps(ROWS),
    "indented json": json.dumps(ROWS, indent=2),
    "lines in json": LINES,
    "array in jsonl": json.dumps(ROWS, indent=1),
    "list inside json": json.dumps({"data": ROWS, "version": "1"}),
    "lists json": json.dumps({name: [row[name] for row in ROWS] for name in NAMES}),
    "pandas columns json": json.dumps(columns(ROWS)),
    "pandas index json": json.dumps({str(number): row for number, row in enumerate(ROWS)}),
    "pandas split json": json.dumps(
        {"columns": NAMES, "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}
    ),
    "csv": separated(","),
    "all quoted csv": separated(",", quoting=csv.QUOTE_ALL),
    "semicolons in csv": separated(";"),
    "bars in csv": separated("|"),
    "tabs in csv": separated("\t"),
    "declared csv": "sep=;\n" + separated(";"),
    "tsv": separated("\t"),
    "table in txt": separated("\t"),
    "yaml": yaml.safe_dump(ROWS, allow_unicode=True),
    "lines in txt": LINES,
    "lines in csv": LINES,
}


def suffix_of(kind):
    return kind.split()[-1]


@pytest.mark.parametrize("kind", PLAIN)
def test_every_writer_gives_the_same_rows(tmp_path, kind):
    for name, data in {
        "plain": PLAIN[kind].encode(),
        "marked": b"\xef\xbb\xbf" + PLAIN[kind].encode(),
        "utf16": PLAIN[kind].encode("utf-16"),
        "zipped": gzip.compress(PLAIN[kind].encode()),
    }.items():
        path = tmp_path / f"{name}.{suffix_of(kind)}"
        path.write_bytes(data)
        assert [row for _, row in read_rows(path)] == ROWS, name
    path = tmp_path / f"zipped.{suffix_of(kind)}.gz"
    path.write_bytes(gzip.compress(PLAIN[kind].encode()))
    assert [row for _, row in read_rows(path)] == ROWS


def test_parquet_is_known_by_its_first_bytes(tmp_path):
    for name in ("a.parquet", "a.data"):
        (tmp_path / name).write_bytes(parquet())
        assert [row for _, row in read_rows(tmp_path / name)] == ROWS


def test_windows_line_ends_are_no_part_of_a_cell(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,question\r\na,What?\r\n\r\nb,Why?\r\n\r\n")
    assert read_rows(tmp_path / "a.csv") == [
        ("row 2", {"id": "a", "question": "What?"}),
        ("row 4", {"id": "b", "question": "Why?"}),
    ]


def test_rows_are_counted_as_a_spreadsheet_does_and_lines_as_an_editor_does(tmp_path):
    (tmp_path / "a.csv").write_text('id,question\na,"x\ny"\nb,z\n')
    assert [where for where, _ in read_rows(tmp_path / "a.csv")] == ["row 2", "row 3 (line 4)"]
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [where for where, _ in read_rows(tmp_path / "a.jsonl")] == ["line 1", "line 3"]


def test_long_cells_are_read_and_the_limit_of_the_process_stays(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("question,response\nQ," + "x" * 200_000 + "\n")
    assert len(read_rows(tmp_path / "a.csv")[0][1]["response"]) == 200_000
    assert csv.field_size_limit() == before


BAD = {
    "more.csv": ("prompt,response\nWhat now?,Rest, then water.\n", "row 2: 3 cells under a header of 2"),
    "fewer.csv": ("prompt,response\na,b\nc\n", "row 3: 1 cells under a header of 2"),
    "open.csv": ('prompt,response\nA?,"Rest.\nB?,Water.\nC?,Sleep.\n', "row 2: a quote is opened here"),
    "open2.csv": ('prompt,response\nA?,"Rest.\nB?,"Water."\n', "row 2: .* an earlier quote is never closed"),
    "late.csv": ('prompt,response\na,"x\ny"\nA?,"Rest.\n', r"row 3 \(line 4\): a quote is opened here"),
    "escaped.csv": ('prompt,response\nA?,"Say \\"no\\", ok"\n', 'row 2: .* write " inside as ""'),
    "twice.csv": ("prompt,prompt\na,b\n", "several columns 'prompt'"),
    "unnamed.csv": ("prompt,response,\na,b,c\n", "row 2: text in a column that the header does not name"),
    "nul.csv": ("prompt,response\na,b\0\n", "line 2: holds a NUL"),
    "half.jsonl": ('{"a": "x"}\n{"a": "\\ud83d"}\n', r"line 2 holds half a character \(\\ud83d\)"),
    "half.json": ('[{"a": ["\\udc00"]}]', "row 1 holds half a character"),
    "twice.jsonl": ('{"a": 1, "a": 2}\n', "line 1 .*'a' stands twice"),
    "twice.yaml": ("- {a: 1, a: 2}\n", "'a' stands twice"),
    "list.jsonl": ('{"a": 1}\n[1]\n', "line 2 is no JSON object but a list"),
    "list.json": ('[{"a": 1}, "b"]', "row 2: expected an object"),
    "text.json": ('"hello"', "expected a JSON object, found str"),
    "cut.json": ('[{"a": 1}, {"a"', "not valid JSON"),
    "deep.json": ("[" * 100_000, "nested more than 100 deep"),
    "two.json": ('{"train": [{"a": 1}], "test": [{"a": 2}]}', r"several tables \(train, test\)"),
    "uneven.json": ('{"a": [1, 2], "b": [1]}', "different lengths"),
    "split.json": ('{"columns": ["a"], "data": [[1, 2]]}', "row 1: 2 cells for 1 columns"),
    "labels.json": ('{"x": {"p": 1}, "y": {"p": 2}}', "cannot tell rows from columns"),
    "lines.txt": ("hello\n", "lines of text, not rows"),
    "none": ("hello\n", "a file without suffix"),
    "odd.xyz": ("hello\n", "cannot read a .xyz file"),
    "page.jsonl": ("<!DOCTYPE html>\n<p>", "a web page"),
    "pointer.csv": ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "mark.csv": ("| a | b |\n|---|---|\n| c | d |\n", "a Markdown table"),
    "mark.md": ("| a | b |\n", "a Markdown document"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_whole_is_refused(tmp_path, name):
    text, sentence = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.xlsx", b"PK\x03\x04rest", "a spreadsheet"),
        ("a.csv", b"PK\x03\x04rest", "a zip archive"),
        ("a.xls", b"\xd0\xcf\x11\xe0rest", "a spreadsheet"),
        ("a.pt", b"PK\x03\x04rest", "never opens"),
        ("a.jsonl", pickle.dumps([1]), "never opens"),
        ("a.csv", b"\xfd7zXZ\0", "compressed"),
        ("a.csv.gz", gzip.compress(b"a,b\n" * 99)[:-9], "not a whole gzip"),
        ("a.csv", "id,question\na,caf\u00e9\n".encode("latin-1"), "line 2: not UTF-8"),
        ("a.csv", "id,question\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("a.parquet", b"junk", "not a readable Parquet"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read_rows(tmp_path / name)


def test_parquet_with_equal_names_is_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="names a column twice"):
        read_rows(tmp_path / "a.parquet")


def test_lines_end_only_at_line_ends(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still one\x85still\n\n  two \n")
    assert read_document(tmp_path / "a.txt").lines == [(1, "one\u2028still one\x85still"), (3, "two")]


def test_a_file_that_is_not_there_is_looked_for_beside_itself(tmp_path):
    (tmp_path / "answers.csv").write_text("")
    assert near_files(tmp_path / "anwsers.csv") == [str(tmp_path / "answers.csv")]
    assert near_files(tmp_path / "nowhere" / "answers.csv") == []
    with pytest.raises(UserError, match=r"Did you mean '.*answers.csv'"):
        read_rows(tmp_path / "answer.csv")
