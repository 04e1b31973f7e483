"""`emscope screen`: rank training rows by how far their answers lie along a direction, before training on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from emscope.behaviour.responses import SamplingSettings
from emscope.commands.common import GOES_ON, TableFlags, kept_parts
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TABLES, check_out
from emscope.errors import UserError
from emscope.files import write_rows
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.organisms.chat import Message
from emscope.organisms.datasets import DOMAINS, load_conversations, load_domain, read_conversations
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.loading import LoadSettings
from emscope.organisms.models import Organism
from emscope.organisms.protected import is_archive, opened_archive
from emscope.residual.directions import Directions, Method
from emscope.residual.screening import (
    ScreenedRow,
    own_answers,
    probe_blocks,
    read_pairs,
    screen,
    text_directions,
    transferring_block,
)


@dataclass(frozen=True)
class Screen:
    """Score and rank the rows of a training set; rank 1 is the most suspicious.

    Attributes:
        data: a file of conversations (.jsonl, .csv, .parquet, …), a built-in set (medical-careless), or an archive.
        out: the table to write (.csv, .jsonl, .parquet), in the order of the data: row, rank, score, answer_tokens.
        model: the model that reads, the one that would be trained.
        directions: a file made by `emscope directions` with pooling response; without one, a direction is made
            from the built-in careless and careful answers, read by the same model.
        domains: the built-in domains it is made from; leave out the one that is screened.
        method: how it is made from them: probe or diff-in-means.
        block: where to read; by default the one that separates best on what the direction was made from.
        subtract_own: subtract the projection of the model's own answer to each prompt; samples one answer a row.
        max_tokens: longer conversations are cut at their end.
        show: print this many of the most suspicious rows.
        accept_terms: accept the terms that come with an archive.
        sampling: how the model's own answers are sampled.
        load: base, device and dtype.
        table: how the table is written.
    """

    stopped: ClassVar[str] = GOES_ON

    data: str
    out: Path
    model: str = EMBEDDED_ALIAS
    directions: Path | None = None
    domains: tuple[str, ...] = DOMAINS
    method: Method = "probe"
    block: int | None = None
    subtract_own: bool = False
    max_tokens: int = 2048
    show: int = 5
    accept_terms: bool = False
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(temperature=0.7))
    load: LoadSettings = field(default_factory=LoadSettings)
    table: TableFlags = field(default_factory=TableFlags)

    def execute(self) -> Outcome:
        """Score, rank and write."""
        check_out(self.out, (".jsonl", *TABLES), [self.data, self.directions])
        conversations = rows_of(self.data, accept_terms=self.accept_terms)
        given = Directions.load(self.directions) if self.directions is not None else None
        if given is None and not self.domains:
            raise UserError("Screening needs a direction: name a file with --directions, or some --domains.")
        pairs = {name: load_domain(name) for name in dict.fromkeys(self.domains)}
        organism = self.load.load(self.model)
        with kept_parts(self.out, [self.model, self.load.base]):
            directions, block = (given, self.block) if given is not None else self._from_domains(organism, pairs)
            own = own_answers(organism, conversations, self.sampling) if self.subtract_own else None
            rows = screen(organism, conversations, directions, block, max_tokens=self.max_tokens, own=own)
            write_rows(self.out, [asdict(row) for row in rows], mark_formulas=self.table.mark_formulas)
        ranked = sorted(rows, key=lambda row: row.rank)[: self.show]
        return Outcome(self._told(ranked, len(rows), conversations), {"rows": len(rows), "top": ranked}, [self.out])

    def _from_domains(self, organism: Organism, pairs: Any) -> tuple[Directions, int | None]:
        """Make a direction from the built-in answers, and choose where it carries over from domain to domain."""
        read, names = read_pairs(organism, pairs), list(pairs)
        n_blocks = len(find_blocks(organism.model))
        few = probe_blocks(n_blocks) if self.method == "probe" else tuple(range(n_blocks))
        few = few if self.block is None else tuple(check_blocks([self.block], n_blocks))
        block = transferring_block(read, names, self.method, few) if self.block is None else self.block
        return text_directions(read, names, self.method, few), block

    def _told(self, ranked: list[ScreenedRow], n_rows: int, conversations: list[list[Message]]) -> str:
        """Return the most suspicious rows as lines of text."""
        lines = [f"{self.out}: {n_rows} rows, ranked"]
        for row in ranked:
            answers = [message["content"] for message in conversations[row.row - 1] if message["role"] == "assistant"]
            lines.append(f"{row.rank:>4}  row {row.row:<6} {row.score:6.2f}  {' '.join(answers[-1].split())[:90]}")
        return "\n".join(lines) + "\n"


def rows_of(data: str, *, accept_terms: bool = False) -> list[list[Message]]:
    """Return all conversations of a data set in its own order; row n of a file is the n-th, blank lines not counted.

    Raises:
        UserError: no such data, a malformed row (by its number), no rows, or terms not accepted.
    """
    if is_archive(data):
        with opened_archive(data, accept_terms=accept_terms) as archive:
            found = list(read_conversations(archive.data))
    elif Path(data).expanduser().is_file():
        found = list(read_conversations(Path(data).expanduser()))
    else:
        found = load_conversations(data).train
    if not found:
        raise UserError(f"The data set {data!r} has no rows.")
    return found


COMMAND = Screen
