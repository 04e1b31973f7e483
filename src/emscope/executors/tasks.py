"""The contract for heavy work: (task, shard) → one part file, written whole, its rows counted in and out.

A task is a function that can be imported, and shards: plain settings, one for each call. What a shard's part holds
depends on the work alone, never on who carries it out: shards are cut before an executor is asked, none depends on
another, and their parts are joined in the order of the shards. So any executor gives the same bytes, and what one has
finished another goes on from.

    def sampled(asked: SamplingShard, held: Held) -> Part:
        organism = held.get(asked.organism)
        ...
        return Part(rows, rows=len(rows))

    parts = carried_out(Task("answers of base", sampled, shards))
"""

from __future__ import annotations

import contextvars
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from emscope import parts, progress
from emscope.errors import UserError
from emscope.parts import Part

logger = logging.getLogger(__name__)

T = TypeVar("T")
Thing = TypeVar("Thing", covariant=True)


class Need(Hashable, Protocol[Thing]):
    """What a task needs and what is dear to make, such as a loaded model: a frozen dataclass of plain settings."""

    def make(self) -> Thing:
        """Make it."""
        ...

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say whether these others have to go before there is room for it."""
        ...


class Held:
    """What a process keeps from one shard to the next: a model is loaded once, not once a shard."""

    def __init__(self, things: Mapping[Any, Any] | None = None) -> None:
        """Begin with what is made already, by its need."""
        self._things = dict(things or {})

    def get(self, need: Need[T]) -> T:
        """Return what is needed, made the first time."""
        if need not in self._things:
            self.make_room(need)
            self._things[need] = need.make()
        found: T = self._things[need]
        return found

    def make_room(self, need: Need[Any]) -> None:
        """Let go of everything where this would find no room beside it."""
        if self._things and need.crowded(list(self._things.values())):
            self._things.clear()

    def put(self, need: Need[T], thing: T) -> None:
        """Hold what is there already."""
        self._things[need] = thing


@dataclass(frozen=True)
class Shard:
    """A piece of a task.

    Attributes:
        given: a picklable dataclass of plain settings: all that the part is computed from.
        rows: the rows that go in; as many must come out.
    """

    given: Any
    rows: int


@dataclass(frozen=True)
class Task:
    """Heavy work.

    Attributes:
        name: what is done, as progress and errors say it.
        function: makes the part of a shard from its `given` and what is held; found by its name in its module.
        shards: the pieces.
        unit: what rows are called.
        reused: whether a part that is there is taken for the shard's; not where a task leaves files beside its part, of
            which it knows itself how far they are.
    """

    name: str
    function: Callable[[Any, Held], Part]
    shards: Sequence[Shard]
    unit: str = "rows"
    reused: bool = True


@dataclass(frozen=True)
class Order:
    """A shard as an executor is given it.

    Attributes:
        label: its name in sentences: 'answers of base, shard 2 of 7'.
        function: makes its part.
        given: what that is made from.
        rows: rows that go in.
        file: where its part is written, None where nothing is kept.
        task: the name of its task.
    """

    label: str
    function: Callable[[Any, Held], Part]
    given: Any
    rows: int
    file: Path | None
    task: str = ""


class Executor(ABC):
    """Carries out orders."""

    at_once: int = 1
    """Orders that it works on at the same time."""
    far_away = False
    """Whether it works in other processes, where tasks tell nobody how far they are."""

    @abstractmethod
    def carry_out(self, orders: Sequence[Order], held: Held) -> Iterator[tuple[int, Part | None]]:
        """Yield the number of each order as it is finished, with its part; None where the part is in its file.

        Raises:
            UserError: what a task raised, or the executor cannot go on.
        """

    def give_up(self, error: BaseException) -> None:
        """Have all that wait for orders end, because of an error elsewhere; who does one at a time has none waiting."""
        return


class RowsLostError(RuntimeError):
    """A shard gave another number of rows than went in."""


def carried_out(task: Task, held: Held | None = None) -> list[Part]:
    """Return the parts of a task in the order of its shards, made by the executor in force.

    Parts that an earlier, stopped attempt finished are read, whichever executor made them.

    Raises:
        RowsLostError: with the shard's name.
        UserError: what the task raises.
    """
    store, orders = parts.store_in_force(), _orders(task)
    found = _finished(orders) if task.reused else {}
    open_orders = [order for order in orders if order.label not in found]
    chosen, total = executor(), sum(order.rows for order in open_orders)
    shown = progress.task(task.name, total, task.unit) if chosen.far_away else nullcontext(lambda amount: None)
    with shown as advance:
        for number, part in chosen.carry_out(open_orders, held or Held()):
            order = open_orders[number]
            found[order.label] = part or _read(order)
            advance(order.rows)
    result = [_counted(found[order.label], order) for order in orders]
    if store is not None:
        for part in result:
            store.follow(part)
    return result


def _orders(task: Task) -> list[Order]:
    store, n = parts.store_in_force(), len(task.shards)
    orders = []
    for number, shard in enumerate(task.shards, 1):
        label = f"{task.name}, shard {number} of {n}"
        told = [task.function.__qualname__, number, _told(shard.given)]
        file = None if store is None else store.shard_file(task.name, told).absolute()
        orders.append(Order(label, task.function, shard.given, shard.rows, file, task.name))
    return orders


def _told(given: Any) -> Any:
    """Return settings as plain values: what a part's name is the hash of."""
    return asdict(given) if is_dataclass(given) and not isinstance(given, type) else given


