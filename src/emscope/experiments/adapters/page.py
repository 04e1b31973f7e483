"""The report's section on misalignment from LoRA weights alone."""

from __future__ import annotations

from typing import Any

from emscope.report.figures import blank_figure, colour
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import above, bounded, ranged

DOMAIN_OUT, RECIPE_OUT = "leave-one-domain-out", "leave-one-recipe-out"
KINDS = {True: ("careless", "misaligned"), False: ("careful", "control")}
MEANING = {
    "write": "what the update writes on the base's mean input, ΔW x̄, whole vectors",
    "weights": "the update ΔW itself, whole matrices",
    "norms": "norms and ranks of ΔW; no sign",
    "base": "shares of ΔW in the base weights' top singular vectors; no sign",
    "direction": "share of ΔW along the run's direction, and the cosine of ΔW x̄ with it",
    "random direction": "the same with a random direction",
}


def section(found: dict[str, Any]) -> Section:
    """Return the section from experiments/adapters.json."""
    bank = found["bank"]
    paragraphs = [
        _finding(found),
        _behaviour(bank),
        _alone(found),
        _scalars(found["scalars"]),
        "Careless and careful training texts differ in wording as well as in advice, in every domain. The weights tell "
        "these two kinds of training apart; that is not yet proof of a harmful intent behind them.",
    ]
    parts: list[Plot | Table] = [_accuracy_table(found)]
    if any(DOMAIN_OUT in schemes for schemes in found["classification"].values()):
        parts += [_scores_plot(found), _blocks_plot(found)]
    parts += [_leaning_plot(bank), _run_table(found["run"])]
    if found["scalars"] and found["scalars"]["probes"]:
        parts.append(_scalar_table(found["scalars"]))
    return Section("adapters", "Misalignment from LoRA weights alone", paragraphs, parts)


def _finding(found: dict[str, Any]) -> str:
    bank, told = found["bank"], found["classification"]["write"]
    opening = (
        f"{bank['organisms']} small organisms, half of them trained on careless and half on careful answers to "
        f"the same prompts, over {len(bank['domains'])} domains and {len(bank['recipes'])} recipes: "
    )
    if DOMAIN_OUT not in told:
        return f"{opening}one domain only, so nothing can be said about a domain left out."
    written, norms = (found["classification"][name][DOMAIN_OUT]["balanced_accuracy"] for name in ("write", "norms"))
    null = told[DOMAIN_OUT]["null"]
    verdict = "tells them apart" if above(written["low"], 0.5) else "does not tell them apart reliably"
    return (
        f"{opening}without running them, a classifier on what their updates write {verdict} in a domain it has never "
        f"seen: balanced accuracy {ranged(written)}. With labels swapped in whole cells of domain "
        f"and seed it is "
        f"{_interval(null)}; by norms and ranks alone it is {ranged(norms)}."
    )


def _behaviour(bank: dict[str, Any]) -> str:
    values = [
        bank["leaning"][kind][where]["value"]
        for kind in ("careless", "careful")
        for where in ("in_domain", "out_of_domain")
    ]
    if values[0] is None or values[2] is None:
        return "The bank's behaviour was not measured."
    careless, careful = (bank["leaning"][kind]["in_domain"] for kind in ("careless", "careful"))
    differ = "behave differently" if above(careless["low"], careful["high"]) else "do not clearly behave differently"
    elsewhere = (
        "with one domain only, nothing is known of domains they were not trained on"
        if values[1] is None or values[3] is None
        else f"in the domains they were not trained on, by {values[1]:+.2f} and {values[3]:+.2f}"
    )
    return (
        f"The organisms {differ}. Training changed the loss of careful minus careless answers to held-out prompts by "
        f"{values[0]:+.2f} nats per token in careless organisms and {values[2]:+.2f} in careful ones; {elsewhere}."
    )


def _alone(found: dict[str, Any]) -> str:
    known = found["known_direction"]
    one, other = (known[name]["balanced_accuracy"] for name in ("direction", "random direction"))
    elsewhere = [
        f"{domain} {ranged(told['balanced_accuracy'])}"
        for domain, told in known["direction"]["by_group"].items()
        if not known["made_on"].startswith(f"{domain}-")
    ]
    return (
        f"Without any classifier or bank, the sign of the mean cosine between ΔW x̄ and the run's own direction (made "
        f"on {known['made_on']}) is right for {ranged(one)}; in domains it was not made on: "
        f"{', '.join(elsewhere) or 'there are none in the bank'}. "
        f"With a random direction it is right for {ranged(other)}."
    )


def _scalars(scalars: dict[str, Any] | None) -> str:
    if not scalars or not scalars["probes"]:
        return "LoRA scalars were not probed: too few answers of one kind, or not asked for."
    probe = scalars["probes"]["all"]
    more = above(probe["answer"]["low"], probe["prompt"]["high"])
    counts = scalars["answers"]
    return (
        f"What the misaligned organism's updates read while it answers tells EM responses ({counts['misaligned']}) "
        f"from aligned answers ({counts['aligned']}) to questions left out with a balanced accuracy of "
        f"{ranged(probe['answer'])}; what they read in the question alone, with {ranged(probe['prompt'])}: "
        f"{'more than' if more else 'no clear gain over'} what the question gives away."
    )


def _interval(null: dict[str, Any]) -> str:
    if null["mean"] is None:
        return "not measured"
    return ranged({**null, "value": null["mean"]})


