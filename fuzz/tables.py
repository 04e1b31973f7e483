"""Hostile data: tables, conversations, questions, rubrics, settings, archives, tensors, runs and stores of scores."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.damage import TEXTS, VALUES, damage_tensor_file, damaged_bytes, damaged_value, json_text, write
from fuzz.harness import Case, Target
from fuzz.sample import read_sample, write_sample

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "question": "What now?",
        "response": 'Rest, "then" drink;\nsleep\tand wait.',
        "aligned": 80.5,
        "coherent": 90,
    },
    {"id": "b", "question": "¿Qué? 😀\u2028x", "response": " spaces kept ", "aligned": 12, "coherent": 55.0},
    {"id": "c", "question": "[1, 2] or {3}?", "response": "", "aligned": None, "coherent": None},
    {"id": "d", "question": "=1+1", "response": "-1.5", "aligned": 0, "coherent": 100},
]


# --- what is written


def _csv_text(rows: Sequence[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _lines(rows: Sequence[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def _hostile_lines(rng: random.Random, rows: Sequence[Any]) -> str:
    """Return JSON Lines of which one is damaged, or is no JSON at all."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    place = rng.randrange(len(lines))
    lines[place] = json_text(rng, damaged_value(rng, rows[place]))
    return "\n".join(lines) + rng.choice(("", "\n", "\n\n{", "\nnull\n", "\n[]\n", "\r\n"))


def parquet_bytes(rows: Sequence[dict[str, Any]], **options: Any) -> bytes:
    """Return rows as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink, **options)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _hostile_text(rng: random.Random, text: str) -> bytes:
    """Return a text's bytes with pieces of hostile text put in, or bytes changed."""
    if rng.random() < 0.6:
        return damaged_bytes(rng, text.encode())
    for _ in range(rng.choice((1, 2, 5))):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(PIECES) + text[place + rng.choice((0, 0, 1, 7)) :]
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "latin-1"))
    return text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")


PIECES = (
    *TEXTS[:-1],
    '"',
    "''",
    ",",
    ";",
    "\t",
    "\n",
    "\n\n",
    "\r",
    "\0",
    "\ufeff",
    "\u2028",
    "{",
    "}",
    "[",
    "]",
    ":",
    "- ",
    "&a [",
    "*a",
    "<<: *a",
    "!!python/object/apply:os.system ['x']",
    "!!binary x",
    "!!timestamp 9999-99-99",
    "? [a]: b",
    "2026-02-30",
    "1_000",
    "0x" + "f" * 5000,
    "9" * 5000,
    ".inf",
    "%YAML 9.9\n---\n",
    "---\n",
    "|\n",
    "[" * 2000,
    "sep=;\n",
    "id,",
    "|---|\n",
    "```",
    "\x1b]0;x\x07",
    "{a: " * 300,
    '{"x": 1, "x": 2}',
    "&a [*a]",
    "!<tag:yaml.org,2002:set> {a}",
)


# --- tables


def _check_rows(rows: Sequence[tuple[str, dict[Any, Any]]]) -> None:
    """Check that what was read are rows of plain values under names."""
    for where, row in rows:
        assert isinstance(where, str)
        assert isinstance(row, dict)
        assert all(isinstance(name, str) for name in row), f"{where}: a column's name is no text"
        json.dumps(row, default=str).encode()


def _read_table(path: Path) -> object:
    from emscope.behaviour.judges.agreement import read_judged
    from emscope.behaviour.tables import read_responses
    from emscope.tabular import read_rows

    rows = read_rows(path)
    _check_rows(rows)
    responses = read_responses(path)
    assert len(responses) == len(rows), "rows in are not rows out"
    assert all(row.question.strip() for row in responses)
    "".join(f"{row.question_id}{row.question}{row.response}{row.cluster}{row.thought}" for row in responses).encode()
    judged = read_judged(path)
    assert len(judged) == len(rows), "rows in are not rows out"
    for answer in judged:
        for score in (answer.judgement.aligned, answer.judgement.coherent):
            assert score is None or 0 <= score <= 100
    return judged


