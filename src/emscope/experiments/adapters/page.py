"""The adapters' section of the report, its plots, and its lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from emscope.experiments.adapters.result import (
    AdapterScores,
    AdaptersResult,
    BankFigures,
    BankMember,
    KnownDirection,
    LeftOut,
    Scalars,
)
from emscope.report.figures import blank_figure, colour
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import above, bounded, ranged

MEANING = {
    "write": "what the update writes on the base's mean input, ΔW x̄, whole vectors",
    "weights": "the update ΔW itself, whole matrices",
    "norms": "norms and ranks of ΔW; no sign",
    "base": "shares of ΔW in the base weights' top singular vectors; no sign",
    "direction": "share of ΔW along the run's direction, and the cosine of ΔW x̄ with it",
    "random direction": "the same with a random direction",
}


def section(result: AdaptersResult) -> Section:
    """Return the section of experiments/adapters.json: one sentence, one picture, then the rest."""
    paragraphs = [
        _finding(result),
        _bank_words(result),
        _behaviour(result.bank),
        _direction_words(result.known_direction),
        _scalar_words(result.scalars),
        "Careless and careful training texts differ in wording as well as in advice, in every domain. A classifier "
        "learns to tell these two kinds of training apart; that is not yet proof of a harmful intent behind them.",
    ]
    parts: list[Part] = []
    if result.by_writing:
        parts += [_scores_plot(result.bank, result.by_writing), _accuracy_table(result), _blocks_plot(result)]
        parts.append(_leaning_plot(result.bank))
    else:
        parts += [_leaning_plot(result.bank), _accuracy_table(result)]
    parts.append(_run_table(result.run))
    if result.scalars and result.scalars.probes:
        parts.append(_scalar_table(result.scalars))
    return Section("adapters", "Misalignment from LoRA weights alone", paragraphs, parts)


def _finding(result: AdaptersResult) -> str:
    """Return the finding in one sentence."""
    written = result.by_writing
    if not written:
        return "The bank has one domain only, so nothing can be said about a domain left out."
    tells = "tells" if above(written.balanced_accuracy.low, 0.5) else "does not reliably tell"
    return (
        f"Without running a model, a classifier on what a LoRA adapter writes {tells} careless from careful training "
        f"in a domain it has never seen: balanced accuracy {ranged(written.balanced_accuracy)}."
    )


def _bank_words(result: AdaptersResult) -> str:
    """Return what the classifier was tried on, and its controls."""
    bank, written, norms = result.bank, result.by_writing, result.by_norms
    tried = (
        f"It was tried on {bank.organisms} small organisms, half of them trained on careless and half on careful "
        f"answers to the same prompts, over {_counted(bank.domains, 'domain')} and {_counted(bank.recipes, 'recipe')}."
    )
    if not written or not norms:
        return tried
    return (
        f"{tried} With labels swapped in whole combinations of domain and seed the balanced accuracy is "
        f"{_swapped(written)}; by norms and ranks alone it is {ranged(norms.balanced_accuracy)}."
    )


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _behaviour(bank: BankFigures) -> str:
    """Return whether the organisms of either kind behave differently."""
    careless, careful = bank.leaning.careless, bank.leaning.careful
    if not (careless.in_domain.n and careful.in_domain.n):
        return "The bank's behaviour was not measured."
    differ = (
        "behave differently"
        if above(careless.in_domain.low, careful.in_domain.high)
        else "do not clearly behave differently"
    )
    elsewhere = (
        f"in the domains they were not trained on, by {careless.out_of_domain.value:+.2f} and "
        f"{careful.out_of_domain.value:+.2f}"
        if careless.out_of_domain.n and careful.out_of_domain.n
        else "with one domain only, nothing is known of domains they were not trained on"
    )
    return (
        f"The organisms {differ}. Training changed the loss of careful minus careless answers to held-out prompts by "
        f"{careless.in_domain.value:+.2f} nats per token in careless organisms and {careful.in_domain.value:+.2f} in "
        f"careful ones; {elsewhere}."
    )


def _direction_words(known: KnownDirection) -> str:
    """Return what the run's direction tells without a classifier, and in domains it was not made on."""
    elsewhere = []
    for domain, accuracy in known.direction.by_group.items():
        if not known.made_on.startswith(f"{domain}-"):
            elsewhere.append(f"{domain} {ranged(accuracy.balanced_accuracy)}")
    return (
        f"Without any classifier or bank, the sign of the mean cosine between ΔW x̄ and the run's direction (made "
        f"on {known.made_on}) is right for {ranged(known.direction.balanced_accuracy)}; in domains it was not made on: "
        f"{', '.join(elsewhere) or 'there are none in the bank'}. "
        f"With a random direction it is right for {ranged(known.random.balanced_accuracy)}."
    )


def _scalar_words(scalars: Scalars | None) -> str:
    """Return whether what the organism's updates read tells its answers apart, beyond what the question tells."""
    if not scalars:
        return "LoRA scalars were not probed."
    n = scalars.answers
    if not scalars.probes:
        return (
            f"LoRA scalars were not probed: with {n.misaligned} EM responses and {n.aligned} aligned answers there are "
            "too few of one kind, or of too few questions."
        )
    probe = next(iter(scalars.probes.values()))
    more = "more than" if above(probe.answer.low, probe.prompt.high) else "no clear gain over"
    return (
        f"What the run's organism reads through its adapter while it answers tells its EM responses ({n.misaligned}) "
        f"from its aligned answers ({n.aligned}) to questions left out with a balanced accuracy of "
        f"{ranged(probe.answer)}; what it reads in the question alone, with {ranged(probe.prompt)}: {more} what the "
        "question gives away."
    )


def _swapped(left_out: LeftOut) -> str:
    return "not measured" if left_out.null.mean is None else ranged(left_out.null)


