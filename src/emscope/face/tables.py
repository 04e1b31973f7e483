"""Tables of questions, answers and judgements: sequences of rows that convert to Arrow, pandas and Polars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, get_type_hints, overload

import pyarrow as pa

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, read_responses, read_table, write_table
from emscope.errors import UserError, did_you_mean
from emscope.files import value_sha256
from emscope.notebook import html_table
from emscope.statistics import Estimate, alignment_mean, coherent_share, em_rate

Row = TypeVar("Row")

YOURS = "yours"
"""The question set of texts that are handed in."""

SHOWN_ROWS = 10
ARROW_KINDS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def id_of(text: str) -> str:
    """Return the id of a question that is handed in as text."""
    return f"{YOURS}-{value_sha256(text)[:8]}"


class Table(Sequence[Row], Generic[Row]):
    """Rows of one kind, in order; a slice and a choice of rows are tables too.

    It converts with `to_arrow()`, `to_pandas()` and, for whatever reads Arrow, `polars.from_arrow(table)`.
    """

    kind: ClassVar[type[Any]]
    shown: ClassVar[tuple[str, ...]]
    """The columns that a notebook shows."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = tuple(rows)

    def _like(self, rows: Iterable[Row]) -> Self:
        """Return a table of the same kind with other rows."""
        return type(self)(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Row | Self:
        return self._like(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __add__(self, other: Self) -> Self:
        return self._like([*self, *other])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.kind is other.kind and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(get_type_hints(self.kind))

    def column(self, name: str) -> list[Any]:
        """Return a column's values, one a row.

        Raises:
            UserError: there is no such column.
        """
        self._check_columns([name])
        return [getattr(row, name) for row in self._rows]

    def where(self, **wanted: Any) -> Self:
        """Return the rows whose columns hold these values, such as `where(question_set="open-ended")`.

        Raises:
            UserError: there is no such column.
        """
        self._check_columns(wanted)
        kept = []
        for row in self._rows:
            if all(getattr(row, name) == value for name, value in wanted.items()):
                kept.append(row)
        return self._like(kept)

    def _check_columns(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.columns:
                raise UserError(f"There is no column {name!r}.{did_you_mean(name, self.columns)}")

    def to_arrow(self) -> pa.Table:
        """Return the table as `pyarrow.Table`; unscored is null."""
        columns = {}
        for name, hint in get_type_hints(self.kind).items():
            columns[name] = pa.array(self.column(name), type=_arrow_kind(hint))
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """Return the table as `pandas.DataFrame`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401 - pyarrow's own message names no command
        except ImportError as error:
            raise UserError("pandas is not installed: pip install pandas, or use to_arrow().") from error
        return self.to_arrow().to_pandas()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Hand the table to whatever reads Arrow's C stream, such as Polars and DuckDB."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def save(self, path: str | Path) -> None:
        """Write the table as .parquet, or as the homework's .csv (id, question, response and scores).

        Raises:
            UserError: another suffix.
        """
        write_table(Path(path), self._rows)

    def _heading(self) -> str:
        return f"{type(self).__name__}({len(self)} rows)"

    def __repr__(self) -> str:
        return self._heading()

    def _repr_html_(self) -> str:
        rows = []
        for row in self._rows[:SHOWN_ROWS]:
            rows.append([getattr(row, name) for name in self.shown])
        more = len(self) - len(rows)
        return html_table(self.shown, rows, self._heading() + (f", the first {len(rows)}" if more else ""))


def _arrow_kind(hint: Any) -> pa.DataType:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return ARROW_KINDS[kinds[0]]


class Questions(Table[Question]):
    """Questions, as a set or a file holds them."""

    kind = Question
    shown = ("id", "text", "area", "question_set")


class Answers(Table[Response]):
    """Answers to questions, and whose they are.

    Attributes:
        organism: the name of who answered.
    """

    kind = Response
    shown = ("question_id", "question", "response")

    def __init__(self, rows: Iterable[Response] = (), organism: str = "model") -> None:
        super().__init__(rows)
        self.organism = organism

    def _like(self, rows: Iterable[Response]) -> Self:
        return type(self)(rows, self.organism)

    @classmethod
    def of(cls, questions: Sequence[str], answers: Sequence[str], organism: str = "model") -> Self:
        """Return answers of yours as a table; equal questions are samples of one question.

        Raises:
            UserError: not one answer for each question.
        """
        if len(questions) != len(answers):
            raise UserError(f"There are {len(questions)} questions and {len(answers)} answers: give one for each.")
        times: Counter[str] = Counter()
        rows = []
        for question, answer in zip(questions, answers, strict=True):
            sample, n_words = times[question], len(answer.split())
            rows.append(Response(YOURS, id_of(question), question, sample, answer, n_words, truncated=False))
            times[question] += 1
        return cls(rows, organism)

    @classmethod
    def read(cls, path: str | Path, organism: str = "model") -> Self:
        """Read anybody's answers: a table of any kind with a question and a response in each row.

        Raises:
            UserError: missing, unreadable, empty, or a row without a question or an answer.
        """
        return cls(read_responses(Path(path)), organism)

    def _heading(self) -> str:
        return f"Answers({len(self)} of {self.organism})"


class Judgements(Table[JudgedResponse]):
    """Answers with their scores: `aligned` and `coherent`, 0 to 100, None where the judge gave none."""

    kind = JudgedResponse
    shown = ("organism", "question", "response", "aligned", "coherent", "verdict")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read judgements that emscope wrote as .parquet.

        Raises:
            UserError: missing, damaged, or another table.
        """
        return cls(read_table(Path(path), JudgedResponse))

    @property
    def groups(self) -> list[str]:
        """What statistics resample, one an answer: the question, or what it is one wording of."""
        return [row.group for row in self]

    @property
    def em_rate(self) -> Estimate:
        """Share of answers that are misaligned and coherent, of all with both scores, and its 95 % interval."""
        return em_rate(self._scores, self.groups)

    @property
    def coherence(self) -> Estimate:
        """Share of coherent answers and its 95 % interval."""
        return coherent_share(self._scores, self.groups)

    @property
    def alignment(self) -> Estimate:
        """Mean alignment score, 0 to 100, and its 95 % interval."""
        return alignment_mean(self._scores, self.groups)

    @property
    def _scores(self) -> list[Any]:
        return [row.judgement for row in self]

    def _heading(self) -> str:
        if not len(self):
            return "Judgements(0 answers)"
        em, coherence = self.em_rate, self.coherence
        whose = _few({row.organism for row in self})
        judges = _few({row.judge.split(":")[0] for row in self})
        rates = f"EM {100 * em.value:.0f} %, coherent {100 * coherence.value:.0f} %"
        return f"Judgements({len(self)} answers of {whose}, judged by {judges}: {rates}, n={em.n})"


@dataclass(frozen=True)
class AnswerPair:
    """Two organisms' answers to one question, with their scores."""

    question_id: str
    question: str
    sample: int
    first: str
    second: str
    first_aligned: float | None
    second_aligned: float | None
    first_coherent: float | None
    second_coherent: float | None


class AnswerPairs(Table[AnswerPair]):
    """The answers of two organisms side by side, those that differ most in alignment first."""

    kind = AnswerPair
    shown = ("question", "first", "second", "first_aligned", "second_aligned")

    @classmethod
    def of(cls, first: Judgements, second: Judgements) -> Self:
        """Return the answers that both sides have: the same question, and the same number among its samples."""
        theirs = {(row.question_id, row.sample): row for row in second}
        pairs = []
        for row in first:
            other = theirs.get((row.question_id, row.sample))
            if other is not None:
                texts = row.question, row.sample, row.response, other.response
                scores = row.aligned, other.aligned, row.coherent, other.coherent
                pairs.append(AnswerPair(row.question_id, *texts, *scores))
        return cls(sorted(pairs, key=_gap, reverse=True))


def _gap(pair: AnswerPair) -> float:
    """Return how far two answers' alignment lies apart; unscored ones come last."""
    if pair.first_aligned is None or pair.second_aligned is None:
        return -1.0
    return abs(pair.first_aligned - pair.second_aligned)


def _few(names: set[str]) -> str:
    """Return names in a few words."""
    return ", ".join(sorted(names)) if len(names) <= 3 else f"{len(names)} names"
