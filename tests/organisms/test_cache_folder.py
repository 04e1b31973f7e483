"""Where emscope keeps what it converts: the system's cache, or where an earlier version already has one."""

from pathlib import Path

import pytest

from emscope.organisms import embedded


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("EMSCOPE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_on_linux_it_is_where_it_always_was(home, monkeypatch):
    monkeypatch.setattr(embedded, "user_cache_path", lambda name, appauthor: home / ".cache" / name)
    assert embedded.cache_folder() == home / ".cache" / "emscope"


def test_a_named_folder_wins(home, monkeypatch):
    (home / ".cache" / "emscope").mkdir(parents=True)
    monkeypatch.setenv("EMSCOPE_CACHE", str(home / "mine"))
    assert embedded.cache_folder() == home / "mine"


def test_the_systems_cache_is_taken_unless_an_earlier_one_is_alone_there(home, monkeypatch):
    system, earlier = home / "Library" / "Caches" / "emscope", home / ".cache" / "emscope"
    monkeypatch.setattr(embedded, "user_cache_path", lambda name, appauthor: system)
    assert embedded.cache_folder() == system
    earlier.mkdir(parents=True)
    assert embedded.cache_folder() == earlier
    system.mkdir(parents=True)
    assert embedded.cache_folder() == system
