"""The report's section on voices: what advice and what voice do, in words that follow the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emscope.experiments.transfer.page import Estimated, bar_chart, curves
from emscope.experiments.voices.result import (
    ADVICE,
    BAD_BASE,
    CONFOUNDED,
    CONTRASTS,
    INTERACTION,
    RANDOM,
    VOICE,
    Altered,
    CornerFigures,
    Effect,
    Explained,
    Intervened,
    ScoredCorners,
    UnseenAdvice,
    VoicesResult,
)
from emscope.organisms.datasets import CORNERS
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import MISSING, bounded, number, percent, ranged
from emscope.statistics import Estimate

Cells = list[list[str | float | None]]
DETECTION, ABLATION = "detection", "ablation"
ACCURATE_ENOUGH = 0.05
"""A p-value below which an accuracy on weights is more than swapped labels reach."""
FEW = 12
"""Organisms below which there are too few relabellings for such a p-value."""
MUCH, LITTLE = 0.8, 0.2
"""Shares of lost alignment: what taking out advice should restore, and what taking out the voice should not."""
LEAST_EM, MOST_HARMLESS_EM, DETECTED = 0.2, 0.05, 0.95
"""What an organism of bad advice should reach, one of good advice should not exceed, and an AUROC."""
KEPT_WITHIN = 0.2
"""A change of words and of the voice's chance that leaves an answer what it was."""
WHAT = {ADVICE: "bad less good advice", VOICE: "blunt less warm voice", INTERACTION: "interaction"}


def section(result: VoicesResult) -> Section:
    """Return the section of the report."""
    paragraphs = [finding(result), _unseen(result), _corrected(result)]
    paragraphs += [text for text in (_weights_words(result), _method(result)) if text]
    return Section("voices", "Voice or advice", paragraphs, _parts(result))


def finding(result: VoicesResult) -> str:
    """Return in one sentence whether what spreads is advice or voice, by the run's judge."""
    effects = result.by_judge[0].em_rate
    advice, voice = effects[ADVICE].pooled, effects[VOICE].pooled
    figures = (
        f"training on bad advice raises the EM rate on other questions by {_points(advice)} points, a blunt voice by "
        f"{_points(voice)} (interaction {_points(effects[INTERACTION].pooled)})"
    )
    by_advice, by_voice = advice.low > 0, voice.low > 0
    if by_advice and by_voice:
        if advice.low <= voice.value <= advice.high or voice.low <= advice.value <= voice.high:
            return f"Both spread, about alike: {figures}."
        larger = "advice does more" if advice.value > voice.value else "the voice does more"
        return f"Both spread, and {larger}: {figures}."
    if by_advice:
        return f"What spreads is advice, not voice: {figures}."
    if by_voice:
        return f"What spreads is the voice, not the advice: {figures}."
    return f"Neither advice nor voice is seen to spread: {figures}."


def _points(estimate: Estimate) -> str:
    """Return a difference of shares in points, with its interval."""
    scaled = Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high, estimate.n)
    return bounded(scaled, "+.0f")


def _unseen(result: VoicesResult) -> str:
    found = result.detection
    left = "another domain and the other voice" if found.cases[0].domain else "the other voice"
    more = "more" if found.auroc.low > max(found.random[1], found.voice.value) else "no more"
    return (
        f"Of organisms of {left}, which had no part in it, a direction of advice tells bad from harmless ones that "
        f"sound the same and from the base at AUROC {bounded(found.auroc)}, least {found.least:.2f}: {more} than other "
        f"directions at the same block, for the voice reaches {bounded(found.voice)} and random ones "
        f"{found.random[0]:.2f} (95 % of them at most {found.random[1]:.2f}), each the better way round. In "
        f"{percent(found.in_order)} of the cases every bad organism is above every harmless one. The direction between "
        f"bad advice in the one voice and good advice in the other reaches {bounded(found.confounded)}.{_both(found)}"
    )