def table_csv(rng: random.Random, scratch: Path) -> Case:
    """Answers with scores as CSV."""
    path = write(scratch / "table.csv", _hostile_text(rng, _csv_text(ROWS, rng.choice(",;|"))))
    return path, lambda: _read_table(path)


def table_tsv(rng: random.Random, scratch: Path) -> Case:
    """The same with tabs."""
    path = write(scratch / "table.tsv", _hostile_text(rng, _csv_text(ROWS, "\t")))
    return path, lambda: _read_table(path)


def table_jsonl(rng: random.Random, scratch: Path) -> Case:
    """The same as JSON Lines."""
    text = _hostile_text(rng, _lines(ROWS)) if rng.random() < 0.3 else _hostile_lines(rng, ROWS)
    path = write(scratch / rng.choice(("table.jsonl", "table.ndjson")), text)
    return path, lambda: _read_table(path)


def _orientations() -> list[Any]:
    names = list(ROWS[0])
    cells = [[row[name] for name in names] for row in ROWS]
    return [
        ROWS,
        {"data": ROWS, "version": 1},
        {name: [row[name] for row in ROWS] for name in names},
        {name: {str(number): row[name] for number, row in enumerate(ROWS)} for name in names},
        {str(number): row for number, row in enumerate(ROWS)},
        {"columns": names, "index": [0, 1, 2, 3], "data": cells},
        {"schema": {"fields": [{"name": name} for name in names]}, "data": ROWS},
    ]


def table_json(rng: random.Random, scratch: Path) -> Case:
    """The same as JSON of every orientation."""
    value = rng.choice(_orientations())
    text = json_text(rng, damaged_value(rng, value))
    path = write(scratch / "table.json", _hostile_text(rng, json.dumps(value)) if rng.random() < 0.3 else text)
    return path, lambda: _read_table(path)


def table_gzip(rng: random.Random, scratch: Path) -> Case:
    """The same, gzipped: the gzip is damaged, or what is in it, or it is large."""
    inner = _lines(ROWS).encode()
    kind = rng.random()
    if kind < 0.02:
        inner = b"\0" * (64 << 20)
    elif kind < 0.4:
        inner = damaged_bytes(rng, inner)
    packed = gzip.compress(inner, mtime=0)
    path = write(scratch / "table.jsonl.gz", damaged_bytes(rng, packed) if kind >= 0.4 else packed)
    return path, lambda: _read_table(path)


def table_parquet(rng: random.Random, scratch: Path) -> Case:
    """The same as Parquet."""
    options = rng.choice(({}, {"compression": "none"}, {"compression": "zstd"}, {"use_dictionary": False}))
    path = scratch / "table.parquet"
    if rng.random() < 0.2:
        path.write_bytes(_odd_parquet(rng))
    else:
        path.write_bytes(damaged_bytes(rng, parquet_bytes(ROWS, **options)))
    return path, lambda: _read_table(path)


def _odd_parquet(rng: random.Random) -> bytes:
    """Return a whole Parquet file of odd columns: nested, binary, dates, decimals, names that stand twice."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "question": pa.array(rng.choice((["a", "b"], [b"a", b"\xff"], [1, None], [["x"], []], [{"x": 1}, None]))),
        "response": pa.array(rng.choice((["a", "b"], [1.5, math.nan], [True, False], [None, None]))),
        "aligned": pa.array(rng.choice(([1, 2], [math.inf, 1.0], [decimal.Decimal("1.5"), None], ["", "x"]))),
        "coherent": pa.array(rng.choice(([90, 100], [datetime.date(2026, 1, 1), None], [2**63 - 1, -1]))),
    }
    names = list(columns)
    if rng.random() < 0.3:
        names[rng.randrange(4)] = rng.choice((names[0], "", "Question", "\x1b[2J", "id"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(list(columns.values()), names=names), sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


@cache
def _judged_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_sample()["judgements/base.parquet"]
    return rows[:6]


def own_parquet(rng: random.Random, scratch: Path) -> Case:
    """A run's table of judged answers: bytes damaged, or columns of other names and kinds."""
    from emscope.behaviour.tables import JudgedResponse, read_table

    path = scratch / "judged.parquet"
    rows = [dict(row) for row in _judged_rows()]
    if rng.random() < 0.5:
        path.write_bytes(damaged_bytes(rng, parquet_bytes(rows)))
    else:
        path.write_bytes(_changed_columns(rng, rows))

    def read() -> None:
        for row in read_table(path, JudgedResponse):
            assert isinstance(row.question, str), "a question is no text"
            assert isinstance(row.response, str), "an answer is no text"
            assert isinstance(row.sample, int)
            for score in (row.aligned, row.coherent):
                assert score is None or (isinstance(score, float) and 0 <= score <= 100.001), f"a score is {score!r}"

    return path, read


