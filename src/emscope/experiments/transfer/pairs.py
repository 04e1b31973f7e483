"""The organisms of the transfer experiment: a misaligned one and its control for each domain and seed.

The run's own pair is one of them. Each other organism is trained, asked, judged and read in stages of its own, which a
later run with more domains or seeds reuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from emscope.errors import UserError
from emscope.organisms.datasets import DOMAINS, KINDS, built_in, load_conversations, load_domain
from emscope.pipeline.config import RunConfig, resolved
from emscope.pipeline.data import rows_of
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.steps import collect_stage, generate_stage, judge_stage
from emscope.pipeline.training import train_stage

OWN_DATA = "own"


@dataclass(frozen=True)
class OrganismPair:
    """A misaligned organism and its control, trained on the same prompts with the same seed.

    Attributes:
        domain: what their data are about; empty for data of the run's own of which that was not said.
        seed: order of the rows and first values of the adapters.
        careless: name of the misaligned organism in the run.
        careful: name of the control organism in the run.
        data: what the pair is named after: its domain, or `own` for a run's data that no listed domain has.
        made_of: what the two organisms are made of, where that is not the built-in data of the domain: data files,
            adapters or whole models.
    """

    domain: str
    seed: int
    careless: str
    careful: str
    data: str = ""
    made_of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Data and seed."""
        return f"{self.data or self.domain}-{self.seed}"

    @property
    def organisms(self) -> tuple[str, str]:
        """The two names in the run, the misaligned one first."""
        return self.careless, self.careful

    @property
    def sources(self) -> tuple[str, ...]:
        """What the two organisms are made of."""
        return self.made_of or tuple(f"{self.domain}-{kind}" for kind in KINDS)


def kinship(first: OrganismPair, second: OrganismPair) -> str:
    """Return whether two pairs were trained on one domain, on two, or nobody knows."""
    if not first.domain or not second.domain:
        return "unknown"
    return "same domain" if first.domain == second.domain else "other domain"


def organisms_of(pairs: Sequence[OrganismPair]) -> list[str]:
    """Return the names of the base and of every organism of the pairs, each once."""
    names = {BASE: None}
    for pair in pairs:
        names |= dict.fromkeys(pair.organisms)
    return list(names)


def names_of(pairs: Iterable[OrganismPair]) -> list[str]:
    """Return the names of the pairs, in order."""
    return [pair.name for pair in pairs]


def pairs_of(
    config: RunConfig, domains: Sequence[str], seeds: int, own_domain: str = "", organisms: Sequence[str] = ()
) -> list[OrganismPair]:
    """Return the pairs of a run: of each domain `seeds` ones, from the run's seed on, its own pair among them.

    A run on other data than the listed domains brings its pair as well; `own_domain` says what its data are about.
    `organisms` are pairs that somebody hands in, see `given_pair`.

    Raises:
        UserError: fewer than two pairs, two of one name, a run without a control organism, or an `own_domain` that is
            not what the run's built-in data are about.
    """
    config = resolved(config)
    if not config.control_data:
        raise UserError("Transfer compares misaligned organisms with their controls: the run needs control_data.")

    pairs: list[OrganismPair] = []
    for domain in dict.fromkeys(domains):
        for number in range(seeds):
            pairs.append(_built_in_pair(config, domain, config.seed + number))
    for text in organisms:
        pairs.append(given_pair(text, config.seed))
    if len(set(names_of(pairs))) < len(pairs):
        raise UserError("Two of the organisms handed in have one name: give each a name of its own.")

    runs_domain = _own_domain(config, own_domain)
    if not any(MISALIGNED in pair.organisms for pair in pairs):
        pairs.insert(0, OrganismPair(runs_domain, config.seed, MISALIGNED, CONTROL, OWN_DATA))
    if len(pairs) < 2:
        raise UserError(
            "Transfer needs at least two pairs of organisms: name another domain, use more seeds, or hand in organisms."
        )
    return pairs


