"""Progress that the library reports and a command draws; silent unless somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[float], None]
Starter = Callable[[str, float, str], AbstractContextManager[Advance]]

_starter: ContextVar[Starter | None] = ContextVar("progress_starter", default=None)


@contextmanager
def task(name: str, total: float, unit: str) -> Iterator[Advance]:
    """Yield a function that advances the task `name` by an amount of `unit`s."""
    starter = _starter.get()
    if starter is None:
        yield lambda amount: None
    else:
        with starter(name, total, unit) as advance:
            yield advance


@contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Draw every task started inside this context as a bar with speed and time left."""

    @contextmanager
    def start(name: str, total: float, unit: str) -> Iterator[Advance]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(name, total=total, rate="")

            def advance(amount: float) -> None:
                bars.update(bar, advance=amount)
                speed = bars.tasks[0].finished_speed or bars.tasks[0].speed
                if speed:
                    bars.update(bar, rate=f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s")

            yield advance

    token = _starter.set(start)
    try:
        yield
    finally:
        _starter.reset(token)
