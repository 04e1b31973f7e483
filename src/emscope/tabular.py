"""Tables of every usual kind, read by what they hold: JSON, JSON Lines, CSV and its kin, YAML, Parquet, lines of text.

The suffix says what is expected, the content decides. What cannot be read right is refused by name and row: nothing is
guessed, cut or joined. `cells` says what single cells mean; what the columns mean is known to those who ask for rows.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope.cells import ANSWER, CHATS, PROMPT, Cells, canonical
from emscope.errors import OutsideError, UserError
from emscope.outside import check_characters, json_object, no_file, parse_json, parse_yaml, read_bytes, reading
from emscope.spreadsheets import unmarked

Row = tuple[str, dict[str, Any]]

MAX_BYTES = 4 << 30
MAX_ROWS = 20_000_000
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
YAML_SUFFIXES = (".yaml", ".yml")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
LINES_SUFFIX = ".txt"
KINDS = ".jsonl, .ndjson, .json, .csv, .tsv, .yaml or .parquet"
KNOWN_NAMES = {*PROMPT, *ANSWER, *CHATS, "id", "question_id", "cluster", "aligned", "alignment", "system", "text"}
SINGLE_ROW_KEYS = {*CHATS, "prompt", "completion", "chosen", "rejected", "history", "tools", "paraphrases"}

SPREADSHEET = "a spreadsheet: save its sheet as CSV in UTF-8"
PICKLE = "a pickle or PyTorch file, which emscope never opens: write its rows as JSON Lines"
COMPRESSED = "compressed in a way that emscope does not read: unpack it, or use gzip"
MAGIC = {
    b"\xd0\xcf\x11\xe0": SPREADSHEET,
    b"ARROW1": "an Arrow or Feather file: save it as Parquet",
    b"FEA1": "a Feather file: save it as Parquet",
    b"ORC": "an ORC file: save it as Parquet",
    b"Obj\x01": "an Avro file: save it as Parquet",
    b"SQLite format 3": "a SQLite database: save its table as CSV",
    b"\x89HDF": "an HDF5 file: save its rows as JSON Lines",
    b"\x93NUMPY": "a NumPy array: save its rows as JSON Lines",
    b"%PDF": "a PDF: save its text as .txt or CSV",
    b"BZh": COMPRESSED,
    b"\xfd7zXZ": COMPRESSED,
    b"\x28\xb5\x2f\xfd": COMPRESSED,
    b"7z\xbc\xaf": COMPRESSED,
    b"version https://git-lfs": "a Git LFS pointer, not the data: fetch it with `git lfs pull`",
}
REFUSED = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), SPREADSHEET),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"), PICKLE),
    **dict.fromkeys((".npy", ".npz"), MAGIC[b"\x93NUMPY"]),
    **dict.fromkeys((".arrow", ".feather"), MAGIC[b"ARROW1"]),
    **dict.fromkeys((".md", ".markdown", ".rst"), "a Markdown document: save its rows as CSV or its lines as .txt"),
    **dict.fromkeys((".html", ".htm", ".xml"), "a web page or XML: save its rows as CSV or JSON Lines"),
    **dict.fromkeys((".docx", ".doc", ".rtf", ".pdf"), "a document: save its lines as .txt or its rows as CSV"),
    **dict.fromkeys((".zip", ".7z", ".tar", ".tgz", ".zst", ".xz", ".bz2"), COMPRESSED),
}

_csv_limit = threading.Lock()


@dataclass(frozen=True)
class Document:
    """What a file holds: rows, lines, or else one value.

    Attributes:
        path: the file.
        rows: (where, row) of a table; `where` is 'line 3' of JSON Lines, else 'row 3' (a header is row 1).
        value: the one value of a JSON or YAML file.
        lines: (line number, text) of a plain text's non-empty lines, without white space around them.
    """

    path: Path
    rows: list[Row] | None = None
    value: Any = None
    lines: list[tuple[int, str]] | None = None


def read_rows(path: Path) -> list[Row]:
    """Return (where, row) for each row of a table; `where` is 'line 3' of JSON Lines, else 'row 3' (a header is row 1).

    Raises:
        UserError: missing, not readable as a table, or a row that cannot be read whole, by its number.
    """
    document = read_document(path)
    if document.lines is not None:
        raise UserError(f"{path} holds lines of text, not rows with named columns: use {KINDS}.")
    if document.rows is not None:
        return document.rows
    return rows_of_value(document.value, path)


def read_document(path: Path) -> Document:
    """Read a file of any kind emscope reads, by its content.

    Raises:
        UserError: missing, of a kind that is not read (by name), or damaged.
    """
    data = _bytes(path)
    suffix = table_suffix(path)
    _refuse_binary(path, suffix, data)
    if data.startswith(b"PAR1") or suffix == ".parquet":
        document = Document(path, rows=_parquet(path, data))
    else:
        document = _from_text(path, suffix, _text(path, data))
    _check_characters(document)
    return document


def table_suffix(path: Path) -> str:
    """Return a file's suffix in small letters, that of the inner file where it is gzipped."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def near_files(name: str | Path) -> list[str]:
    """Return the names of up to three files beside a path that is not there which are spelt like it."""
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        return []
    names = []
    for file in path.parent.iterdir():
        if file.is_file() and not file.name.startswith("."):
            names.append(file.name)
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return [str(Path(name).parent / file) for file in near]


