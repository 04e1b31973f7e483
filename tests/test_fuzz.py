"""Hostile inputs by seed: every reader reads right or refuses in one sentence that names the file (see fuzz/)."""

import json
import sys
import time
from pathlib import Path

import pytest

from emscope.errors import OutsideError

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz.damage import damaged_bytes
from fuzz.harness import FAILED, READ, REFUSED, Tally, as_json, failures, run_reader, share_of
from fuzz.readers import all_readers

INPUTS = 40
READERS = all_readers()


@pytest.mark.parametrize("name", READERS)
def test_hostile_inputs_are_read_or_refused(name):
    n_inputs = max(4, round(INPUTS * share_of(READERS[name])))
    tally = run_reader(name, READERS[name], range(n_inputs))
    assert not tally.failures, failures({name: tally})
    assert sum(tally.counts.values()) == n_inputs


def reader_of(read):
    return lambda rng, folder: (folder / "x", lambda: read(folder / "x"))


def refuse(path):
    raise OutsideError(path, "is damaged")


def refuse_namelessly(path):
    raise OutsideError("it", "is damaged")


def hang(path):
    time.sleep(100)


def die(path):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def raise_another(path):
    raise KeyError(path)


ENDINGS = {
    "read": (json.dumps, READ, ""),
    "refuse": (refuse, REFUSED, ""),
    "nameless": (refuse_namelessly, FAILED, "does not name"),
    "die": (die, FAILED, "SIGSEGV"),
    "hang": (hang, FAILED, "in all"),
    "raise": (raise_another, FAILED, "KeyError"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_harness_tells_endings_apart_and_goes_on(name):
    read, kind, words = ENDINGS[name]
    target = reader_of(read if read is not json.dumps else lambda path: None)
    tally = run_reader(name, target, range(2), seconds=0.1)
    assert tally.counts == {kind: 2}
    assert all(words in ending.words for ending in tally.failures)
    assert isinstance(tally, Tally)
    assert json.loads(as_json({name: tally}, 1.0))["all"][kind] == 2


def test_a_seed_makes_the_same_input_again(tmp_path):
    import random

    for name in ("table_csv", "directions", "archive", "questions"):
        made = []
        for number in range(2):
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            path, _ = READERS[name](random.Random(f"{name}/7"), folder)
            made.append(path.read_bytes())
        assert made[0] == made[1]
    assert damaged_bytes(random.Random(1), b"a" * 50) == damaged_bytes(random.Random(1), b"a" * 50)