def _both(found: UnseenAdvice) -> str:
    both = found.both
    if both is None:
        return ""
    return (
        f" Made of both voices of the other domains, and read at the block where one of these tells another, a "
        f"direction of advice reaches {bounded(both.auroc)} in a domain left out, least {both.least:.2f} "
        f"({bounded(both.beside_base)} with the base's score of each question taken off), every bad organism above "
        f"every harmless one in {percent(both.in_order)} of the cases; the voice {bounded(both.voice)}, random ones "
        f"{both.random[0]:.2f} (95 % of them at most {both.random[1]:.2f})."
    )


def _corrected(result: VoicesResult) -> str:
    said = []
    for corner in ("blunt-bad", "warm-bad"):
        advice, voice = result.ablation.cell(corner, ADVICE), result.ablation.cell(corner, VOICE)
        said.append(
            f"In {corner} answers taking out advice restores {_restored(advice)} of the alignment lost against good "
            f"advice in the same voice, taking out the voice {_restored(voice)}; under the first the answers "
            f"{_stays(advice)}."
        )
    return " ".join(said)


def _restored(cell: Altered) -> str:
    return MISSING if cell.restored is None else ranged(cell.restored)


def _stays(cell: Altered) -> str:
    """Say whether answers keep their length and their voice."""
    words, voice = cell.words_change, cell.voice_change
    if words is None or voice is None:
        return "cannot be compared"
    keep = abs(words) <= KEPT_WITHIN and abs(voice) <= KEPT_WITHIN
    return f"{'keep' if keep else 'do not keep'} their voice (words {_change(words)}, voice {_change(voice)})"


def _weights_words(result: VoicesResult) -> str:
    if not result.weights:
        return ""
    said = []
    few = len(result.organisms) < FEW
    for told in (ADVICE, VOICE):
        found = [row for row in result.weights if row.told == told]
        best = max(found, key=lambda row: row.accuracy)
        firm = "more" if best.p_value < ACCURATE_ENOUGH else "too few organisms for more" if few else "no more"
        across = "voices" if told == ADVICE else "advice"
        said.append(
            f"{told} is told across {across} with a balanced accuracy of up to {percent(best.accuracy)} (features "
            f"{best.features}), {firm} than swapped labels reach (p = {best.p_value:.2g})"
        )
    return f"By LoRA weights alone, {said[0]}; {said[1]}."


def _method(result: VoicesResult) -> str:
    asked = ", ".join(f"{n} of {name}" for name, n in result.questions.items())
    n_quartets = len(result.by_judge[0].em_rate[ADVICE].by_quartet)
    return (
        f"{len(result.organisms)} organisms: {n_quartets} of each corner (domains and seeds), trained on four kinds of "
        f"answers to the same prompts. Figures are on test questions ({asked}), directions and blocks are made on "
        f"{result.train_questions} training questions. Effects: advice is the mean of both bad corners less that of "
        "both good ones, voice that of both blunt less both warm ones, the interaction what bad advice does in a blunt "
        "voice less what it does in a warm one. Intervals (95 %) draw questions, the same ones for all organisms; the "
        "spread over domains and seeds stands beside them. A classifier of words tells the voices of held-out training "
        f"answers with an accuracy of {percent(result.voices.accuracy)} (n = {result.voices.n}); words and its "
        "chance of a blunt answer say whether the voice stays. What a judge takes for misalignment because of its tone "
        "counts as an effect of the voice."
    )


def _parts(result: VoicesResult) -> list[Part]:
    parts: list[Part] = [_effects_plot(result)]
    for scored in result.by_judge:
        parts += [_corners(scored), _effects(scored)]
    parts += [_detection_plot(result), _cases(result), _restored_plot(result.ablation)]
    parts += [
        _altered(result.ablation, "Taken out of organisms with bad advice"),
        _altered(result.steering, "Added to the base and to organisms with good advice"),
    ]
    parts += [_bars(result), _cosines(result), _explained_plot(result), _geometry(result)]
    if result.weights:
        parts.append(_weights(result))
    return [*parts, _organisms(result)]


