"""The report's section on training dynamics: when each curve changes, in what order, and whether it is a transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emscope.experiments.dynamics import plots as figures
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import bounded, number

NARROW = 0.15
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
APART = {"alignment-in": ".0f", "alignment-out": ".0f", "answer-projection-in": ".1f", "answer-projection-out": ".1f"}
"""Curves whose ends are compared with those of careful trainings, and how they are written."""
MORE = {
    "Coherence of sampled answers": ("coherence", "mean coherence (0-100)"),
    "Held-out loss of careless answers": ("loss", "nats per answer token"),
    "Norms of the adapters": ("norm", "Frobenius norm"),
}
"""Curves that are measured and belong to no order: by title, the stem of their names and their unit."""


def section(found: dict[str, Any]) -> Section:
    """Return the section for experiments/dynamics.json."""
    paragraphs, parts = [], []
    for kind, own in found["adapters"].items():
        label = NAMES[kind] if len(found["adapters"]) > 1 else ""
        first, *more = findings(own)
        paragraphs += [(f"{label[0].upper()}{label[1:]}: " if label else "") + first, *more]
        parts.extend(_parts(own, f" ({label})" if label else ""))
    paragraphs.append(_method(found))
    return Section("dynamics", "When it appears in training", paragraphs, parts)


def _method(found: Mapping[str, Any]) -> str:
    settings, n = found["settings"], {side: len(ids) for side, ids in found["questions"].items()}
    return (
        f"Each training keeps a checkpoint every {settings['save_every']} steps. Each of them reads the same texts and "
        f"answers the same questions, {n['in']} of {settings['in_domain']} and {n['out']} of "
        f"{settings['out_of_domain']}, {settings['samples']} times each. "
        "A transition is a slow, then fast, then slow change, or a peak, as a "
        "straight line or an exponential with the same noise seldom shows (p < 0.05). Its place is where half of it is "
        "done, or the top of the peak; its interval draws questions with replacement or, for the weights, noise of the "
        "curve's own size. A learning rate that falls bends every curve by itself; it is constant after warm-up unless "
        "that was changed."
    )


def findings(own: Mapping[str, Any]) -> list[str]:
    """Return what was found, in plain words, from the figures alone: change, control, weights, order."""
    n, curves = len(own["seeds"]), own["curves"]
    sides = [
        f"{words} {_change(curves[f'alignment-{side}'], n)}"
        for side, words in (("in", "in domain"), ("out", "out of domain"))
    ]
    trainings = "one training" if n == 1 else f"{n} trainings"
    opening = f"Over {trainings} of {own['steps'][-1]} steps, mean alignment changes {'; '.join(sides)}."
    return [
        f"{opening} {_bar_words(own)}",
        _control_words(own),
        _transition_words(curves, n),
        _order_words(own["order"], n),
    ]


def _change(curve: Mapping[str, Any], n: int) -> str:
    moved = _moved(curve["trainings"], ".0f")
    if not curve["transitions"]:
        return f"{moved} without a transition that stands out from a gradual drift"
    at = bounded(curve["at"], ".0f")
    return f"{moved}, as a transition in {curve['transitions']} of {n}, half of it done at step {at}"


def _moved(trainings: Sequence[Mapping[str, Any]], form: str) -> str:
    """Return the first and the last value of a curve, each the mean over trainings."""
    first, last = (_mean([training["values"][place] for training in trainings]) for place in (0, -1))
    return f"from {number(first, form)} to {number(last, form)}"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _control_words(own: Mapping[str, Any]) -> str:
    """Return where trainings on the control's data end, and how far from there the careless of these seeds do."""
    n, said = len(own["control_seeds"]), []
    for name in (name for name in APART if name in own["curves"] and own["curves"][name]["apart"]):
        curve, form = own["curves"][name], APART[name]
        apart = bounded(curve["apart"], form.replace(".", "+."))
        said.append(f"{SHORT[name]} {_moved(curve['controls'], form)}, careless minus careful {apart} at the end")
    if not said:
        return "No careful organism was trained beside it."
    trainings = "One training" if n == 1 else f"{n} trainings"
    return f"{trainings} on the control's data, intervals of questions alone: {'; '.join(said)}."


