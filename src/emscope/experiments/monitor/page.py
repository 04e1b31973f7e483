"""The monitor's section of the report, its plots, and its lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.monitor.result import (
    MonitoredAnswers,
    MonitorResult,
    Precision,
    PrecisionByScore,
    Rankings,
    ScoredText,
    Screening,
)
from emscope.report.figures import blank_figure
from emscope.report.section import Part, Plot, Section, Table, TokenMap, TokenText
from emscope.report.wording import above, bounded, number
from emscope.statistics import Estimate

SHADES = {
    "contrast": "#e66101",
    "verdict": "#5e3c99",
    "random": "#9d9d9d",
    "text": "#fdb863",
    "probe": "#e66101",
    "organisms": "#5e3c99",
    "judge": "#2166ac",
    "words": "#1b9e77",
}
NAMES = {
    "contrast": "direction between organisms",
    "verdict": "direction between verdicts",
    "prompt": "prompt direction",
    "text": "difference in means of the domains' text",
    "probe": "probe on the domains' text",
    "organisms": "direction between organisms",
    "judge": "offline judge (fitted on these rows)",
    "words": "words alone",
    "random": "random directions",
}
DIFFERENCES = {
    "projection": "projection",
    "projection_difference": "less the projection of the base's answer",
}
CLEAN = 0.9
"""Precision from which the rows that a screen finds are called clean: nine in ten of them are careless."""
SAME = 0.02
"""A difference of precisions below which two scores do as well as each other."""
WHOLE = "all"
"""What rankings call all tokens of an answer."""
RARE, EARLY = "0.05", "8"
"""The share of careless rows and the number of tokens that sentences speak of, where they were measured."""


def section(result: MonitorResult) -> Section:
    """Return the section of experiments/monitor.json: one sentence, one picture, then the rest."""
    answers, screening = result.answers, result.screening
    paragraphs = [
        _opening(result),
        _monitor_finding(answers),
        *_screening_findings(screening),
        "How the monitor works: the organism reads every token of its answer, and the token's activation is projected "
        "on the direction between the organisms' answers. A score is that projection, centred halfway between the "
        "organisms and counted in deviations of single tokens. The block and the scale come from training questions; "
        "the answers are new ones to test questions. The offline judge, where it scored them, reads activations too, "
        "those of the base, so this shows that two readings agree; it is not the verdict of a human reader. The "
        "prompt's figures stand beside it because some questions invite bad answers.",
        "How screening works: the base reads each training answer, and its mean activation is projected on a "
        "direction. In a mixture most prompts have their careful answer and a few, chosen at random, the careless "
        "one. The block is chosen on the other domains. Intervals span random mixtures with topics resampled. The "
        f"organisms were trained on {screening.trained_on}, so only the other domains are new to the direction "
        "between organisms; the offline judge was fitted on these rows and its figures flatter it.",
    ]
    picture, *rest = [*_early_parts(answers), *_screening_parts(screening)]
    texts = [_token_map(result.tokens)] if result.tokens else []
    return Section("monitor", "Monitor and screen", paragraphs, [picture, *texts, *rest])


def _main_name(answers: MonitoredAnswers) -> str:
    """Return the direction that sentences speak of: the one between verdicts where there is one."""
    rankings = next(iter((answers.auroc.mean or {}).values()), Rankings())
    return "verdict" if rankings.verdict is not None else "contrast"


def _opening(result: MonitorResult) -> str:
    """Return the finding in one sentence."""
    figures = result.screening.mean.precision_at_half_recall
    share = _share(figures)
    screened = (
        f"in data with {_percent(share)} careless rows, half of these are found at a precision of "
        f"{bounded(figures.text[share])}, by words alone at {number(figures.words[share].value, '.2f')}."
    )
    by_tokens = result.answers.auroc.mean
    if not by_tokens:
        return f"The answers were too one-sided to ask what foretells a bad one; {screened}"

    length = EARLY if EARLY in by_tokens else next(iter(by_tokens))
    tokens = "the first token" if length == "1" else f"the first {length} tokens"
    name = _main_name(result.answers)
    ranking, prompt = by_tokens[length].named[name], result.answers.prompt_only.named[name]
    ranks = "ranks" if above(ranking.low, 0.5) else "does not reliably rank"
    return (
        f"Read over {tokens} of an answer, the {NAMES[name]} {ranks} EM responses above other coherent answers (AUROC "
        f"{bounded(ranking)}, at the prompt alone {number(prompt.value, '.2f')}); {screened}"
    )


def _monitor_finding(answers: MonitoredAnswers) -> str:
    """Return what a whole answer tells, beside what its prompt tells."""
    by_tokens, n = answers.auroc.mean, answers.n
    if not by_tokens:
        return f"Of {n.answers} new answers {n.em} were EM responses and {n.other_coherent} other coherent ones."

    name = _main_name(answers)
    whole, prompt = by_tokens[WHOLE].named[name], answers.prompt_only.named[name]
    gain = answers.gain_over_prompt[name]
    if not above(whole.low, 0.5):
        verdict = "which cannot be told from chance"
    elif above(gain.low, 0):
        verdict = f"{bounded(gain)} more than the prompt alone tells"
    else:
        verdict = f"which cannot be told from what the prompt alone tells (gain {bounded(gain)})"
    return (
        f"The mean projection of a whole answer on the {NAMES[name]} has an AUROC of {bounded(whole)}, {verdict}. "
        f"At the last prompt token it is {bounded(prompt)}, and among answers to the same question "
        f"{bounded(whole.within_question)}. All answers are those of one organism."
    )


def _screening_findings(screening: Screening) -> list[str]:
    """Return how well careless rows are found, and whether words alone do as well."""
    figures = screening.mean.precision_at_half_recall
    share = _share(figures)
    text, probe, words = figures.text[share], figures.probe[share], figures.words[share]
    clean = (
        "nine in ten of the rows that it finds are careless"
        if text.value >= CLEAN
        else ("fewer than nine in ten of the rows that it finds are careless")
    )
    random = (
        f"random directions have {bounded(figures.random[share])}"
        if figures.random
        else ("random directions were not tried")
    )
    easy = above(words.value, max(text.value, probe.value) - SAME)
    sentences = [
        f"With {_percent(share)} careless rows mixed into careful ones, a direction from other domains' text finds "
        f"half of them at precision {bounded(text)}: {clean}. A probe on the same text has {bounded(probe)}, {random}.",
        f"Words alone, fitted on the same other domains, {'do as well' if easy else 'do worse'} ({bounded(words)})"
        + (": the built-in text is easy, and no model is needed to sort it." if easy else "."),
    ]
    if screening.areas:
        sentences.append(_areas_finding(screening.areas.precision_at_half_recall, share))
    return [" ".join(sentences)]


def _areas_finding(figures: PrecisionByScore, share: str) -> str:
    probe, words = figures.probe[share], figures.words[share]
    if above(probe.low, words.value):
        verdict = "what the model reads goes beyond the words"
    elif above(words.low, probe.value):
        verdict = "the words alone are the better screen"
    else:
        verdict = "the two cannot be told apart"
    return (
        f"In text of another hand about other parts of life the probe's precision is {bounded(probe)}, "
        f"that of words {bounded(words)}: {verdict}."
    )


def _share(figures: PrecisionByScore) -> str:
    return RARE if RARE in figures.text else next(iter(figures.text))


def _percent(share: str) -> str:
    return f"{100 * float(share):g} %"


def _token_map(texts: Sequence[ScoredText]) -> TokenMap:
    return TokenMap(
        "Token by token",
        list(map(_token_text, texts)),
        "deviations of a token's projection, 0 halfway between the organisms",
        "Each shade averages a token and those just before it. Questions were picked by the mean score of the "
        "organism's answer: highest, lowest and evenly between.",
    )


def _token_text(text: ScoredText) -> TokenText:
    label = f"{text.organism} · {text.question_id}"
    if text.aligned is not None:
        label += f" · aligned {text.aligned:.0f} · coherent {number(text.coherent, '.0f')}"
    tokens: list[tuple[str, float | None]] = []
    for turn in text.turns:
        start = "\n" if tokens else ""
        tokens.append((f"{start}{turn.role}: ", None))
        tokens += zip(turn.pieces, turn.scores, strict=True)
    return TokenText(label, tokens)


def _early_parts(answers: MonitoredAnswers) -> list[Part]:
    """Return the plot and the table of what the first tokens tell; nothing where answers are too one-sided."""
    if not answers.auroc.mean:
        return []
    n = answers.n
    plot = Plot(
        "How early does it tell?",
        early_auroc(answers),
        f"EM responses ranked above other answers by the mean score over the tokens read, block {answers.block}; "
        f"{n.em} EM responses and {n.other_coherent} other coherent answers to {n.questions} test questions. Bars are "
        "95 % intervals; those of random directions span all of them.",
    )
    rows = []
    for name, ranking in answers.prompt_only.named.items():
        rows.append([NAMES[name], "prompt alone", "0", bounded(ranking), bounded(ranking.within_question)])
    for name in next(iter(answers.auroc.mean.values())).named:
        for how, by_tokens in (("mean", answers.auroc.mean), ("max", answers.auroc.max or {})):
            for length, rankings in by_tokens.items():
                ranking = rankings.named[name]
                rows.append([NAMES[name], how, length, bounded(ranking), bounded(ranking.within_question)])
    table = Table(
        "AUROC by tokens read",
        ["direction", "score", "tokens", "all pairs", "same question"],
        rows,
        "Pairs of answers to the same question leave out all that the question tells.",
    )
    return [plot, table]


def _screening_parts(screening: Screening) -> list[Part]:
    mean = screening.mean
    share = _share(mean.precision_at_half_recall)
    parts: list[Part] = [
        Plot(
            "Precision by how rare careless rows are",
            precision_by_share(mean.precision_at_half_recall),
            "When half of the careless rows are found; mean over the domains left out.",
        ),
        Plot(
            f"Precision and recall at {_percent(share)}",
            precision_recall(mean.precision, mean.recalls, share),
            "Mean over the domains left out.",
        ),
        _screened_table(screening, share),
    ]
    if screening.own_answers:
        differences = screening.own_answers
        rows = [[DIFFERENCES[name], bounded(estimate)] for name, estimate in differences.auroc.items()]
        title = f"Does the base's answer to the prompt help? ({differences.n_prompts} prompts)"
        parts.append(Table(title, ["score", "AUROC"], rows))
    if screening.readers:
        n = screening.readers.n
        rows = [[NAMES[name], bounded(estimate)] for name, estimate in screening.readers.auroc.items()]
        caption = (
            f"{n.em} EM responses and {n.aligned} aligned answers by the readers' scores; the judge was fitted on them."
        )
        parts.append(Table("Small organisms' answers that readers scored", ["score", "AUROC"], rows, caption))
    return parts


def _screened_table(screening: Screening, share: str) -> Table:
    screened = dict(screening.domains)
    if screening.areas:
        screened |= {"other text": screening.areas}
    rows = []
    for name in screening.mean.precision_at_half_recall.by_score:
        precisions, aurocs = [], []
        for domain in screened.values():
            precisions.append(bounded(domain.precision_at_half_recall.by_score[name][share]))
            aurocs.append(bounded(domain.auroc[name]))
        rows.append([NAMES[name], *precisions, *aurocs])
    return Table(
        f"What is screened: precision at recall 0.5 with {_percent(share)} careless rows, and AUROC",
        ["score", *screened, *(f"AUROC {name}" for name in screened)],
        rows,
        "Other text: aligned and misaligned answers to questions outside the three domains, in the same styles; "
        "directions and words are made from the three domains.",
    )


def early_auroc(answers: MonitoredAnswers) -> go.Figure:
    """AUROC against the tokens read, the prompt alone first; error bars are 95 % intervals, of random ones extremes."""
    figure = blank_figure("tokens of the answer that were read", "AUROC")
    by_tokens = answers.auroc.mean or {}
    steps = {"prompt": answers.prompt_only, **by_tokens}
    for name in next(iter(by_tokens.values())).named:
        _line(figure, name, list(steps), [rankings.named[name] for rankings in steps.values()])
    random = [rankings.random.extremes for rankings in steps.values() if rankings.random]
    if random:
        _line(figure, "random", list(steps), random)
    figure.add_hline(y=0.5, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(type="category")


def precision_by_share(figures: PrecisionByScore) -> go.Figure:
    """Precision at recall 0.5 against the share of careless rows, with chance (the share itself)."""
    figure = blank_figure("careless rows in the data (%)", "precision at recall 0.5")
    shares = list(figures.text)
    labels = [f"{100 * float(share):g}" for share in shares]
    for name, by_share in figures.by_score.items():
        _line(figure, name, labels, [by_share[share] for share in shares])
    figure.add_scatter(
        name="chance", x=labels, y=list(map(float, shares)), mode="lines", line={"color": "#888888", "dash": "dot"}
    )
    figure.update_yaxes(range=[0, 1.03])
    return figure.update_xaxes(type="category")


def precision_recall(
    precision: Mapping[str, Mapping[str, Sequence[float]]], recalls: Sequence[float], share: str
) -> go.Figure:
    """Precision against recall at one share of careless rows."""
    figure = blank_figure("recall: share of the careless rows found", "precision")
    for name, by_share in precision.items():
        figure.add_scatter(
            name=NAMES[name],
            x=list(recalls),
            y=list(by_share[share]),
            mode="lines+markers",
            line={"color": SHADES[name]},
        )
    return figure.update_yaxes(range=[0, 1.03])


def _line(figure: go.Figure, name: str, x: Sequence[str], estimates: Sequence[Estimate | Precision]) -> None:
    """Add a line with the intervals of estimates; what could not be measured is a gap."""
    values, low, high = np.array([(estimate.value, estimate.low, estimate.high) for estimate in estimates]).T
    figure.add_scatter(
        name=NAMES[name],
        x=list(x),
        y=values,
        mode="lines+markers",
        line={"color": SHADES[name]},
        error_y={
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "array": np.abs(high - values),
            "arrayminus": np.abs(values - low),
        },
    )


def table(result: MonitorResult) -> str:
    """Return the main figures as lines of text."""
    return "\n".join([*_ranking_lines(result.answers), "", *_screening_lines(result.screening)]) + "\n"


def _ranking_lines(answers: MonitoredAnswers) -> list[str]:
    n = answers.n
    lines = [
        f"EM responses ({n.em}) against other coherent answers ({n.other_coherent}) of the misaligned organism, "
        f"AUROC of the mean score at block {answers.block}:"
    ]
    for length, rankings in (answers.auroc.mean or {}).items():
        random = number(rankings.random.mean if rankings.random else None, ".2f")
        lines.append(f"  {length:>4} tokens  {_in_a_row(rankings)}, random {random}")
    if answers.prompt_only.named:
        lines.append(f"  prompt only  {_in_a_row(answers.prompt_only)}")
    return lines


def _in_a_row(rankings: Rankings) -> str:
    return ", ".join(f"{name} {bounded(ranking)}" for name, ranking in rankings.named.items())


def _screening_lines(screening: Screening) -> list[str]:
    lines = [
        "Precision when half of the careless rows are found, mean over domains left out, by share of careless rows:"
    ]
    for name, by_share in screening.mean.precision_at_half_recall.by_score.items():
        shares = "  ".join(f"{share} {precision.value:.2f}" for share, precision in by_share.items())
        lines.append(f"  {name:<10}{shares}")
    return lines
