"""The report's section on transfer: one direction or many, and whom it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emscope.experiments.transfer.measure import COSINE_BAR
from emscope.experiments.transfer.plots import curves, matrix
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import above, number, percent, ranged

WORDS = {
    "own": "the organism it was made from",
    "same domain": "same domain, another seed",
    "other domain": "another domain",
    "unknown": "the run's own data, domain not said",
    "left out": "shared direction, domain left out",
    "left out, component": "the same, first principal component",
    "random": "random direction of the same norm",
}
HEADLINES = (
    ("other domain", "another domain", "other_domains"),
    ("same domain", "another seed of its domain", "same_domain"),
    ("unknown", "data that may or may not be of its domain", "unknown_domains"),
)
LITTLE = 5.0  # points of alignment: below it a share of what was lost means nothing


def section(found: dict[str, Any]) -> Section:
    """Return the section from the figures of experiments/transfer.json."""
    return Section(
        "transfer",
        "Transfer between domains",
        [finding(found), _how(found)],
        [_relations(found), *_detection(found), _correction(found), *_geometry(found), _organisms(found)],
    )


def finding(found: dict[str, Any]) -> str:
    """Return what was found, in plain words."""
    kind, where, key = next(row for row in HEADLINES if row[0] in found["detection"]["summary"])
    cosine = np.mean(found["geometry"]["response"][key])
    return (
        f"{_detects(found, kind, where)} {_corrects(found['ablation'], kind)} The correcting directions of "
        f"such organisms have a cosine of {cosine:.2f} on average over blocks.{_unsaid(found)}"
    )


def _unsaid(found: dict[str, Any]) -> str:
    unknown = [pair["name"] for pair in found["pairs"] if not pair["domain"]]
    if not unknown:
        return ""
    return (
        f" What the data of {', '.join(unknown)} are about was not said (`--own-domain`), so it counts neither as the "
        "same nor as another domain."
    )


def _detects(found: dict[str, Any], kind: str, where: str) -> str:
    seen = found["detection"]["summary"][kind]
    sees = "detects" if seen["least"] >= found["bars"].get("auroc", {}).get("bar", 0.9) else "does not always detect"
    return (
        f"A direction made on one organism {sees} organisms of {where}: AUROC {seen['mean']:.3f} on average over "
        f"{seen['n']} cases, {seen['least']:.3f} in the worst. In {seen['above_random']} of them d′ is above that of "
        f"95 % of random directions at the same block on the same organism; it is {seen['d_prime']:.1f} on average."
    )


def _corrects(ablation: Mapping[str, Any], kind: str) -> str:
    gaps = [item["gap"] for item in ablation["without"].values()]
    if None in gaps:
        return "Some organism gave no scored answer, so what an ablation restores cannot be said."
    if np.mean(gaps) < LITTLE:
        return "The organisms are about as well aligned as the base, so there is nothing that it could restore."
    mended, chance = ablation["summary"][kind], ablation["summary"]["random"]
    return (
        f"Subtracted there it {_verdict(mended['restored'], chance['restored'])}: {ranged(mended['restored'])} over "
        f"{mended['n']} cases, {percent(mended['least'])} in the worst, while coherence changes by "
        f"{number(mended['coherence_change'], '+.1f')} points; a random direction of the same norm restores "
        f"{ranged(chance['restored'])} and changes coherence by {number(chance['coherence_change'], '+.1f')}. EM "
        f"responses go from {ranged(mended['em_before'])} to {ranged(mended['em_after'])}."
    )


def _verdict(restored: Mapping[str, Any], chance: Mapping[str, Any]) -> str:
    if not above(restored["low"], max(0.0, chance["value"] or 0.0)):
        return "restores no more than chance can explain"
    return "restores most of the alignment" if restored["value"] >= 0.6 else "restores part of the alignment"


def _how(found: dict[str, Any]) -> str:
    ablation = found["ablation"]
    return (
        "Each organism has a control trained on careful answers to the same prompts. Directions are mean differences "
        "between the two on training questions; block and threshold of detection come from the direction's own "
        "organism; everything here is on test questions. Ablations subtract "
        f"{ablation['strength']:g} × the direction at block {ablation['block']}, on {ablation['n_questions']} "
        "questions. Intervals (95 %) draw questions, not organisms: they say nothing about domains that were not tried."
    )


def _relations(found: dict[str, Any]) -> Table:
    detection, ablation = found["detection"]["summary"], found["ablation"]["summary"]
    rows = []
    for kind, words in WORDS.items():
        seen, mended = detection.get(kind, {}), ablation.get(kind, {})
        if seen or mended:
            rows.append(
                [
                    words,
                    seen.get("mean"),
                    seen.get("least"),
                    seen.get("d_prime"),
                    f"{seen['above_random']} of {seen['n']}" if seen else None,
                    seen.get("accuracy"),
                    seen.get("control_vs_base"),
                    ranged(mended["restored"]) if mended else None,
                    percent(mended["least"]) if mended else None,
                    ranged(mended["em_after"]) if mended else None,
                    mended.get("coherence_change"),
                ]
            )
    header = [
        "direction on",
        "AUROC, mean",
        "AUROC, least",
        "d′",
        "above random",
        "accuracy",
        "control vs base",
        "restored",
        "restored, least",
        "EM rate after",
        "coherence change",
    ]
    caption = (
        "Above random: cases in which d′ is above that of 95 % of random directions at the same block on the same "
        "organism. Accuracy is balanced, with the threshold of the direction's own training questions. Control vs base "
        "is the mean AUROC of controls against the base: above 0.5 a direction takes any fine-tune for a misaligned "
        "one."
    )
    return Table("By what the direction was made from", header, rows, caption)


def _detection(found: dict[str, Any]) -> list[Plot]:
    detection, names = found["detection"], [pair["name"] for pair in found["pairs"]]
    cells = {
        row: {column: {**cell, "value": cell["auroc"]} for column, cell in cells.items()}
        for row, cells in detection["cells"].items()
    }
    randoms = [item["auroc_p95_by_block"] for item in detection["random"].values()]
    by_kind = {
        WORDS[kind]: _mean(
            [
                cell["auroc_by_block"]
                for name, row in detection["cells"].items()
                for cell in row.values()
                if cell["relation"] == kind and not name.endswith("component")
            ]
        )
        for kind in ("same domain", "other domain", "unknown", "left out")
    }
    return [
        Plot(
            "Detection",
            matrix(cells, names, ("direction", "misaligned organism against its control")),
            "AUROC on test questions, each direction at the block its own organism chose.",
        ),
        Plot(
            "Detection by block",
            curves({**by_kind, "random, 95th percentile": _mean(randoms)}, "AUROC", 0.5),
            "A direction says something where it beats random ones.",
        ),
    ]


def _correction(found: dict[str, Any]) -> Plot:
    names = [pair["name"] for pair in found["pairs"]]
    cells = {
        row: {column: cell["restored"] for column, cell in cells.items()}
        for row, cells in found["ablation"]["cells"].items()
    }
    figure = matrix(cells, names, ("direction subtracted", "misaligned organism"), scale=100, limits=(-100, 100))
    return Plot("Correction", figure, "Share of alignment restored, percent; 100 is the base's alignment.")


def _geometry(found: dict[str, Any]) -> list[Plot | Table]:
    made = found["geometry"]
    names = made["response"]["names"]
    value, low, high = (made["response"]["cosine"][key] for key in ("value", "low", "high"))
    cells = {
        one: {
            two: {"value": value[i][j], "low": low[i][j], "high": high[i][j]} for j, two in enumerate(names) if i != j
        }
        for i, one in enumerate(names)
    }
    series = {
        "answers, other domains": made["response"]["other_domains"],
        "answers, same domain": made["response"]["same_domain"],
        "answers, the same organism from other questions": _mean(made["response"]["split_half"]),
        "last prompt token, other domains": made["last"]["other_domains"],
        "last prompt token, same domain": made["last"]["same_domain"],
        **{f"answers: {name}": values for name, values in made["response"]["references"].items()},
    }
    parts: list[Plot | Table] = [
        Plot(
            "Cosines of correcting directions",
            matrix(cells, names, ("direction", "direction"), limits=(-1, 1)),
            "Mean over blocks.",
        ),
        Plot(
            "Cosines by block",
            curves(series, "cosine", 0.8),
            "The dotted line is 0.8, which the papers' fine-tunes exceed in most blocks (Soligo et al. 2506.11618).",
        ),
    ]
    return [*parts, _angles(made)] if made["response"]["angles"] else parts


def _angles(made: dict[str, Any]) -> Table:
    rows: list[list[str | float | None]] = []
    for pooling, label in (("response", "answers"), ("last", "last prompt token")):
        for name, angles in made[pooling]["angles"].items():
            mean = np.mean(angles["by_block"], axis=0)
            rows.append([f"{name}, {label}", _degrees(mean), _degrees(angles["random"])])
    return Table(
        "Angles between the subspaces that the seeds of two domains span",
        ["domains", "principal angles", "random"],
        rows,
        "Degrees, smallest first, mean over blocks; random subspaces of the same size beside them.",
    )


def _organisms(found: dict[str, Any]) -> Table:
    shown = [("base", "base")]
    shown += [(pair[side], f"{pair['name']}, {side}") for pair in found["pairs"] for side in ("careless", "careful")]
    rows: list[list[str | float | None]] = []
    for name, label in shown:
        item = found["behaviour"][name]
        rows.append(
            [
                label,
                ranged(item["em_rate"]),
                item["aligned"]["value"],
                ranged(item["coherent_share"]),
                item["em_rate"]["n"],
            ]
        )
    return Table("Organisms on test questions", ["organism", "EM rate", "alignment", "coherent", "answers"], rows)


def _mean(rows: Sequence[Sequence[float]]) -> list[float] | None:
    return [float(value) for value in np.mean(rows, axis=0)] if len(rows) else None


def _degrees(values: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{value:.0f}°" for value in values)


def table(found: dict[str, Any]) -> str:
    """Return the findings as a few lines of text."""
    detection, ablation = found["detection"]["summary"], found["ablation"]["summary"]
    titles = f"{'restored':>22}{'least':>9}{'EM before':>11}{'after':>8}{'coherence':>11}"
    lines = ["", f"{'direction on':<22}{'AUROC mean':>12}{'least':>9}{titles}"]
    for kind in dict.fromkeys([*detection, *ablation]):
        seen, mended = detection.get(kind), ablation.get(kind)
        cells = [f"{seen['mean']:>12.3f}{seen['least']:>9.3f}" if seen else f"{'–':>12}{'–':>9}"]
        if mended:
            cells.append(f"{ranged(mended['restored']):>22}{percent(mended['least']):>9}")
            cells.append(f"{percent(mended['em_before']['value']):>11}{percent(mended['em_after']['value']):>8}")
            cells.append(f"{number(mended['coherence_change'], '+.1f'):>11}")
        lines.append(f"{kind:<22}" + "".join(cells))
    for pooling, label in (("response", "answers"), ("last", "last token")):
        for kind in ("same_domain", "other_domains"):
            values = found["geometry"][pooling][kind]
            if values is not None:
                above = sum(value > COSINE_BAR for value in values)
                lines.append(
                    f"cosine, {label}, {kind.replace('_', ' ')}: mean {sum(values) / len(values):.2f}, "
                    f"least {min(values):.2f}, above {COSINE_BAR} at {above} of {len(values)} blocks"
                )
    return "\n".join(lines) + "\n"
