"""Parts of long work: used again for the very same work alone, thrown away when damaged, and never in the way."""

import logging

import numpy as np
import pytest

from emscope import parts
from emscope.parts import Part, Slot, kept, kept_arrays, kept_beside, kept_in, kept_value, sha256_of, under


class Work:
    """Squares numbers, and remembers which it was asked for."""

    def __init__(self, stop_at=None):
        self.done, self.stop_at = [], stop_at

    def square(self, number):
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.done.append(number)
        return number**2

    def all_of(self, numbers):
        return [kept_value("square", lambda n=number: n, lambda n=number: self.square(n)) for number in numbers]


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("emscope"), "propagate", True)


def stopped(folder, numbers=range(5), stop_at=3, key="work"):
    with pytest.raises(KeyboardInterrupt), kept_in(folder, key):
        Work(stop_at).all_of(numbers)


def again(folder, numbers=range(5), key="work"):
    work = Work()
    with kept_in(folder, key) as store:
        found = work.all_of(numbers)
    assert found == [number**2 for number in numbers]
    assert store.reused + len(work.done) == len(numbers)
    return work.done


def test_without_a_listener_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Work().all_of(range(3)) == [0, 1, 4]
    Slot("steps", lambda: 1).finish(lambda: Part(1))
    assert list(tmp_path.iterdir()) == []


def test_after_a_stop_what_was_finished_is_read_and_the_rest_is_made(tmp_path):
    stopped(tmp_path)
    assert again(tmp_path) == [3, 4]
    assert again(tmp_path) == []


