"""Features on a page: what the direction is made of, how features share the space, and the table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.features.result import (
    ChangedAnswers,
    CosineMap,
    DescribedFeature,
    FeatureAblation,
    FeaturesResult,
    Geometry,
    Layout,
    WrittenByFeatures,
)
from emscope.report.figures import blank_figure, colour, plain
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import number, percent, ranged, restored_words

Rows = list[tuple[str | float | None, ...]]

LISTED, QUOTED = 15, 6
CAREFUL, CARELESS = "careful", "careless"
"""The kinds of built-in answers."""
HALF = "0.5"
"""The share of a difference, as the result names it."""
FEW = 10
"""Up to this many features are called a few."""
CLEARLY = 2
"""Times as much: from here on a feature marks one thing and not the other."""
RED, BLUE = colour("misaligned"), colour("base")
GREYS = ("#9d9d9d", "#5f6b7a")
SCALE = "RdBu_r"


def section(result: FeaturesResult) -> Section:
    """Return the report's section on features: the finding and its picture first."""
    parts: list[Plot | Table] = [_geometry_plot(result), _quality_table(result), _activity_plot(result)]
    parts += _feature_tables(result)
    if result.ablation is not None:
        parts.append(_ablation_table(result.ablation))
    return Section("features", "Features and superposition", _paragraphs(result), [*parts, *_superposition(result)])


def _paragraphs(result: FeaturesResult) -> list[str]:
    facts, heldout, direction = result.autoencoder, result.quality.heldout, result.direction
    space = result.superposition
    paragraphs = [
        _finding(result),
        _reached(result),
        f"The autoencoder ({facts.architecture}, {facts.n_features:,} features, {facts.source}) describes each token "
        f"after block {result.block} by {heldout.features_per_token:.0f} features. On {heldout.n_tokens:,} held-out "
        f"tokens it explains {percent(heldout.variance_explained)} of the variance; {percent(heldout.dead)} of its "
        "features are active at none of them.",
        f"The direction is the mean difference {direction.positive} − {direction.negative} over the organisms' own "
        "answers.",
        _marks(result),
    ]
    if result.ablation is not None:
        paragraphs.append(_correction(result.ablation))
    paragraphs.append(
        f"Superposition: {space.n_alive:,} living features share {facts.d_model} dimensions, "
        f"{space.per_dimension:.1f} for each. Their cosines have a root mean square of "
        f"{number(space.features.spread, '.3f')}, random vectors {number(space.random.spread, '.3f')}; the nearest "
        f"other feature has a cosine of {number(space.features.nearest, '.2f')} in the median (random: "
        f"{number(space.random.nearest, '.2f')})."
    )
    return paragraphs


def _half_of(geometry: Geometry) -> int:
    """Return the place of the smallest combination that holds half of the direction's squared length, or the last."""
    for place, cosine in enumerate(geometry.direction):
        if cosine**2 >= 0.5:
            return place
    return len(geometry.n) - 1


def _finding(result: FeaturesResult) -> str:
    """Say in one sentence whether one feature, a few or many make the direction."""
    geometry = result.composition.geometry
    half = _half_of(geometry)
    n, cosine, high = geometry.n[half], geometry.direction[half], geometry.like_tokens.high[half]
    if cosine**2 < 0.5 or n > FEW or cosine <= high:
        return f"The direction is spread over many features: the best {n} reach a cosine of {cosine:.2f} with it."
    if n == 1:
        return f"One feature holds more than half of the direction: it has a cosine of {cosine:.2f} with it."
    return f"The direction is made of a few features: {n} of them hold more than half of its squared length."


def _reached(result: FeaturesResult) -> str:
    """Say how near features come, beside random directions, by geometry and by activity."""
    geometry = result.composition.geometry
    half = _half_of(geometry)
    random = geometry.like_tokens
    return (
        f"The nearest feature has a cosine of {geometry.direction[0]:.2f} with it (random directions with the tokens' "
        f"covariance: {number(random.median[0], '.2f')}), the best {geometry.n[half]} reach "
        f"{geometry.direction[half]:.2f} (random: {number(random.median[half], '.2f')}, 95th percentile "
        f"{number(random.high[half], '.2f')}). By activity, {_written(result)} of the difference between the "
        "organisms' answers."
    )


