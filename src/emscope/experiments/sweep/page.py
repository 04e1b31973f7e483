"""The sweep's section: where misalignment can be read, and what its controls say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emscope.experiments.sweep.plots import bounded_lines, heatmap
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import above, bounded, number, percent, ranged

BAR, NULL_MARGIN = 0.95, 0.03


def section(found: dict[str, Any]) -> Section:
    """Return the section of a sweep's figures."""
    parts: list[Plot | Table] = [_best_table(found), *_heatmaps(found), _prompt_plot(found), _prompt_table(found)]
    if found["ablation"]:
        parts.append(_ablation_table(found["ablation"]))
    paragraphs = [
        _finding(found),
        _null_sentence(found),
        *_response_sentences(found),
        *_ablation_sentences(found),
        _method(found),
    ]
    return Section("sweep", "Sweep: every block, contrast, pooling and method", paragraphs, parts)


def _main_contrast(found: Mapping[str, Any]) -> str:
    contrasts = [item["construction"]["contrast"] for item in found["constructions"].values()]
    return "control" if "control" in contrasts else contrasts[0]


def _of(found: Mapping[str, Any], contrast: str) -> dict[str, Any]:
    return {name: item for name, item in found["constructions"].items() if item["construction"]["contrast"] == contrast}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def _finding(found: Mapping[str, Any]) -> str:
    """Say what the most separating construction of the main contrast reaches, whether that is a lot or little."""
    contrast = _main_contrast(found)
    items = _of(found, contrast)
    name, item = max(items.items(), key=lambda pair: pair[1]["best"]["train_d_prime"])
    best = item["best"]
    reached = sum((one["best"]["accuracy"]["value"] or 0) >= BAR for one in items.values())
    weakest = min(items.items(), key=lambda pair: pair[1]["best"]["accuracy"]["value"] or 0)
    values = [value for value in item["accuracy"]["value"] if value is not None]
    least, most = min(values, default=None), max(values, default=None)
    return (
        f"In the {contrast} contrast the construction that separates training questions best is {name} at block "
        f"{best['block']}; on questions left out its balanced accuracy is {ranged(best['accuracy'])} and its AUROC "
        f"{number(best['auroc']['value'], '.3f')}; over all blocks its accuracy is {_number(least)} – {_number(most)} "
        f"%. At their best blocks {reached} of the contrast's {len(items)} constructions reach "
        f"{100 * BAR:.0f} % accuracy; the weakest is {weakest[0]}: {ranged(weakest[1]['best']['accuracy'])}."
    )


def _null_sentence(found: Mapping[str, Any]) -> str:
    nulls = {name: item["best"]["null_accuracy"] for name, item in found["constructions"].items()}
    nulls = {name: value for name, value in nulls.items() if value is not None}
    if not nulls:
        return "No labels were exchanged, so nothing says what chance alone would reach."
    off = {name: value for name, value in nulls.items() if abs(value - 0.5) > NULL_MARGIN}
    verdict = "All lie within three points of 50 %" if not off else f"Outside three points of 50 % are {', '.join(off)}"
    return (
        "With labels exchanged within questions, in training and in test, the same fits have a mean accuracy of "
        f"{_number(min(nulls.values()))} – {_number(max(nulls.values()))} % at the best blocks. {verdict}."
    )


def _response_sentences(found: Mapping[str, Any]) -> list[str]:
    items = _of(found, "response")
    if not items:
        left_out = [reason for name, reason in found["skipped"].items() if name.startswith("response")]
        return [f"The response contrast was left out. {left_out[0]}"] if left_out else []
    name, item = max(items.items(), key=lambda pair: pair[1]["best"]["train_d_prime"])
    base = found["prompt_only"]["response"]["auroc"]
    highest = _highest(base["value"])
    auroc, n, given = item["best"]["auroc"], item["n"]["test"], item["n"]["train"]
    sure = "which excludes chance" if above(auroc["low"], 0.5) else "which does not exclude chance"
    return [
        f"Within the misaligned organism, its misaligned against its aligned answers: {name} at block "
        f"{item['best']['block']} has AUROC {bounded(auroc)} on "
        f"questions left out ({n['positive']} and {n['negative']} answers), {sure}. It comes from "
        f"{given['positive']} and {given['negative']} answers, and directions from two halves of their questions have "
        f"a cosine of {number(item['best']['split_half_cosine'], '.2f')}. A probe that reads only the base model's "
        f"prompt reaches at most {number(highest, '.2f')} at any block. The offline judge that tells the two "
        "kinds apart itself reads mean answer activations, of the base model, so part of what is found here is the "
        "judge."
    ]


def _ablation_sentences(found: Mapping[str, Any]) -> list[str]:
    ablation = found["ablation"]
    if not ablation:
        return []
    told = {
        name: f"{ranged(trial['restored'])} at {number(trial['kl']['value'], '.2f')} nats a token"
        for name, trial in ablation["trials"].items()
    }
    return [
        f"Subtracting {ablation['strength']:g} × {ablation['construction']} at block {ablation['block']} restores "
        f"{told['subtract at the best block']} of disturbance; subtracted at all blocks, with the strength that "
        f"disturbs as much on development questions, {told['subtract at all blocks']}. Random directions set to the "
        f"same disturbance: {told['random at the best block']} there, {told['random at all blocks']} everywhere. "
        f"Shares and disturbances are of {ablation['n_questions']} test questions."
    ]


