"""A report of `emscope bench` as tables for a terminal, alone or beside another one."""

from __future__ import annotations

import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emscope.pipeline.roofline.report import LimitsReport, LoopFigures, Repeats

WIDTH = 118


def shown(report: LimitsReport) -> str:
    """Return a report as text."""
    machine = report.machine
    lines = [
        f"{machine.processor}, {machine.device}, {machine.threads} threads, {machine.cpu_features}, "
        f"{machine.memory_gib:g} GiB",
        f"{report.model}, {report.dtype}; medians of {report.repeats} rounds with their range; {report.date}",
        "",
        _table_of(_products(report)),
        _table_of(_loops(report)),
        "tokens/s: a shared beginning counts once; training counts answer tokens, sampling and ablation new ones.",
        f"of GEMM: operations a second, of the fastest product in {report.dtype}, {_scaled(report.gemm_roof)}FLOP/s.",
        "own width: of the fastest product with no more rows than a pass of this loop has tokens.",
        f"bandwidth: bytes a second that must move, of the fastest memory, {_scaled(report.bandwidth_roof)}B/s.",
        "bound by: the limit that would be reached first; of the roof: seconds at that limit, of those taken.",
    ]
    lines += [f"Not measured: {reason}." for reason in report.not_measured.values()]
    return "\n".join(lines) + "\n"


def _table_of(table: Table) -> str:
    page = io.StringIO()
    Console(file=page, width=WIDTH, highlight=False).print(table)
    return page.getvalue()


def _products(report: LimitsReport) -> Table:
    """Return the rates of products by rows, and of memory."""
    table = Table(box=None, padding=(0, 2))
    for heading in ("rows of a product", *_dtypes(report)):
        table.add_column(heading, justify="right")
    for rows in _rows(report):
        cells = []
        for dtype in _dtypes(report):
            found = report.gemm.get(f"{dtype} {rows}")
            cells.append("" if found is None else f"{_ranged(found)}FLOP/s")
        table.add_row(rows, *cells)
    for name, rate in report.bandwidth.items():
        table.add_row(f"memory, {name}", f"{_ranged(rate)}B/s")
    return table


def _dtypes(report: LimitsReport) -> list[str]:
    return list(dict.fromkeys(name.split(" ")[0] for name in report.gemm))


def _rows(report: LimitsReport) -> list[str]:
    return list(dict.fromkeys(name.split(" ")[1] for name in report.gemm))


def _loops(report: LimitsReport) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("loop")
    headings = ("tokens/s", "range", "a pass", "padding", "of GEMM", "own width", "bandwidth")
    for heading in (*headings, "bound by", "of the roof", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for loop in report.loops:
        table.add_row(*_cells(loop))
    return table


def _cells(loop: LoopFigures) -> list[str]:
    rate = loop.rate
    return [
        loop.name,
        f"{rate.median:,.0f}",
        f"{rate.smallest:,.0f}-{rate.largest:,.0f}",
        f"{loop.tokens_a_pass:,.0f}",
        f"{loop.padding:.0%}",
        f"{loop.gemm_share:.1%}",
        f"{loop.own_share:.1%}",
        f"{loop.bandwidth_share:.1%}",
        loop.bound,
        f"{loop.roof_share:.0%}",
        "unknown" if loop.peak_bytes is None else f"{loop.peak_bytes / 2**30:.1f} GiB",
    ]


def compared(report: LimitsReport, other: LimitsReport) -> str:
    """Return a report's figures beside another's, as ratios of medians."""
    table = Table(box=None, padding=(0, 2))
    table.add_column("", justify="left")
    for heading in ("this", "the other", "ratio"):
        table.add_column(heading, justify="right")
    _compare_rates(table, report, other)
    _compare_loops(table, report, other)
    lines = [f"this: {_named(report)}", f"the other: {_named(other)}"]
    different = differences(report, other)
    if different:
        words = ", ".join(different)
        lines.append(f"They did not measure the same ({words}): compare the shares, not the tokens a second.")
    return "\n".join([*lines, "", _table_of(table)])


def _compare_rates(table: Table, report: LimitsReport, other: LimitsReport) -> None:
    for name, rate in report.gemm.items():
        if name in other.gemm:
            dtype, rows = name.split(" ")
            there = other.gemm[name].median
            table.add_row(f"product, {dtype}, rows {rows}", *_beside(rate.median, there, "FLOP/s"))
    for name, rate in report.bandwidth.items():
        if name in other.bandwidth:
            table.add_row(escape(f"memory, {name}"), *_beside(rate.median, other.bandwidth[name].median, "B/s"))


def _compare_loops(table: Table, report: LimitsReport, other: LimitsReport) -> None:
    there = {loop.name: loop for loop in other.loops}
    for loop in report.loops:
        if loop.name not in there:
            continue
        theirs = there[loop.name]
        table.add_row(escape(f"{loop.name}, {loop.unit}"), *_beside(loop.rate.median, theirs.rate.median, "/s"))
        ratio = f"{loop.roof_share / theirs.roof_share:.2f}" if theirs.roof_share else "unknown"
        table.add_row(
            escape(f"{loop.name}, share of the roof"), f"{loop.roof_share:.0%}", f"{theirs.roof_share:.0%}", ratio
        )


def _beside(here: float, there: float, unit: str) -> tuple[str, str, str]:
    return f"{_scaled(here)}{unit}", f"{_scaled(there)}{unit}", f"{here / there:.2f}" if there else "unknown"


def differences(report: LimitsReport, other: LimitsReport) -> list[str]:
    """Return what two reports measured differently, in words, besides the machine."""
    different = []
    for what in ("model", "dtype", "shape", "sizes", "versions"):
        if getattr(report, what) != getattr(other, what):
            different.append(what)
    return different


def _named(report: LimitsReport) -> str:
    machine = report.machine
    return f"{machine.processor} ({machine.device}), {report.model} in {report.dtype}, {report.date}"


def _ranged(rate: Repeats) -> str:
    return f"{_scaled(rate.median)} ({_scaled(rate.smallest)}-{_scaled(rate.largest)}) "


def _scaled(value: float) -> str:
    """Return a number with its unit's prefix: '1.46 T'."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "
