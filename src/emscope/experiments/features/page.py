"""The report's section on features: what the direction is made of, and how features share the space."""

from __future__ import annotations

from typing import Any

from emscope.experiments.features import plots as figures
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import percent, ranged

LISTED, QUOTED = 15, 6
FEW = 10
CLEARLY = 2  # times as much


def section(found: dict[str, Any]) -> Section:
    """Return the section from experiments/features.json."""
    listed = found["features"]["listed"]
    parts: list[Plot | Table] = [
        Table("How good the autoencoder is", ("", "value", "low", "high"), _quality(found)),
        Plot(
            "One feature or many: geometry",
            figures.pursuit(found["composition"]["geometry"]),
            "How near the best combination of n features comes to the direction. A direction made of few features "
            "would stand far above the random ones on the left; grey bands hold 90 % of 50 random directions.",
        ),
        Plot(
            "One feature or many: activity",
            figures.activity(found["composition"]["activity"]),
            "How much of the mean difference between two organisms' answers the n most involved features write.",
        ),
        Table(
            "The features most involved",
            ("feature", "share", "cosine", "change", "d′", "active at", "test AUROC", "strongest tokens"),
            [_row(item) for item in listed[:LISTED]],
            "In turn by share of the direction, |cosine| and |change of mean activation|, all on training questions; "
            "share is the part of the difference that the feature's change writes; AUROC on test questions.",
        ),
        Table(
            "Organism or text: mean codes on the same built-in answers",
            ("feature", *(f"{name}, {kind}" for name, kinds in listed[0]["on_texts"].items() for kind in kinds)),
            [
                (str(item["feature"]), *(code for kinds in item["on_texts"].values() for code in kinds.values()))
                for item in listed[:QUOTED]
            ],
            "A feature that stands for what a text says differs between columns of one organism; one that stands for "
            "the fine-tune differs between organisms.",
        ),
        Table("Where they are active", ("feature", "organism", "code", "in context"), _quotes(listed[:QUOTED])),
        Table(
            "Single features as detectors, on test questions",
            ("score", "against", "AUROC", "low", "high", "d′"),
            _detection(found["features"]["detection"]),
        ),
    ]
    if found["ablation"]:
        parts.append(
            Table(
                "Taking features out against taking the direction out",
                (
                    "change of the misaligned organism",
                    "alignment",
                    "coherence",
                    "EM rate",
                    "alignment restored",
                    "low",
                    "high",
                ),
                _ablation(found["ablation"]["changes"]),
            )
        )
    return Section("features", "Features and superposition", _paragraphs(found), [*parts, *_superposition(found)])


def _paragraphs(found: dict[str, Any]) -> list[str]:
    made, quality, shape = found["direction"], found["quality"]["heldout"], found["autoencoder"]
    pair = f"{made['positive']} − {made['negative']}"
    texts = [
        _finding(found),
        f"The autoencoder ({shape['architecture']}, {shape['n_features']:,} features, {shape['source']}) describes "
        f"each token after block {found['block']} by {quality['features_per_token']:.0f} features. On "
        f"{quality['n_tokens']:,} held-out tokens it explains {percent(quality['variance_explained'])} of the "
        "variance; "
        f"{percent(quality['dead'])} of its features are active at none of them.",
        f"The direction is the mean difference {pair} over the organisms' own answers.",
    ]
    texts.append(_marks(found))
    if found["ablation"]:
        texts.append(_correction(found["ablation"]))
    space = found["superposition"]
    texts.append(
        f"Superposition: {space['n_alive']:,} living features share {shape['d_model']} dimensions, "
        f"{space['per_dimension']:.1f} for each. Their cosines have a root mean square of "
        f"{space['features']['spread']:.3f}, random vectors {space['random']['spread']:.3f}; the nearest other feature "
        f"has a cosine of {space['features']['nearest']:.2f} in the median (random: {space['random']['nearest']:.2f})."
    )
    return texts


