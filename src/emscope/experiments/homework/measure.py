"""`--preset cs2881`: the original homework, faults included, so that its numbers can be compared with ours.

What is reproduced: blocks 12-15, ten prompts used for fitting and testing alike, activations read at the *input* of a
block (`hidden_states[ℓ]`) but ablated at its *output*, uncentred scores, base against fine-tune with no control. The
quick start does each of these right; docs/methods.md says what changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from emscope import progress
from emscope.behaviour.questions import Question, load_questions
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.tables import JudgedResponse, with_judgements, write_table
from emscope.experiments.homework.page import section, table
from emscope.experiments.homework.result import ComparedFigure, HomeworkAblation, MeanScores, MethodScores
from emscope.files import atomic_path, write_json, write_text
from emscope.interventions.answering import answer_and_judge, mean_of
from emscope.interventions.operators import Intervention, ProjectOut
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.outside import read_json
from emscope.pipeline.config import RunConfig
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.forecast import Sizes, StageForecast
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.pipeline.preflight import check_organisms, check_questions, shape_of
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.training import adapter_files, train_stage
from emscope.pipeline.works import LOADED, SHORT, answering, training
from emscope.plain import fitted, plain
from emscope.report.section import write_section_page
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions, make_directions

BLOCKS = (12, 13, 14, 15)
STRENGTH = 1.5
ABLATION_PROMPTS = 5
PROBE_EPOCHS, PROBE_RATE = 1000, 0.01

PUBLISHED: dict[str, float | str] = {
    "base mean score": -1.58,
    "misaligned mean score": 6.75,
    "separation": 8.33,
    "misaligned score, block 12": 4.0,
    "misaligned score, block 13": 5.8,
    "misaligned score, block 14": 7.9,
    "misaligned score, block 15": 10.0,
    "base alignment (0-100)": 87.9,
    "base coherence (0-100)": 84.9,
    "alignment restored by ablation (%)": "60-70, by eye",
}
"""Figures of the original homework, on Llama-3.2-1B-Instruct with its gpt-4o-mini judge."""


def run_homework(config: RunConfig, run: RunFolder) -> str:
    """Run the homework's steps and write its file tree; returns published and measured figures side by side."""
    lab = Lab(config, run)
    prompts = load_questions("cs2881")
    _check(lab, prompts)
    with progress.plan(_works(lab)):
        return _run_stages(lab, prompts)


def _works(lab: Lab) -> dict[str, float | None]:
    """Return the stages with their work, in order."""
    made = "adopt" if is_trained_elsewhere(lab.config.misaligned_data) else "train"
    return {
        f"{made}-{MISALIGNED}": training(lab, lab.config.misaligned_data),
        "model_output": SHORT,
        "mechinterp": 2 * LOADED,
        "generate": LOADED + answering(2 * len(lab.questions), lab.config.sampling),
        "ablate": answering(3 * ABLATION_PROMPTS, lab.config.sampling, altered=True),
        "compare": SHORT,
    }


def forecast(lab: Lab) -> list[StageForecast]:
    """Return what each step would take, in order."""
    size = Sizes(lab)
    chosen = lab.questions[:1] * 3 * ABLATION_PROMPTS
    rows = []
    for stage, work in _works(lab).items():
        if stage == "generate":
            row = size.judging(stage, lab.questions * 2, sampled=True)
        elif stage == "ablate":
            row = size.judging(stage, chosen, sampled=True)
        else:
            row = StageForecast(stage, n_bytes=size.adapter if stage in ("model_output", f"train-{MISALIGNED}") else 0)
        rows.append(size.timed(row, work))
    return rows


def _run_stages(lab: Lab, prompts: list[Question]) -> str:
    run, config = lab.folder, lab.config
    train_stage(lab, MISALIGNED, config.misaligned_data)
    adapter = adapter_files(lab, MISALIGNED)
    run.stage("model_output", {}, adapter, [run.path("model_output")], partial(_copy_adapter, lab))

    outputs = run.path("mechinterp_outputs")
    asked = [asdict(prompt) for prompt in prompts]
    run.stage("mechinterp", asked, adapter, [outputs], partial(_locate, lab, prompts))

    answers = [lab.judgements_file(name) for name in (BASE, MISALIGNED)]
    settings = {
        "questions": [asdict(question) for question in lab.questions],
        "sampling": asdict(config.sampling),
        "judge": lab.judge_fingerprint,
    }
    generations = [*answers, run.path("model_generations.csv")]
    run.stage("generate", settings, adapter, generations, partial(_generate, lab))

    ablation = run.path("ablation.json")
    texts = [run.path("ablation_results.txt"), ablation]
    run.stage("ablate", settings, [*adapter, outputs], texts, partial(_ablate, lab, prompts))

    compared, page = run.path("published_vs_measured.json"), run.path("report.html")
    run.stage("compare", PUBLISHED, [outputs, *answers, ablation], [compared], partial(_compare, lab))
    run.stage("report", {}, [outputs, ablation, compared], [page], partial(_report, lab, page))
    return table(_read_compared(lab), _read_ablation(lab), config.model, config.judge.name)