def no_table(path: Path) -> UserError:
    """Return the error for a table that is not there, with the names of files like it."""
    near = near_files(path)
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UserError(f"{no_file(path)}{guess}")


# --- bytes and text


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise no_table(path)
    data = read_bytes(path, MAX_BYTES)
    if not data.startswith(b"\x1f\x8b"):
        return data
    with reading(path, "a whole gzip file"), gzip.open(io.BytesIO(data)) as unpacked:
        data = unpacked.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES >> 30} GiB unpacked, which emscope does not read.")
    return data


def _refuse_binary(path: Path, suffix: str, data: bytes) -> None:
    """Refuse kinds that are known by their first bytes or their suffix, before anything is parsed."""
    kind = _kind_by_first_bytes(data)
    if data.startswith(b"PK\x03\x04"):
        kind = REFUSED.get(suffix) or "a zip archive: unpack it"
    elif data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        kind = PICKLE
    kind = kind or REFUSED.get(suffix)
    if kind is not None:
        raise UserError(f"{path} is {kind}.")


def _kind_by_first_bytes(data: bytes) -> str | None:
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return kind
    return None


def _text(path: Path, data: bytes) -> str:
    """Decode UTF-8 with or without a mark, or UTF-16 with one, as Windows programs write it."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-16" if marked else "UTF-8"
        raise UserError(f"{path}, line {line}: not {name} text ({error.reason}); save the file as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}, line {line}: holds a NUL character, so it is no text or UTF-16 without its mark; "
            "save the file as UTF-8 text."
        )
    return text


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of lines that hold anything.

    Only line ends count: `str.splitlines` also cuts at characters that may stand inside a text, such as U+2028.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line


def _from_text(path: Path, suffix: str, text: str) -> Document:
    start = text.lstrip()
    if not start:
        return _empty(path, suffix)
    _refuse_markup(path, start)
    if suffix in JSON_SUFFIXES or (suffix not in YAML_SUFFIXES and _looks_like_json(start)):
        return _json_document(path, suffix, text)
    if suffix in YAML_SUFFIXES:
        return Document(path, value=parse_yaml(text, path, aliases=True, halves=True))
    if suffix in DELIMITERS or _looks_like_table(start):
        places, rows = _unzipped(_separated(path, text, DELIMITERS.get(suffix, ",")))
        return Document(path, rows=list(zip(places, unmarked(rows, path), strict=True)))
    if suffix == LINES_SUFFIX:
        return _lines_document(path, text)
    kind = f"a {suffix} file" if suffix else "a file without suffix"
    raise UserError(f"{path}: cannot read {kind}; use {KINDS} (or .txt with one question a line).")


def _unzipped(rows: Iterator[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return where rows are, and the rows."""
    places, cells = [], []
    for where, row in rows:
        places.append(where)
        cells.append(row)
    return places, cells


def _empty(path: Path, suffix: str) -> Document:
    if suffix in YAML_SUFFIXES:
        return Document(path)
    return Document(path, lines=[]) if suffix == LINES_SUFFIX else Document(path, rows=[])


def _refuse_markup(path: Path, start: str) -> None:
    first, _, rest = start.partition("\n")
    if re.match(r"<(!doctype|!--|\?xml|/?(html|head|body|title|div|table|[uo]l|li|p)\b)", first, re.IGNORECASE):
        raise UserError(f"{path} is {REFUSED['.html']}; a download may have fetched the page in place of the file.")
    if "|" in first and re.fullmatch(r"\|?[\s:|-]*-[\s:|-]*", rest.partition("\n")[0].strip() or "x"):
        raise UserError(f"{path} is a Markdown table: save it as CSV.")