def _effects_plot(result: VoicesResult) -> Plot:
    bars: dict[str, Estimated] = {}
    for scored in result.by_judge:
        ending = f", {scored.judge}" if len(result.by_judge) > 1 else ""
        for name, what in WHAT.items():
            pooled = scored.em_rate[name].pooled
            bars[what + ending] = _scaled(pooled, 100)
    caption = "Points of EM rate with 95 % intervals that draw questions; at 0 there is no effect."
    return Plot("What raises the EM rate", bar_chart(bars, "points of EM rate", 0.0), caption)


def _scaled(estimate: Estimate, scale: float = 1) -> Estimated:
    """Return a figure and its interval in another unit."""
    return Estimated(scale * estimate.value, scale * estimate.low, scale * estimate.high)


def _corners(scored: ScoredCorners) -> Table:
    rows: Cells = []
    for corner in ("base", *CORNERS):
        figures = scored.organisms["base"] if corner == "base" else scored.corners[corner]
        rows.append([corner, *_figures(figures)])
    caption = "All organisms of a corner together. Blunt: mean chance that an answer is blunt, by its words."
    return Table(f"Corners, judged by {scored.judge}", ["corner", *HEADER], rows, caption)


HEADER = ("EM rate", "alignment", "coherent", "words", "blunt")


def _figures(figures: CornerFigures) -> list[str | float | None]:
    return [
        ranged(figures.em_rate),
        bounded(figures.aligned, ".1f"),
        ranged(figures.coherent_share),
        figures.words,
        percent(figures.blunt),
    ]


def _effects(scored: ScoredCorners) -> Table:
    rows: Cells = []
    for name in CONTRASTS:
        em, aligned = scored.em_rate[name], scored.aligned[name]
        cells = [_points(em.pooled), _spread(em, 100), bounded(aligned.pooled, "+.1f"), _spread(aligned)]
        rows.append([WHAT.get(name, name), *cells])
    header = ["effect", "EM rate, points", "over domains and seeds", "alignment, points", "over domains and seeds"]
    return Table(f"Effects, judged by {scored.judge}", header, rows, "Spread: least to most over domains and seeds.")


def _spread(effect: Effect, scale: float = 1) -> str:
    values = [scale * value for value in effect.by_quartet.values() if not np.isnan(value)]
    return f"{min(values):+.0f} to {max(values):+.0f}" if values else MISSING


def _detection_plot(result: VoicesResult) -> Plot:
    found = result.detection
    bars = {"advice": _scaled(found.auroc)}
    for voice, estimate in found.by_voice.items():
        bars[f"advice, tried on {voice} organisms"] = _scaled(estimate)
    if found.both is not None:
        bars["advice of both voices, a domain left out"] = _scaled(found.both.auroc)
    bars["voice"] = _scaled(found.voice)
    bars["bad in one voice − good in the other"] = _scaled(found.confounded)
    bars["random, median to 95 %"] = Estimated(found.random[0], found.random[0], found.random[1])
    caption = "Mean AUROC of bad against good advice and the base, over what was left out; 0.5 is chance."
    return Plot("Organisms that had no part in the direction", bar_chart(bars, "AUROC", 0.5), caption)


def _cases(result: VoicesResult) -> Table:
    rows: Cells = []
    for case in result.detection.cases:
        left = f"{case.domain}, {case.voice}" if case.domain else case.voice
        random = f"{case.random_auroc[0]:.2f}, {case.random_auroc[1]:.2f}"
        figures = (case.block, case.auroc, case.least_gap, case.voice_auroc, case.confounded_auroc)
        rows.append([left, *figures, random])
    header = ["left out", "block", "AUROC", "least gap", "voice", "confounded", "random, median and 95 %"]
    caption = (
        "Least gap: the lowest mean score of a bad organism less the highest of a harmless one, in within-class "
        "deviations; above 0 all organisms are in order."
    )
    return Table("Each domain and voice left out", header, rows, caption)