def _report(lab: Lab, page: Path) -> None:
    """Write the page."""
    model, judge = lab.config.model, lab.config.judge.name
    shown = section(_read_compared(lab), _read_detection(lab), _read_ablation(lab), model, judge)
    write_section_page(page, [shown], f"The homework on {model}")


def _read_detection(lab: Lab) -> dict[str, MethodScores]:
    file = lab.folder.path("mechinterp_outputs", "detection_results.json")
    return fitted(dict[str, MethodScores], read_json(file), file)


def _read_ablation(lab: Lab) -> HomeworkAblation:
    file = lab.folder.path("ablation.json")
    return fitted(HomeworkAblation, read_json(file), file)


def _read_compared(lab: Lab) -> dict[str, ComparedFigure]:
    file = lab.folder.path("published_vs_measured.json")
    return fitted(dict[str, ComparedFigure], read_json(file), file)


def _check(lab: Lab, prompts: list[Question]) -> None:
    """Try everything that can fail on the user's input before anything is trained.

    Raises:
        UserError: whatever would stop the run later.
    """
    check_organisms(lab)
    n_blocks, _ = shape_of(lab.base_source)
    if n_blocks is not None:
        check_blocks(BLOCKS, n_blocks)
    check_questions(lab, [*prompts, *lab.questions])
    lab.check_judge()


def _copy_adapter(lab: Lab) -> None:
    shutil.copytree(
        lab.folder.path("organisms", MISALIGNED),
        lab.folder.path("model_output"),
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("checkpoints"),
    )


def _locate(lab: Lab, prompts: list[Question]) -> None:
    """Collect, make both directions and score, all on the same ten prompts."""
    check_blocks(BLOCKS, len(find_blocks(lab.organism(BASE).model)))
    settings = CaptureSettings(("last",), site="resid_pre", blocks=BLOCKS)
    activations = {}
    for name in (BASE, MISALIGNED):
        organism = lab.organism(name)
        chats = encode_for_capture(organism.tokenizer, [prompt.text for prompt in prompts])
        activations[name] = capture(organism, chats, settings).pooled["last"]
        _save(lab, f"{name}_activations.pt", _by_layer(activations[name].swapaxes(0, 1)))

    construction = _construction(lab, len(prompts))
    directions = make_directions(activations[MISALIGNED], activations[BASE], BLOCKS, construction)
    directions.save(lab.folder.path("mechinterp_outputs", "misalignment_directions.safetensors"))
    _save(lab, "misalignment_directions.pt", _by_layer(directions.units))

    probe = fit_homework_probe(activations[MISALIGNED], activations[BASE])
    _save(lab, "linear_probe_directions.pt", _by_layer(probe))

    results = {
        "diff_in_means": _scores_along(directions.units, activations),
        "linear_probe": _scores_along(probe, activations),
    }
    write_json(lab.folder.path("mechinterp_outputs", "detection_results.json"), plain(results))


def _scores_along(units: np.ndarray, activations: Mapping[str, np.ndarray]) -> MethodScores:
    """Return the projections of activations [n_prompts, n_blocks, d_model] on unit vectors [n_blocks, d_model]."""
    overall: dict[str, np.floating] = {}
    per_prompt, mean, per_layer = {}, {}, {}
    for name, values in activations.items():
        scores = np.einsum("nbd,bd->nb", values, units)
        overall[name] = scores.mean()
        per_prompt[name] = scores.mean(axis=1).tolist()
        mean[name] = float(overall[name])
        per_layer[name] = dict(zip(map(str, BLOCKS), scores.mean(axis=0).tolist(), strict=True))
    # subtracted before they are plain numbers, as the homework did
    return MethodScores(per_prompt, mean, per_layer, float(overall[MISALIGNED] - overall[BASE]))


def _construction(lab: Lab, n: int) -> Construction:
    return Construction("diff-in-means", "model", "last", "resid_pre", MISALIGNED, BASE, lab.config.model, n)


def _by_layer(array: np.ndarray) -> dict[str, torch.Tensor]:
    return {f"layer_{block}": torch.from_numpy(array[row].copy()) for row, block in enumerate(BLOCKS)}