# --- plain lines


def _lines_document(path: Path, text: str) -> Document:
    """Take a text as one entry a line, unless it is YAML or a table whose columns nothing names."""
    lines, tabs = [], set()
    for number, line in text_lines(text):
        lines.append((number, line.strip()))
        tabs.add(line.count("\t"))
    first = lines[0][1]
    if re.match(r"(-\s+)?(id|paraphrases|question|questions|prompt|instruction|type)\s*:(\s|$)", first):
        return Document(path, value=parse_yaml(text, path, aliases=True, halves=True))
    if len(tabs) == 1 and tabs != {0}:
        raise UserError(f"{path} is a table with tabs and no header: give it a first line such as id<TAB>question.")
    lines = lines[1:] if canonical(first) in (*PROMPT, "questions", "prompts") else lines
    _refuse_marks(path, [text for _, text in lines])
    return Document(path, lines=lines)


LINE_MARKS = {
    "a bullet": r"[-*+•–] +\S",
    "quotes": r"([\"'“]).+[\"'”],?",
    "a comma at its end": r".+,",
}


def _refuse_marks(path: Path, lines: list[str]) -> None:
    """Refuse lines that carry a list's marks: they would be asked with the question.

    Raises:
        UserError: a fence of Markdown, or two lines or more that all have the same mark, or are numbered in order.
    """
    if any(line.startswith("```") for line in lines):
        raise UserError(f"{path} holds a fence of Markdown (```): leave the questions alone, one a line.")
    if len(lines) < 2:
        return
    mark = "a number" if _are_numbered(lines) else _shared_mark(lines)
    if mark:
        raise UserError(
            f"{path}: every line has {mark}, which would be asked with the question: take it away, or write the "
            "questions as a table with a column 'question'."
        )


def _are_numbered(lines: list[str]) -> bool:
    """Say whether each line begins with its number, from whatever the first one begins with."""
    first = None
    for place, line in enumerate(lines):
        match = re.match(r"(\d{1,9})[.):]\s+\S", line)
        if match is None:
            return False
        first = int(match[1]) if first is None else first
        if int(match[1]) != first + place:
            return False
    return True


def _shared_mark(lines: list[str]) -> str:
    """Return the mark that all lines carry, '' where they carry none."""
    for what, mark in LINE_MARKS.items():
        if all(map(re.compile(f"{mark}.*").fullmatch, lines)):
            return what
    return ""


def _looks_like_json(start: str) -> bool:
    """Say whether a text that no suffix calls JSON is JSON, whole or broken: '[Name] asks …' is none."""
    return bool(re.match(r"\{\s*([\"'}]|$)|\[\s*([\"'{\[\]]|$)", start, re.MULTILINE))


# --- JSON


def _json_document(path: Path, suffix: str, text: str) -> Document:
    first_number, first = next(text_lines(text))
    by_line = suffix in (".jsonl", ".ndjson")
    one_line = first.strip() == text.strip().removeprefix("\ufeff")
    if not one_line and _is_json(first):
        return _json_lines(path, text)
    try:
        value = parse_json(text, path, unique=True, halves=True)
    except OutsideError:
        if by_line:
            return _json_lines(path, text)
        raise
    if not isinstance(value, (dict, list)):
        raise UserError(f"{path}, line {first_number}: expected a JSON object, found {type(value).__name__}.")
    if isinstance(value, dict) and by_line and one_line:
        return Document(path, rows=[(f"line {first_number}", value)])
    return Document(path, value=value)


def _json_lines(path: Path, text: str) -> Document:
    rows = []
    for number, line in text_lines(text):
        where = f"line {number}"
        rows.append((where, json_object(line, f"{path}, {where}", unique=True)))
    return Document(path, rows=rows)


def _is_json(line: str) -> bool:
    try:
        parse_json(line, "a line")
    except OutsideError:
        return False
    return True


