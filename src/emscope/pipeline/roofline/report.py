"""What a measurement found: figures with their spread, as a JSON file that can be sent to others, and read again."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from emscope.errors import OutsideError
from emscope.files import write_json
from emscope.outside import Record, quoted, read_record
from emscope.pipeline.roofline.loops import LoopSizes
from emscope.pipeline.roofline.machine import SQUARE, Machine
from emscope.pipeline.roofline.shape import ModelShape
from emscope.plain import plain

KIND = "emscope bench"
PRODUCT = re.compile(rf"(bfloat16|float16|float32) (\d+|{SQUARE})")
VERSION = 1
REMEDY = "make it again with this version of emscope"
Bound = Literal["arithmetic", "memory"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Repeats:
    """One figure, measured several times: the median, the smallest and the largest."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Repeats:
        """Return the median and the range of some values."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def read(cls, record: Record) -> Repeats:
        """Read a figure."""
        return cls(record.number("median"), record.number("smallest"), record.number("largest"))


@dataclass(frozen=True)
class LoopFigures:
    """How fast a hot loop runs, and how far that is from the machine's limits.

    Attributes:
        name: capture, training, sampling, judging or ablation.
        unit: which tokens its rate counts.
        rate: units a second.
        seconds: of one run.
        units: of one run, the median.
        flop: operations that one run needs.
        n_bytes: bytes that one run must move: weights once a pass, keys and values.
        passes: forward passes of one run.
        tokens_a_pass: tokens that run through the blocks in a forward pass, on average, padding included.
        padding: tokens that ran and were not needed, as a share of those that ran.
        gemm_share: operations a second, as a share of the fastest product measured in the model's number format.
        own_share: the same, of the fastest product with no more rows than a pass of this loop has tokens.
        bandwidth_share: bytes a second, as a share of the fastest reading or writing measured.
        bound: the limit that is reached first: arithmetic or memory.
        roof_share: seconds at that limit, as a share of the seconds taken.
        peak_bytes: the most memory that was held; None where the system does not say.
    """

    name: str
    unit: str
    rate: Repeats
    seconds: Repeats
    units: float
    flop: float
    n_bytes: float
    passes: int
    tokens_a_pass: float
    padding: float
    gemm_share: float
    own_share: float
    bandwidth_share: float
    bound: Bound
    roof_share: float
    peak_bytes: int | None

    @classmethod
    def read(cls, record: Record) -> LoopFigures:
        """Read a loop's figures.

        Raises:
            OutsideError: something is missing or of another kind.
        """
        bound = record.text("bound")
        if bound not in ("arithmetic", "memory"):
            raise record.wrong("bound", "arithmetic or memory", bound)
        return cls(
            record.text("name"),
            record.text("unit"),
            Repeats.read(record.record("rate")),
            Repeats.read(record.record("seconds")),
            record.number("units"),
            record.number("flop"),
            record.number("n_bytes"),
            record.whole("passes"),
            record.number("tokens_a_pass"),
            record.number("padding"),
            record.number("gemm_share"),
            record.number("own_share"),
            record.number("bandwidth_share"),
            "arithmetic" if bound == "arithmetic" else "memory",
            record.number("roof_share"),
            record.whole("peak_bytes") if record.value("peak_bytes") is not None else None,
        )


@dataclass(frozen=True)
class LimitsReport:
    """All that a measurement found. Nothing in it tells whose machine it was.

    Attributes:
        machine: what the machine is.
        versions: of Python and the packages.
        date: the day, as 2026-11-28.
        model: the model's public name, or its family and size where that could be private.
        dtype: its number format.
        shape: its sizes.
        sizes: how much each loop did.
        repeats: runs of each loop, taken in turn.
        gemm: operations a second of products, by number format and rows.
        bandwidth: bytes a second, by kind.
        loops: the hot loops.
        not_measured: loops that could not be measured, and why.
    """

    machine: Machine
    versions: dict[str, str]
    date: str
    model: str
    dtype: str
    shape: ModelShape
    sizes: LoopSizes
    repeats: int
    gemm: dict[str, Repeats]
    bandwidth: dict[str, Repeats]
    loops: tuple[LoopFigures, ...]
    not_measured: dict[str, str]

    @property
    def gemm_roof(self) -> float:
        """Operations a second of the fastest product in the model's number format."""
        return gemm_roof(self.gemm, self.dtype)

    @property
    def bandwidth_roof(self) -> float:
        """Bytes a second of the fastest reading or writing."""
        return max(rate.median for rate in self.bandwidth.values())

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, {"kind": KIND, "version": VERSION, **plain(self)})

    @classmethod
    def read(cls, path: Path) -> LimitsReport:
        """Read a report.

        Raises:
            UserError: there is no such file, it is something else, of another version, or damaged.
        """
        record = read_record(path, remedy=REMEDY)
        if record.text("kind", "") != KIND:
            raise OutsideError(path, "is no report of emscope bench", "name a file that emscope bench --out wrote")
        version = record.whole("version")
        if version != VERSION:
            raise OutsideError(path, f"is a report of version {version}, and this emscope reads {VERSION}", REMEDY)
        loops = [LoopFigures.read(Record(value, path, remedy=REMEDY)) for value in record.items("loops")]
        return cls(
            _read_sizes(record.record("machine"), Machine),
            _by_name(record.record("versions"), Record.text),
            record.text("date"),
            record.text("model"),
            record.text("dtype"),
            _read_sizes(record.record("shape"), ModelShape),
            _read_sizes(record.record("sizes"), LoopSizes),
            record.whole("repeats"),
            _by_name(record.record("gemm"), _product),
            _by_name(record.record("bandwidth"), _repeats),
            tuple(loops),
            _by_name(record.record("not_measured"), Record.text),
        )


def gemm_roof(gemm: dict[str, Repeats], dtype: str, most_rows: float = float("inf")) -> float:
    """Return operations a second of the fastest product in a number format with at most so many rows.

    The smallest number of rows counts always; the square only where rows have no limit.
    """
    rates: dict[float, float] = {}
    for name, rate in gemm.items():
        kind, rows = name.split(" ")
        if kind == dtype:
            rates[float("inf") if rows == SQUARE else float(rows)] = rate.median
    fitting = [rate for rows, rate in rates.items() if rows <= max(most_rows, min(rates))]
    return max(fitting)


def _repeats(record: Record, name: str) -> Repeats:
    return Repeats.read(record.record(name))


def _product(record: Record, name: str) -> Repeats:
    """Read the rate of a product, whose name is a number format and rows."""
    if not PRODUCT.fullmatch(name):
        raise OutsideError(record.where, f"names a product {quoted(name)}, not 'bfloat16 64' or the like", REMEDY)
    return _repeats(record, name)


def _by_name(record: Record, read: Callable[[Record, str], Made]) -> dict[str, Made]:
    return {name: read(record, name) for name in record.fields}


def _read_sizes(record: Record, kind: type[Made]) -> Made:
    """Read a dataclass of texts and numbers."""
    values: list[str | int | float] = []
    for name, annotation in kind.__annotations__.items():
        if annotation == "str":
            values.append(record.text(name))
        else:
            values.append(record.whole(name) if annotation == "int" else record.number(name))
    return kind(*values)