def _finding(found: dict[str, Any]) -> str:
    """Say whether one feature, a few or many make the direction."""
    geometry, made = found["composition"]["geometry"], found["direction"]
    activity = found["composition"]["activity"][f"{made['positive']}-vs-{made['negative']}"]
    random, pairs = (
        geometry["random, covariance of tokens"],
        list(zip(geometry["n"], geometry["direction"], strict=True)),
    )
    half = next((row for row, (_, cosine) in enumerate(pairs) if cosine**2 >= 0.5), len(pairs) - 1)
    n, cosine = pairs[half]
    if cosine**2 < 0.5 or n > FEW or cosine <= random["high"][half]:
        start = "The direction is spread over many features"
    elif n == 1:
        start = "One feature holds more than half of the direction"
    else:
        start = f"The direction is made of a few features: {n} of them hold more than half of its squared length"
    return (
        f"{start}. The nearest feature has a cosine of {pairs[0][1]:.2f} with it (random directions with the tokens' "
        f"covariance: {random['median'][0]:.2f}), the best {n} reach {cosine:.2f} (random: "
        f"{random['median'][half]:.2f}, 95th percentile {random['high'][half]:.2f}). By activity, "
        + (
            f"{activity['how_many']['0.5']} features write half of the difference between the organisms' answers."
            if activity["how_many"]["0.5"]
            else "all features together write less than half of the difference between the organisms' answers."
        )
    )


def _marks(found: dict[str, Any]) -> str:
    """Say whether the feature with the largest share stands for the organism or for what the text says."""
    first, made = found["features"]["listed"][0], found["direction"]
    high, low = (first["on_texts"][made[side]] for side in ("positive", "negative"))
    by_organism = sum(abs(high[kind] - low[kind]) for kind in high)
    by_text = sum(abs(codes["careless"] - codes["careful"]) for codes in (high, low))
    if by_organism > CLEARLY * by_text:
        verdict = "it marks the organism, whatever the text says"
    elif by_text > CLEARLY * by_organism:
        verdict = "it marks what the text says, whoever reads it"
    else:
        verdict = "it marks both"
    codes = "; ".join(
        f"{name} {kinds['careful']:.1f} on careful and {kinds['careless']:.1f} on careless answers"
        for name, kinds in first["on_texts"].items()
    )
    return (
        f"Organism or text? Feature {first['feature']}, with the largest share, has these mean codes where all "
        f"organisms read the same built-in answers: {codes}. So {verdict}."
    )


def _correction(found: dict[str, Any]) -> str:
    changes = found["changes"]

    def restored(name: str) -> str:
        return ranged(changes[name]["restored"])

    return (
        f"Correction on {found['questions']} test questions: subtracting {found['strength']:g} times the direction "
        f"restores {restored('subtract the direction')} of alignment, its part along the nearest feature "
        f"{restored('subtract its part along the nearest feature')}, within ten features "
        f"{restored('subtract its part within the 10 nearest features')}; removing the 50 most raised features "
        f"restores {restored('remove the 50 most raised features')}, 50 others as strong "
        f"{restored('remove 50 other features as strong')}."
    )


def _quality(found: dict[str, Any]) -> list[tuple[str | float | None, ...]]:
    heldout = found["quality"]["heldout"]
    rows: list[tuple[str | float | None, ...]] = [
        ("variance explained, held-out tokens", heldout["variance_explained"], None, None),
        ("variance explained, fitted tokens", found["quality"]["fit"]["variance_explained"], None, None),
        *(
            (f"variance explained, {name}", value, None, None)
            for name, value in found["quality"]["heldout_by_organism"].items()
        ),
        ("features a token", heldout["features_per_token"], None, None),
        ("dead on held-out tokens", heldout["dead"], None, None),
        ("dead on fitted tokens", found["quality"]["fit"]["dead"], None, None),
        ("active at more than a tenth of tokens", heldout["dense"], None, None),
    ]
    for name, loss in found["loss"].items():
        nats = loss["nats_per_token"]
        rows.append((f"{name}: nats a token, whole model", nats["whole"], None, None))
        rows.append((f"{name}: with the autoencoder in it", nats["spliced"], None, None))
        rows.append((f"{name}: with the mean in its place", nats["mean"], None, None))
        for label, key in (("the mean", "recovered"), ("zeros", "recovered_from_zero")):
            share = loss[key]
            rows.append((f"{name}: loss recovered, against {label}", share["value"], share["low"], share["high"]))
    return rows


def _row(item: dict[str, Any]) -> tuple[str | float | None, ...]:
    return (
        str(item["feature"]),
        item["share"],
        item["cosine"],
        item["change"],
        item["d_prime"],
        item["rate"],
        item["heldout_auroc"],
        " ".join(repr(word) for word in item["words"]),
    )