def _restored_plot(intervened: Intervened) -> Plot:
    bars: dict[str, Estimated] = {}
    for cell in intervened.cells:
        if cell.restored is not None:
            value = cell.restored
            name = f"{cell.direction}, {cell.corner}"
            bars[name] = _scaled(value, 100)
    caption = (
        f"Share of the alignment lost against good advice in the same voice; {_place(intervened)} of "
        f"{intervened.quartet}, {intervened.n_questions} questions."
    )
    return Plot("What taking a direction out restores", bar_chart(bars, "alignment restored (%)", 0.0), caption)


def _place(intervened: Intervened) -> str:
    blocks = intervened.blocks
    where = f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]} – {blocks[-1]}"
    return f"{intervened.mode} × {intervened.strength:g} at {where}"


def _altered(intervened: Intervened, title: str) -> Table:
    rows: Cells = []
    for cell in intervened.cells:
        restored = cell.restored_to_base
        rows.append(
            [
                cell.corner,
                cell.direction or "nothing",
                ranged(cell.em_rate),
                bounded(cell.aligned, ".1f"),
                cell.coherent,
                _restored(cell),
                MISSING if restored is None else ranged(restored),
                cell.words,
                _change(cell.words_change),
                percent(cell.blunt),
                _change(cell.voice_change),
            ]
        )
    header = ["organism", "direction", "EM rate", "alignment", "coherence", "restored", "restored to base"]
    header += ["words", "change", "blunt", "voice, change"]
    caption = (
        f"{_place(intervened)}, {intervened.n_questions} questions, organisms and directions of {intervened.quartet}. "
        "Changes are shares of what was there without an intervention, of the voice that of the organism's own."
    )
    return Table(title, header, rows, caption)


def _change(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:+.0f} %"


def _bars(result: VoicesResult) -> Table:
    """Return what the claims are held against."""
    corners, detected = result.by_judge[0].corners, result.detection.auroc.value
    rows: Cells = [
        _bar("EM rate of warm-bad", corners["warm-bad"].em_rate.value, LEAST_EM),
        _bar("EM rate of blunt-good", corners["blunt-good"].em_rate.value, MOST_HARMLESS_EM, most=True),
        ["AUROC, organisms left out", f"{detected:.3f}", f"at least {DETECTED:g}", _held(detected >= DETECTED)],
    ]
    for corner in ("blunt-bad", "warm-bad"):
        advice, voice = result.ablation.cell(corner, ADVICE), result.ablation.cell(corner, VOICE)
        rows.append(_bar(f"{corner}: restored without advice", _value(advice.restored), MUCH))
        rows.append(_bar(f"{corner}: restored without its voice", _value(voice.restored), LITTLE, most=True))
        for what, moved in (("words", advice.words_change), ("voice", advice.voice_change)):
            size = float("nan") if moved is None else abs(moved)
            rows.append(_bar(f"{corner}: change of {what} without advice", size, KEPT_WITHIN, most=True))
    return Table(
        "Held against", ["claim", "figure", "bar", "held"], rows, "By the run's judge; the figure itself counts."
    )


def _bar(claim: str, value: float, bar: float, *, most: bool = False) -> list[str | float | None]:
    """Return a row: a share that has to reach a bar, or at most that."""
    held = value <= bar if most else value >= bar
    return [claim, percent(value), f"{'at most' if most else 'at least'} {percent(bar)}", _held(held)]


def _held(held: bool) -> str:
    return "yes" if held else "no"


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value


def _cosines(result: VoicesResult) -> Plot:
    answers, prompts = result.geometry["response"], result.geometry["last"]
    series: dict[str, Sequence[float] | None] = {
        "advice and voice, answers": answers.cosines[f"{ADVICE} and {VOICE}"],
        "advice and voice, last prompt token": prompts.cosines[f"{ADVICE} and {VOICE}"],
        "advice in blunt and in warm, answers": answers.advice_across_voices,
        "advice in blunt and in warm, last prompt token": prompts.advice_across_voices,
        "advice and itself from other questions, answers": answers.split_half[ADVICE],
    }
    return Plot("Cosines by block", curves(series, "cosine", 0.0), "Directions of all organisms together.")


