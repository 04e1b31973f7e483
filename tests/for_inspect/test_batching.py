import threading
import time

import anyio
import pytest

from emscope.for_inspect.batching import Batcher


def gather(batcher, requests):
    """Ask all at once and return the answers in order; what went wrong stands in an answer's place."""
    answers = [None] * len(requests)

    async def one(place, request):
        try:
            answers[place] = await batcher.ask(request)
        except ValueError as error:
            answers[place] = error

    async def everything():
        async with anyio.create_task_group() as group:
            for place, request in enumerate(requests):
                group.start_soon(one, place, request)

    anyio.run(everything)
    return answers


class Recorder:
    """Doubles numbers and remembers its batches, and whether two ever ran at once."""

    def __init__(self):
        self.batches, self.threads, self._busy = [], set(), threading.Lock()

    def __call__(self, requests):
        assert self._busy.acquire(blocking=False), "two batches at once"
        time.sleep(0.01)
        self.batches.append(list(requests))
        self.threads.add(threading.get_ident())
        self._busy.release()
        return [2 * request for request in requests]


def test_waiting_requests_share_batches_of_the_given_size_one_at_a_time_off_the_main_thread():
    run = Recorder()
    assert gather(Batcher(run, size=4, window=0.02), list(range(10))) == [2 * number for number in range(10)]
    assert sorted(map(len, run.batches)) == [2, 4, 4]
    assert sorted(number for batch in run.batches for number in batch) == list(range(10))
    assert threading.get_ident() not in run.threads


def test_only_requests_of_a_kind_share_a_batch():
    run = Recorder()
    gather(Batcher(run, size=9, window=0.02, kind=lambda number: number % 2), list(range(6)))
    assert sorted(map(sorted, run.batches)) == [[0, 2, 4], [1, 3, 5]]


def test_a_failure_reaches_all_of_its_batch_and_no_other():
    def run(requests):
        if 1 in requests:
            raise ValueError("no")
        return requests

    found = gather(Batcher(run, size=9, window=0.02, kind=lambda number: number % 2), [0, 1, 2, 3])
    assert found[0] == 0 and found[2] == 2
    assert isinstance(found[1], ValueError) and isinstance(found[3], ValueError)


def test_a_batch_of_the_wrong_length_is_an_error():
    assert isinstance(gather(Batcher(lambda requests: requests[1:], size=9, window=0), [5])[0], ValueError)


def test_a_cancelled_request_is_not_answered_and_holds_up_nobody():
    run = Recorder()
    batcher = Batcher(run, size=9, window=0.05)

    async def both():
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.01):
                await batcher.ask(1)
            group.start_soon(batcher.ask, 2)

    anyio.run(both)
    assert run.batches == [[2]]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_batcher_outlives_an_event_loop(backend):
    pytest.importorskip(backend)
    batcher = Batcher(Recorder(), size=2, window=0)
    for _ in range(2):
        assert anyio.run(batcher.ask, 4, backend=backend) == 8