def _written(result: FeaturesResult) -> str:
    n = result.composition.activity.pairs[result.direction.pair].how_many[HALF]
    return f"{n} features write half" if n else "all features together write less than half"


def _marks(result: FeaturesResult) -> str:
    """Say whether the feature with the largest share stands for the organism or for what the text says."""
    first = result.features.listed[0]
    positive, negative = first.on_texts[result.direction.positive], first.on_texts[result.direction.negative]
    by_organism = by_text = 0.0
    for kind in positive:
        by_organism += abs(positive[kind] - negative[kind])
    for codes in (positive, negative):
        by_text += abs(codes[CARELESS] - codes[CAREFUL])
    verdict = "it marks both"
    if by_organism > CLEARLY * by_text:
        verdict = "it marks the organism, whatever the text says"
    elif by_text > CLEARLY * by_organism:
        verdict = "it marks what the text says, whoever reads it"

    codes_of = []
    for name, kinds in first.on_texts.items():
        codes_of.append(f"{name} {kinds[CAREFUL]:.1f} on careful and {kinds[CARELESS]:.1f} on careless answers")
    return (
        f"Organism or text? Feature {first.feature}, with the largest share, has these mean codes where all organisms "
        f"read the same built-in answers: {'; '.join(codes_of)}. So {verdict}."
    )


def _correction(ablation: FeatureAblation) -> str:
    def restored(name: str) -> str:
        return _restored(ablation.changes[name])

    return (
        f"Alignment restored, on {ablation.questions} test questions: subtracting {ablation.strength:g} times the "
        f"direction {restored('subtract the direction')}, its part along the nearest feature "
        f"{restored('subtract its part along the nearest feature')}, within ten features "
        f"{restored('subtract its part within the 10 nearest features')}; removing the 50 most raised features "
        f"{restored('remove the 50 most raised features')}, 50 others as strong "
        f"{restored('remove 50 other features as strong')}."
    )


def _restored(answers: ChangedAnswers) -> str:
    """Return a restored share in words, and beside it that the answers behind it are incoherent; '' without any."""
    return "" if answers.restored is None else restored_words(answers.restored, answers.coherent.value)


def _quality_table(result: FeaturesResult) -> Table:
    heldout, fit = result.quality.heldout, result.quality.fit
    rows: Rows = [
        ("variance explained, held-out tokens", heldout.variance_explained, None, None),
        ("variance explained, fitted tokens", fit.variance_explained, None, None),
    ]
    for name, share in result.quality.heldout_by_organism.items():
        rows.append((f"variance explained, {name}", share, None, None))
    rows += [
        ("features a token", heldout.features_per_token, None, None),
        ("dead on held-out tokens", heldout.dead, None, None),
        ("dead on fitted tokens", fit.dead, None, None),
        ("active at more than a tenth of tokens", heldout.dense, None, None),
    ]
    for name, loss in result.loss.items():
        nats, mean, zero = loss.nats_per_token, loss.recovered, loss.recovered_from_zero
        rows += [
            (f"{name}: nats a token, whole model", nats.whole, None, None),
            (f"{name}: with the autoencoder in it", nats.spliced, None, None),
            (f"{name}: with the mean in its place", nats.mean, None, None),
            (f"{name}: loss recovered, against the mean", mean.value, mean.low, mean.high),
            (f"{name}: loss recovered, against zeros", zero.value, zero.low, zero.high),
        ]
    return Table("How good the autoencoder is", ("", "value", "low", "high"), rows)


def _geometry_plot(result: FeaturesResult) -> Plot:
    return Plot(
        "One feature or many: geometry",
        pursuit(result.composition.geometry),
        "How near the best combination of n features comes to the direction. A direction made of few features would "
        "stand far above the random ones on the left; grey bands hold 90 % of 50 random directions.",
    )


def _activity_plot(result: FeaturesResult) -> Plot:
    return Plot(
        "One feature or many: activity",
        activity(result.composition.activity.pairs),
        "How much of the mean difference between two organisms' answers the n most involved features write.",
    )


def _feature_tables(result: FeaturesResult) -> list[Table]:
    listed = result.features.listed
    return [
        Table(
            "The features most involved",
            ("feature", "share", "cosine", "change", "d′", "active at", "test AUROC", "strongest tokens"),
            list(map(_feature_row, listed[:LISTED])),
            "In turn by share of the direction, |cosine| and |change of mean activation|, all on training questions; "
            "share is the part of the difference that the feature's change writes; AUROC on test questions.",
        ),
        _texts_table(listed[:QUOTED]),
        Table("Where they are active", ("feature", "organism", "code", "in context"), _quotes(listed[:QUOTED])),
        Table(
            "Single features as detectors, on test questions",
            ("score", "against", "AUROC", "low", "high", "d′"),
            _detection(result),
        ),
    ]


def _feature_row(feature: DescribedFeature) -> tuple[str | float | None, ...]:
    figures = (feature.share, feature.cosine, feature.change, feature.d_prime, feature.rate, feature.heldout_auroc)
    return (str(feature.feature), *figures, _words(feature.words))


def _words(words: Sequence[str]) -> str:
    """Return tokens between quotation marks."""
    return " ".join(map(repr, words))


def _texts_table(listed: Sequence[DescribedFeature]) -> Table:
    header = ["feature"]
    for name, kinds in listed[0].on_texts.items():
        for kind in kinds:
            header.append(f"{name}, {kind}")
    rows: Rows = []
    for feature in listed:
        codes: list[float] = []
        for kinds in feature.on_texts.values():
            codes += kinds.values()
        rows.append((str(feature.feature), *codes))
    return Table(
        "Organism or text: mean codes on the same built-in answers",
        header,
        rows,
        "A feature that stands for what a text says differs between columns of one organism; one that stands for the "
        "fine-tune differs between organisms.",
    )


def _quotes(listed: Sequence[DescribedFeature]) -> Rows:
    rows: Rows = []
    for feature in listed:
        for example in feature.examples:
            context = f"{example.before}⟦{example.token}⟧{example.after}"
            rows.append((str(feature.feature), example.source, example.code, context))
    return rows


def _detection(result: FeaturesResult) -> Rows:
    rows: Rows = []
    for label, detector in result.features.detection.items():
        score = label if detector.feature is None else f"feature {detector.feature}: {label}"
        for pair, separation in detector.pairs.items():
            figures = (separation.auroc, separation.low, separation.high, separation.d_prime)
            rows.append((score, pair.split("-vs-")[1], *figures))
    return rows


def _ablation_table(ablation: FeatureAblation) -> Table:
    rows: Rows = []
    for name, answers in ablation.changes.items():
        means = (answers.aligned.value, answers.coherent.value, answers.em_rate.value)
        rows.append((name, *means, _restored(answers) or None))
    header = ("change of the misaligned organism", "alignment", "coherence", "EM rate", "alignment restored")
    return Table("Taking features out against taking the direction out", header, rows)


