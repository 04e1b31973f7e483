"""What `emscope judge --anchor` says: the figures as the strong judge would give them, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator

from emscope.behaviour.judges.anchor import AnchoredOrganism, AnchoredPair, AnchoredTable, AnchorPlan
from emscope.statistics import AnchoredDifference, AnchoredEstimate, Estimate

LABEL = 22
CELL = 26
NOT_COMPLETE = (
    "  The strong judge was not asked about the whole anchor, for the limit of calls: its part is kept, and the same\n"
    "  command with a higher limit goes on. Until then there are no figures.\n"
)


def anchor_cost(plan: AnchorPlan, answers: int, name: str) -> str:
    """Return what an anchor would take, as text."""
    if not plan.calls + plan.known:
        return f"Anchor: {plan.asked} of {answers} answers, judged on this machine by {name}: no calls.\n"
    return (
        f"Anchor: {plan.asked} of {answers} answers: {plan.calls} calls to {name}, about {plan.tokens:,} tokens to "
        f"send; {plan.known} scores are known already. {_saved(plan.calls_saved, plan.tokens_saved)}\n"
    )


def _saved(calls: int, tokens: int) -> str:
    return f"The rest of the table would take {calls} more calls, about {tokens:,} tokens: these are saved."


def anchored_lines(found: AnchoredTable, strong: str, cheap: str) -> Iterator[str]:
    """Yield the figures of every organism and the differences between them; `cheap` judged all answers."""
    for name, organism in found.organisms.items():
        yield ""
        yield from _organism_lines(name, organism, strong, cheap)
    for pair in found.differences:
        yield ""
        yield from _pair_lines(pair)
    for name in found.other_questions:
        yield f"  {name} answered other questions than {next(iter(found.organisms))}: the two are not compared."
    if found.calls_saved:
        yield ""
        yield f"  {_saved(found.calls_saved, found.tokens_saved)}"


def _organism_lines(name: str, organism: AnchoredOrganism, strong: str, cheap: str) -> Iterator[str]:
    em, alignment, counts = organism.em_rate, organism.alignment, organism.counts
    yield f"  {name} as {strong} would say, from {organism.asked} of {organism.answers} answers"
    yield f"  {'':<{LABEL}}{'EM rate':<{CELL}}mean alignment"
    for label, rate, mean in (
        (f"{cheap}, all", em.cheap, alignment.cheap),
        (f"the {organism.asked} alone", em.alone, alignment.alone),
        ("anchored", em.estimate, alignment.estimate),
        (f"of these {organism.answers}", em.in_table, alignment.in_table),
    ):
        yield f"  {label:<{LABEL}}{_percents(rate):<{CELL}}{_points(mean)}"
    yield (
        f"  taken from {cheap}: λ {em.tuning:.2f} and {alignment.tuning:.2f}; intervals {_narrower(em)} and "
        f"{_narrower(alignment)} narrower than of the {organism.asked} alone"
    )
    left = counts.answers - counts.scored
    if left:
        yield (
            f"  the strong judge scored {counts.scored} of {counts.answers}: {counts.refusals} refusals, {counts.code} "
            f"code, {counts.unscored} unscored; the figures are of answers that it scores"
        )


def _pair_lines(pair: AnchoredPair) -> Iterator[str]:
    yield f"  {pair.first} less {pair.second}"
    for label, rate, mean in (
        ("alone", pair.em_rate.alone, pair.alignment.alone),
        ("anchored", pair.em_rate.estimate, pair.alignment.estimate),
        ("of these answers", pair.em_rate.in_table, pair.alignment.in_table),
    ):
        yield f"  {label:<{LABEL}}{_percents(rate, '+.1f'):<{CELL}}{_points(mean, '+.1f')}"


def _narrower(found: AnchoredEstimate | AnchoredDifference) -> str:
    return "n/a" if math.isnan(found.narrower) else f"{100 * found.narrower:.0f} %"


def _percents(found: Estimate, form: str = ".1f") -> str:
    scaled = Estimate(100 * found.value, 100 * found.low, 100 * found.high, found.n)
    return "n/a" if math.isnan(found.value) else f"{scaled.value:{form}} % {_ends(scaled, form)}".rstrip()


def _points(found: Estimate, form: str = ".1f") -> str:
    return "n/a" if math.isnan(found.value) else f"{found.value:{form}} {_ends(found, form)}".rstrip()


def _ends(found: Estimate, form: str) -> str:
    between = " to " if "+" in form else "-"
    return "" if math.isnan(found.low) else f"({found.low:{form}}{between}{found.high:{form}})"
