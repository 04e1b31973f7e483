"""The dynamics' section of the report, its plots, and its lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.dynamics.result import (
    OUT,
    AdapterPath,
    ChangeOrder,
    CurveOverTrainings,
    DynamicsResult,
    ScaledAnswers,
    TrainingCurve,
    TrainingDynamics,
)
from emscope.report.figures import blank_figure, plain
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import bounded, number, percent
from emscope.statistics import Estimate

NARROW = 0.15
"""Share of a training below which the interval of a change is called narrow."""
NAMES = {
    "all": "adapters on every linear layer",
    "rank1": "one rank-1 adapter",
    "few": "nine rank-1 adapters",
}
SHORT = {
    "turn": "weights: turn of B",
    "update-turn": "weights: turn of BA",
    "gradient-norm": "weights: gradient norm",
    "projection-in": "prompt activations in domain",
    "projection-out": "prompt activations out of domain",
    "answer-projection-in": "answer activations in domain",
    "answer-projection-out": "answer activations out of domain",
    "preference-in": "preference in domain",
    "preference-out": "preference out of domain",
    "alignment-in": "alignment in domain",
    "alignment-out": "alignment out of domain",
    "em-in": "EM rate in domain",
    "em-out": "EM rate out of domain",
}
ALIGNMENT_IN, ALIGNMENT_OUT, TURN, GRADIENT_NORM = "alignment-in", "alignment-out", "turn", "gradient-norm"
LOCAL_COSINE = "local-cosine"
APART = {ALIGNMENT_IN: ".0f", ALIGNMENT_OUT: ".0f", "answer-projection-in": ".1f", "answer-projection-out": ".1f"}
"""Curves whose ends are compared with those of careful trainings, and how they are written."""
MORE = {
    "Coherence of sampled answers": ("coherence", "mean coherence (0-100)"),
    "Held-out loss of careless answers": ("loss", "nats per answer token"),
    "Norms of the adapters": ("norm", "Frobenius norm"),
}
"""Curves that are measured and belong to no order: by title, the stem of their names and their unit."""
SHADES = ("#e45756", "#4c78a8", "#54a24b", "#b279a2", "#f58518", "#72b7b2", "#9d755d", "#bab0ac")
DASHES = ("solid", "dash", "dot", "dashdot")
STEP = "optimiser step"

Curves = Mapping[str, CurveOverTrainings]


def section(result: DynamicsResult) -> Section:
    """Return the section of experiments/dynamics.json: one sentence, one picture, then the rest."""
    paragraphs, parts = [], []
    for kind, dynamics in result.adapters.items():
        label = NAMES[kind] if len(result.adapters) > 1 else ""
        finding = f"{label[0].upper()}{label[1:]}: {_finding(dynamics)}" if label else _finding(dynamics)
        paragraphs += [finding, _narrow_words(dynamics), *_other_findings(dynamics)]
        parts += _parts(dynamics, f" ({label})" if label else "")
    return Section("dynamics", "When it appears in training", [*paragraphs, _method(result)], parts)


def findings(dynamics: TrainingDynamics) -> list[str]:
    """Return what the figures say, in plain words: change, control, weights, order."""
    return [f"{_finding(dynamics)} {_narrow_words(dynamics)}", *_other_findings(dynamics)]


def _finding(dynamics: TrainingDynamics) -> str:
    """Return the finding in one sentence: how alignment changes."""
    n = len(dynamics.seeds)
    inside, outside = dynamics.curves[ALIGNMENT_IN], dynamics.curves[ALIGNMENT_OUT]
    trainings = "one training" if n == 1 else f"{n} trainings"
    return (
        f"Over {trainings} of {dynamics.steps[-1]} steps, mean alignment changes in domain {_change_words(inside, n)}; "
        f"out of domain {_change_words(outside, n)}."
    )


def _other_findings(dynamics: TrainingDynamics) -> list[str]:
    n = len(dynamics.seeds)
    return [_control_words(dynamics), _transition_words(dynamics.curves, n), _order_words(dynamics.order, n)]


def _change_words(curve: CurveOverTrainings, n: int) -> str:
    moved = _moved(curve.trainings, ".0f")
    if not curve.transitions:
        return f"{moved} without a transition that stands out from a gradual drift"
    at = bounded(curve.at, ".0f")
    return f"{moved}, as a transition in {curve.transitions} of {n}, half of it done at step {at}"


def _moved(trainings: Sequence[TrainingCurve], form: str) -> str:
    """Return the first and the last value of a curve, each the mean over trainings."""
    first = _mean([training.values[0] for training in trainings])
    last = _mean([training.values[-1] for training in trainings])
    return f"from {number(first, form)} to {number(last, form)}"


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of the values that are known."""
    known = list(filter(np.isfinite, values))
    return sum(known) / len(known) if known else None


