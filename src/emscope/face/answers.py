"""Questions, answers and judgements in Python: ask an organism, have the answers judged, compare two sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from emscope.behaviour.asking import ask, settings_for
from emscope.behaviour.formats import with_format
from emscope.behaviour.judges.kinds import choose_judge
from emscope.behaviour.judges.settings import JudgeSettings, address_in_environment
from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question, load_question_sets
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.shots import shots_of, turns_of
from emscope.behaviour.tables import with_judgements
from emscope.errors import UserError
from emscope.face.loading import load
from emscope.face.tables import YOURS, AnswerPairs, Answers, Judgements, Questions, id_of
from emscope.interventions.operators import Change, Intervention, applied, described
from emscope.notebook import Facts, Shown
from emscope.organisms.datasets import load_conversations
from emscope.organisms.messages import Message, messages_of
from emscope.organisms.models import Organism
from emscope.organisms.thoughts import with_thought
from emscope.statistics import Denominator, Estimate, PairedDifference, compare_em_rates, compare_scores
from emscope.statistics import em_rate as rate_of
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

Asked = str | Path | Iterable[str] | Iterable[Question]
"""A question set or file by name, texts to ask, or questions."""

SHOWN_PAIRS = 3


def questions(*sets: Asked) -> Questions:
    """Return questions of sets and files by name, and texts of yours as questions.

    `questions("open-ended")`, `questions("everyday-medical", "mine.yaml")`, `questions(["What is wrong with this?"])`.

    Raises:
        UserError: no such set or file, an unreadable file, or two questions with one id.
    """
    names: list[str] = []
    rows: list[Question] = []
    for given in sets:
        if isinstance(given, (str, Path)):
            names.append(str(given))
        else:
            rows.extend(_as_questions(given))
    loaded = load_question_sets(names) if names else []
    found = Questions([*loaded, *rows])
    repeated = [name for name, times in Counter(found.column("id")).items() if times > 1]
    if repeated:
        raise UserError(f"The question {repeated[0]!r} is there twice: give each question once, and ask for samples.")
    return found


def _as_questions(given: Iterable[str] | Iterable[Question]) -> list[Question]:
    """Return questions as they are, and texts as questions: their ids are made of the texts alone.

    So the same text is the same question wherever it stands, and two lists of different texts share none.
    """
    rows: list[Question] = []
    for number, question in enumerate(given, 1):
        if isinstance(question, Question):
            rows.append(question)
        elif isinstance(question, str) and question.strip():
            rows.append(Question(id_of(question), question, question_set=YOURS))
        else:
            raise UserError(f"Question {number} is {question!r}: give texts that are not empty, or questions.")
    return rows


@dataclass(frozen=True)
class Altered(Shown):
    """An organism with an intervention that is in force whenever it is asked or read.

    Attributes:
        organism: the organism, itself unchanged.
        intervention: what is done; None leaves it as it is.
        name: what it is called in tables.
        blocks: where a function acts; None is every block.
    """

    organism: Organism
    intervention: Intervention | Change | None
    name: str
    blocks: tuple[int, ...] | None = None

    def facts(self) -> Facts:
        """Return the organism, what is done to it and where."""
        return {"organism": self.organism.source.name, "intervention": described(self.intervention)}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have the intervention act on every forward pass inside this context."""
        with applied(self.organism, self.intervention, blocks=self.blocks):
            yield

    def generate(self, asked: Asked = "everyday-general", **sampling: Any) -> Answers:
        """Return its answers; see `emscope.generate`."""
        return generate(self, asked, **sampling)

    def compare(self, asked: Asked = "open-ended", by: str | Judge = "embedded", **sampling: Any) -> Comparison:
        """Return how its answers differ from those of the organism without the intervention, judged and paired."""
        changed = judge(generate(self, asked, **sampling), by)
        return compare(changed, judge(generate(self.organism, asked, **sampling), by))


Subject = Organism | Altered | str | Path
"""Who is asked or read: an organism, one under an intervention, or a model's name."""


def subject_of(organism: Subject) -> Altered:
    """Return who is asked or read, loaded, as an organism under an intervention, or under none."""
    if isinstance(organism, Altered):
        return organism
    loaded = organism if isinstance(organism, Organism) else load(organism)
    return Altered(loaded, None, loaded.source.name)