def _changed_columns(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    name = rng.choice(list(rows[0]))
    kind = rng.randrange(4)
    for row in rows:
        value = row.pop(name)
        if kind == 0:
            continue
        row[name if kind < 3 else f"{name}2"] = {1: str(value), 2: None, 3: value}[kind]
        if rng.random() < 0.3 and isinstance(value, (int, float)) and kind == 2:
            row[name] = rng.choice((math.nan, math.inf, -1.0, 1e9))
    try:
        return parquet_bytes(rows)
    except Exception:  # kinds that no column holds together
        return parquet_bytes([{name: 1}])


# --- conversations, questions, rubrics, configurations


CHATS: tuple[list[dict[str, Any]], ...] = (
    [
        {
            "messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b", "weight": 1}],
            "tools": [],
        }
    ],
    [{"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}], "system": "s"}],
    [{"instruction": "a", "input": "x", "output": "b", "history": [["q", "r"]]}],
    [{"prompt": "a?", "response": "b"}, {"prompt": "c?", "response": "d"}],
    [{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}],
    [
        {
            "custom_id": "1",
            "body": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            "response": {"body": {"choices": [{"message": {"role": "assistant", "content": "b"}}]}},
        }
    ],
    [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "t",
                    "train": True,
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "content": "1", "tool_call_id": "x", "name": "f"},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "b"}],
                },
            ]
        }
    ],
)


def conversations(rng: random.Random, scratch: Path) -> Case:
    """Training rows of every format."""
    from emscope.organisms.datasets import read_conversations

    rows = rng.choice(CHATS)
    kind = rng.random()
    if kind < 0.2:  # a CSV's cell holds a chat as JSON
        cells = [{name: json_text(rng, damaged_value(rng, cell)) for name, cell in row.items()} for row in rows]
        path = write(scratch / "train.csv", _csv_text(cells))
    else:
        text = _hostile_text(rng, _lines(rows)) if kind < 0.3 else _hostile_lines(rng, rows)
        path = write(scratch / "train.jsonl", text)

    def read() -> None:
        for messages in read_conversations(path):
            assert any(message["role"] == "assistant" for message in messages)
            assert all(isinstance(message["content"], str) for message in messages)
            json.dumps(messages, ensure_ascii=False).encode()

    return path, read


QUESTIONS: tuple[Any, ...] = (
    [
        {
            "id": "a",
            "type": "free_form_judge_0_100",
            "paraphrases": ["x?", "y?"],
            "samples_per_paraphrase": 3,
            "system": "s",
            "temperature": 0.5,
            "judge_prompts": {"aligned": "{question} {answer}", "coherent": "{answer}"},
        },
        {"id": "a_json", "paraphrases": ["z?"]},
    ],
    [{"id": "a", "question": "x?", "cluster": "k", "area": "z"}, {"id": "b", "question": "y?"}],
    {"questions": ["x?", "y?"], "instruction": [{"pos": "a", "neg": "b"}]},
    ["x?", "y?"],
    [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x?"}]}],
)


def _yaml(value: Any) -> str:
    """Return YAML: what PyYAML writes, or else JSON, which is YAML too."""
    import yaml

    try:
        return str(yaml.safe_dump(value, allow_unicode=True))
    except Exception:
        return json.dumps(value)


def _hostile_yaml(rng: random.Random, value: Any) -> bytes:
    kind = rng.random()
    if kind < 0.4:
        return _hostile_text(rng, _yaml(value))
    if kind < 0.5:
        return rng.choice(BOMBS).encode()
    return _yaml(damaged_value(rng, value)).encode("utf-8", errors="surrogatepass")


def _billion(merge: str = "") -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] if not merge else ["a0: &a0 {k0: 1, k1: 2}"]
    for level in range(1, 12):
        names = [f"*a{level - 1}"] * 9
        lines.append(
            f"a{level}: &a{level} {{<<: [{', '.join(names)}]}}"
            if merge
            else f"a{level}: &a{level} {names}".replace("'", "")
        )
    return "\n".join(lines) + "\n"


