"""Trained vectors on the page: is one vector enough?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emscope.experiments.induce import plots as figures
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import percent, ranged

RATIO_BAR, COHERENT_BAR = 10.0, 0.8


def section(found: dict[str, Any]) -> Section:
    """Return the section from experiments/induce.json."""
    return Section(
        "induce",
        "One trained vector",
        [
            _finding(found),
            _elsewhere(found),
            "A vector is trained by gradient on the same rows as an organism, with every weight of the base frozen, "
            f"and added after block {found['block']} at every position. The coefficient was chosen on development "
            "questions: the highest EM rate among those that leave four answers in five coherent. Beside it stand a "
            "vector trained on the careful answers to the same prompts, a random one of its length, and the difference "
            "in means of the run's organisms at the same disturbance. Intervals resample questions.",
        ],
        [_test_table(found), _set_table(found), *_plots(found), _training_table(found)],
    )


def _finding(found: dict[str, Any]) -> str:
    row, bars, base = found["test"][0], found["bars"], found["unsteered"]["base"]
    ratio, least, coherent = bars["em_ratio"], bars["em_ratio_at_least"], bars["coherent"]
    whole = coherent is not None and coherent >= COHERENT_BAR
    verdict = f"{_times(ratio, least)}, {'' if whole else 'not '}four in five coherent"
    control = next((item for item in found["test"] if item["direction"] == "trained on careful rows"), None)
    careful = f" The vector trained on careful answers gives {ranged(control['em'])}." if control else ""
    return (
        f"One trained vector at block {found['block']}, times {row['coefficient']:g}, takes the base's EM rate from "
        f"{ranged(base['em'])} to {ranged(row['em'])}, with {ranged(row['coherent'])} coherent answers (the "
        f"base without it: {ranged(base['coherent'])}): {verdict}.{careful}"
    )


def _times(ratio: float | None, least: float | None) -> str:
    """Say how many times the base's own rate it is: by the rates, and by the ends of their intervals."""
    rates = f"{ratio:.0f} times the base's own rate on all questions" if ratio is not None else "the base gave none"
    ends = "" if least is None else f", at least {least:.1f} times by the ends of the two intervals"
    return f"{rates}{ends} ({RATIO_BAR:g} times are asked for)"


def _elsewhere(found: dict[str, Any]) -> str:
    cosines = found["cosines"]
    listed = ", ".join(f"{name} {value:+.2f}" for name, value in cosines.items())
    last = {name: values[-1] for name, values in found["downstream"]["cosines"]["trained on careless rows"].items()}
    ends = ", ".join(f"{name} {value:+.2f}" for name, value in last.items())
    taken = next((row for row in found["test"] if row["organism"] == "misaligned"), None)
    mended = ""
    if taken:
        mended = f" Taken from the misaligned organism it restores {ranged(taken['restored'])} of its alignment"
        mended += f", with {ranged(taken['coherent'])} coherent answers."
    return (
        f"Cosine of the vector with other directions at its block: {listed}. What it causes at the last block has "
        f"these cosines with the run's directions there: {ends}.{mended}"
    )


def _plots(found: dict[str, Any]) -> list[Plot]:
    dial, own = found["dial"], found["unsteered_dial"]
    note = f"{own['aligned']['n']} development questions a point."
    return [
        Plot("EM rate of the base", figures.dial(dial, own, "em", "EM (%)"), note),
        Plot("Coherence of the base", figures.dial(dial, own, "coherent", "coherent answers (%)"), note),
        Plot(
            "Where the vector leads",
            figures.downstream(found["downstream"]),
            "The shift of the base's mean answer activation that an added vector causes, against the difference of the "
            "run's organisms at the same block.",
        ),
    ]


def _test_table(found: dict[str, Any]) -> Table:
    rest = [[name, "nothing", None, *_row(own)] for name, own in found["unsteered"].items()]
    rows = [[row["organism"], row["direction"], row["coefficient"], *_row(row)] for row in found["test"]]
    header = ("organism", "plus", "coefficient", "nats a token", "alignment", "coherent", "EM rate", "restored")
    return Table("On test questions", header, [*rest, *rows])


def _set_table(found: dict[str, Any]) -> Table:
    rows = []
    for name, sides in found["by_set"].items():
        own, steered = sides["base"], sides["base + vector"]
        rows.append([name, ranged(own["em"]), ranged(steered["em"]), ranged(steered["coherent"])])
    header = ("question set", "EM rate, base", "EM rate, base + vector", "coherent, base + vector")
    return Table("By question set", header, rows, "The rows are narrow; what the vector does elsewhere is the point.")


def _training_table(found: dict[str, Any]) -> Table:
    rows = []
    for name, own in found["training"].items():
        part = max(1, len(own["losses"]) // 8)
        first, last = (sum(losses) / len(losses) for losses in (own["losses"][:part], own["losses"][-part:]))
        rows.append([name, found["data"][name], own["rows"], first, last, percent(own["norm_share"]), own["seconds"]])
    header = ("vector", "rows", "number", "loss, first steps", "loss, last steps", "length / activation", "seconds")
    return Table("Training", header, rows, "Loss in nats a token, over the first and the last eighth of the steps.")


def _row(row: dict[str, Any]) -> list[str | float | None]:
    restored = ranged(row["restored"]) if "restored" in row else None
    return [row["kl"]["value"], row["aligned"]["value"], ranged(row["coherent"]), ranged(row["em"]), restored]


def table(found: Mapping[str, Any]) -> str:
    """Return what the vector does, on test questions, as lines of text."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"One vector at block {found['block']}, on test questions\n"
    yield f"{'organism':<12}{'plus':<46}{'nats/token':>10}{'coherent':>10}{'EM rate':>18}{'restored':>19}"
    for name, own in found["unsteered"].items():
        yield _row_text(name, "nothing", own)
    for row in found["test"]:
        yield _row_text(row["organism"], f"{row['coefficient']:+.2f} {row['direction']}", row)
    yield ""
    for name, sides in found["by_set"].items():
        yield f"{name:<20}EM rate {ranged(sides['base']['em']):>18} -> {ranged(sides['base + vector']['em']):>18}"


def _row_text(organism: str, what: str, row: Mapping[str, Any]) -> str:
    restored = ranged(row["restored"]) if "restored" in row else ""
    figures = f"{row['kl']['value']:>10.2f}{percent(row['coherent']['value']):>10}{ranged(row['em']):>18}"
    return f"{organism:<12}{what:<46}{figures}{restored:>19}"