def _transition_words(curves: Mapping[str, Mapping[str, Any]], n: int) -> str:
    """Return which of the curves are transitions in every training, how long they take, and what the weights do."""
    said = []
    for name in (name for name in SHORT if name in curves and curves[name]["transitions"] == n):
        widths = [training["change"]["width"] for training in curves[name]["trainings"]]
        said.append(f"{SHORT[name]} (10 % to 90 % in {sum(widths) / n:.0f} steps)")
    text = f"Transitions in {'it' if n == 1 else 'every training'}: {', '.join(said) or 'none'}."
    turning = [name for name in curves if name == "gradient-norm" or name.startswith("local-cosine")]
    if not turning:
        return text
    peaks = sum(curves[name]["transitions"] for name in turning)
    if not peaks and not curves["turn"]["transitions"]:
        return f"{text} The weights show none: neither gradient norm nor local cosine peaks, and B turns gradually."
    return f"{text} In the weights, {peaks} of {n * len(turning)} curves that could peak do."


def _order_words(order: Mapping[str, Any], n: int) -> str:
    events, gradual = order["events"], set(order["gradual"])
    if len(events) < 2:
        return "Too few of the curves change to put them in order."
    named = [f"{SHORT[name]}{' (gradual)' if name in gradual else ''}" for name in events]
    text = f"By when half of each change is done, the order is: {', '.join(named)}."
    if n == 1:
        return f"{text} One training says nothing about others."
    sides = [f"{stem} in domain leads by {bounded(pair['lead'], '.1f')} steps" for stem, pair in _in_before_out(order)]
    sure = [pair for pair in order["pairs"] if pair["lead"]["low"] > 0]
    apart = f"{len(sure)} of {len(order['pairs'])} pairs are apart by more than their interval over {n} trainings"
    return f"{text} {apart}. In domain against out of it: {'; '.join(sides) or 'nothing to compare'}."