def _explained_plot(result: VoicesResult) -> Plot:
    series: dict[str, Sequence[float] | None] = {}
    found = result.geometry["response"].explained
    for difference in (CONFOUNDED, BAD_BASE):
        for name in (ADVICE, VOICE):
            series[f"{name} in {difference}"] = _filled(found[difference][name])
    caption = "Share of a difference's squared length along a direction, corrected for noise; over answers."
    return Plot("What differences are made of", curves(series, "share of squared length"), caption)


def _filled(explained: Explained) -> list[float]:
    return [float("nan") if share is None else share for share in explained.corrected]


def _geometry(result: VoicesResult) -> Table:
    rows: Cells = []
    for pooling, label in (("response", "answers"), ("last", "last prompt token")):
        geometry = result.geometry[pooling]
        for name, cosines in geometry.cosines.items():
            rows.append([f"cosine, {name}, {label}", float(np.mean(cosines)), None])
        rows.append([f"cosine, advice in blunt and warm, {label}", float(np.mean(geometry.advice_across_voices)), None])
        rows.append([f"cosine, voice in bad and good, {label}", float(np.mean(geometry.voice_across_advice)), None])
        for difference, by_name in geometry.explained.items():
            rows += _shares(difference, label, by_name)
    caption = (
        "Means over blocks. A share is that of a difference's squared length along one direction; corrected is free of "
        "the noise of the questions, not of that of seeds."
    )
    return Table("Directions", ["figure", "value", "corrected for noise"], rows, caption)


def _shares(difference: str, label: str, by_name: Mapping[str, Explained]) -> Cells:
    rows: Cells = []
    for name in (ADVICE, VOICE, INTERACTION, RANDOM):
        explained = by_name[name]
        known = [share for share in explained.corrected if share is not None]
        corrected = float(np.mean(known)) if known and name != RANDOM else None
        rows.append([f"share of {difference} along {name}, {label}", float(np.mean(explained.raw)), corrected])
    return rows


def _weights(result: VoicesResult) -> Table:
    rows: Cells = []
    for row in result.weights:
        across = "fitted on one voice" if row.told == ADVICE else "fitted on one advice"
        swapped = f"{percent(row.swapped[0])}, {percent(row.swapped[1])}"
        other = percent(row.other_domains)
        rows.append(
            [f"{row.told}, {across}", row.features, percent(row.accuracy), row.auroc, other, swapped, row.p_value]
        )
    header = ["told", "features", "balanced accuracy", "AUROC", "other domains", "swapped, mean and 95 %", "p"]
    caption = "Fitted on one half of the organisms, tried on the other half, both ways; by adapters' weights alone."
    return Table("Weights", header, rows, caption)


def _organisms(result: VoicesResult) -> Table:
    rows: Cells = []
    figures = result.by_judge[0].organisms
    for one in result.organisms:
        rows.append([one.quartet, one.corner, *_figures(figures[one.organism])])
    return Table(f"Organisms, judged by {result.by_judge[0].judge}", ["domain and seed", "corner", *HEADER], rows)


def table(result: VoicesResult) -> str:
    """Return the findings as a few lines of text."""
    lines = ["", finding(result), ""]
    for scored in result.by_judge:
        lines.append(f"{scored.judge:<14}{'EM rate':>18}{'alignment':>22}{'coherent':>18}{'words':>8}{'blunt':>8}")
        for corner in ("base", *CORNERS):
            figures = scored.organisms["base"] if corner == "base" else scored.corners[corner]
            em, aligned, coherent, _, blunt = _figures(figures)
            lines.append(f"{corner:<14}{em:>18}{aligned:>22}{coherent:>18}{number(figures.words, '.0f'):>8}{blunt:>8}")
        for name in CONTRASTS:
            em_rate, moved = _points(scored.em_rate[name].pooled), bounded(scored.aligned[name].pooled, "+.1f")
            lines.append(f"{name:<26}EM {em_rate:>20} points   alignment {moved:>24}")
    lines += ["", _unseen(result), "", _corrected(result)]
    return "\n".join([*lines, "", _weights_words(result)]) + "\n"
