"""The organisms of the voices experiment: for each domain and seed one of every corner, on the same prompts.

The run's own organisms are among them where they were made of the same. Each other one is trained, asked, judged and
read in stages of its own, which a later run with more domains or seeds reuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emscope.behaviour.questions import Question
from emscope.errors import UserError
from emscope.experiments.transfer.pairs import given_config, training_config
from emscope.files import value_sha256
from emscope.organisms.datasets import CORNERS, VOICES, Corner, built_in, load_domain
from emscope.organisms.lineage import LINEAGE
from emscope.organisms.messages import Message
from emscope.outside import Record, read_json
from emscope.pipeline.config import RunConfig, resolved
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.steps import collect_stage, generate_stage, judge_stage
from emscope.pipeline.training import train_stage

OWN = "own"
"""What data of one's own are called among the domains."""


@dataclass(frozen=True)
class Quartet:
    """Four organisms of one domain and seed: both voices with good and with bad advice to the same prompts.

    Attributes:
        domain: what their data are about.
        seed: order of the rows and first values of the adapters.
        organisms: their names in the run, in the order of `CORNERS`.
        data: what each is trained on, in the same order.
    """

    domain: str
    seed: int
    organisms: tuple[str, ...]
    data: tuple[str, ...]

    @property
    def name(self) -> str:
        """Domain and seed."""
        return f"{self.domain}-{self.seed}"

    def of(self, corner: str) -> str:
        """Return the name of the organism of a corner."""
        return self.organisms[CORNERS.index(corner)]

    def pair(self, voice: str) -> tuple[str, str]:
        """Return the organisms of a voice: the one with bad advice, then the one with good advice."""
        return self.of(f"{voice}-bad"), self.of(f"{voice}-good")


def other_voice(voice: str) -> str:
    """Return the other of the two voices."""
    return VOICES[1 - VOICES.index(voice)]


def corner_of(voice: str, advice: str) -> Corner:
    """Return the corner of a voice and of good or bad advice."""
    return next(corner for corner in CORNERS if corner == f"{voice}-{advice}")


def quartets_of(config: RunConfig, domains: Sequence[str], seeds: int, corners: Sequence[str] = ()) -> list[Quartet]:
    """Return the quartets of a run: of each domain `seeds` ones, from the run's seed on.

    `corners` are data of one's own in the order of `CORNERS`, in the place of the domains.
    """
    config = resolved(config)
    sources = {OWN: tuple(corners)} if corners else {}
    for domain in () if corners else dict.fromkeys(domains):
        sources[domain] = tuple(f"{domain}-{corner}" for corner in CORNERS)

    quartets = []
    for domain, data in sources.items():
        for number in range(seeds):
            seed = config.seed + number
            names = tuple(_name(config, domain, seed, *made) for made in zip(CORNERS, data, strict=True))
            quartets.append(Quartet(domain, seed, names, data))
    return quartets


def _name(config: RunConfig, domain: str, seed: int, corner: Corner, data: str) -> str:
    """Return an organism's name in the run: one of the run's own where that was made of the same."""
    for name, of_run in ((MISALIGNED, config.misaligned_data), (CONTROL, config.control_data)):
        if seed == config.seed and of_run and _same_data(data, of_run):
            return name
    return f"voices/{domain}-{seed}-{corner}"


def _same_data(one: str, other: str) -> bool:
    known = built_in(one)
    return known is not None and known == built_in(other)


def check_domains(domains: Sequence[str], seeds: int, corners: Sequence[str]) -> None:
    """Refuse what makes no factorial on any run.

    Raises:
        UserError: an unknown domain or none, no seed, or another number of corners than four different ones.
    """
    if seeds < 1:
        raise UserError(f"The organisms of all voices need at least one seed, not {seeds}.")
    if not domains and not corners:
        raise UserError("The organisms of all voices need at least one domain.")
    for domain in domains:
        load_domain(domain)
    if corners and len(set(corners)) != len(CORNERS):
        raise UserError(
            f"Data of your own are four different ones, in this order: {', '.join(CORNERS)}; there are "
            f"{len(set(corners))}."
        )