def _narrow_words(dynamics: TrainingDynamics) -> str:
    """Return how sure the places of the changes are, and how many of them are transitions."""
    n, narrow, clear = 0, 0, 0
    for name in dynamics.order.events:
        for training in dynamics.curves[name].trainings:
            change = training.change
            if change:
                n += 1
                narrow += (change.high - change.low) / dynamics.steps[-1] < NARROW
                clear += change.transition
    return f"Of {n} changes, {narrow} have an interval narrower than 15 % of the training, and {clear} are transitions."


def _control_words(dynamics: TrainingDynamics) -> str:
    """Return where trainings on the control's data end, and how far from there the careless of these seeds do."""
    n, compared = len(dynamics.control_seeds), []
    for name, form in APART.items():
        curve = dynamics.curves.get(name)
        if curve and curve.apart:
            apart = bounded(curve.apart, form.replace(".", "+."))
            moved = _moved(curve.controls, form)
            compared.append(f"{SHORT[name]} {moved}, careless minus careful {apart} at the end")
    if not compared:
        return "No careful organism was trained beside it."
    trainings = "One training" if n == 1 else f"{n} trainings"
    return f"{trainings} on the control's data, intervals of questions alone: {'; '.join(compared)}."


def _transition_words(curves: Curves, n: int) -> str:
    """Return which of the curves are transitions in every training, how long they take, and what the weights do."""
    transitions = []
    for name, label in SHORT.items():
        if name in curves and curves[name].transitions == n:
            widths = [training.change.width for training in curves[name].trainings if training.change]
            transitions.append(f"{label} (10 % to 90 % in {sum(widths) / n:.0f} steps)")
    text = f"Transitions in {'it' if n == 1 else 'every training'}: {', '.join(transitions) or 'none'}."

    turning, peaks = 0, 0
    for name, curve in curves.items():
        if name == GRADIENT_NORM or name.startswith(LOCAL_COSINE):
            turning += 1
            peaks += curve.transitions
    if not turning:
        return text
    if not peaks and not curves[TURN].transitions:
        return f"{text} The weights show none: neither gradient norm nor local cosine peaks, and B turns gradually."
    return f"{text} In the weights, {peaks} of {n * turning} curves that could peak do."


def _order_words(order: ChangeOrder, n: int) -> str:
    """Return the order of the changes, and whether those in domain come before those out of it."""
    if len(order.events) < 2:
        return "Too few of the curves change to put them in order."
    named = [f"{SHORT[name]}{' (gradual)' if name in order.gradual else ''}" for name in order.events]
    text = f"By when half of each change is done, the order is: {', '.join(named)}."
    if n == 1:
        return f"{text} One training says nothing about others."
    leads = [f"{stem} in domain leads by {bounded(lead, '.1f')} steps" for stem, lead in _in_before_out(order)]
    n_sure = sum(pair.lead.low > 0 for pair in order.pairs)
    apart = f"{n_sure} of {len(order.pairs)} pairs are apart by more than their interval over {n} trainings"
    return f"{text} {apart}. In domain against out of it: {'; '.join(leads) or 'nothing to compare'}."


def _in_before_out(order: ChangeOrder) -> list[tuple[str, Estimate]]:
    """Return, by quantity, how far its change in domain is ahead of that out of domain, in steps."""
    leads = {(pair.first, pair.second): pair.lead for pair in order.pairs}
    ahead = []
    for name in order.events:
        if not name.endswith("-in"):
            continue
        inside, outside = name, f"{name.removesuffix('-in')}-out"
        stem = SHORT[name].removesuffix(" in domain")
        if (inside, outside) in leads:
            ahead.append((stem, leads[inside, outside]))
        elif (outside, inside) in leads:
            lead = leads[outside, inside]
            ahead.append((stem, replace(lead, value=-lead.value, low=-lead.high, high=-lead.low)))
    return ahead


def _method(result: DynamicsResult) -> str:
    settings, questions = result.settings, result.questions
    often = "after every step" if settings.save_every == 1 else f"every {settings.save_every} steps"
    return (
        f"Each training keeps a checkpoint {often}. Each of them reads the same texts and "
        f"answers the same questions, {len(questions.in_domain)} of {settings.in_domain} and "
        f"{len(questions.out_of_domain)} of {settings.out_of_domain}, {settings.samples} times each. "
        "A transition is a slow, then fast, then slow change, or a peak, as a "
        "straight line or an exponential with the same noise seldom shows (p < 0.05). Its place is where half of it is "
        "done, or the top of the peak; its interval draws questions with replacement or, for the weights, noise of the "
        "curve's own size. A learning rate that falls bends every curve by itself; it is constant after warm-up unless "
        "that was changed."
    )