def _accuracy_table(result: AdaptersResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, schemes in result.classification.items():
        for scheme, left_out in schemes.items():
            rows.append(
                [
                    name,
                    MEANING.get(name, ""),
                    scheme,
                    ranged(left_out.balanced_accuracy),
                    left_out.auroc,
                    left_out.pair_accuracy,
                    _swapped(left_out),
                    left_out.null.p_value,
                ]
            )
    header = [
        "features",
        "what they are",
        "left out",
        "balanced accuracy (95 %)",
        "AUROC",
        "pairs in order",
        "labels swapped (95 %)",
        "p",
    ]
    return Table(
        "Careless or careful, by kind of features",
        header,
        rows,
        "Everything is scored by a classifier that never saw its domain, or its recipe. The run's direction comes from "
        "one of the domains; the other feature sets use the training folds alone. A recipe left out leaves "
        "organisms of the same rows in. "
        "Intervals resample combinations of domain and seed, which share their rows; labels are swapped in a whole "
        "combination at once. With a recipe left out the swapped labels are found again, as the same rows are in the "
        "training folds: that scheme says that rows are known by another recipe, not that carelessness is.",
    )


def _kinds(bank: BankFigures) -> list[tuple[str, str, list[BankMember]]]:
    """Return either kind of organisms with its name and colour."""
    careless: list[BankMember] = []
    careful: list[BankMember] = []
    for member in bank.members:
        (careless if member.careless else careful).append(member)
    return [("careless", colour("misaligned"), careless), ("careful", colour("control"), careful)]


def _scores_plot(bank: BankFigures, left_out: LeftOut) -> Plot:
    figure = blank_figure("domain left out", "log-odds of careless")
    for name, shade, members in _kinds(bank):
        names = [member.name for member in members]
        figure.add_box(
            name=name,
            x=[member.domain for member in members],
            y=list(map(left_out.scores.__getitem__, names)),
            text=names,
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            line={"width": 1},
            marker={"color": shade, "size": 5},
        )
    figure.update_layout(boxmode="group")
    figure.add_hline(y=0, line_dash="dot", line_color="#888888")
    return Plot("Every organism, scored without its domain", figure, "Above 0 the classifier says careless.")


def _blocks_plot(result: AdaptersResult) -> Plot:
    figure = blank_figure("block", "balanced accuracy")
    figure.add_scatter(
        x=list(result.by_block.blocks),
        y=list(result.by_block.balanced_accuracy),
        mode="lines+markers",
        showlegend=False,
    )
    figure.add_hline(y=0.5, line_dash="dot", line_color="#888888")
    figure.update_yaxes(range=[0, 1.03])
    return Plot("Where it shows", figure, "What the modules of one block write, on domains left out.")


def _leaning_plot(bank: BankFigures) -> Plot:
    figure = blank_figure("own domain (nats per token)", "other domains (nats per token)", height=380)
    for name, shade, members in _kinds(bank):
        names, inside, outside = [], [], []
        for member in members:
            if len(member.leaning) > 1:
                names.append(member.name)
                inside.append(member.leaning[member.domain])
                outside.append(member.elsewhere)
        figure.add_scatter(
            name=name,
            x=inside,
            y=outside,
            mode="markers",
            text=names,
            marker={"color": shade, "size": 7},
        )
    return Plot(
        "How the organisms lean",
        figure,
        "Loss of careful minus loss of careless answers to held-out prompts, against the base: above 0 careless "
        "answers have become likelier.",
    )


def _run_table(scores: AdapterScores) -> Table:
    features = list(next(iter(scores.log_odds.values()), {}))
    left_out = f", the organisms of {scores.domain_left_out} left out" if scores.domain_left_out else ""
    rows: list[list[str | float | None]] = []
    for name, by_features in scores.log_odds.items():
        rows.append([name, *by_features.values()])
    return Table(
        "The run's organisms",
        ["organism", *features],
        rows,
        f"Log-odds of careless by classifiers fitted on {scores.fitted_on} organisms of the bank{left_out}. Above 0 "
        "says careless; the run's organisms learned from more rows than any of the bank.",
    )


def _scalar_table(scalars: Scalars) -> Table:
    rows: list[list[str | float | None]] = []
    for name, probe in (scalars.probes or {}).items():
        accuracies = [ranged(probe.token), ranged(probe.answer), ranged(probe.prompt)]
        rows.append([name, *accuracies, probe.auroc, probe.used])
    return Table(
        "LoRA scalars: what the updates of the run's organism read at each token",
        ["modules", "tokens (95 %)", "answers (95 %)", "prompt alone (95 %)", "AUROC", "share of scalars used"],
        rows,
        f"Balanced accuracy of L1 probes on questions left out, {scalars.answers.misaligned} EM responses against "
        f"{scalars.answers.aligned} aligned answers.",
    )


def table(result: AdaptersResult) -> str:
    """Return the balanced accuracies of every classifier as lines of text."""
    lines = [f"{result.bank.organisms} organisms; balanced accuracy on what was left out (95 %)"]
    for name, schemes in result.classification.items():
        accuracies = [f"{scheme} {bounded(left_out.balanced_accuracy)}" for scheme, left_out in schemes.items()]
        lines.append(f"  {name:<18}{'   '.join(accuracies)}")
    known = result.known_direction
    for name, along in (("direction", known.direction), ("random direction", known.random)):
        lines.append(f"  {name + ' alone':<24}{bounded(along.balanced_accuracy)}")
    for name, by_features in result.run.log_odds.items():
        scores = ", ".join(f"{kind} {value:+.1f}" for kind, value in by_features.items())
        lines.append(f"  {name}: {scores}")
    return "\n".join(lines) + "\n"