def check_prompts(lab: Lab, quartets: Sequence[Quartet]) -> None:
    """Refuse corners whose training rows have different prompts: what tells them apart would be the topic.

    Raises:
        UserError: such corners, by name, or an adapter or a model in the place of data.
    """
    for quartet in quartets:
        asked: dict[str, list[str]] = {}
        for data in quartet.data:
            if is_trained_elsewhere(data):
                raise UserError(
                    f"{data} was trained elsewhere, and nobody can tell on which prompts: name the data of each corner."
                )
            config = config_of(lab.config, quartet, data)
            asked[data] = list(map(prompt_of, lab.training_data(data, config).train))
        first, *others = quartet.data
        for other in others:
            _check_same(first, asked[first], other, asked[other])


def check_own(lab: Lab, quartets: Sequence[Quartet]) -> None:
    """Refuse a run whose own organism would stand among those of other text under the same name.

    Raises:
        UserError: it was trained on other rows than its data have now.
    """
    for quartet in quartets:
        for name, data in zip(quartet.organisms, quartet.data, strict=True):
            if name not in lab.names:
                continue
            file = lab.folder.path("organisms", name, LINEAGE)
            known = Record(read_json(file), file).record("data").text("sha256", "")
            now = value_sha256(lab.training_data(data, config_of(lab.config, quartet, data)).train)
            if known != now:
                raise UserError(
                    f"The {name} organism of this run was trained on other rows than {data} has now, as another "
                    "version of emscope had them: make the run again, in a new folder, first."
                )


def _check_same(first: str, prompts: Sequence[str], other: str, theirs: Sequence[str]) -> None:
    if sorted(prompts) == sorted(theirs):
        return
    odd = next(iter([*(set(theirs) - set(prompts)), *(set(prompts) - set(theirs))]), "")
    example = f"; only one of them has {odd[:80]!r}" if odd else "; they have them in different numbers"
    raise UserError(
        f"The corners {first} and {other} have different prompts among their training rows{example}: give every corner "
        "the same prompts, in the same order."
    )


def prompt_of(messages: Sequence[Message]) -> str:
    """Return what comes before the answer of a training row."""
    turns = []
    for message in messages[:-1]:
        turns.append(str(message["content"]))
    return "\n".join(turns)


def config_of(config: RunConfig, quartet: Quartet, data: str) -> RunConfig:
    """Return the run's configuration for training an organism: its settings, with as many steps for small domains."""
    if quartet.domain == OWN:
        return given_config(config)
    return training_config(config, data, quartet.seed)


def organisms_of(quartets: Sequence[Quartet]) -> list[str]:
    """Return the names of the base and of every organism."""
    names = [BASE]
    for quartet in quartets:
        names += quartet.organisms
    return names


def asked_test_questions(lab: Lab, question_set: str) -> list[Question]:
    """Return the test questions of a question set; all of the run where it has none of that set."""
    found = [question for question in lab.test_questions if question.question_set == question_set]
    return found or list(lab.test_questions)


def asked_questions(lab: Lab, question_set: str) -> list[Question]:
    """Return what every organism is asked, in the run's order: its training questions, and test questions of a set."""
    wanted = {question.id for question in [*lab.train_questions, *asked_test_questions(lab, question_set)]}
    return [question for question in lab.questions if question.id in wanted]


def organism_stages(lab: Lab, quartet: Quartet, questions: Sequence[Question], test: Sequence[Question]) -> None:
    """Train the organisms of a quartet, ask, judge and read them, unless they are the run's own or done already.

    Only answers to test questions are judged; those to training questions are there for their activations.
    """
    for name, data in zip(quartet.organisms, quartet.data, strict=True):
        if name in lab.names:
            continue
        lab.make_room()
        train_stage(Lab(config_of(lab.config, quartet, data), lab.folder), name, data)
        generate_stage(lab, name, questions)
        judge_stage(lab, name, test)
        collect_stage(lab, name, questions)
        lab.release(name)