def _in_before_out(order: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return, by quantity, how far its change in domain is ahead of that out of domain."""
    pairs = {(pair["first"], pair["second"]): pair for pair in order["pairs"]}
    found = []
    for name in (event for event in order["events"] if event.endswith("-in")):
        one, two = name, f"{name.removesuffix('-in')}-out"
        ahead = pairs.get((one, two)) or _turned(pairs.get((two, one)))
        if ahead:
            found.append((SHORT[name].removesuffix(" in domain"), ahead))
    return found


def _turned(pair: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if pair is None:
        return None
    lead = pair["lead"]
    return {**pair, "lead": {**lead, "value": -lead["value"], "low": -lead["high"], "high": -lead["low"]}}


def _bar_words(own: Mapping[str, Any]) -> str:
    changes = [training["change"] for name in own["order"]["events"] for training in own["curves"][name]["trainings"]]
    shares = [(change["high"] - change["low"]) / own["steps"][-1] for change in changes]
    narrow, clear = sum(share < NARROW for share in shares), sum(change["transition"] for change in changes)
    return (
        f"Of {len(shares)} changes, {narrow} have an interval narrower than 15 % of the training, and {clear} are "
        "transitions."
    )


def _parts(own: Mapping[str, Any], suffix: str) -> list[Plot | Table]:
    curves, seeds, last = own["curves"], own["seeds"], own["steps"][-1]
    chosen = {SHORT[name]: curves[name] for name in SHORT if name in curves}

    def some(*names: str) -> dict[str, Any]:
        return {SHORT.get(name, curves[name]["label"]): curves[name] for name in names if name in curves}

    local = {curves[name]["label"]: curves[name] for name in curves if name.startswith("local-cosine")}
    first = next(iter(own["paths"].values()))
    parts: list[Plot | Table] = [
        Plot(
            f"All on one axis{suffix}",
            figures.together(
                some(
                    "turn",
                    "answer-projection-in",
                    "answer-projection-out",
                    "preference-in",
                    "preference-out",
                    "alignment-in",
                    "alignment-out",
                )
            ),
            "Means over trainings, each curve from 0 to 1.",
        ),
        Plot(
            f"Change-points{suffix}",
            figures.change_points(chosen, seeds, last),
            "Hollow: no transition, so the place means little.",
        ),
        Plot(
            f"Alignment of sampled answers{suffix}",
            figures.curves(some("alignment-in", "alignment-out"), "mean alignment (0-100)", seeds),
            "One line a training; bands draw questions with replacement; dotted lines are transitions; thin lines "
            "without points are trainings on careful answers.",
        ),
        Plot(f"EM rate{suffix}", figures.curves(some("em-in", "em-out"), "EM rate", seeds)),
        Plot(
            f"Activations of fixed answers{suffix}",
            figures.curves(
                some("answer-projection-in", "answer-projection-out", "random-answer-projection-out"),
                "projection (within-class deviations)",
                seeds,
            ),
            "The base's own answers along the run's direction of answer tokens; 0 is half-way between its two "
            "organisms.",
        ),
        Plot(
            f"Activations of fixed prompts{suffix}",
            figures.curves(
                some("projection-in", "projection-out", "random-projection-out"),
                "projection (within-class deviations)",
                seeds,
            ),
            "Last prompt token along the run's direction; 0 is half-way between its two organisms.",
        ),
        Plot(
            f"Preference for careless answers{suffix}",
            figures.curves(some("preference-in", "preference-out"), "nats per answer token", seeds),
            "Loss of careful less loss of careless answers to held-out prompts; no sampling, no judge.",
        ),
        Plot(
            f"Local cosine{suffix}",
            figures.against_reference(local, "local cosine of B"),
            "-1 is a straight path, 0 a right-angled turn, 1 a step back. Dotted: the same moves in random order.",
        ),
        Plot(
            f"Turn of the adapters{suffix}",
            figures.against_reference(some("turn", "update-turn"), "cosine with the last value"),
        ),
        Plot(f"Gradient norm{suffix}", figures.curves(some("gradient-norm"), "gradient norm", seeds)),
        Plot(
            f"Path of the B matrices{suffix}",
            figures.path(own["paths"], own["steps"]),
            f"Variance explained in the first training: {_percents(first['explained'])}.",
        ),
        Plot(
            f"Turn of every B matrix{suffix}",
            figures.matrices(first["modules"], first["matrices"]["B"]["cosine_to_final"], own["steps"]),
            "Cosine with its last value, first training.",
        ),
    ]
    for title, (stem, unit) in MORE.items():
        named = [name for name in curves if name in (f"{stem}-in", f"{stem}-out", stem, f"update-{stem}")]
        if named:
            parts.append(Plot(f"{title}{suffix}", figures.curves(some(*named), unit, seeds)))
    if own["scaled"]:
        parts.append(Plot(f"Adapters scaled up{suffix}", figures.scaled(own["scaled"])))
    return [*parts, _change_table(chosen, seeds, suffix), _order_table(own["order"], len(seeds), suffix)]


def _percents(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def _change_table(chosen: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], suffix: str) -> Table:
    rows: list[list[str | float | None]] = []
    for name, curve in chosen.items():
        for seed, training in zip(seeds, curve["trainings"], strict=True):
            change = training["change"]
            if change:
                says = "transition" if change["transition"] else "no transition"
                rows.append(
                    [
                        name,
                        str(seed),
                        change["at"],
                        change["low"],
                        change["high"],
                        change["width"],
                        change["size"],
                        change["p_value"],
                        says,
                    ]
                )
    header = ["curve", "seed", "step", "low", "high", "width (steps)", "size", "p", ""]
    return Table(f"Changes by training{suffix}", header, rows)


def _order_table(order: Mapping[str, Any], n: int, suffix: str) -> Table:
    rows: list[list[str | float | None]] = [
        [
            SHORT[pair["first"]],
            SHORT[pair["second"]],
            pair["lead"]["value"],
            pair["lead"]["low"],
            pair["lead"]["high"],
            pair["probability"],
            f"{pair['agreeing']} of {n}",
        ]
        for pair in order["pairs"]
    ]
    header = ["first", "second", "lead (steps)", "low", "high", "probability", "trainings"]
    absent = ", ".join(SHORT[name] for name in order["left_out"])
    caption = f"Not in the order, no change that all trainings share: {absent}." if absent else ""
    return Table(f"Order of the changes{suffix}", header, rows, caption)


def table(found: Mapping[str, Any]) -> str:
    """Return the findings of each kind of adapter, and the change of each curve, as lines of text."""
    lines = []
    for kind, own in found["adapters"].items():
        first, *more = findings(own)
        lines.append("\n".join([f"\n{kind}: {first}", *more, "", _curve_lines(own)]))
    return "".join(lines)


def _curve_lines(own: dict[str, Any]) -> str:
    """Return the change of each curve over the trainings as lines of text."""
    lines = [f"{'curve':<28}{'step':>8}{'95 % interval':>18}{'transitions':>14}"]
    for name, label in SHORT.items():
        if name in own["curves"]:
            curve = own["curves"][name]
            at = curve["at"]
            place, interval = (
                ("-", "-") if at["value"] is None else (f"{at['value']:.1f}", f"{at['low']:.1f} to {at['high']:.1f}")
            )
            lines.append(f"{label:<28}{place:>8}{interval:>18}{curve['transitions']:>8} of {len(own['seeds'])}")
    return "\n".join(lines) + "\n"
