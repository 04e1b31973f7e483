"""The store of scores that were paid for: addressed by their content, and safe from a kill at any moment.

One SQLite file holds one row for each (judge, rubric, kind, question, answer). A score is written the moment it
arrives, in a transaction of its own, so a killed process loses at most the calls in flight. Failures of a server are
never kept.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from emscope.behaviour.judges.scoring import Score
from emscope.errors import OutsideError, UserError
from emscope.files import cannot_write, value_sha256

logger = logging.getLogger(__name__)

CHUNK = 500
WAIT_S = 30
"""Seconds that a store held by another process is waited for."""
COLUMNS = ("key", "value", "verdict", "mode")
HIGHEST = 100 + 1e-6
ANOTHER = "name another with --store"


def score_key(judge: str, rubric: str, question: str, answer: str) -> str:
    """Return the address of a score: the hash of who was asked, what, and about which answer."""
    return value_sha256([judge, rubric, question, answer])


class ScoreStore:
    """Scores by address, on disk; use it as a context manager.

    Raises:
        UserError: the file is no store of scores, is damaged, or cannot be written to; so does every use of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._speaking():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            self._check_schema()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL, verdict TEXT, mode TEXT)"
            )

    def __enter__(self) -> ScoreStore:
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, Score]:
        """Return the scores that are known; those that cannot be scores are left out, and a warning counts them."""
        wanted, scores, n_damaged = list(keys), {}, 0
        with self._speaking():
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT {', '.join(COLUMNS)} FROM scores WHERE key IN ({marks})"
                for key, value, verdict, mode in self._connection.execute(query, chunk):
                    score = read_score(value, verdict, mode)
                    if score is None:
                        n_damaged += 1
                    else:
                        scores[key] = score
        if n_damaged:
            logger.warning("%s: %d scores are damaged: they are asked for again.", self.path, n_damaged)
        return scores

    def put(self, key: str, score: Score) -> None:
        """Keep a score; it is on disk when this returns."""
        with self._speaking():
            self._connection.execute(
                "INSERT OR REPLACE INTO scores (key, value, verdict, mode) VALUES (?, ?, ?, ?)",
                (key, score.value, score.verdict, score.mode),
            )

    def _check_schema(self) -> None:
        """Refuse a database of another program, before anything is written into it."""
        tables = [name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = tuple(row[1] for row in self._connection.execute("PRAGMA table_info(scores)"))
        if tables and columns != COLUMNS:
            raise OutsideError(self.path, "is a database of something else", ANOTHER)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Say in one sentence what SQLite says of this file."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._sentence(error) from error
        except OSError as error:
            raise cannot_write(self.path, error.strerror) from error

    def _sentence(self, error: sqlite3.Error) -> UserError:
        name = getattr(error, "sqlite_errorname", None) or ""
        where = f"the store of scores {self.path}"
        if name.startswith("SQLITE_FULL"):
            return UserError(
                f"The disk is full while writing {where}: free some space and run the same command again; the scores "
                "that it holds are kept."
            )
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return UserError(
                f"Another program has held {where} for {WAIT_S} s: wait until it is done and run the same command "
                "again, or name another store with --store."
            )
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return UserError(f"Cannot write {where} ({error}): {ANOTHER}.")
        if name.startswith("SQLITE_IOERR"):
            return UserError(f"The disk fails or is full while using {where} ({error}): {ANOTHER}.")
        return UserError(f"The store of scores {self.path} cannot be used ({error}): delete it or {ANOTHER}.")


def read_score(value: Any, verdict: Any, mode: Any) -> Score | None:
    """Return a stored score; None where the values can be none: SQLite keeps any value in any column."""
    if not isinstance(verdict, str) or not isinstance(mode, str):
        return None
    if value is None:
        return Score(None, verdict, mode) if verdict else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= HIGHEST:
        return None
    return Score(float(value), verdict, mode)
