"""Scores that were paid for are kept: a content-addressed store that survives a kill at any moment.

One SQLite file holds one row for each (judge, rubric, kind, question, answer). A score is written the moment it
arrives, in a transaction of its own, so a killed process loses at most the calls in flight. Failures of a server are
never kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from emscope.behaviour.judges.scoring import Score
from emscope.errors import UserError
from emscope.files import value_sha256

CHUNK = 500


def score_key(judge: str, rubric: str, question: str, answer: str) -> str:
    """Return the address of a score: the hash of who was asked, what, and about which answer."""
    return value_sha256([judge, rubric, question, answer])


class ScoreStore:
    """Scores by address, on disk; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL, verdict TEXT, mode TEXT)"
            )
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"The store of scores {path} cannot be used ({error}): delete it or name another with --store."
            ) from error

    def __enter__(self) -> ScoreStore:
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, Score]:
        """Return the scores that are known."""
        wanted, found = list(keys), {}
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT * FROM scores WHERE key IN ({marks})", part)
            found.update({key: Score(value, verdict, mode) for key, value, verdict, mode in rows})
        return found

    def put(self, key: str, score: Score) -> None:
        """Keep a score; it is on disk when this returns."""
        self._connection.execute(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", (key, score.value, score.verdict, score.mode)
        )