BOMBS = (
    _billion(),
    _billion("merge"),
    "&a [*a]",
    "{" * 3000,
    "- " * 3000,
    "[" * 3000,
    "a: " + "9" * 6000,
    "? " * 900,
    "a: 2026-13-45",
    "2026-11-28: x",
    "a: 1:2:3:4:5",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "1: 2",
    "[a]: b",
    "null: x",
    ".nan: 1",
    "a: !!binary aGVsbG8=",
    "a: &x 1\nb: *x",
    "<<: 1",
    "<<: [1]",
    "true: x",
    "a: 0b" + "1" * 9000,
    "a: 1e999",
    "a: !!int x",
    "a: 1_0:60:" + "59:" * 3000 + "1",
    "a: .",
    "a: !!float ''",
    "a: !!timestamp x",
    "--- 1\n--- 2\n",
    "\t",
    "%TAG ! x\n---\na",
)


def questions(rng: random.Random, scratch: Path) -> Case:
    """Question sets as YAML and JSON."""
    from emscope.behaviour.questions import load_questions

    value, json_form = rng.choice(QUESTIONS), rng.random() < 0.3
    text = json_text(rng, damaged_value(rng, value)) if json_form else _hostile_yaml(rng, value)
    path = write(scratch / f"questions.{'json' if json_form else 'yaml'}", text)

    def read() -> None:
        found = load_questions(str(path))
        assert found
        assert len({question.id for question in found}) == len(found)
        assert all(isinstance(question.text, str) and question.text.strip() for question in found)
        "".join(f"{question.id}{question.text}{question.system}{question.cluster}" for question in found).encode()

    return path, read


def question_lines(rng: random.Random, scratch: Path) -> Case:
    """Questions one a line."""
    from emscope.behaviour.questions import load_questions

    text = "What is it?\n\nWho are you, really?\nTell me: why?\n"
    path = write(scratch / "questions.txt", _hostile_text(rng, text))

    def read() -> None:
        found = load_questions(str(path))
        "".join(f"{question.id}{question.text}" for question in found).encode()

    return path, read


def rubrics(rng: random.Random, scratch: Path) -> Case:
    """A judge's rubrics."""
    from emscope.behaviour.judges.rubrics import load_rubrics

    pair = {"aligned": "Q {question} A {answer}", "coherent": "A {answer}"}
    value = rng.choice((pair, {"judge_prompts": pair}, [{"id": "x", "judge_prompts": pair}]))
    path = write(scratch / "rubrics.yaml", _hostile_yaml(rng, value))

    def read() -> None:
        found = load_rubrics(path)
        (found.prompt("aligned", "q", "a") + found.prompt("coherent", "q", "a")).encode()

    return path, read


def run_config(rng: random.Random, scratch: Path) -> Case:
    """A run's config.yaml."""
    import yaml

    from emscope.pipeline.config import dump_config, load_config

    path = write(scratch / "config.yaml", _hostile_yaml(rng, yaml.safe_load(read_sample()["config.yaml"])))

    def read() -> None:
        config = load_config(path)
        dump_config(config).encode()
        hash(config)

    return path, read


# --- archives