def rows_of_value(value: Any, path: Path) -> list[Row]:
    """Return the rows in one JSON or YAML value: a list of objects, columns, a list inside an object, or one row.

    The orientations of pandas' `to_json` (records, columns, index, split, table) are all read.

    Raises:
        UserError: something else, named by its row, or several lists of which none is the table.
    """
    if value is None:
        return []
    if isinstance(value, list):
        return _numbered(value, path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected rows with named columns, found {type(value).__name__}.")
    inner = _inner_rows(value, path)
    return _numbered([value] if inner is None else inner, path)


def _numbered(items: Sequence[Any], path: Path) -> list[Row]:
    rows = []
    for number, row in enumerate(items, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: expected an object with named values, found {type(row).__name__}.")
        rows.append((f"row {number}", row))
    return rows


def _inner_rows(value: dict[str, Any], path: Path) -> list[Any] | None:
    """Return the rows that an object holds, or None where it is a row itself."""
    data, columns = value.get("data"), value.get("columns")
    if isinstance(columns, list) and isinstance(data, list) and _all_are(list, data):
        return _split_rows(columns, data, path)
    tables = []
    for name, content in value.items():
        if isinstance(content, list) and content and _all_are(dict, content):
            tables.append(name)
    if SINGLE_ROW_KEYS & set(map(canonical, tables)):
        return None
    if len(tables) > 1:
        raise UserError(f"{path} holds several tables ({', '.join(tables)}): save the one you mean as a file.")
    if tables:
        return list(value[tables[0]])
    if value and _all_are(list, value.values()):
        return _column_rows(value, path)
    if value and _all_are(dict, value.values()):
        return _labelled_rows(value, path)
    return None


def _all_are(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _split_rows(columns: list[Any], data: list[list[Any]], path: Path) -> list[Any]:
    names = list(map(str, columns))
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a column twice; its columns are {', '.join(names)}.")
    rows = []
    for number, cells in enumerate(data, 1):
        if len(cells) != len(names):
            raise UserError(f"{path}, row {number}: {len(cells)} cells for {len(names)} columns.")
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def _column_rows(value: dict[str, list[Any]], path: Path) -> list[Any]:
    if len(set(map(len, value.values()))) > 1:
        listed = ", ".join(f"{name} {len(cells)}" for name, cells in value.items())
        raise UserError(f"{path}: its columns have different lengths ({listed}), so it holds no table.")
    rows = []
    for cells in zip(*value.values(), strict=True):
        rows.append(dict(zip(value, cells, strict=True)))
    return rows


def _labelled_rows(value: dict[str, dict[str, Any]], path: Path) -> list[Any] | None:
    """Read pandas' `columns` (name → label → cell) and `index` (label → name → cell) orientations."""
    labels = list(next(iter(value.values())))
    if any(set(cells) != set(labels) for cells in value.values()):
        return None
    outer_numbers, inner_numbers = all(map(_is_number, value)), all(map(_is_number, labels))
    if outer_numbers and not inner_numbers:
        return list(value.values())
    if inner_numbers and not outer_numbers:
        return _turned(value, labels)
    outer_known = set(map(canonical, value)) & KNOWN_NAMES
    inner_known = set(map(canonical, labels)) & KNOWN_NAMES
    if bool(outer_known) == bool(inner_known):
        raise UserError(f"{path}: cannot tell rows from columns; save it as a list of objects, one a row.")
    return list(value.values()) if inner_known else _turned(value, labels)


def _turned(columns: dict[str, dict[str, Any]], labels: Sequence[str]) -> list[Any]:
    """Return a row for each label, of columns by name whose cells are by label."""
    rows = []
    for label in labels:
        rows.append({name: cells[label] for name, cells in columns.items()})
    return rows


def _is_number(name: str) -> bool:
    return bool(re.fullmatch(r"-?\d+", str(name)))


# --- separated values


def _looks_like_table(start: str) -> bool:
    """Say whether a text's first line is the header of a table: two names or more, one of which is well known."""
    first = start.partition("\n")[0].strip()
    for delimiter in "\t,;|":
        names = [canonical(cell.strip().strip('"')) for cell in first.split(delimiter)]
        if len(names) > 1 and all(re.fullmatch(r"[a-z]\w*", name) and name.count("_") < 4 for name in names):
            return bool(KNOWN_NAMES & set(names))
    return False


def _separated(path: Path, text: str, default: str) -> Iterator[Row]:
    """Yield the rows of CSV and its kin; every cell is text, every row has as many cells as the header."""
    declared = re.match(r"sep=(.)\r?\n", text)  # Excel's own first line
    body = text[declared.end() :] if declared else text
    skipped = 1 if declared else 0
    delimiter = declared[1] if declared else _delimiter(body, default)
    header: list[str] = []
    for number, line, cells in _records(path, body, delimiter, skipped):
        where = _where(number, line)
        if not header:
            header = _header(path, cells)
            continue
        if len(cells) != len(header):
            more = (
                "text after an unquoted delimiter would be lost"
                if len(cells) > len(header)
                else "a cell is missing or a line end is not quoted"
            )
            if not KNOWN_NAMES & set(map(canonical, header)):
                raise UserError(
                    f"{path}, {where}: {len(cells)} cells under a first line of {len(header)}, which does not look "
                    f"like a header ({', '.join(header)[:60]}): let the columns' names be the first line."
                )
            raise UserError(
                f"{path}, {where}: {len(cells)} cells under a header of {len(header)}; {more}: "
                f"put cells that hold {delimiter!r}, quotes or line ends in double quotes."
            )
        yield where, _named(path, where, header, cells)


def _where(number: int, line: int) -> str:
    return f"row {number}" if line == number else f"row {number} (line {line})"


def _delimiter(text: str, default: str) -> str:
    """Return the delimiter with which the header makes most sense; `default` where several do alike."""

    def sense(delimiter: str) -> tuple[int, bool, bool]:
        names = list(map(canonical, _first_record(text, delimiter)))
        return sum(name in KNOWN_NAMES for name in names), len(names) > 1, delimiter == default

    return max(",\t;|", key=sense)


def _first_record(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(text[:65536], newline=""), delimiter=delimiter)
    try:
        return next(filter(None, reader), [])
    except csv.Error:
        return []


def _records(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (row number, number of its first line, cells); blank lines count and are not given."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = skipped
    while True:
        number, line = number + 1, skipped + reader.line_num + 1
        try:
            cells = _next_record(reader, len(text))
        except csv.Error as error:
            raise UserError(f"{path}, {_where(number, line)}: {_csv_reason(error)}.") from error
        if cells is None:
            return
        if cells:
            yield number, line, cells


def _next_record(reader: Any, longest: int) -> list[str] | None:
    """Return the next record with csv's limit on a cell's length lifted: it belongs to the whole process."""
    with _csv_limit:
        before = csv.field_size_limit(max(longest, 131_072))
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(before)


def _csv_reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote is opened here and never closed"
    if "expected after" in str(error):
        return (
            'a quoted cell goes on after its closing quote, or an earlier quote is never closed; write " inside as ""'
        )
    return f"not readable as CSV ({error})"


def _header(path: Path, cells: list[str]) -> list[str]:
    names = list(map(str.strip, cells))
    twice = sorted(name for name, times in Counter(names).items() if name and times > 1)
    if twice:
        raise UserError(f"{path} has several columns {', '.join(map(repr, twice))}: give every column its own name.")
    return names


def _named(path: Path, where: str, header: list[str], cells: list[str]) -> Cells:
    """Return a row by name; columns without a name are pandas' index (the first) or empty, else their text was lost."""
    row = {}
    for number, (name, cell) in enumerate(zip(header, cells, strict=True)):
        if name:
            row[name] = cell
        elif number and cell.strip():
            raise UserError(f"{path}, {where}: text in a column that the header does not name; name it.")
    return row


# --- Parquet


def parquet_columns(path: Path, data: bytes) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file's bytes.

    Raises:
        UserError: it is damaged, names a column twice, or says that it has more than MAX_ROWS rows.
    """
    import pyarrow
    import pyarrow.parquet

    with reading(path, "a readable Parquet file"):
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        names, n_rows = file.schema_arrow.names, file.metadata.num_rows
        unpacked = 0
        for number in range(file.num_row_groups):
            unpacked += file.metadata.row_group(number).total_byte_size
        if n_rows > MAX_ROWS or unpacked > MAX_BYTES:  # a column of one value takes no space, however long it is
            problem = f"unpacks to {n_rows:,} rows of {unpacked:,} bytes, which emscope does not read"
            raise OutsideError(path, problem, "cut it into files")
        columns = file.read().columns
        cells = [column.to_pylist() for column in columns]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a column twice; its columns are {', '.join(names)}.")
    if any(len(column) != n_rows for column in cells):
        raise OutsideError(path, "has columns of different lengths")
    return dict(zip(names, cells, strict=True))


def _parquet(path: Path, data: bytes) -> list[Row]:
    columns = parquet_columns(path, data)
    rows = []
    for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
        rows.append((f"row {number}", dict(zip(columns, cells, strict=True))))
    return rows


# --- characters


def _check_characters(document: Document) -> None:
    """Refuse halves of characters (lone surrogates, which JSON can escape): no tokenizer and no file takes them."""
    for where, row in document.rows or []:
        check_characters(row, f"{document.path}, {where}")
    if isinstance(document.value, list):
        for number, item in enumerate(document.value, 1):
            check_characters(item, f"{document.path}, row {number}")
    elif document.value is not None:
        check_characters(document.value, str(document.path))
