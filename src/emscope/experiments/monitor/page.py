"""The report's section on the monitor: early warning token by token, and screening of training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emscope.experiments.monitor.plots import NAMES, early_auroc, precision_by_share, precision_recall
from emscope.report.section import Part, Plot, Section, Table, TokenMap, TokenText
from emscope.report.wording import above, bounded, number

BAR, SHARE = 0.9, "0.05"


def section(found: dict[str, Any]) -> Section:
    """Return the section of experiments/monitor.json."""
    answers, screening = found["answers"], found["screening"]
    paragraphs = [
        f"{_screening_finding(screening)} {_monitor_finding(answers)}",
        "Monitor: every token's activation is projected on the direction between the organisms' answers, centred and "
        "counted in deviations of single tokens; block and scale come from training questions, the answers are new "
        "ones to test questions. The judge reads mean activations of the base itself, so this is agreement of two "
        "readings, not proof against a reader. What the prompt alone tells is shown beside it, because some questions "
        "invite bad answers.",
        "Screening: the base reads each training answer; its mean activation is projected on the direction. "
        "In a mixture most prompts have their careful answer and a few, chosen at random, the careless one. "
        "The block is chosen on the other domains. Intervals span random mixtures with topics resampled. "
        f"The organisms were trained on {screening['trained_on']}, so only the other domains are new to the "
        "direction between organisms; the judge was fitted on these rows and its figures flatter it.",
    ]
    parts: list[Part] = [_token_map(found["tokens"])] if found["tokens"] else []
    if answers["auroc"]:
        parts += _monitor_parts(answers)
    return Section("monitor", "Monitor and screen", paragraphs, [*parts, *_screening_parts(screening)])


def _monitor_finding(answers: dict[str, Any]) -> str:
    n = answers["n"]
    if not answers["auroc"]:
        return f"Of {n['answers']} new answers {n['em']} were EM responses, too one-sided to ask what foretells them."
    steps = answers["auroc"]["mean"]
    name = "verdict" if "verdict" in steps["all"] else "contrast"
    length = "8" if "8" in steps else next(iter(steps))
    whole, prompt, gain = steps["all"][name], answers["prompt_only"][name], answers["gain_over_prompt"][name]
    if not above(whole["low"], 0.5):
        verdict = "which cannot be told from chance"
    elif above(gain["low"], 0):
        verdict = f"{bounded(gain)} more than the prompt alone tells"
    else:
        verdict = f"which cannot be told from what the prompt alone tells (gain {bounded(gain)})"
    return (
        f"Within the misaligned organism, the mean projection of a whole answer on the {NAMES[name]} ranks EM "
        f"responses above other coherent answers with AUROC {bounded(whole)}, {verdict}; after the first {length} "
        f"tokens it is {bounded(steps[length][name])}, at the last prompt token {bounded(prompt)}, and among "
        f"answers to the same question {bounded(whole['within_question'])}."
    )


def _screening_finding(screening: dict[str, Any]) -> str:
    figures = screening["mean"]["precision_at_half_recall"]
    share = _share(figures)
    text, probe, words = (figures[name][share] for name in ("text", "probe", "words"))
    reached = "reaching" if (text["value"] or 0) >= BAR else "below"
    easy = (words["value"] or 0) >= max(text["value"] or 0, probe["value"] or 0) - 0.02
    chance = bounded(figures["random"][share]) if "random" in figures else "not been asked for"
    sentences = [
        f"With {100 * float(share):g} % careless rows mixed into careful ones, a direction from other domains' text "
        f"(difference in means, the score named in advance) finds half of them at precision {bounded(text)}, "
        f"{reached} the {BAR} that is asked for; a probe on the same text has {bounded(probe)}, random directions "
        f"have {chance}.",
        f"Words alone, fitted on the same other domains, {'do as well' if easy else 'do worse'} ({bounded(words)})"
        + (": the built-in text is easy, and no model is needed to sort it." if easy else "."),
    ]
    if screening["areas"]:
        sentences.append(_areas_finding(screening["areas"]["precision_at_half_recall"], share))
    return " ".join(sentences)


def _areas_finding(figures: dict[str, Any], share: str) -> str:
    probe, words = figures["probe"][share], figures["words"][share]
    if above(probe["low"], words["value"]):
        verdict = "and what the model reads goes beyond the words"
    elif above(words["low"], probe["value"]):
        verdict = "and the words alone are the better screen"
    else:
        verdict = "and the two cannot be told apart"
    return (
        f"In text of another hand about other parts of life the probe's precision is {bounded(probe)}, "
        f"that of words {bounded(words)}, {verdict}."
    )


def _share(figures: dict[str, Any]) -> str:
    return SHARE if SHARE in figures["text"] else next(iter(figures["text"]))


def _token_map(texts: list[dict[str, Any]]) -> TokenMap:
    shown = []
    for text in texts:
        aligned = (
            "" if text["aligned"] is None else f" · aligned {text['aligned']:.0f} · coherent {text['coherent']:.0f}"
        )
        tokens: list[tuple[str, float | None]] = []
        for turn in text["turns"]:
            tokens += [(("\n" if tokens else "") + f"{turn['role']}: ", None)]
            tokens += list(zip(turn["pieces"], turn["scores"], strict=True))
        shown.append(TokenText(f"{text['organism']} · {text['question_id']}{aligned}", tokens))
    return TokenMap(
        "Token by token",
        shown,
        "deviations of a token's projection, 0 halfway between the organisms",
        "Each shade averages a token and those just before it. Questions were picked by the mean score of the "
        "misaligned organism's answer: highest, lowest and evenly between.",
    )


def _monitor_parts(answers: dict[str, Any]) -> list[Part]:
    names = [name for name in answers["auroc"]["mean"]["all"] if name != "random"]
    n = answers["n"]
    rows = [
        [NAMES[name], how, length, bounded(item[name]), bounded(item[name]["within_question"])]
        for name in names
        for how, by_tokens in answers["auroc"].items()
        for length, item in by_tokens.items()
    ]
    prompt = [
        [NAMES[name], "prompt alone", "0", bounded(item), bounded(item["within_question"])]
        for name, item in answers["prompt_only"].items()
        if name != "random"
    ]
    return [
        Plot(
            "How early does it tell?",
            early_auroc(answers["auroc"]["mean"], answers["prompt_only"], names),
            f"Mean score over the tokens read, block {answers['block']}; {n['em']} EM responses and "
            f"{n['other_coherent']} other coherent answers to {n['questions']} test questions. "
            "Bars of random directions span all of them.",
        ),
        Table(
            "AUROC by tokens read",
            ["direction", "score", "tokens", "all pairs", "same question"],
            [*prompt, *rows],
            "Pairs of answers to the same question leave out all that the question tells.",
        ),
    ]


def _screening_parts(screening: dict[str, Any]) -> list[Part]:
    mean = screening["mean"]
    figures = mean["precision_at_half_recall"]
    share = _share(figures)
    percent = f"{100 * float(share):g} %"
    screened = {**screening["domains"], **({"other text": screening["areas"]} if screening["areas"] else {})}
    rows = [
        [
            NAMES[name],
            *(bounded(found["precision_at_half_recall"][name][share]) for found in screened.values()),
            *(bounded(found["auroc"][name]) for found in screened.values()),
        ]
        for name in figures
    ]
    parts: list[Part] = [
        Plot("Precision by how rare careless rows are", precision_by_share(figures), "Mean over the domains left out."),
        Plot(f"Precision and recall at {percent}", precision_recall(mean["precision"], mean["recalls"], share)),
        Table(
            f"What is screened: precision at recall 0.5 with {percent} careless rows, and AUROC",
            ["score", *screened, *(f"AUROC {name}" for name in screened)],
            rows,
            "Other text: aligned and misaligned answers to questions outside the three domains, in the same styles; "
            "directions and words are made from the three domains.",
        ),
    ]
    if screening["own_answers"]:
        own = screening["own_answers"]
        labels = {"projection": "projection", "projection_difference": "less the base's own answer's projection"}
        parts.append(
            Table(
                f"Does the base's own answer help? ({own['n_prompts']} prompts)",
                ["score", "AUROC"],
                [[labels[name], bounded(item)] for name, item in own["auroc"].items()],
            )
        )
    if screening["readers"]:
        n = screening["readers"]["n"]
        parts.append(
            Table(
                "Small organisms' answers that readers scored",
                ["score", "AUROC"],
                [[NAMES[name], bounded(item)] for name, item in screening["readers"]["auroc"].items()],
                f"{n['em']} EM responses and {n['aligned']} aligned answers by the readers' scores; the "
                "judge was fitted on them.",
            )
        )
    return parts


def table(found: Mapping[str, Any]) -> str:
    """Return the main figures as lines of text."""
    return "\n".join([*_verdicts(found["answers"]), "", *_screening_lines(found["screening"])]) + "\n"


def _verdicts(answers: dict[str, Any]) -> list[str]:
    n = answers["n"]
    lines = [
        f"EM responses ({n['em']}) against other coherent answers ({n['other_coherent']}) of the misaligned organism, "
        f"AUROC of the mean score at block {answers['block']}:"
    ]
    for length, by_name in answers["auroc"].get("mean", {}).items():
        own = [f"{name} {bounded(item)}" for name, item in by_name.items() if name != "random"]
        lines.append(f"  {length:>4} tokens  {', '.join(own)}, random {number(by_name['random']['mean'], '.2f')}")
    own = [f"{name} {bounded(item)}" for name, item in answers["prompt_only"].items() if name != "random"]
    return [*lines, f"  prompt only  {', '.join(own)}"] if own else lines


def _screening_lines(screening: dict[str, Any]) -> list[str]:
    figures = screening["mean"]["precision_at_half_recall"]
    lines = [
        "Precision when half of the careless rows are found, mean over domains left out, by share of careless rows:"
    ]
    for name, by_share in figures.items():
        lines.append(f"  {name:<10}" + "  ".join(f"{share} {item['value']:.2f}" for share, item in by_share.items()))
    return lines