def test_work_without_parts_leaves_no_folder(tmp_path):
    with kept_in(tmp_path / "here", "key"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_parts_are_for_the_same_work_alone(tmp_path):
    stopped(tmp_path)
    assert again(tmp_path, key="other settings") == [0, 1, 2, 3, 4]
    assert again(tmp_path, [0, 7, 2, 3]) == [7, 2, 3]  # after other work, the same may mean something else


def test_what_is_in_force_counts(tmp_path):
    def answers(vector):
        work = Work()
        with kept_in(tmp_path, "key"), under(lambda: ["add", vector]):
            work.all_of([5])
        return work.done

    vector = np.arange(3.0)
    assert (answers(vector), answers(vector.copy()), answers(vector + 1e-12)) == ([5], [], [5])


def test_arrays_come_back_to_the_last_bit(tmp_path):
    arrays = {
        "floats": np.array([[0.1, np.nan, -np.inf]], dtype=np.float32),
        "doubles": np.array([1 / 3]),
        "none": np.zeros((0, 4), np.float32),
        "whole": np.arange(3),
        "flags": np.array([True, False]),
    }
    for made in (lambda: arrays, lambda: pytest.fail("made again")):
        with kept_in(tmp_path, "key"):
            found = kept_arrays("arrays", lambda: 0, made)
        assert list(found) == list(arrays)
        assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
            name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()
        }


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", [b"", b"short", None, "flip", "swap"])
def test_a_damaged_part_is_made_again(tmp_path, caplog, damage):
    stopped(tmp_path)
    first, second, _ = files_of(tmp_path)
    stored = bytearray(first.read_bytes())
    if damage == "flip":
        stored[len(stored) // 2] ^= 1
    elif damage == "swap":
        stored = bytearray(second.read_bytes()[::-1])
    elif damage is None:
        stored = stored[:-1]
    else:
        stored = damage
    first.write_bytes(stored)
    assert again(tmp_path) == [0, 3, 4]
    assert "damaged" in caplog.text


def test_a_part_of_another_layout_is_made_again(tmp_path):
    def make():
        return {"x": np.ones(2)}

    with kept_in(tmp_path, "key"):
        kept_arrays("arrays", lambda: 0, make)
    with kept_in(tmp_path, "key"):
        found = kept("arrays", lambda: 0, make, lambda made: Part(None, made), lambda part: {"x": part.arrays["y"]})
    assert found["x"].tolist() == [1, 1]


def test_other_results_earlier_make_what_follows_anew(tmp_path):
    def chain(first):
        made = []
        with kept_in(tmp_path, "key"):
            kept_value("first", lambda: 0, lambda: made.append("first") or first)
            kept_value("second", lambda: 0, lambda: made.append("second") or 2)
        return made

    assert chain(1) == ["first", "second"]
    next(path for path in files_of(tmp_path) if path.name.startswith("00001")).unlink()
    assert chain(1) == ["first"]
    next(path for path in files_of(tmp_path) if path.name.startswith("00001")).unlink()
    assert chain(1.5) == ["first", "second"]


@pytest.mark.parametrize("moment", ["write_bytes", "replace", "mkdir"])
def test_a_kill_while_a_part_is_written_costs_that_part_alone(tmp_path, monkeypatch, moment):
    stopped(tmp_path / "work")
    whole = getattr(parts.Path, moment)

    def killed(path, *given, **more):
        if moment == "write_bytes":
            whole(path, given[0][: len(given[0]) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts.Path, moment, killed)
        with pytest.raises(KeyboardInterrupt), kept_in(tmp_path / "work", "work"):
            Work().all_of(range(5))
    assert again(tmp_path / "work") == [3, 4]
    assert again(tmp_path / "work") == []


def test_a_full_disk_costs_the_parts_and_not_the_work(tmp_path, monkeypatch, caplog):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.Path, "write_bytes", full)
    assert again(tmp_path) == [0, 1, 2, 3, 4]
    assert caplog.text.count("No space left on device") == 1
    assert files_of(tmp_path) == []


def test_a_place_that_cannot_be_written_costs_the_parts_and_not_the_work(tmp_path):
    (tmp_path / "here").write_text("a file")
    assert again(tmp_path / "here") == [0, 1, 2, 3, 4]


def train(folder, monkeypatch, stop_at=None, every=0.0):
    """Sum the numbers below 10, one a step, as a training that says how far it is."""
    monkeypatch.setattr(parts, "SAVED_EVERY", every)
    with kept_in(folder, "key"):
        slot = Slot("steps", lambda: 10)
        done, total = slot.begun.value if slot.begun else (0, 0)
        steps = list(range(done, 10))
        for step in steps:
            if step == stop_at:
                raise KeyboardInterrupt
            total += step
            slot.save(lambda done=step + 1, total=total: Part([done, total]))
        slot.finish(lambda: Part([10, total]))
    return total, len(steps)


def test_a_long_piece_goes_on_from_the_last_minute(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, monkeypatch, stop_at=6)
    assert len(files_of(tmp_path)) == 1
    assert train(tmp_path, monkeypatch) == (45, 4)
    assert train(tmp_path, monkeypatch) == (45, 0)


def test_a_long_piece_is_not_saved_at_every_step(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, monkeypatch, stop_at=6, every=60.0)
    assert files_of(tmp_path) == []


def test_seconds_of_parts_that_are_read_are_known(tmp_path, monkeypatch):
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(parts.time, "monotonic", lambda: float(next(times)))
    stopped(tmp_path)
    with kept_in(tmp_path, "work") as store:
        Work().all_of(range(3))
    assert store.seconds_before == 30


def test_parts_beside_an_output_are_gone_when_it_is_written(tmp_path):
    out = tmp_path / "answers.parquet"
    with pytest.raises(KeyboardInterrupt), kept_beside(out, "key"):
        Work(2).all_of(range(5))
    assert [path.name for path in tmp_path.iterdir()] == [".answers.parquet.parts"]
    work = Work()
    with kept_beside(out, "key"):
        work.all_of(range(5))
        out.write_text("written")
    assert work.done == [2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.parquet"]


def test_forgetting_leaves_other_parts_alone(tmp_path):
    for name in ("one", "two"):
        stopped(tmp_path / ".parts" / name)
    parts.forget(tmp_path / ".parts" / "one")
    assert [path.name for path in (tmp_path / ".parts").iterdir()] == ["two"]
    parts.forget(tmp_path / ".parts" / "two")
    assert list(tmp_path.iterdir()) == []
    parts.forget(tmp_path / ".parts" / "two")


def test_hashes_tell_arrays_apart_by_values_shape_and_kind():
    one = np.arange(4, dtype=np.int32)
    others = [one.reshape(2, 2), one.astype(np.int64), one[::-1], one.view(np.float32), one[:3]]
    assert len({sha256_of([array]) for array in [one, *others]}) == 6
    assert sha256_of({"a": one, "b": 1}) == sha256_of({"b": 1, "a": one.copy()})
    assert sha256_of([one[:2], one[2:]]) != sha256_of([one[:1], one[1:]])
