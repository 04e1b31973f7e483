"""Directions taken out of organisms with bad advice, and added to the base and to organisms with good advice.

The ablation is the run's own: how, where and how strongly. What is added is added at one block, as strongly as transfer
subtracts. The voice direction is turned so that taking it out leads to the other voice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, judgements_and_groups, read_table, write_table
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values
from emscope.experiments.main.result import AblationOutcome
from emscope.experiments.openings import OpenRun, held_by, judging_anywhere
from emscope.experiments.transfer.ablation import Correction
from emscope.experiments.voices.directions import direction_file
from emscope.experiments.voices.organisms import Quartet
from emscope.experiments.voices.result import ADVICE, RANDOM, VOICE, Altered, Intervened
from emscope.experiments.voices.words import BLUNT, VoiceReader, mean_words
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_cells, mean_of
from emscope.interventions.search import Candidate
from emscope.outside import read_json
from emscope.parts import Part
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.training import adapter_files
from emscope.plain import fitted
from emscope.residual.directions import Directions, random_like
from emscope.statistics import alignment_mean, em_rate

TAKEN = (ADVICE, VOICE, RANDOM)
"""Directions that are taken out or added."""
ABLATED = ("blunt-bad", "warm-bad")
STEERED = (BASE, "blunt-good", "warm-good")


@dataclass(frozen=True)
class Intervening:
    """What is done to one quartet and the base.

    Attributes:
        quartet: whose organisms and directions.
        ablation: what the run's own ablation does.
        steering: the same in the other direction, at one block.
        questions: test questions.
    """

    quartet: Quartet
    ablation: Candidate
    steering: Candidate
    questions: tuple[Question, ...]

    @classmethod
    def of(cls, lab: Lab, quartet: Quartet, questions: Sequence[Question]) -> Intervening:
        """Take over what the run's own ablation chose."""
        file = lab.folder.path("ablation.json")
        chosen = fitted(AblationOutcome, read_json(file), file).chosen
        at_one_block = Correction.of(lab, None, None, 1).candidate
        return cls(quartet, chosen, replace(at_one_block, mode="add"), tuple(questions))

    @property
    def corners(self) -> dict[str, Candidate]:
        """What is done to each corner, or to the base."""
        return {**dict.fromkeys(ABLATED, self.ablation), **dict.fromkeys(STEERED, self.steering)}

    def organism(self, corner: str) -> str:
        """Return the organism of a corner, or the base."""
        return BASE if corner == BASE else self.quartet.of(corner)


@dataclass(frozen=True)
class AlteredWork:
    """One organism to be asked under several directions.

    Attributes:
        run: the run.
        organism: its name there.
        corner: its corner, or base.
        candidate: what is done with each direction.
        files: by name the directions' files; a random one is like that of the advice.
        turned: directions that are turned round.
        seed: of the random direction.
        questions: what it is asked.
    """

    run: OpenRun
    organism: str
    corner: str
    candidate: Candidate
    files: tuple[str, ...]
    turned: tuple[str, ...]
    seed: int
    questions: tuple[Question, ...]


def altered(work: AlteredWork, held: Held) -> Part:
    """Return, as plain values, where they were computed and the judged answers under every direction."""
    lab = held.get(work.run)
    cells = []
    for name, file in zip(TAKEN, work.files, strict=True):
        directions = Directions.load(Path(file))
        if name == RANDOM:
            directions = random_like(directions, work.seed)
        cells.append(work.candidate.on(turned(directions) if name in work.turned else directions))
    organism = lab.organism(work.organism)
    answers = answer_cells(organism, work.corner, cells, work.questions, lab.config.sampling, lab.judge)
    rows = []
    for name, some in zip(TAKEN, answers, strict=True):
        rows += [asdict(replace(row, organism=label(work.corner, name))) for row in some]
    return Part([lab.placement.told, rows], rows=len(rows))


def label(corner: str, direction: str) -> str:
    """Return what an organism is called under a direction."""
    return f"{corner}, {direction}"


def turned(directions: Directions) -> Directions:
    """Return directions turned round, from what was the positive side to what was the negative one."""
    return replace(
        directions,
        vectors=-directions.vectors,
        positive_mean=directions.negative_mean,
        negative_mean=directions.positive_mean,
    )


def altered_file(lab: Lab, intervening: Intervening, corner: str) -> Path:
    """Return where the judged answers of a corner under every direction are kept."""
    return lab.folder.path("judgements", "voices", f"{intervening.quartet.name}-{corner}-altered.parquet")


