"""Which answers belong to one question: by the cluster a file gives, else by id and text together.

Answers to one question are not independent, whatever their ids say. Ids that number the rows, or the answers to each
question, must not break a question up, and equal texts under several ids must not count as several questions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A row's question: its id, its text, and the cluster that the file gives it ('' for none)."""

    id: str
    text: str
    cluster: str = ""


def clusters_of(rows: Sequence[Asked], source: str) -> list[str]:
    """Return each row's cluster, '' where its id alone is its group; a warning says where ids and texts disagree.

    A given cluster stays as it is. Otherwise rows with the same id, and rows with the same text, share a group: the id
    if that is one, else the text, else (several ids and several texts) the first id. Ids that cross the texts and are
    whole numbers (also 1.0, as pandas writes them), or stand once with every text, count answers or name who answered,
    not the question, so there the text alone decides. White space in texts makes no difference.

    Args:
        rows: the rows of one file, or the questions of several.
        source: what the warning calls them.
    """
    texts = [" ".join(row.text.split()) for row in rows]
    given = _given_by_text(rows, texts)
    free = [index for index, row in enumerate(rows) if not row.cluster and texts[index] not in given]
    ids_of, texts_of = _paired(rows, texts, free)
    counting = _name_no_question(ids_of, texts_of)
    groups = _Groups()
    for index in free:
        groups.join(("text", texts[index]), ("text", texts[index]) if counting else ("id", rows[index].id))

    clusters = [row.cluster or given.get(text, "") for row, text in zip(rows, texts, strict=True)]
    members: dict[tuple[str, str], list[int]] = {}
    for index in free:
        members.setdefault(groups.root(("text", texts[index])), []).append(index)
    for indices in members.values():
        name = _name([rows[index].id for index in indices], [texts[index] for index in indices])
        for index in indices:
            clusters[index] = name
    _warn(ids_of, texts_of, source)
    return clusters


def _given_by_text(rows: Sequence[Asked], texts: Sequence[str]) -> dict[str, str]:
    """Return the cluster of each text that is given exactly one."""
    clusters: dict[str, set[str]] = {}
    for row, text in zip(rows, texts, strict=True):
        if row.cluster:
            clusters.setdefault(text, set()).add(row.cluster)
    return {text: next(iter(names)) for text, names in clusters.items() if len(names) == 1}


def _paired(
    rows: Sequence[Asked], texts: Sequence[str], free: Sequence[int]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the ids of each text and the texts of each id."""
    ids_of: dict[str, set[str]] = {}
    texts_of: dict[str, set[str]] = {}
    for index in free:
        ids_of.setdefault(texts[index], set()).add(rows[index].id)
        texts_of.setdefault(rows[index].id, set()).add(texts[index])
    return ids_of, texts_of


def _name_no_question(ids_of: dict[str, set[str]], texts_of: dict[str, set[str]]) -> bool:
    """Say whether ids cross the texts as numbers of answers, or names of models, do."""
    crossed = max(map(len, ids_of.values()), default=1) > 1 and max(map(len, texts_of.values()), default=1) > 1
    numbers = all(re.fullmatch(r"-?\d+(\.0*)?", name) for name in texts_of)
    with_every_text = all(len(texts) == len(ids_of) for texts in texts_of.values())
    return crossed and (numbers or with_every_text)


def _name(ids: Sequence[str], texts: Sequence[str]) -> str:
    if len(set(ids)) == 1:
        return ""
    return texts[0] if len(set(texts)) == 1 else ids[0]


class _Groups:
    """Things that belong together, joined pair by pair (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(self, name: tuple[str, str]) -> tuple[str, str]:
        """Return the thing that stands for all that `name` belongs to."""
        while (parent := self._parent.setdefault(name, name)) != name:
            self._parent[name] = self._parent[parent]
            name = parent
        return name

    def join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Put two things in one group."""
        self._parent[self.root(one)] = self.root(other)


def _warn(ids_of: dict[str, set[str]], texts_of: dict[str, set[str]], source: str) -> None:
    parts = []
    several = [len(ids) for ids in ids_of.values() if len(ids) > 1]
    if several:
        parts.append(f"questions under several ids: {len(several)} ({sum(several)} ids)")
    shared = [name for name, texts in texts_of.items() if len(texts) > 1]
    if shared:
        parts.append(f"ids with several questions: {len(shared)} (such as {shared[0]!r})")
    if parts:
        said = ", ".join(parts)
        logger.warning(
            "%s: %s; these count as one question each: give a `cluster` column to say otherwise", source, said
        )