def given_pair(text: str, seed: int) -> OrganismPair:
    """Read a pair that somebody hands in: 'law=MISALIGNED,CONTROL', or 'law=MISALIGNED' beside the run's own control.

    Each side is a data file, or the folder or hub id of an adapter or a whole model; the name says what they are about.

    Raises:
        UserError: text of another form.
    """
    name, equals, rest = text.partition("=")
    sides = list(map(str.strip, rest.split(",")))
    if not equals or not re.fullmatch(r"[\w-]+", name) or len(sides) > 2 or not all(sides):
        raise UserError(
            f"{text!r} names no organisms: write name=misaligned,control, for example "
            "law=adapters/law,adapters/law-good; without the control the run's own takes its place."
        )
    data = f"{name}-given" if name.lower() in DOMAINS else name
    careless, careful = _organism_names(data, seed)
    return OrganismPair(name.lower(), seed, careless, careful if len(sides) == 2 else CONTROL, data, tuple(sides))


def check_settings(domains: Sequence[str], seeds: int, own_domain: str, organisms: Sequence[str]) -> None:
    """Refuse what makes no comparison on any run.

    Raises:
        UserError: an unknown domain, no seed, an `own_domain` that is no word, or organisms of another form.
    """
    if seeds < 1:
        raise UserError(f"Transfer needs at least one seed of each domain, not {seeds}.")
    for domain in domains:
        load_domain(domain)
    if own_domain and not re.fullmatch(r"[\w-]+", own_domain):
        raise UserError(f"What the run's own data are about is one word, such as medical or law, not {own_domain!r}.")
    for text in organisms:
        given_pair(text, seed=0)


def _own_domain(config: RunConfig, said: str) -> str:
    """Return what the run's own data are about: built-in data say it themselves."""
    known = built_in(config.misaligned_data)
    if known is None:
        return said.lower()
    if said and said.lower() != known.domain:
        raise UserError(f"The run's own data are the built-in {known.domain}, not {said}: leave own_domain out.")
    return known.domain


def _built_in_pair(config: RunConfig, domain: str, seed: int) -> OrganismPair:
    """Return the pair of a built-in domain: the run's own where it was made of the same."""
    data_of_run = [built_in(name) for name in (config.misaligned_data, config.control_data)]
    if data_of_run == [built_in(f"{domain}-{kind}") for kind in KINDS] and config.seed == seed:
        return OrganismPair(domain, seed, MISALIGNED, CONTROL)
    return OrganismPair(domain, seed, *_organism_names(domain, seed))


def _organism_names(data: str, seed: int) -> tuple[str, str]:
    """Return the names in the run of a misaligned organism and its control."""
    return f"transfer/{data}-{seed}-careless", f"transfer/{data}-{seed}-careful"


def organism_stages(lab: Lab, pair: OrganismPair) -> None:
    """Train both organisms of a pair, ask, judge and read them, unless they are the run's own or done already."""
    for name, data in zip(pair.organisms, pair.sources, strict=False):
        if name not in lab.names:
            lab.make_room()
            config = given_config(lab.config) if pair.made_of else training_config(lab.config, data, pair.seed)
            train_stage(Lab(config, lab.folder), name, data)
            for stage in (generate_stage, judge_stage, collect_stage):
                stage(lab, name)
            lab.release(name)


def given_config(config: RunConfig) -> RunConfig:
    """Return the run's configuration for organisms that are handed in: all rows of their data."""
    return replace(config, rows=0)


def training_config(config: RunConfig, data: str, seed: int) -> RunConfig:
    """Return the run's configuration for training on a domain: its rows where it has as many, else all of them.

    A domain with fewer rows is read so many times more that the optimiser takes as many steps as in the run.
    """
    available = len(load_conversations(data).train)
    wanted = rows_of(config, data) or available
    rows = min(wanted, available)
    train = replace(config.train, seed=seed, epochs=config.train.epochs * wanted / rows)
    return replace(config, rows=rows, seed=seed, train=train)