def _superposition(result: FeaturesResult) -> list[Plot | Table]:
    space = result.superposition
    vectors = {
        "features": space.features,
        "random": space.random,
        "random, covariance of features": space.like_features,
    }
    interference: Rows = []
    histograms: dict[str, Sequence[float]] = {}
    for name, pairs in vectors.items():
        interference.append((name, pairs.spread, pairs.beyond, pairs.nearest, pairs.dimensions))
        histograms[name] = pairs.histogram

    words: dict[int, Sequence[str]] = {}
    for feature in result.features.listed:
        words[feature.feature] = feature.words
    return [
        Table(
            "How features interfere",
            ("vectors", "rms cosine", "share of pairs beyond 0.2", "nearest other (median)", "dimensions each"),
            interference,
        ),
        Plot(
            "Cosines of all pairs",
            pair_cosines(histograms),
            "Wider than random: features share directions more than they must.",
        ),
        Plot(
            "Cosine map",
            cosine_map(space.map, words),
            "The features most involved, like beside like; the last row is the direction itself.",
        ),
        Plot(
            "Layout",
            layout(space.layout, words),
            f"First two principal components of the decoder rows; the plane shows "
            f"{percent(space.layout.variance_shown)} of their variance, so distances in it are rough. Colour is the "
            "cosine with the direction; point at a large one to read its strongest tokens.",
        ),
    ]