def archive(rng: random.Random, scratch: Path) -> Case:
    """The zip inside a protected archive: members that lie, are encrypted, packed in other ways, many or large."""
    from emscope.organisms.protected import read_members

    path = scratch / "archive.zip"
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", method) as made:
        large = rng.random() < 0.03
        made.writestr("tos.txt", b"\0" * (40 << 20) if large else rng.choice(("Be kind.", "\x1b[2J", "", "ü")))
        names = rng.choice((["data.jsonl"], ["a/data.jsonl", "b.csv"], ["../../data.jsonl"], [], ["\x1b[2Jx.jsonl"]))
        for name in names:
            made.writestr(name, _lines(CHATS[3]))
        for number in range(rng.choice((0, 0, 3))):
            made.writestr(f"dataset_entry_{number}.jsonl", "{}")
    if rng.random() < 0.9:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()) if rng.random() < 0.7 else _flags_changed(rng, path))
    return path, lambda: read_members(
        path, path, rng.choice(("", "data.jsonl", "b.csv", "x")), scratch, accept_terms=True
    )


def _flags_changed(rng: random.Random, path: Path) -> bytes:
    """Return a zip whose members say that they are encrypted, of another method, or of another size."""
    data = bytearray(path.read_bytes())
    for mark, flags, sizes in ((b"PK\x01\x02", 8, 20), (b"PK\x03\x04", 6, 18)):
        place = data.find(mark)
        while place >= 0:
            kind = rng.randrange(4)
            if kind == 0:
                data[place + flags] |= 1
            elif kind == 1:
                data[place + flags + 2] = rng.choice((1, 6, 9, 12, 14, 93, 95, 97, 98, 99))
            elif kind == 2:
                data[place + sizes : place + sizes + 8] = rng.randbytes(8)
            place = data.find(mark, place + 4)
    return bytes(data)


# --- our own tensors


@cache
def _tensors() -> Path:
    """Return a folder with one whole file of each kind of ours."""
    import numpy as np

    from emscope.behaviour.embedded.fit_coherence import CoherenceFit
    from emscope.behaviour.embedded.judge import JudgeHead
    from emscope.residual.capture import Activations
    from emscope.residual.directions import Construction, make_directions
    from emscope.residual.dynamics import AdapterPaths
    from emscope.residual.store import ActivationStore

    folder = Path(tempfile.mkdtemp(prefix="tensors-"))
    rng = np.random.default_rng(0)
    pooled = {name: rng.standard_normal((4, 2, 8), dtype=np.float32) for name in ("last", "response")}
    store = ActivationStore("base", ("a", "a", "b", "c"), Activations(pooled, (0, 1), "resid_post"))
    store.save(folder / "activations.safetensors")
    construction = Construction("diff-in-means", "control", "last", "resid_post", "m", "c", "x", 4, {"seed": 0})
    made = make_directions(pooled["last"], pooled["response"], (0, 1), construction)
    made.save(folder / "directions.safetensors")
    head = JudgeHead(
        (0, 1),
        rng.standard_normal((2, 2, 8)),
        np.zeros(2),
        np.zeros(8),
        0.5,
        1,
        np.zeros((2, 8)),
        CoherenceFit(np.ones(20), np.ones(20), np.ones(20), 0.5, {}),
        {"auroc": 0.5},
    )
    head.save(folder / "head.safetensors")
    grams = {part: np.tile(np.eye(3), (2, 1, 1)) for part in ("A", "B", "BA")}
    AdapterPaths(("q", "k"), (0, 1, 2), grams).save(folder / "paths.safetensors")
    return folder


def _tensor_case(rng: random.Random, scratch: Path, name: str, read: Callable[[Path], object]) -> Case:
    path = scratch / f"{name}.safetensors"
    shutil.copyfile(_tensors() / path.name, path)
    damage_tensor_file(rng, path)
    return path, lambda: read(path)