def _parts(dynamics: TrainingDynamics, suffix: str) -> list[Part]:
    """Return the plots and tables of all trainings with one kind of adapters; alignment opens them."""
    curves, seeds = dynamics.curves, dynamics.seeds
    deviations, nats = "projection (within-class deviations)", "nats per answer token"

    def some(*names: str) -> dict[str, CurveOverTrainings]:
        return {SHORT.get(name, curves[name].label): curves[name] for name in names if name in curves}

    def plot(title: str, figure: go.Figure, caption: str = "") -> Plot:
        return Plot(f"{title}{suffix}", figure, caption)

    chosen = some(*SHORT)
    alignment = some(ALIGNMENT_IN, ALIGNMENT_OUT)
    preference = some("preference-in", "preference-out")
    answers = some("answer-projection-in", "answer-projection-out")
    prompts = some("projection-in", "projection-out")
    local = some(*(name for name in curves if name.startswith(LOCAL_COSINE)))
    parts: list[Part] = [
        plot(
            "Alignment of sampled answers",
            curves_plot(alignment, "mean alignment (0-100)", seeds),
            "One line a training; bands draw questions with replacement; dotted lines are transitions; thin lines "
            "without points are trainings on careful answers.",
        ),
        plot(
            "All on one axis",
            together_plot({**some(TURN), **answers, **preference, **alignment}),
            "Means over trainings, each curve from 0 to 1.",
        ),
        plot(
            "Change-points",
            change_points_plot(chosen, seeds, dynamics.steps[-1]),
            "Hollow: no transition, so the place means little.",
        ),
        plot("EM rate", curves_plot(some("em-in", "em-out"), "EM rate", seeds)),
        plot(
            "Activations of fixed answers",
            curves_plot({**answers, **some("random-answer-projection-out")}, deviations, seeds),
            "The base's own answers along the run's direction of answer tokens; 0 is half-way between its two "
            "organisms.",
        ),
        plot(
            "Activations of fixed prompts",
            curves_plot({**prompts, **some("random-projection-out")}, deviations, seeds),
            "Last prompt token along the run's direction; 0 is half-way between its two organisms.",
        ),
        plot(
            "Preference for careless answers",
            curves_plot(preference, nats, seeds),
            "Loss of careful less loss of careless answers to held-out prompts; no sampling, no judge.",
        ),
        plot(
            "Local cosine",
            reference_plot(local, "local cosine of B"),
            "-1 is a straight path, 0 a right-angled turn, 1 a step back. Dotted: the same moves in random order.",
        ),
        plot("Turn of the adapters", reference_plot(some(TURN, "update-turn"), "cosine with the last value")),
        plot("Gradient norm", curves_plot(some(GRADIENT_NORM), "gradient norm", seeds)),
    ]
    if dynamics.paths:
        first = next(iter(dynamics.paths.values()))
        explained = ", ".join(map(percent, first.explained))
        parts += [
            plot(
                "Path of the B matrices",
                path_plot(dynamics.paths, dynamics.steps),
                f"Variance explained in the first training: {explained}.",
            ),
            plot(
                "Turn of every B matrix",
                matrices_plot(first, dynamics.steps),
                "Cosine with its last value, first training.",
            ),
        ]
    for title, (stem, unit) in MORE.items():
        measured = some(f"{stem}-in", f"{stem}-out", stem, f"update-{stem}")
        if measured:
            parts.append(plot(title, curves_plot(measured, unit, seeds)))
    if dynamics.scaled:
        parts.append(plot("Adapters scaled up", scaled_plot(dynamics.scaled)))
    return [*parts, _change_table(chosen, seeds, suffix), _order_table(dynamics.order, len(seeds), suffix)]


def _change_table(chosen: Curves, seeds: Sequence[int], suffix: str) -> Table:
    rows: list[list[str | float | None]] = []
    for name, curve in chosen.items():
        for seed, training in zip(seeds, curve.trainings, strict=True):
            change = training.change
            if change:
                place = [change.at, change.low, change.high]
                kind = "transition" if change.transition else "no transition"
                rows.append([name, str(seed), *place, change.width, change.size, change.p_value, kind])
    header = ["curve", "seed", "step", "low", "high", "width (steps)", "size", "p", ""]
    return Table(f"Changes by training{suffix}", header, rows)