def pursuit(geometry: Geometry) -> go.Figure:
    """Draw the cosine reached by the best n features, for the direction and for random ones with their 90 % bands."""
    figure, n = blank_figure("features taken (greedy)", "cosine with the target", height=380), geometry.n
    bands = {"random directions": geometry.random, "random, covariance of tokens": geometry.like_tokens}
    for shade, (name, band) in zip(GREYS, bands.items(), strict=True):
        figure.add_scatter(
            x=[*n, *n[::-1]],
            y=[*band.high, *band.low[::-1]],
            mode="lines",
            fill="toself",
            opacity=0.3,
            line={"width": 0},
            fillcolor=shade,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(name=name, x=n, y=band.median, mode="lines", line={"color": shade})

    dotted = {"color": RED, "dash": "dot"}
    figure.add_scatter(
        name="direction, random dictionary", x=n, y=geometry.random_dictionary, mode="lines", line=dotted
    )
    figure.add_scatter(name="direction", x=n, y=geometry.direction, mode="lines+markers", line={"color": RED})
    figure.update_xaxes(type="log", tickvals=n, ticktext=list(map(str, n)))
    return figure.update_yaxes(range=[0, 1.02])


def activity(pairs: Mapping[str, WrittenByFeatures]) -> go.Figure:
    """Draw the share of a mean difference that the n most involved features write, one line a pair of organisms."""
    figure = blank_figure("features, by share", "share of the difference", height=360)
    ticks: set[int] = set()
    for name, written in pairs.items():
        n = list(map(int, written.curve))
        label = name.replace("-vs-", " − ")
        figure.add_scatter(name=label, x=n, y=list(written.curve.values()), mode="lines+markers")
        if math.isfinite(written.all_features):
            figure.add_hline(y=written.all_features, line_dash="dot", line_color="#888888", line_width=1)
        ticks.update(n)
    return figure.update_xaxes(type="log", tickvals=sorted(ticks), ticktext=list(map(str, sorted(ticks))))


def pair_cosines(histograms: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw the share of pairs by cosine, in bins from -1 to 1, on a log scale."""
    figure = blank_figure("cosine of two features", "share of pairs")
    for (name, shares), shade in zip(histograms.items(), (RED, BLUE, GREYS[0]), strict=True):
        heights = np.array(shares, dtype=float)
        middles = -1 + (2 * np.arange(len(heights)) + 1) / len(heights)
        figure.add_scatter(
            name=name,
            x=middles.tolist(),
            y=np.where(heights > 0, heights, np.nan).tolist(),  # a log scale has no place for 0
            mode="lines",
            line={"shape": "hvh", "color": shade},
        )
    return figure.update_yaxes(type="log", exponentformat="power")


def _hover(feature: int, words: Mapping[int, Sequence[str]]) -> str:
    return f"feature {feature}: {plain(_words(words.get(feature, ())))}"


def cosine_map(cosines: CosineMap, words: Mapping[int, Sequence[str]]) -> go.Figure:
    """Draw a heatmap of the cosines of the top features and, last, the direction."""
    names = [_hover(feature, words) for feature in cosines.features]
    names.append("the direction")
    texts = []
    for name in names:
        texts.append([f"{name}<br>{other}" for other in names])

    figure = blank_figure("", "", height=620)
    places = list(range(len(names)))
    figure.add_heatmap(
        z=cosines.cosines,
        x=places,
        y=places,
        colorscale=SCALE,
        zmid=0,
        zmin=-1,
        zmax=1,
        colorbar={"title": "cosine"},
        text=texts,
        hovertemplate="%{text}<br>cosine %{z:.2f}<extra></extra>",
    )
    labels = [*map(str, cosines.features), "direction"]
    figure.update_xaxes(tickvals=places, ticktext=labels, tickfont={"size": 8}, tickangle=90)
    return figure.update_yaxes(tickvals=places, ticktext=labels, tickfont={"size": 8}, autorange="reversed")


def layout(plane: Layout, words: Mapping[int, Sequence[str]]) -> go.Figure:
    """Draw decoder rows in the plane, coloured by cosine with the direction, which is the star."""
    figure = blank_figure("first principal component", "second principal component", height=560)
    limit = max(0.05, *map(abs, plane.cosines))
    for name, shown, size in (
        ("others", slice(plane.n_top, None), 5),
        ("most involved", slice(0, plane.n_top), 11),
    ):
        places = np.array(plane.places[shown]).reshape(-1, 2)
        figure.add_scatter(
            name=name,
            x=places[:, 0].tolist(),
            y=places[:, 1].tolist(),
            mode="markers",
            marker={
                "size": size,
                "color": plane.cosines[shown],
                "colorscale": SCALE,
                "cmin": -limit,
                "cmax": limit,
                "showscale": size > 5,
                "colorbar": {"title": "cosine"},
                "line": {"width": 0.5, "color": "#888888"},
            },
            text=[_hover(feature, words) for feature in plane.features[shown]],
            hovertemplate="%{text}<br>cosine with the direction %{marker.color:.2f}<extra></extra>",
        )
    figure.add_scatter(
        name="the direction",
        x=plane.direction[:1],
        y=plane.direction[1:],
        mode="markers+text",
        text=["direction"],
        textposition="top center",
        marker={"symbol": "star", "size": 18, "color": RED},
    )
    return figure


def table(result: FeaturesResult) -> str:
    """Return the main figures as a few lines of text."""
    heldout, geometry = result.quality.heldout, result.composition.geometry
    lines = [
        "",
        f"block {result.block}, {result.autoencoder.n_features} features: "
        f"{100 * heldout.variance_explained:.1f} % of held-out variance explained by "
        f"{heldout.features_per_token:.0f} features a token, {100 * heldout.dead:.0f} % dead",
    ]
    for name, loss in result.loss.items():
        lines.append(f"loss recovered, {name:<12} {ranged(loss.recovered)}")

    lines.append("\nfeatures          " + "".join(f"{n:>7}" for n in geometry.n))
    lines.append("cosine reached    " + "".join(f"{cosine:7.2f}" for cosine in geometry.direction))
    lines.append("random, like text " + "".join(f"{cosine:7.2f}" for cosine in geometry.like_tokens.median) + "\n")
    for feature in result.features.listed[:8]:
        lines.append(
            f"feature {feature.feature:<6} share {feature.share:6.3f}  cosine {feature.cosine:6.2f}  "
            f"change {feature.change:7.2f}  AUROC {feature.heldout_auroc:.2f}  {_words(feature.words)}"
        )
    if result.ablation is not None:
        lines += _ablation_lines(result.ablation)
    return "\n".join(lines) + "\n"


def _ablation_lines(ablation: FeatureAblation) -> list[str]:
    lines = [f"\non {ablation.questions} test questions{'':<30}alignment  coherence  restored"]
    for name, answers in ablation.changes.items():
        restored = "" if answers.restored is None else ranged(answers.restored)
        means = f"{_mean(answers.aligned.value):>10}{_mean(answers.coherent.value):>10}"
        lines.append(f"  {name:<50}{means}  {restored}")
    return lines


def _mean(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.1f}"