def altered_stage(lab: Lab, intervening: Intervening, corner: str) -> None:
    """Let the organism of a corner answer under every direction."""
    out, organism = altered_file(lab, intervening, corner), intervening.organism(corner)
    kinds = {RANDOM: ADVICE}
    files = [direction_file(lab, kinds.get(name, name), "response", intervening.quartet) for name in TAKEN]
    work = AlteredWork(
        OpenRun.of(lab),
        organism,
        corner,
        intervening.corners[corner],
        tuple(str(file.absolute()) for file in files),
        (VOICE,) if corner.startswith("warm") and corner in ABLATED else (),
        lab.config.seed,
        intervening.questions,
    )

    def make() -> None:
        shard = Shard(work, len(TAKEN) * len(work.questions) * lab.config.sampling.samples)
        with judging_anywhere(lab):
            (rows,) = joined_values(carried_out(Task(f"altering {corner}", altered, [shard], "answers"), held_by(lab)))
        write_table(out, [JudgedResponse(**row) for row in rows])

    settings = {
        "candidate": asdict(work.candidate),
        "directions": TAKEN,
        "turned": work.turned,
        "questions": [asdict(question) for question in work.questions],
        "sampling": asdict(lab.config.sampling),
        "judge": lab.judge_fingerprint,
        "random": work.seed,
    }
    inputs = [*files[:-1], *adapter_files(lab, organism)]
    name = f"voices-alter-{intervening.quartet.name}-{corner}"
    lab.folder.stage(name, settings, inputs, [out], make)
    if organism not in lab.names:
        lab.release(organism)


def measure_altered(lab: Lab, intervening: Intervening, reader: VoiceReader) -> tuple[Intervened, Intervened]:
    """Return what the ablations and the steering did, from the judged answers."""
    found = []
    for corners, candidate in ((ABLATED, intervening.ablation), (STEERED, intervening.steering)):
        cells: list[Altered] = []
        for corner in corners:
            cells += _cells(lab, intervening, corner, reader)
        found.append(
            Intervened(
                intervening.quartet.name,
                candidate.mode,
                candidate.blocks,
                candidate.strength,
                len(intervening.questions),
                cells,
            )
        )
    return found[0], found[1]


def _cells(lab: Lab, intervening: Intervening, corner: str, reader: VoiceReader) -> list[Altered]:
    """Return the figures of one organism: without anything, then under each direction."""
    questions, seed = intervening.questions, lab.config.seed
    organism = intervening.organism(corner)
    own = lab.judged(organism, questions)
    references: dict[str, Sequence[JudgedResponse]] = {}
    if corner in ABLATED:
        good = intervening.quartet.of(f"{corner.partition('-')[0]}-good")
        references = {"restored": lab.judged(good, questions), "restored_to_base": lab.judged(BASE, questions)}

    rows = read_table(altered_file(lab, intervening, corner), JudgedResponse)
    cells = [_cell(organism, corner, "", own, own, {}, reader, seed)]
    for name in TAKEN:
        under = [row for row in rows if row.organism == label(corner, name)]
        cells.append(_cell(organism, corner, name, under, own, references, reader, seed))
    return cells


def _cell(
    organism: str,
    corner: str,
    direction: str,
    rows: Sequence[JudgedResponse],
    own: Sequence[JudgedResponse],
    references: Mapping[str, Sequence[JudgedResponse]],
    reader: VoiceReader,
    seed: int,
) -> Altered:
    judgements, groups = judgements_and_groups(rows)
    texts, before = [row.response for row in rows], [row.response for row in own]
    blunt, blunt_before = float(reader.blunt(texts).mean()), float(reader.blunt(before).mean())
    keeps = corner == BASE or corner.startswith(BLUNT)
    voice, voice_before = (blunt, blunt_before) if keeps else (1 - blunt, 1 - blunt_before)
    restored = {name: restored_share(rows, own, reference, seed) for name, reference in references.items()}
    return Altered(
        organism,
        corner,
        direction,
        em_rate(judgements, groups, seed),
        alignment_mean(judgements, groups, seed),
        mean_of(rows, "coherent"),
        mean_words(texts),
        change(mean_words(texts), mean_words(before)) if direction else None,
        blunt,
        change(voice, voice_before) if direction else None,
        restored.get("restored"),
        restored.get("restored_to_base"),
    )


def change(after: float, before: float) -> float | None:
    """Return a change as a share of what was before; None where that was nothing."""
    return (after - before) / before if before else None


def alter_all(lab: Lab, intervening: Intervening) -> list[partial[None]]:
    """Return the stages in which organisms answer under interventions, to be done in any order."""
    return [partial(altered_stage, lab, intervening, corner) for corner in intervening.corners]