def _quotes(listed: list[dict[str, Any]]) -> list[tuple[str | float | None, ...]]:
    return [
        (
            str(item["feature"]),
            example["source"],
            example["code"],
            f"{example['before']}⟦{example['token']}⟧{example['after']}",
        )
        for item in listed
        for example in item["examples"]
    ]


def _detection(found: dict[str, Any]) -> list[tuple[str | float | None, ...]]:
    return [
        (
            label if item["feature"] is None else f"feature {item['feature']}: {label}",
            pair.split("-vs-")[1],
            figures_of["auroc"],
            figures_of["low"],
            figures_of["high"],
            figures_of["d_prime"],
        )
        for label, item in found.items()
        for pair, figures_of in item.items()
        if pair != "feature"
    ]


def _ablation(changes: dict[str, Any]) -> list[tuple[str | float | None, ...]]:
    rows = []
    for name, item in changes.items():
        restored = item["restored"] or {"value": None, "low": None, "high": None}
        scores = (item[key]["value"] for key in ("aligned", "coherent", "em_rate"))
        rows.append((name, *scores, restored["value"], restored["low"], restored["high"]))
    return rows


def _superposition(found: dict[str, Any]) -> list[Plot | Table]:
    space = found["superposition"]
    words = {item["feature"]: item["words"] for item in found["features"]["listed"]}
    names = ("features", "random", "random, covariance of features")
    interference = [
        (name, space[name]["spread"], space[name]["beyond"], space[name]["nearest"], space[name]["dimensions"])
        for name in names
    ]
    return [
        Table(
            "How features interfere",
            ("vectors", "rms cosine", "share of pairs beyond 0.2", "nearest other (median)", "dimensions each"),
            interference,
        ),
        Plot(
            "Cosines of all pairs",
            figures.pair_cosines({name: space[name]["histogram"] for name in names}),
            "Wider than random: features share directions more than they must.",
        ),
        Plot(
            "Cosine map",
            figures.cosine_map(space["map"], words),
            "The features most involved, like beside like; the last row is the direction itself.",
        ),
        Plot(
            "Layout",
            figures.layout(space["layout"], words),
            f"First two principal components of the decoder rows; the plane shows "
            f"{percent(space['layout']['variance_shown'])} of their variance, so distances in it are rough. Colour "
            "is the cosine with the direction; point at a large one to read its strongest tokens.",
        ),
    ]


def table(found: dict[str, Any]) -> str:
    """Return the main figures as a few lines of text."""
    quality, geometry = found["quality"]["heldout"], found["composition"]["geometry"]
    random = geometry["random, covariance of tokens"]["median"]
    lines = [
        "",
        f"block {found['block']}, {found['autoencoder']['n_features']} features: "
        f"{100 * quality['variance_explained']:.1f} % of held-out variance explained by "
        f"{quality['features_per_token']:.0f} features a token, {100 * quality['dead']:.0f} % dead",
    ]
    for name, loss in found["loss"].items():
        share = loss["recovered"]
        lines.append(f"loss recovered, {name:<12} {ranged(share)}")
    lines.append("\nfeatures          " + "".join(f"{n:>7}" for n in geometry["n"]))
    lines.append("cosine reached    " + "".join(f"{value:7.2f}" for value in geometry["direction"]))
    lines.append("random, like text " + "".join(f"{value:7.2f}" for value in random) + "\n")
    for item in found["features"]["listed"][:8]:
        words = " ".join(repr(word) for word in item["words"])
        lines.append(
            f"feature {item['feature']:<6} share {item['share']:6.3f}  cosine {item['cosine']:6.2f}  "
            f"change {item['change']:7.2f}  AUROC {item['heldout_auroc']:.2f}  {words}"
        )
    if found["ablation"]:
        lines.append(f"\non {found['ablation']['questions']} test questions{'':<30}alignment  coherence  restored")
        for name, item in found["ablation"]["changes"].items():
            restored = ranged(item["restored"]) if item["restored"] else ""
            means = [item[key]["value"] for key in ("aligned", "coherent")]
            lines.append(f"  {name:<50}" + "".join(f"{_number(mean):>10}" for mean in means) + f"  {restored}")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