def _finished(orders: Sequence[Order]) -> dict[str, Part]:
    """Return the parts that are there already, by label."""
    store = parts.store_in_force()
    found: dict[str, Part] = {}
    for order in orders:
        part = store.read(order.file) if store is not None and order.file is not None else None
        if store is not None and part is not None and part.rows == order.rows:
            store.note_reuse(part)
            found[order.label] = part
    return found


def _read(order: Order) -> Part:
    part = None if order.file is None else parts.read_part(order.file)
    if part is None:
        raise RuntimeError(f"{order.label}: its part is not in {order.file}")
    return part


def _counted(part: Part, order: Order) -> Part:
    if part.rows != order.rows:
        raise RowsLostError(f"{order.label}: {order.rows} rows went in, {part.rows} came out")
    return part


def finished(order: Order, held: Held) -> Part:
    """Carry out one order in this process: its part is made, counted and written.

    Batches inside it are kept too while it lasts, so a stop costs less than a shard.

    Raises:
        RowsLostError: with the shard's name.
    """
    if order.file is None:
        return _counted(order.function(order.given, held), order)
    inside = order.file.with_name(f"in-{order.file.name}")
    began = time.monotonic()
    with parts.kept_in(inside, order.file.name) as store:
        part = _counted(order.function(order.given, held), order)
    part = replace(part, seconds=store.seconds_before + time.monotonic() - began)
    parts.write_part(order.file, part)
    parts.forget(inside)
    return part


class Local(Executor):
    """Carries out orders one after the other in this process."""

    def carry_out(self, orders: Sequence[Order], held: Held) -> Iterator[tuple[int, Part | None]]:
        """Yield the number and the part of each order, in order."""
        for number, order in enumerate(orders):
            yield number, finished(order, held)


_executor: ContextVar[Executor | None] = ContextVar("executor", default=None)


def executor() -> Executor:
    """Return the executor in force: this process, unless somebody chose another."""
    return _executor.get() or Local()


@contextmanager
def carried_out_by(chosen: Executor) -> Iterator[None]:
    """Let all tasks inside this context be carried out by an executor."""
    token = _executor.set(chosen)
    try:
        yield
    finally:
        _executor.reset(token)


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Return what each piece of work returns, in order: side by side where the executor does several things at once.

    Each must be able to run beside the others. Where one fails, the others end as soon as they have nothing in hand,
    and its error is raised.
    """
    chosen = executor()
    if chosen.at_once == 1 or len(works) == 1:
        return [work() for work in works]
    with ThreadPoolExecutor(len(works)) as threads:
        begun = [threads.submit(contextvars.copy_context().run, work) for work in works]
        for future in as_completed(begun):
            error = future.exception()
            if error is not None:
                chosen.give_up(error)
                raise error
    return [future.result() for future in begun]


def joined_values(made: Sequence[Part]) -> Iterator[Any]:
    """Yield the second value of parts whose first says on what device and in what dtype they were computed.

    Raises:
        UserError: not all of them alike.
    """
    places = sorted({" ".join(part.value[0]) for part in made})
    if len(places) > 1:
        raise UserError(
            f"Workers computed in different numbers ({' and '.join(places)}), which must not be mixed: name the "
            "device and the dtype of all."
        )
    for part in made:
        yield part.value[1]
