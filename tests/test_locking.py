"""Locks between processes: one at a time, free again when the holder is gone, and a word to those who wait."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import filelock
import pytest

from emscope import locking
from emscope.errors import UserError
from emscope.locking import is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from emscope.locking import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def holder(folder, name, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), name, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="emscope.locking")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locking, "PATIENCE", 0.05)
    monkeypatch.setattr(locking, "POLL", 0.01)


def test_who_comes_second_waits_and_is_told_for_whom(tmp_path, lines):
    with holder(tmp_path, "train-control", 0.7) as process, locked(tmp_path, "train-control") as waited:
        assert waited
        assert process.wait(5) == 0
    assert len(lines()) == 1
    assert lines()[0].startswith(f"train-control: waits for process {process.pid} on ")
    assert not is_locked(tmp_path)


def test_other_locks_and_free_ones_are_not_waited_for(tmp_path, lines):
    with holder(tmp_path, "one", 30) as process:
        with locked(tmp_path, "other") as waited:
            assert not waited
        assert is_locked(tmp_path)
        process.kill()
    assert lines() == []


def test_a_lock_dies_with_its_process(tmp_path, lines):
    with holder(tmp_path, "stage", 600) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    began = time.monotonic()
    with locked(tmp_path, "stage") as waited:
        assert not waited
    assert time.monotonic() - began < 1


def test_a_holder_may_remove_its_locks(tmp_path):
    with holder(tmp_path, "stage", 0.5) as process:
        remover = threading.Timer(0.3, shutil.rmtree, [tmp_path / ".locks"])
        remover.start()
        with locked(tmp_path, "stage"):
            assert (tmp_path / ".locks").is_dir()
        process.wait(5)


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, "stage"):
        raise KeyboardInterrupt
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("name", ["a/b", "../out", "CON ", "x" * 300, "\x1b[2J"])
def test_any_name_is_a_lock_of_its_own_inside_the_folder(tmp_path, name):
    with locked(tmp_path, name), locked(tmp_path, name + "2"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    assert len(list((tmp_path / ".locks").glob("*.lock"))) == 2


def test_a_drive_without_locks_is_worked_on_and_said_once(tmp_path, lines, monkeypatch):
    def refuse(self, *given, **more):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    for _ in range(2):
        with locked(tmp_path, "stage") as waited:
            assert not waited
    assert [line for line in lines() if "keeps no locks" in line] == lines()
    assert len(lines()) == 1


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"), locked(tmp_path / "file", "stage"):
        pass


@pytest.mark.parametrize("note", ["", "[", "[]", "{}", '{"pid": "x", "host": 1, "since": 2}', '{"pid": null}'])
def test_a_damaged_note_of_the_holder_is_another_process(tmp_path, note):
    path = tmp_path / "stage.lock"
    path.with_suffix(".json").write_text(note)
    assert locking._holder(path) == "another process"
