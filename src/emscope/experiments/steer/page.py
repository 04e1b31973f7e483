"""The steering dial on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emscope.experiments.steer import plots as figures
from emscope.experiments.steer.plots import place
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import bounded, number, percent, ranged

RESTORED_BAR, RATIO_BAR, COHERENT_BAR = 0.9, 10.0, 0.8
EQUAL = 0.2  # how far from the chosen cell's a disturbance may lie and still be called the same
CONTRAST = {"control": "misaligned − control", "model": "misaligned − base"}


def section(found: dict[str, Any]) -> Section:
    """Return the section from experiments/steer.json."""
    rows = {(row["organism"], row["role"]): row for row in found["test"] if row["role"] != "compared"}
    return Section(
        "steer",
        "The steering dial",
        [
            f"{_correction(found, rows['misaligned', 'correction'])} {_induction(found, rows['base', 'induction'])}",
            _comparison(found),
            "A coefficient multiplies the unnormalised difference in means v of answer tokens, added at every position "
            "of one block, or in equal parts at several. Disturbance is the mean KL divergence of the steered model's "
            "next-token distribution from the unsteered one's, on the unsteered model's own answers; the fine-tune's "
            "own is that between the organism and the base. Place and coefficient were chosen on development "
            "questions; tables and curves at equal disturbance are of test questions. Intervals resample questions.",
        ],
        [*_plots(found), _test_table(found), _cap_table(found)],
    )


def _correction(found: dict[str, Any], row: dict[str, Any]) -> str:
    own, bars = found["fine_tune_kl"]["misaligned"], found["bars"]
    restored = bars["restored"]
    reached = restored is not None and restored >= RESTORED_BAR
    within = bars["kl_over_fine_tune"] is not None and bars["kl_over_fine_tune"] <= 1
    verdict = {
        (True, True): "nine tenths or more, at no more disturbance than the fine-tune's",
        (True, False): "nine tenths or more, but at more disturbance than the fine-tune's",
        (False, True): "at no more disturbance than the fine-tune's, but short of nine tenths",
        (False, False): "short of nine tenths, and at more disturbance than the fine-tune's",
    }[reached, within]
    return (
        f"Steering the misaligned organism by {row['coefficient']:+g} v at {figures.place(row['blocks'])} restores "
        f"{ranged(row['restored'])} of its alignment, {verdict}: {bounded(row['kl'])} nats a token against "
        f"{bounded(own)}; {ranged(row['coherent'])} of answers are coherent (unsteered: "
        f"{ranged(found['unsteered']['misaligned']['coherent'])})."
    )


def _induction(found: dict[str, Any], row: dict[str, Any]) -> str:
    base, bars = found["unsteered"]["base"], found["bars"]
    ratio, least = bars["em_ratio"], bars["em_ratio_at_least"]
    times = "the base gave none" if ratio is None else f"{ratio:.1f} times the base's"
    times = f"{times}, at least {number(least, '.1f')} times by the ends of the two intervals"
    reached = least is not None and least >= RATIO_BAR
    coherent = (bars["coherent"] or 0) >= COHERENT_BAR
    return (
        f"Steering the base by {row['coefficient']:+g} v at {figures.place(row['blocks'])} gives an EM rate of "
        f"{ranged(row['em'])} where the base has {ranged(base['em'])} ({times}: ten times is "
        f"{'' if reached else 'not '}shown), with {ranged(row['coherent'])} coherent answers "
        f"({'' if coherent else 'not '}four in five; the base "
        f"without steering: {ranged(base['coherent'])})."
    )


def _comparison(found: dict[str, Any]) -> str:
    parts = []
    for organism, key, what in (("misaligned", "restored", "restored alignment"), ("base", "em", "EM rate")):
        rows = [row for row in found["test"] if row["organism"] == organism]
        role = "correction" if organism == "misaligned" else "induction"
        chosen = [row for row in rows if row["role"] == role] + [row for row in rows if row["role"] == "compared"]
        own = chosen[0]["kl"]["value"]
        listed = "; ".join(
            f"{row['direction']} {ranged(row[key])} at {number(row['kl']['value'], '.2f')} nats a token{_off(row, own)}"
            for row in chosen
        )
        parts.append(f"{what} of the {organism} {'organism' if organism != 'base' else 'model'}: {listed}")
    return (
        "Other directions at the same block, calibrated on development questions to the chosen cell's disturbance; "
        f"figures and disturbances are of test questions — {'. '.join(parts)}."
    )


def _off(row: dict[str, Any], own: float | None) -> str:
    """Say where a direction's disturbance is not the one it is compared at."""
    nats = row["kl"]["value"]
    if nats is not None and own and abs(nats - own) <= EQUAL * own:
        return ""
    return f" (not the same disturbance: more than {100 * EQUAL:.0f} % off)"