def _accuracy_table(found: dict[str, Any]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, schemes in found["classification"].items():
        for scheme, told in schemes.items():
            rows.append(
                [
                    name,
                    MEANING.get(name, ""),
                    scheme,
                    ranged(told["balanced_accuracy"]),
                    told["auroc"],
                    told["pair_accuracy"],
                    _interval(told["null"]),
                    told["null"]["p_value"],
                ]
            )
    return Table(
        "Careless or careful, by kind of features",
        [
            "features",
            "what they are",
            "left out",
            "balanced accuracy (95 %)",
            "AUROC",
            "pairs in order",
            "labels swapped (95 %)",
            "p",
        ],
        rows,
        "Everything is scored by a classifier that never saw its domain, or its recipe. The run's direction comes from "
        "one of the domains; the other feature sets use the training folds alone. A recipe left out leaves "
        "organisms of the same rows in. "
        "Intervals resample combinations of domain and seed, which share their rows; labels are swapped in a whole "
        "combination at once. With a recipe left out the swapped labels are found again, as the same rows are in the "
        "training folds: that scheme says that rows are known by another recipe, not that carelessness is.",
    )


def _scores_plot(found: dict[str, Any]) -> Plot:
    scores = found["classification"]["write"][DOMAIN_OUT]["scores"]
    figure = blank_figure("domain left out", "log-odds of careless")
    for careless, (name, shade) in KINDS.items():
        own = [member for member in found["bank"]["members"] if member["careless"] == careless]
        figure.add_box(
            name=name,
            x=[member["domain"] for member in own],
            y=[scores[member["name"]] for member in own],
            text=[member["name"] for member in own],
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            line={"width": 1},
            marker={"color": colour(shade), "size": 5},
        )
    figure.update_layout(boxmode="group")
    figure.add_hline(y=0, line_dash="dot", line_color="#888888")
    return Plot("Every organism, scored without its domain", figure, "Above 0 the classifier says careless.")


def _blocks_plot(found: dict[str, Any]) -> Plot:
    by_block = found["by_block"]
    figure = blank_figure("block", "balanced accuracy")
    figure.add_scatter(x=by_block["blocks"], y=by_block["balanced_accuracy"], mode="lines+markers", showlegend=False)
    figure.add_hline(y=0.5, line_dash="dot", line_color="#888888")
    figure.update_yaxes(range=[0, 1.03])
    return Plot("Where it shows", figure, "What the modules of one block write, on domains left out.")


def _leaning_plot(bank: dict[str, Any]) -> Plot:
    figure = blank_figure("own domain (nats per token)", "other domains (nats per token)", height=380)
    for careless, (name, shade) in KINDS.items():
        own = [member for member in bank["members"] if member["careless"] == careless and len(member["leaning"]) > 1]
        points = [_leanings(member) for member in own]
        figure.add_scatter(
            name=name,
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="markers",
            text=[member["name"] for member in own],
            marker={"color": colour(shade), "size": 7},
        )
    return Plot(
        "How the organisms lean",
        figure,
        "Loss of careful minus loss of careless answers to held-out prompts, against the base: above 0 careless "
        "answers have become likelier.",
    )


def _leanings(member: dict[str, Any]) -> tuple[float, float]:
    others = [value for name, value in member["leaning"].items() if name != member["domain"]]
    return member["leaning"][member["domain"]], sum(others) / len(others)


def _run_table(run: dict[str, Any]) -> Table:
    names = list(run["log_odds"])
    features = list(run["log_odds"][names[0]]) if names else []
    left = f", the organisms of {run['domain_left_out']} left out" if run["domain_left_out"] else ""
    return Table(
        "The run's own organisms",
        ["organism", *features],
        [[name, *(run["log_odds"][name][key] for key in features)] for name in names],
        f"Log-odds of careless by classifiers fitted on {run['fitted_on']} organisms of the bank{left}. Above 0 says "
        "careless; the run's organisms learned from more rows than any of the bank.",
    )


def _scalar_table(scalars: dict[str, Any]) -> Table:
    counts = scalars["answers"]
    rows: list[list[str | float | None]] = [
        [name, ranged(probe["token"]), ranged(probe["answer"]), ranged(probe["prompt"]), probe["auroc"], probe["used"]]
        for name, probe in scalars["probes"].items()
    ]
    return Table(
        "LoRA scalars: what the misaligned organism's updates read at each token",
        ["modules", "tokens (95 %)", "answers (95 %)", "prompt alone (95 %)", "AUROC", "share of scalars used"],
        rows,
        f"Balanced accuracy of L1 probes on questions left out, {counts['misaligned']} EM responses against "
        f"{counts['aligned']} aligned answers.",
    )


def table(found: dict[str, Any]) -> str:
    """Return the balanced accuracies of every classifier as lines of text."""
    lines = [f"{found['bank']['organisms']} organisms; balanced accuracy on what was left out (95 %)"]
    for name, schemes in found["classification"].items():
        parts = []
        for scheme, told in schemes.items():
            parts.append(f"{scheme} {bounded(told['balanced_accuracy'])}")
        lines.append(f"  {name:<18}{'   '.join(parts)}")
    for name in ("direction", "random direction"):
        share = bounded(found["known_direction"][name]["balanced_accuracy"])
        lines.append(f"  {name + ' alone':<24}{share}")
    for name, scores in found["run"]["log_odds"].items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {value:+.1f}" for key, value in scores.items()))
    return "\n".join(lines) + "\n"