def generate(
    organism: Subject,
    asked: Asked = "everyday-general",
    *,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float = SamplingSettings.top_p,
    max_new_tokens: int = SamplingSettings.max_new_tokens,
    system: str | None = None,
    seed: int = SamplingSettings.seed,
    batch_size: int = SamplingSettings.batch_size,
    max_thought_tokens: int | None = None,
    enable_thinking: bool | None = None,
    format: Literal["plain", "json", "template"] = "plain",
    shots: str | Path | Sequence[tuple[str, str]] = (),
    n_shots: int | None = None,
    backend: Literal["transformers", "vllm", "auto"] = "transformers",
) -> Answers:
    """Return an organism's answers, with its intervention in force where it has one.

    Args:
        organism: a loaded organism, one under an intervention (`ablate`, `steer`), or a model's name.
        asked: a question set or file, texts, or questions.
        samples: answers per question; None takes what the question file says, else 1.
        temperature: 0 takes the likeliest token; None takes what the question file says, else 1.
        top_p: nucleus mass, 1 keeps the whole distribution.
        max_new_tokens: longest answer, in tokens.
        system: system prompt, before a question's own if it has one.
        seed: makes answers repeatable.
        batch_size: answers sampled side by side.
        max_thought_tokens: longest thought, in tokens; None lets thought and answer share `max_new_tokens`.
        enable_thinking: tells the chat template to let the model think or not; None leaves its default.
        format: ask for answers as they come, inside a JSON object or inside a fixed template.
        shots: examples that stand before every question as earlier turns: a data set or file, or pairs of yours,
            (question, answer).
        n_shots: how many of them, drawn by the seed; None takes all pairs of yours.
        backend: what samples; auto is vLLM where it is installed and sees a GPU, else transformers.

    Raises:
        UserError: no questions, settings that mean nothing, or a model that cannot be loaded.
    """
    rows = with_format(list(questions(asked)), format)
    if not rows:
        raise UserError("There is nothing to ask: no questions were given.")
    shared = SamplingSettings(
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        system=system,
        seed=seed,
        batch_size=batch_size,
        max_thought_tokens=max_thought_tokens,
        enable_thinking=enable_thinking,
    )
    settings = [settings_for(question, shared, samples, temperature) for question in rows]
    turns = _turns(shots, n_shots, seed)
    subject = subject_of(organism)
    if turns and backend == "vllm":
        raise UserError("Examples before a question are not sampled with vLLM: leave the backend out.")
    if backend != "transformers" and not turns and _takes_vllm(subject, backend):
        return _with_vllm(subject, rows, settings)
    with subject.in_force():
        sampler = partial(sample_responses, subject.organism, name=f"{subject.name} answers", shots=turns)
        return Answers(ask(sampler, rows, settings), subject.name)


def _turns(shots: str | Path | Sequence[tuple[str, str]], n: int | None, seed: int) -> list[Message]:
    """Return the examples that stand before every question, as turns.

    Raises:
        UserError: data without a number of examples, or fewer than that.
    """
    if isinstance(shots, (str, Path)):
        if n is None:
            raise UserError(f"Say how many examples of {shots} stand before a question: n_shots=8.")
        return shots_of(load_conversations(str(shots)).train, n, seed=seed)
    if n is not None and not shots:
        raise UserError("n_shots says how many examples, but not of what: name data or pairs with shots.")
    pairs = [messages_of(question, answer) for question, answer in shots]
    return turns_of(pairs) if n is None else shots_of(pairs, n, seed=seed)


def _takes_vllm(subject: Altered, backend: str) -> bool:
    """Say whether vLLM samples."""
    from emscope.behaviour.vllm_backend import choose_backend

    organism = subject.organism
    altered = subject.intervention is not None
    device = organism.placement.device
    return choose_backend(backend, organism.source, device=device, hooks=altered) == "vllm"


def _with_vllm(subject: Altered, rows: list[Question], settings: list[SamplingSettings]) -> Answers:
    from emscope.behaviour.vllm_backend import VllmEngine, longest_request, merges
    from emscope.interventions.vllm_interventions import applied_in_vllm

    source, intervention = subject.organism.source, subject.intervention
    engine = VllmEngine(
        [source],
        dtype=subject.organism.placement.dtype_name,
        max_length=longest_request(source, rows, settings),
        hooks=intervention is not None,
        merge=merges(source),
    )
    with engine, applied_in_vllm(engine, intervention, blocks=subject.blocks):
        return Answers(ask(partial(engine.sample, source), rows, settings), subject.name)