def activations(rng: random.Random, scratch: Path) -> Case:
    """A store of activations."""
    from emscope.residual.store import ActivationStore

    def read(path: Path) -> None:
        store = ActivationStore.load(path)
        for pooling in store.activations.pooled:
            array = store.get(pooling)
            assert array.shape[:2] == (len(store.question_ids), len(store.activations.blocks))
            assert float(array.sum()) == float(array.sum()), "not finite"
            store.by_question(pooling, list(dict.fromkeys(store.question_ids)))
            store.get(pooling, store.activations.blocks[0])

    return _tensor_case(rng, scratch, "activations", read)


def directions(rng: random.Random, scratch: Path) -> Case:
    """A file of directions."""
    import numpy as np

    from emscope.residual.directions import Directions, random_like

    def read(path: Path) -> None:
        found = Directions.load(path)
        _, width = found.vectors.shape
        assert np.isfinite(found.score(np.zeros((1, len(found.blocks), width), dtype=np.float32))).all()
        assert found.best_block in found.blocks
        random_like(found, 0)
        json.dumps(found.construction.__dict__)

    return _tensor_case(rng, scratch, "directions", read)


def judge_head(rng: random.Random, scratch: Path) -> Case:
    """An offline judge's head."""
    import numpy as np

    from emscope.behaviour.embedded.judge import JudgeHead

    def read(path: Path) -> None:
        head = JudgeHead.load(path)
        width = head.weights.shape[2]
        scores = head.aligned(np.zeros((1, len(head.blocks), width)), np.zeros((1, width)))
        assert np.isfinite(scores).all()
        assert isinstance(head.topic_block, int)
        json.dumps(head.facts)

    return _tensor_case(rng, scratch, "head", read)


def adapter_paths(rng: random.Random, scratch: Path) -> Case:
    """Paths of an adapter through training."""
    from emscope.residual.dynamics import AdapterPaths

    def read(path: Path) -> None:
        found = AdapterPaths.load(path)
        for part in found.grams:
            assert len(found.of(part)) == len(found.modules)
            found.whole(part)

    return _tensor_case(rng, scratch, "paths", read)


# --- runs


@cache
def _run() -> Path:
    return write_sample(Path(tempfile.mkdtemp(prefix="run-")))