def _order_table(order: ChangeOrder, n: int, suffix: str) -> Table:
    rows: list[list[str | float | None]] = []
    for pair in order.pairs:
        lead = [pair.lead.value, pair.lead.low, pair.lead.high]
        rows.append([SHORT[pair.first], SHORT[pair.second], *lead, pair.probability, f"{pair.agreeing} of {n}"])
    header = ["first", "second", "lead (steps)", "low", "high", "probability", "trainings"]
    absent = ", ".join(SHORT[name] for name in order.left_out)
    caption = f"Not in the order, no change that all trainings share: {absent}." if absent else ""
    return Table(f"Order of the changes{suffix}", header, rows, caption)


def curves_plot(by_name: Curves, label: str, seeds: Sequence[int]) -> go.Figure:
    """Each training's curve with its pointwise interval and its change-point; those on careful answers are thin."""
    figure = blank_figure(STEP, label, height=380)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        for place, (seed, training) in enumerate(zip(seeds, curve.trainings, strict=True)):
            _band(figure, training, shade)
            figure.add_scatter(
                name=name,
                legendgroup=name,
                showlegend=not place,
                x=list(training.times),
                y=list(training.values),
                mode="lines+markers",
                line={"color": shade, "dash": DASHES[place % len(DASHES)]},
                marker={"size": 4},
                hovertemplate=f"seed {seed}, step %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
            if training.change and training.change.transition:
                figure.add_vline(x=training.change.at, line={"color": shade, "width": 1, "dash": "dot"})
        for place, training in enumerate(curve.controls):
            figure.add_scatter(
                name=f"{name}, trained on careful answers",
                showlegend=not place,
                x=list(training.times),
                y=list(training.values),
                mode="lines",
                opacity=0.6,
                line={"color": shade, "dash": DASHES[place % len(DASHES)], "width": 1},
                hovertemplate=f"careful, step %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
    return figure


def _band(figure: go.Figure, training: TrainingCurve, shade: str) -> None:
    """Add a curve's pointwise interval, where it has one."""
    if training.low is None or training.high is None:
        return
    low, high = np.array(training.low), np.array(training.high)
    known = np.isfinite(low) & np.isfinite(high)
    times = np.array(training.times)[known]
    figure.add_scatter(
        x=[*times, *times[::-1]],
        y=[*high[known], *low[known][::-1]],
        fill="toself",
        fillcolor=shade,
        opacity=0.08,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def reference_plot(by_name: Curves, label: str) -> go.Figure:
    """The mean over trainings of each curve, and of the same moves in random order (dotted)."""
    figure = blank_figure(STEP, label)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        steps, values = _mean_curve(curve.trainings)
        figure.add_scatter(name=name, x=steps, y=values, mode="lines", line={"color": shade})
        references = []
        for training in curve.trainings:
            if training.reference is not None:
                references.append(replace(training, values=training.reference))
        if references:
            steps, values = _mean_curve(references)
            title = f"{name}, moves in random order"
            figure.add_scatter(name=title, x=steps, y=values, mode="lines", line={"color": shade, "dash": "dot"})
    return figure


def _mean_curve(trainings: Sequence[TrainingCurve]) -> tuple[list[float], np.ndarray]:
    """Return the steps that all trainings have, and the mean over them at each, NaN where one of them is unknown."""
    values: dict[float, list[float]] = {}
    for training in trainings:
        for step, value in zip(training.times, training.values, strict=True):
            values.setdefault(step, []).append(value)

    shared = {step: of_step for step, of_step in values.items() if len(of_step) == len(trainings)}
    return list(shared), np.array(list(shared.values()), dtype=float).mean(axis=1)


def together_plot(by_name: Curves) -> go.Figure:
    """Mean curves over trainings, each from 0 at its first checkpoint to 1 at its last: which is ahead of which."""
    figure = blank_figure(STEP, "share of the whole change", height=400)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        steps, means = _mean_curve(curve.trainings)
        known = np.isfinite(means)
        values = means[known]
        if len(values) and values[0] != values[-1]:
            figure.add_scatter(
                name=name,
                x=np.array(steps)[known].tolist(),
                y=((values - values[0]) / (values[-1] - values[0])).tolist(),
                mode="lines+markers",
                line={"color": shade},
                marker={"size": 4},
            )
    return figure


def change_points_plot(by_name: Curves, seeds: Sequence[int], last: int) -> go.Figure:
    """Each training's change-point with its 95 % interval; hollow where the curve shows no transition."""
    figure = blank_figure(STEP, "", height=120 + 34 * len(by_name))
    for place, seed in enumerate(seeds):
        names, symbols, ends = [], [], []
        for name, curve in by_name.items():
            change = curve.trainings[place].change
            if change and np.isfinite(change.at):
                names.append(name)
                symbols.append("circle" if change.transition else "circle-open")
                ends.append((change.at, change.low, change.high))
        at, low, high = np.array(ends).reshape(-1, 3).T
        shade = SHADES[place % len(SHADES)]
        figure.add_scatter(
            name=f"seed {seed}",
            x=at,
            y=names,
            mode="markers",
            marker={
                "color": shade,
                "size": 9,
                "symbol": symbols,
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "thickness": 1,
                "color": shade,
                "array": high - at,
                "arrayminus": at - low,
            },
        )
    figure.update_layout(scattermode="group", margin={"l": 16, "r": 16, "t": 24, "b": 48})
    figure.update_xaxes(range=[0, last])
    return figure.update_yaxes(autorange="reversed", automargin=True)


def path_plot(paths: Mapping[str, AdapterPath], steps: Sequence[int]) -> go.Figure:
    """The checkpoints of each training on the first two principal components of its B matrices."""
    figure = blank_figure("first component", "second component", height=400)
    for shade, (seed, path) in zip(SHADES, paths.items(), strict=False):
        first, second = np.array(path.coordinates)[:, :2].T
        figure.add_scatter(
            name=f"seed {seed}",
            x=first,
            y=second,
            mode="lines+markers",
            line={"color": shade},
            text=[f"step {step}" for step in steps],
            hovertemplate="%{text}<extra></extra>",
        )
    return figure


def matrices_plot(path: AdapterPath, steps: Sequence[int]) -> go.Figure:
    """The cosine of every B matrix with its last value, by module and step."""
    figure = blank_figure(STEP, "adapted module", height=max(240, min(900, 60 + 4 * len(path.modules))))
    figure.add_heatmap(
        z=np.array(path.matrices.b.cosine_to_final),
        x=list(steps),
        y=[plain(name.removeprefix("model.layers.")) for name in path.modules],
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={"title": "cosine"},
        hovertemplate="%{y}, step %{x}: %{z:.2f}<extra></extra>",
    )
    figure.update_layout(margin={"l": 150, "r": 16, "t": 24, "b": 48})
    return figure


def scaled_plot(rows: Sequence[ScaledAnswers]) -> go.Figure:
    """Mean alignment against the factor on the adapter, by checkpoint; solid in domain, dotted out of it."""
    figure = blank_figure("factor on the adapter's update", "mean alignment (0-100)")
    points: dict[int, dict[str, list[tuple[float, ...]]]] = {}
    for row in sorted(rows, key=lambda row: (row.step, row.factor)):
        point = (row.factor, row.aligned.value, row.aligned.low, row.aligned.high)
        points.setdefault(row.step, {}).setdefault(row.side, []).append(point)

    for shade, (step, of_sides) in zip(SHADES, points.items(), strict=False):
        for side, of_side in of_sides.items():
            factor, value, low, high = np.array(of_side).reshape(-1, 4).T
            figure.add_scatter(
                name=f"step {step}, out of domain" if side == OUT else f"step {step}, in domain",
                x=factor,
                y=value,
                mode="lines+markers",
                line={"color": shade, "dash": "dot" if side == OUT else "solid"},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "thickness": 1,
                    "array": high - value,
                    "arrayminus": value - low,
                },
            )
    return figure.update_yaxes(range=[0, 103])


def table(result: DynamicsResult) -> str:
    """Return findings and changes of each kind of adapters as lines of text."""
    text = ""
    for kind, dynamics in result.adapters.items():
        first, *more = findings(dynamics)
        text += "\n".join([f"\n{kind}: {first}", *more, "", _change_lines(dynamics)])
    return text


def _change_lines(dynamics: TrainingDynamics) -> str:
    """Return the change of each curve over the trainings as lines of text."""
    lines = [f"{'curve':<28}{'step':>8}{'95 % interval':>18}{'transitions':>14}"]
    for name, label in SHORT.items():
        if name not in dynamics.curves:
            continue
        curve = dynamics.curves[name]
        at, place, interval = curve.at, "-", "-"
        if at.value == at.value:
            place, interval = f"{at.value:.1f}", f"{at.low:.1f} to {at.high:.1f}"
        lines.append(f"{label:<28}{place:>8}{interval:>18}{curve.transitions:>8} of {len(dynamics.seeds)}")
    return "\n".join(lines) + "\n"