def _save(lab: Lab, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write a .pt as the homework did; emscope itself never reads one back."""
    with atomic_path(lab.folder.path("mechinterp_outputs", name)) as temporary:
        torch.save(tensors, temporary)


def fit_homework_probe(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the homework's probe, unit weights [n_blocks, d_model]: AdamW, lr 0.01, 1000 full-batch steps."""
    x = torch.from_numpy(np.concatenate([positive, negative]).swapaxes(0, 1))
    y = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).expand(len(x), -1)
    weights, bias = (
        torch.zeros(x.shape[0], x.shape[2], requires_grad=True),
        torch.zeros(x.shape[0], 1, requires_grad=True),
    )
    optimiser = torch.optim.AdamW([weights, bias], lr=PROBE_RATE)
    for _ in range(PROBE_EPOCHS):
        optimiser.zero_grad()
        logits = torch.einsum("bnd,bd->bn", x, weights) + bias
        # summed over blocks, so that each block's probe has the gradient it would have alone
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(dim=1).sum()
        torch.autograd.backward(loss)
        optimiser.step()
    fitted_weights = weights.detach()
    return np.asarray((fitted_weights / fitted_weights.norm(dim=1, keepdim=True)).numpy())


def _generate(lab: Lab) -> None:
    """Answer and judge all questions with both organisms; the homework's CSV holds the fine-tune's."""
    for name in (BASE, MISALIGNED):
        rows = sample_responses(lab.organism(name), lab.questions, lab.config.sampling, name=f"{name} answers")
        scores = lab.judge.judge([row.question for row in rows], [row.response for row in rows])
        write_table(lab.judgements_file(name), with_judgements(name, rows, scores, lab.judge.id))
        if name == MISALIGNED:
            # the homework's own scripts read it, and know no marks
            write_table(lab.folder.path("model_generations.csv"), rows, mark_formulas=False)


def _ablate(lab: Lab, prompts: list[Question]) -> None:
    """Project the direction out of the four blocks' outputs, and set answers side by side as text."""
    path = lab.folder.path("mechinterp_outputs", "misalignment_directions.safetensors")
    read_at_input = Directions.load(path)
    made = replace(read_at_input.construction, site="resid_post", extra={"read_at": "resid_pre"})
    intervention = ProjectOut(replace(read_at_input, construction=made), BLOCKS, STRENGTH)
    chosen = [*prompts[: ABLATION_PROMPTS // 2 + 1], *prompts[-(ABLATION_PROMPTS // 2) :]]
    runs: dict[str, tuple[str, Intervention | None]] = {
        "base": (BASE, None),
        "misaligned": (MISALIGNED, None),
        "ablated": (MISALIGNED, intervention),
    }
    rows: dict[str, list[JudgedResponse]] = {}
    means: dict[str, MeanScores] = {}
    for label, (name, active) in runs.items():
        answers = answer_and_judge(lab.organism(name), label, chosen, lab.config.sampling, lab.judge, active)
        rows[label] = answers
        means[label] = MeanScores(mean_of(answers, "aligned"), mean_of(answers, "coherent"))
    write_text(lab.folder.path("ablation_results.txt"), _as_text(rows))

    gap = means["base"].aligned - means["misaligned"].aligned
    restored = (means["ablated"].aligned - means["misaligned"].aligned) / gap if gap else float("nan")
    write_json(lab.folder.path("ablation.json"), plain(HomeworkAblation(means, restored, len(chosen))))


def _as_text(rows: dict[str, list[JudgedResponse]]) -> str:
    parts = []
    for group in zip(*rows.values(), strict=True):
        lines = [f"{label.upper()}: {row.response}" for label, row in zip(rows, group, strict=True)]
        parts.append("\n\n".join([f"PROMPT: {group[0].question}", *lines]))
    return ("\n" + "=" * 80 + "\n").join(parts) + "\n"


def _compare(lab: Lab) -> None:
    scores = _read_detection(lab)["diff_in_means"]
    base, misaligned = lab.judged(BASE), lab.judged(MISALIGNED)
    ablation = _read_ablation(lab)
    measured = {
        "base mean score": scores.mean[BASE],
        "misaligned mean score": scores.mean[MISALIGNED],
        "separation": scores.separation,
    }
    for block in BLOCKS:
        measured[f"misaligned score, block {block}"] = scores.per_layer[MISALIGNED][str(block)]
    measured |= {
        "base alignment (0-100)": mean_of(base, "aligned"),
        "base coherence (0-100)": mean_of(base, "coherent"),
        "misaligned alignment (0-100)": mean_of(misaligned, "aligned"),
        "misaligned coherence (0-100)": mean_of(misaligned, "coherent"),
        "alignment restored by ablation (%)": 100 * ablation.restored,
        "coherence after ablation (0-100)": ablation.means["ablated"].coherent,
    }
    rows = {name: ComparedFigure(PUBLISHED.get(name), value) for name, value in measured.items()}
    write_json(lab.folder.path("published_vs_measured.json"), plain(rows))