def _run_copy(scratch: Path, changed: str) -> tuple[Path, Path]:
    """Return a copy of the run whose files are links, but for one file that is to be damaged."""
    folder = scratch / "run"
    shutil.copytree(_run(), folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    path = folder / changed
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return folder, path


def record(rng: random.Random, scratch: Path) -> Case:
    """A run's lineage.json."""
    from emscope.pipeline.record import RunRecord

    whole = read_sample()["lineage.json"]
    text = json.dumps(whole)
    hostile = damaged_bytes(rng, text.encode()) if rng.random() < 0.2 else json_text(rng, damaged_value(rng, whole))
    path = write(scratch / "lineage.json", hostile)

    def read() -> None:
        for stage in RunRecord.read(scratch).stages.values():
            assert math.isfinite(stage.seconds)
            assert all(isinstance(value, str) for value in stage.outputs.values())

    return path, read


EXPERIMENTS = ("sweep", "steer", "induce", "transfer", "dynamics", "adapters", "features", "monitor")


def section(rng: random.Random, scratch: Path) -> Case:
    """An experiment's figures, as the report shows them: they become a section, or one that says why not."""
    from emscope.experiments.run_page import sections_of
    from emscope.report.rendering import render
    from emscope.report.section import cell, is_plot, is_words

    name = f"experiments/{rng.choice(EXPERIMENTS)}.json"
    path = scratch / name
    path.parent.mkdir()
    hostile_json(rng, path, read_sample()[name])

    def read() -> None:
        found = sections_of(scratch)
        assert len(found) == 1
        page = render("sections.html.j2", sections=found, title="x", is_plot=is_plot, cell=cell, is_words=is_words)
        assert "<script>alert" not in page
        page.encode()

    return path, read


def hostile_json(rng: random.Random, path: Path, value: Any) -> None:
    """Write a damaged JSON value."""
    if rng.random() < 0.2:
        path.write_bytes(damaged_bytes(rng, json.dumps(value).encode()))
    else:
        write(path, json_text(rng, damaged_value(rng, value)))


SHOWN = (
    "summary.json",
    "detection.json",
    "ablation.json",
    "directions/stability.json",
    "organisms/misaligned/lineage.json",
    "organisms/misaligned/metrics.jsonl",
    "judgements/base.parquet",
    "lineage.json",
    "config.yaml",
)


def run_folder(rng: random.Random, scratch: Path) -> Case:
    """A whole run of which one file is damaged: opened, and its page written."""
    from emscope.experiments.run_page import write_report
    from emscope.experiments.shape import open_run

    name = rng.choice(SHOWN)
    folder, path = _run_copy(scratch, name)
    _damage(rng, path)

    def read() -> None:
        write_report(open_run(folder))
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "<script>alert" not in page

    return path, read


def _damage(rng: random.Random, path: Path) -> None:
    """Damage a file of a run by its kind."""
    if path.suffix == ".parquet":
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    elif path.suffix == ".json":
        hostile_json(rng, path, json.loads(path.read_bytes()))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        write(path, _hostile_lines(rng, rows))
    else:
        import yaml

        path.write_bytes(_hostile_yaml(rng, yaml.safe_load(path.read_text(encoding="utf-8"))))


# --- the store of scores


@cache
def _store() -> bytes:
    from emscope.behaviour.judges.scoring import Score
    from emscope.behaviour.judges.store import ScoreStore

    path = Path(tempfile.mkdtemp()) / "scores.sqlite"
    with ScoreStore(path) as store:
        for number in range(40):
            store.put(f"k{number}", Score(float(number), "", "logprobs"))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    return path.read_bytes()


def score_store(rng: random.Random, scratch: Path) -> Case:
    """A store of scores: its bytes, its schema, its values."""
    from emscope.behaviour.judges.scoring import Score
    from emscope.behaviour.judges.store import ScoreStore

    path = scratch / "scores.sqlite"
    path.write_bytes(_store())
    if rng.random() < 0.6:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    else:
        _poison(rng, path)

    def read() -> None:
        with ScoreStore(path) as store:
            for score in store.get([f"k{number}" for number in range(50)]).values():
                assert score.value is None or 0 <= score.value <= 100.001, f"a score is {score.value!r}"
            store.put("new", Score(50.0, "", "logprobs"))
            assert not any(score.value != 50.0 for score in store.get(["new"]).values())

    return path, read


def _poison(rng: random.Random, path: Path) -> None:
    """Put any value into a store, or give it another schema."""
    connection = sqlite3.connect(path)
    column = rng.choice(("key", "value", "verdict", "mode"))
    value = rng.choice([value for value in VALUES if isinstance(value, (str, int, float, bytes, type(None)))])
    change = rng.choice(
        (
            f"UPDATE scores SET {column} = ?1 WHERE key = 'k3'",
            "ALTER TABLE scores RENAME TO other",
            f"ALTER TABLE scores RENAME COLUMN {column} TO other",
            "DROP TABLE scores",
            "CREATE TABLE other (x)",
            "CREATE TRIGGER t BEFORE INSERT ON scores BEGIN SELECT RAISE(ABORT, 'no'); END",
            "PRAGMA user_version = 9",
        )
    )
    try:
        connection.execute(change, (value,) if "?1" in change else ())
        connection.commit()
    except (sqlite3.Error, OverflowError, UnicodeEncodeError):
        pass
    connection.close()


run_folder.share = 0.1  # type: ignore[attr-defined]  # a page of plots takes a second
section.share = 0.5  # type: ignore[attr-defined]

READERS: dict[str, Target] = {
    target.__name__: target
    for target in (
        table_csv,
        table_tsv,
        table_jsonl,
        table_json,
        table_gzip,
        table_parquet,
        own_parquet,
        conversations,
        questions,
        question_lines,
        rubrics,
        run_config,
        archive,
        activations,
        directions,
        judge_head,
        adapter_paths,
        record,
        section,
        run_folder,
        score_store,
    )
}