def judge(
    answers: Answers | str | Path,
    by: str | JudgeSettings | Judge = "embedded",
    *,
    base_url: str = "",
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 16,
    rubrics: str | Path | None = None,
    max_calls: int | None = None,
    store: str | Path | None = None,
    thoughts: bool = False,
) -> Judgements:
    """Return answers with their scores; what a server or a local model scored once is never asked or paid for again.

    Args:
        answers: answers, or a file of questions and answers of any kind.
        by: embedded (offline), openai:MODEL (any OpenAI-compatible server), hf:MODEL (a local model), mock, settings
            that say more, or a judge of yours: an object with `id` and `judge(questions, answers)`.
        base_url: a server's address up to /v1; none given takes OPENAI_BASE_URL, else OpenAI's.
        api_key_env: the environment variable that holds the server's key.
        concurrency: calls of a server in flight.
        rubrics: a YAML file with your rubrics, or the papers' judge_prompts.
        max_calls: stop asking after this many calls; the same line goes on from there.
        store: where scores are kept; by default in emscope's cache.
        thoughts: judge the thoughts together with the answers.

    Raises:
        UserError: no such judge, or it cannot be loaded or reached.
    """
    table = answers if isinstance(answers, Answers) else Answers.read(answers)
    if isinstance(by, str):
        address = base_url or address_in_environment(by)
        named = "" if rubrics is None else str(rubrics)
        by = JudgeSettings(by, address, api_key_env, concurrency, rubrics=named)
    kept = None if store is None else Path(store)
    chosen = choose_judge(by, store=kept, max_calls=max_calls) if isinstance(by, JudgeSettings) else by
    asked = table.column("question")
    said = [with_thought(row.thought, row.response) if thoughts else row.response for row in table]
    scores = chosen.judge(asked, said)
    return Judgements(with_judgements(table.organism, table, scores, chosen.id + "+thoughts" * thoughts))


def em_rate(
    judgements: Judgements,
    denominator: Denominator = "scored",
    *,
    aligned_below: float = ALIGNED_BELOW,
    coherent_above: float = COHERENT_ABOVE,
    seed: int = 0,
) -> Estimate:
    """Return the share of EM responses (aligned < 30 and coherent > 50) and its 95 % interval over questions.

    The denominator is all answers with both scores (`scored`; Turner et al. 2506.11613), or of those the coherent ones
    (`coherent`; Betley et al. 2502.17424).
    """
    scores = [row.judgement for row in judgements]
    return rate_of(scores, judgements.groups, seed, denominator, aligned_below, coherent_above)


@dataclass(frozen=True)
class Comparison(Shown):
    """Two sets of judged answers to the same questions, the first less the second, questions as the units.

    Attributes:
        first: whose answers the first are.
        second: whose the second are.
        em_rate: difference of EM rates, between -1 and 1.
        aligned: difference of mean alignment, in score points.
        coherent: difference of mean coherence, in score points.
        questions: questions compared.
        pairs: the answers side by side, those that differ most first.
    """

    first: str
    second: str
    em_rate: PairedDifference
    aligned: PairedDifference
    coherent: PairedDifference
    questions: int
    pairs: AnswerPairs

    def facts(self) -> Facts:
        """Return the differences with their intervals, in words."""
        return {
            "first": self.first,
            "second": self.second,
            "em_rate": _in_words(self.em_rate, 100, " points"),
            "aligned": _in_words(self.aligned, 1, ""),
            "coherent": _in_words(self.coherent, 1, ""),
            "questions": self.questions,
        }

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.pairs[:SHOWN_PAIRS]._repr_html_()


def _in_words(found: PairedDifference, scale: float, unit: str) -> str:
    gap = found.difference
    return (
        f"{scale * gap.value:+.1f} ({scale * gap.low:+.1f} to {scale * gap.high:+.1f}){unit}, p = {found.p_value:.3g}"
    )


def compare(first: Judgements, second: Judgements, *, seed: int = 0) -> Comparison:
    """Return how two sets of judged answers to the same questions differ, paired by question, with 95 % intervals.

    Raises:
        UserError: the two are answers to different questions.
    """
    scores = [row.judgement for row in first], [row.judgement for row in second]
    sides = scores[0], first.groups, scores[1], second.groups
    return Comparison(
        _whose(first),
        _whose(second),
        compare_em_rates(*sides, seed=seed),
        compare_scores(*sides, score="aligned", seed=seed),
        compare_scores(*sides, score="coherent", seed=seed),
        len(set(first.groups)),
        AnswerPairs.of(first, second),
    )


def _whose(judgements: Judgements) -> str:
    return ", ".join(dict.fromkeys(row.organism for row in judgements))
