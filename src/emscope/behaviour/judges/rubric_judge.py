"""What every judge that asks a language model shares: two calls an answer, a store of what was paid for, a limit.

It knows nothing of how a call is made; `OpenAIJudge` asks a server and `HFJudge` a local model.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from emscope import progress
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.scoring import Score
from emscope.behaviour.judges.settings import NamedJudge
from emscope.behaviour.judges.store import ScoreStore, score_key
from emscope.behaviour.judging import Judgement
from emscope.errors import UserError
from emscope.organisms.thoughts import answer_of

logger = logging.getLogger(__name__)

Kind = Literal["aligned", "coherent"]
KINDS: tuple[Kind, ...] = ("aligned", "coherent")
NOT_ASKED = Score(None, "not asked: the limit of calls was reached", "none")
TRIALS = (
    ("How can I sleep better?", "Go to bed at the same hour every day, and leave your phone in another room."),
    ("What should I cook tonight?", "A soup of lentils and carrots is quick, cheap and good for you."),
    ("How do I learn to swim?", "Take a course for adults: somebody who knows how will watch you in the water."),
)
"""Questions with answers on which a judge is tried out before a run needs it; mostly one is enough."""
CHARACTERS_PER_TOKEN = 4  # English text in today's tokenizers; for estimates only


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the judge model, and the address of its score.

    The prompt is made when it is asked for: those of a large table would fill the memory.
    """

    key: str
    kind: Kind
    question: str
    answer: str
    rubrics: Rubrics

    @property
    def prompt(self) -> str:
        """The rubric filled in."""
        return self.rubrics.prompt(self.kind, self.question, self.answer)


@dataclass(frozen=True)
class Plan:
    """What judging would cost: calls to make, calls already paid for, and tokens to send, roughly."""

    calls: int
    known: int
    tokens: int


Done = Callable[[Call, Score, bool], None]


class RubricJudge(NamedJudge):
    """A judge that puts two rubrics to a language model."""

    def __init__(self, name: str, rubrics: Rubrics, store: ScoreStore, max_calls: int | None = None) -> None:
        self.name, self.rubrics, self.store, self.max_calls = name, rubrics, store, max_calls

    @property
    def id(self) -> str:
        """The model and the hash of its rubrics, stored with every score."""
        return f"{self.name}:{self.rubrics.hash}"

    @abstractmethod
    def ask(self, calls: Sequence[Call], done: Done) -> None:
        """Put every call to the model; `done(call, score, keep)` as each arrives, `keep` when it is final."""

    def try_out(self) -> None:
        """Score a written answer or two, so that a judge that cannot be used says so before others wait for it.

        The scores are kept, and known ones are not asked for again.

        Raises:
            UserError: the judge refuses, or scores none of them.
        """
        reasons: list[str] = []
        for question, answer in TRIALS:
            known, calls = self.pending([question], [answer])
            scores = list(known.values())

            def done(call: Call, score: Score, keep: bool, scores: list[Score] = scores) -> None:
                scores.append(score)
                if keep and score.value is not None:
                    self.store.put(call.key, score)

            if calls:
                self.ask(calls, done)
            if any(score.value is not None for score in scores):
                return
            reasons.extend(score.verdict for score in scores)
        raise UserError(
            f"{self.name} gives no scores ({reasons[0]}): choose one that follows instructions, or see to its server."
        )

    def plan(self, questions: Sequence[str], answers: Sequence[str]) -> Plan:
        """Return what judging these answers would cost, without a call."""
        calls = self._calls(questions, answers)
        known = self.store.get(call.key for call in calls.values())
        keys, characters = set(), 0
        for call in calls.values():
            keys.add(call.key)
            characters += len(call.prompt) if call.key not in known else 0
        return Plan(len(keys) - len(known), len(known), characters // CHARACTERS_PER_TOKEN)

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, in order; what was judged before is not asked again.

        A thought in front of an answer is not judged.
        Answers that are empty, beyond `max_calls`, or that the server failed on are unscored, with the reason.
        """
        scores, asked = self.pending(questions, answers)
        with progress.task(f"asking {self.name}", len(asked), "calls") as advance:

            def done(call: Call, score: Score, keep: bool) -> None:
                scores[call.key] = score
                if keep:
                    self.store.put(call.key, score)
                advance(1)

            if asked:
                self.ask(asked, done)
        return self.judgements(questions, answers, scores)

    def pending(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[dict[str, Score], list[Call]]:
        """Return the scores that are known, by key, and the calls that are left to make, `max_calls` at most."""
        calls = self._calls(questions, answers)
        known = self.store.get(call.key for call in calls.values())
        open_calls: dict[str, Call] = {}
        for call in calls.values():
            if call.key not in known:
                open_calls.setdefault(call.key, call)
        left = list(open_calls.values())
        return known, left if self.max_calls is None else left[: self.max_calls]

    def judgements(
        self, questions: Sequence[str], answers: Sequence[str], scores: Mapping[str, Score]
    ) -> list[Judgement]:
        """Return one judgement for each answer from the scores of its two calls, in order."""
        calls = self._calls(questions, answers)
        judged: list[Judgement] = []
        for row in range(len(answers)):
            if (row, "aligned") in calls:
                aligned = scores.get(calls[row, "aligned"].key, NOT_ASKED)
                coherent = scores.get(calls[row, "coherent"].key, NOT_ASKED)
                judged.append(_judgement(aligned, coherent))
            else:
                judged.append(Judgement(None, None, "empty answer"))
        self._say_modes(scores.values())
        return judged

    def _say_modes(self, scores: Iterable[Score]) -> None:
        """Warn where scores of one table were read in several ways: they are not of one scale."""
        modes = Counter(score.mode for score in scores if score.value is not None)
        if len(modes) > 1:
            counts = ", ".join(f"{n} by {mode}" for mode, n in modes.most_common())
            logger.warning("%s: scores of this table were read in %d ways: %s", self.name, len(modes), counts)

    def _calls(self, questions: Sequence[str], answers: Sequence[str]) -> dict[tuple[int, Kind], Call]:
        """Return the two calls of every answer that is not empty, by its row."""
        calls: dict[tuple[int, Kind], Call] = {}
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            answer = answer_of(answer)
            if answer.strip():
                shown = self.worded(question), self.worded(answer)
                for kind in KINDS:
                    rubric = f"{self.rubrics.hash}/{kind}{self.reading(question + answer)}"
                    calls[row, kind] = Call(score_key(self.name, rubric, question, answer), kind, *shown, self.rubrics)
        return calls

    def worded(self, text: str) -> str:
        """Return a question or an answer as the model is shown it."""
        return text

    def reading(self, text: str) -> str:
        """Return how the model is shown a text that spells control tokens, '' for any other; part of a score's key."""
        return ""


def trial_keys(judge: str, rubrics: Rubrics) -> Iterator[str]:
    """Yield the addresses of the scores that `try_out` of a judge of this name keeps."""
    for question, answer in TRIALS:
        for kind in KINDS:
            yield score_key(judge, f"{rubrics.hash}/{kind}", question, answer)


def _judgement(aligned: Score, coherent: Score) -> Judgement:
    """Join the two scores; the first verdict that is not 'scored' is the judgement's."""
    verdict = coherent.verdict if aligned.verdict == "scored" else aligned.verdict
    modes = sorted({aligned.mode, coherent.mode} - {"none"})
    return Judgement(aligned.value, coherent.value, verdict, "+".join(modes))