def _plots(found: dict[str, Any]) -> list[Plot]:
    dial, rest, where = found["dial"], found["unsteered_dial"], found["chosen"]["misaligned"]["blocks"]
    per_cell = next(iter(rest.values()))["aligned"]["n"]
    note = f"{per_cell} development questions a point; all places are in experiments/steer.json."
    own = {name: found["fine_tune_kl"][name]["value"] for name in ("misaligned", "base")}
    equal = "Dotted: the fine-tune's own disturbance."
    return [
        Plot("Alignment", figures.dial(dial, rest, where, "aligned", "mean alignment (0-100)", 1), note),
        Plot("Coherence", figures.dial(dial, rest, where, "coherent", "coherent answers (%)", 100), note),
        Plot("Disturbance", figures.dial(dial, rest, where, "kl", "nats a token", 1)),
        Plot("Alignment of the misaligned organism", figures.grid(dial, "misaligned", "aligned", "alignment", 1)),
        Plot("EM rate of the base", figures.grid(dial, "base", "em", "EM (%)", 100)),
        Plot(
            "Directions at equal disturbance: misaligned organism, away from the misaligned side",
            figures.at_equal_disturbance(
                found["curves"], "misaligned", "aligned", "mean alignment (0-100)", 1, own["misaligned"]
            ),
            equal,
        ),
        Plot(
            "Directions at equal disturbance: base, towards the misaligned side",
            figures.at_equal_disturbance(found["curves"], "base", "em", "EM rate (%)", 100, own["base"]),
            equal,
        ),
    ]


def _test_table(found: dict[str, Any]) -> Table:
    rows = [
        [
            row["organism"],
            row["direction"],
            figures.place(row["blocks"]),
            row["coefficient"],
            row["relative"],
            *_row(row),
        ]
        for row in found["test"]
    ]
    rest = [[name, "none", None, None, None, *_row(own)] for name, own in found["unsteered"].items()]
    header = ("organism", "direction", "where", "coefficient", "length / residual norm", *HEADER)
    return Table(
        "On test questions", header, [*rest, *rows], "Random directions have the same lengths as the real ones."
    )


def _cap_table(found: dict[str, Any]) -> Table:
    rows = [[figures.place(row["blocks"]), row["width"], *_row(row)] for row in found["caps"]]
    return Table(
        "Capping the misaligned organism",
        ("where", "half width (deviations)", *HEADER),
        rows,
        "Every token's projection moves to the nearest end of the aligned organism's range; 0 is centred ablation.",
    )


HEADER = ("nats a token", "alignment", "coherent", "EM rate", "restored")


def _row(row: dict[str, Any]) -> list[str | float | None]:
    restored = ranged(row["restored"]) if "restored" in row else None
    return [
        row["kl"]["value"],
        row["aligned"]["value"],
        ranged(row["coherent"]),
        ranged(row["em"]),
        restored,
    ]


def table(found: Mapping[str, Any]) -> str:
    """Return what was chosen, on test questions, as lines of text."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"Steering by multiples of {found['direction']} (v) and others, on test questions\n"
    head = f"{'organism':<11}{'steered by':<62}{'nats/token':>10}"
    yield f"{head}{'aligned':>9}{'coherent':>10}{'EM rate':>18}{'restored':>19}"
    for name, own in found["unsteered"].items():
        yield _line(name, "nothing", own)
    for row in found["test"]:
        what = f"{row['coefficient']:+.2f} {row['direction']} at {place(row['blocks'])}"
        yield _line(row["organism"], what, row)
    yield ""
    for name, own in found["fine_tune_kl"].items():
        yield f"the fine-tune's own disturbance, on answers of {name}: {own['value']:.2f} nats a token"


def _line(organism: str, what: str, row: Mapping[str, Any]) -> str:
    figures = (
        f"{row['kl']['value']:>10.2f}{number(row['aligned']['value'], '.0f'):>9}{percent(row['coherent']['value']):>10}"
    )
    restored = ranged(row["restored"]) if "restored" in row else ""
    return f"{organism:<11}{what:<62}{figures}{ranged(row['em']):>18}{restored:>19}"