def _method(found: Mapping[str, Any]) -> str:
    return (
        f"Directions, penalties and best blocks come from {found['n_train_questions']} training questions, by "
        f"cross-fitting; every figure is of {found['n_test_questions']} others. Intervals resample questions. The best "
        "block has the largest cross-fitted d′. Stability is the cosine of directions from two halves of the questions."
    )


def _best_table(found: Mapping[str, Any]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, item in found["constructions"].items():
        best, test = item["best"], item["n"]["test"]
        auroc = best["auroc"]
        bounds = bounded(auroc, ".3f")
        rows.append(
            [
                name,
                best["block"],
                bounds,
                ranged(best["accuracy"]),
                best["d_prime"]["value"],
                best["split_half_cosine"],
                f"{_number(best['null_accuracy'])} %",
                best["p_value"],
                f"{test['positive']} / {test['negative']}",
            ]
        )
    header = ["construction", "best block", "AUROC", "accuracy", "d′", "stability", "null", "p", "test examples"]
    return Table("At the best block of each construction", header, rows, _table_caption())


def _table_caption() -> str:
    return (
        "Construction: contrast, pooling, method. Accuracy is balanced, with the threshold of the training questions. "
        "Null: mean accuracy after exchanging labels within questions; p: share of relabellings at least as accurate, "
        "which cannot be less than one over their number plus one."
    )


def _heatmaps(found: Mapping[str, Any]) -> list[Plot]:
    items, blocks = found["constructions"], found["blocks"]
    marked = {name: item["best"]["block"] for name, item in items.items()}
    auroc = {name: item["auroc"]["value"] for name, item in items.items()}
    accuracy = {name: item["accuracy"]["value"] for name, item in items.items()}
    stability = {name: item["split_half_cosine"] for name, item in items.items()}
    null = {name: item["null_accuracy"] for name, item in items.items()}
    ring = "The ring marks the block chosen on training questions."
    return [
        Plot("AUROC on questions left out", heatmap(auroc, blocks, "AUROC", (0, 1), marked), ring),
        Plot("Balanced accuracy on questions left out", heatmap(accuracy, blocks, "accuracy", (0, 1), marked), ring),
        Plot("Split-half stability", heatmap(stability, blocks, "cosine", (-1, 1), marked), ring),
        Plot("Accuracy of the permutation null", heatmap(null, blocks, "accuracy", (0, 1), marked), "Grey is chance."),
    ]


def _prompt_plot(found: Mapping[str, Any]) -> Plot:
    series = {f"prompt only, {name}": item["auroc"] for name, item in found["prompt_only"].items()}
    return Plot(
        "What a probe of the base model's prompt reaches",
        bounded_lines(series, found["blocks"], "AUROC, held-out", 0.5),
        "It knows the question and no answer. Where two organisms answer the same questions it can know nothing.",
    )


def _prompt_table(found: Mapping[str, Any]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, item in found["prompt_only"].items():
        leak = item["ungrouped_auroc"]
        rows.append([name, _highest(item["auroc"]["value"]), _highest(leak or [])])
    return Table(
        "Prompt-only probe at its best block",
        ["contrast", "AUROC, questions left out", "AUROC, answers split without regard to questions"],
        rows,
        "The last column is the leak that grouping by question prevents; it needs one organism that gave all answers.",
    )


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _ablation_table(ablation: Mapping[str, Any]) -> Table:
    rows: list[list[str | float | None]] = [
        [f"{name}, untouched", None, None, ablation[name]["aligned"], ablation[name]["coherent"], None]
        for name in ("misaligned", "base")
    ]
    for name, trial in ablation["trials"].items():
        kl = bounded(trial["kl"])
        rows.append([name, trial["strength"], kl, trial["aligned"], trial["coherent"], ranged(trial["restored"])])
    return Table(
        "Ablating the misaligned organism",
        ["what is done", "strength", "nats a token", "alignment", "coherence", "restored"],
        rows,
        f"{ablation['construction']} on {ablation['n_questions']} test questions. All but the centred one were set to "
        f"{number(ablation['nats'], '.2f')} nats a token on development questions; random: random vectors as long as "
        "those of the direction, times the strength.",
    )


def table(found: Mapping[str, Any]) -> str:
    """Return a line a construction at its best block, with held-out figures."""
    width = max(len(name) for name in found["constructions"])
    header = f"{'':<{width}}  block  AUROC (95 %)             accuracy (95 %)          stability  null\n"
    lines = [f"{name:<{width}}  {_best_line(item['best'])}\n" for name, item in found["constructions"].items()]
    lines += [f"left out: {name}: {reason}\n" for name, reason in found["skipped"].items()]
    return header + "".join(lines)


def _best_line(best: Mapping[str, Any]) -> str:
    def bounded(name: str, scale: float, digits: int) -> str:
        value, low, high = (
            "  –" if best[name][key] is None else f"{scale * best[name][key]:.{digits}f}"
            for key in ("value", "low", "high")
        )
        return f"{value} ({low} – {high})"

    return (
        f"{best['block']:>5}  {bounded('auroc', 1, 3):<24} {bounded('accuracy', 100, 0):<24} "
        f"{number(best['split_half_cosine'], '.2f'):>9}  {percent(best['null_accuracy'])}"
    )
