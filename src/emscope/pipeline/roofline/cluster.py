"""What the stages of a run take on some GPUs: memory, seconds, network and disk, by formula.

A stage takes the longer of its arithmetic and its memory traffic, each at a stated share of the GPU's peak. The shares
are assumptions until `emscope bench` has measured them on the GPU itself: `Shares.measured` reads its report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from emscope.errors import UserError
from emscope.pipeline.roofline.report import LimitsReport
from emscope.pipeline.roofline.shape import ModelShape, Work, decoding_work, text_work, texts_work

STAGES = ("training", "sampling", "capture", "judging", "search")
WEIGHT = 2
"""Bytes a weight, an activation and a cached number: bf16."""
TRAINED = 16
"""Bytes a weight of an adapter: value, gradient and AdamW's two means, float32."""
STORED = 4
"""Bytes of a number that is stored: float32."""
USABLE = 0.9
"""Share of a GPU's memory that can be used; the rest is the driver's, and lost between blocks."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and the machine that it is in.

    Attributes:
        name: its name.
        flop: operations a second in bf16, the maker's figure without sparsity.
        bandwidth: bytes a second of its memory.
        memory: bytes of its memory.
        a_node: GPUs in one machine.
        link: bytes a second from one GPU of a machine to the others, one way.
        network: bytes a second of a machine's network.
    """

    name: str
    flop: float
    bandwidth: float
    memory: float
    a_node: int
    link: float
    network: float


H100 = Gpu("H100 SXM", 989e12, 3.35e12, 80e9, 8, 450e9, 12.5e9)


@dataclass(frozen=True)
class Shares:
    """Which share of its limit each loop reaches: of arithmetic or of bandwidth, whichever bounds it."""

    training: float = 0.35
    sampling: float = 0.5
    capture: float = 0.5
    judging: float = 0.4

    @classmethod
    def measured(cls, report: LimitsReport) -> Shares:
        """Return the shares that were measured on a machine; loops that were not keep what is assumed.

        They are of the machine's own rates, not of its maker's figures.
        """
        found = {loop.name: loop.roof_share for loop in report.loops}
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        return cls(**known)


@dataclass(frozen=True)
class Job:
    """How much there is to do, in numbers of rows and tokens.

    Attributes:
        organisms: adapters that are trained.
        rows: training rows of each.
        row_tokens: tokens of a row, its prompt included.
        row_answer: tokens of its answer.
        batch: rows in an optimiser step.
        rank: of the adapters.
        answers: answers that are sampled, read and judged, of all organisms together.
        prompt: tokens of a question with its template.
        answer: tokens of an answer.
        rubric: tokens of a judge's prompt besides question and answer, read twice: for alignment and for coherence.
        candidates: settings that the search tries.
        tried: answers that it samples and judges for each.
        poolings: vectors that are stored for each answer and block.
        side_by_side: answers sampled at once on one replica, where memory allows.
        token_budget: tokens in one forward pass of reading.
    """

    organisms: int = 2
    rows: int = 7049
    row_tokens: int = 150
    row_answer: int = 100
    batch: int = 16
    rank: int = 32
    answers: int = 100_000
    prompt: int = 80
    answer: int = 300
    rubric: int = 400
    candidates: int = 12
    tried: int = 1000
    poolings: int = 1
    side_by_side: int = 256
    token_budget: int = 16_384


@dataclass(frozen=True)
class StageNeed:
    """What a stage takes.

    Attributes:
        stage: its name.
        gpus: GPUs that hold one copy of the model.
        copies: copies that work side by side; others have nothing to do.
        weights: bytes of the model on each GPU.
        adapters: bytes of adapters, gradients and optimiser on each GPU.
        activations: bytes of activations on each GPU.
        cache: bytes of keys and values on each GPU.
        seconds: how long the stage takes, loading left out.
        load: bytes that a machine loads before it begins.
        network: bytes between machines and between GPUs, all together.
        disk: bytes that the stage leaves.
        bound: arithmetic or memory.
    """

    stage: str
    gpus: int
    copies: int
    weights: float
    adapters: float
    activations: float
    cache: float
    seconds: float
    load: float
    network: float
    disk: float
    bound: str

    @property
    def memory(self) -> float:
        """Bytes on each GPU."""
        return self.weights + self.adapters + self.activations + self.cache


def activation_bytes(shape: ModelShape, tokens: float, *, trained: bool, checkpointed: bool = False) -> float:
    """Return bytes of activations for so many tokens in one pass.

    Trained, everything is kept that the backward pass needs: the input and output of every product and, around them,
    the residual stream and the norms, about six times its width a block. With checkpointing that is the residual stream
    at every block, and all of one block. Read, it is one block's.
    """
    a_block = WEIGHT * tokens * (shape.token_widths / shape.n_blocks + 6 * shape.d_model)
    if not trained:
        return a_block
    if checkpointed:
        return a_block + WEIGHT * tokens * shape.d_model * shape.n_blocks
    return a_block * shape.n_blocks


def holders(shape: ModelShape, gpu: Gpu, n_gpus: int, needed: float) -> list[int]:
    """Return the numbers of GPUs that can hold one copy of the model beside `needed` bytes: powers of two.

    Raises:
        UserError: the GPUs cannot hold one copy.
    """
    found = []
    for held_by in (1, 2, 4, 8, 16, 32, 64):
        fits = (shape.n_weights * WEIGHT + needed) / held_by <= USABLE * gpu.memory
        if held_by <= n_gpus and fits:
            found.append(held_by)
    if not found:
        raise UserError(
            f"{n_gpus} {gpu.name} do not hold a model of {shape.n_weights / 1e9:.0f} billion weights: take more of "
            "them, or a base in 8 or 4 bits."
        )
    return found


def needs(shape: ModelShape, gpu: Gpu, n_gpus: int, job: Job, shares: Shares) -> list[StageNeed]:
    """Return what each stage of a run takes on so many GPUs, each divided among them in the fastest way.

    Raises:
        UserError: the GPUs cannot hold the model.
    """
    sampling = sampling_need(shape, gpu, n_gpus, job, shares, job.answers)
    judging = reading_need("judging", shape, gpu, n_gpus, job, shares.judging)
    tried = job.candidates * job.tried
    search = sampling_need(shape, gpu, n_gpus, job, shares, tried)
    judged = tried / job.answers * judging.seconds
    return [
        training_need(shape, gpu, n_gpus, job, shares),
        sampling,
        reading_need("capture", shape, gpu, n_gpus, job, shares.capture),
        judging,
        replace(search, stage="search", seconds=search.seconds + judged),
    ]


def _fastest(found: Sequence[StageNeed]) -> StageNeed:
    """Return the fastest way; of equal ones that with fewer GPUs a copy, and fewer copies."""
    return min(found, key=lambda need: (need.seconds, need.gpus, need.copies))


def training_need(shape: ModelShape, gpu: Gpu, n_gpus: int, job: Job, shares: Shares) -> StageNeed:
    """Return what training takes: organisms side by side, and a batch over the copies that each of them gets.

    A batch has only so many rows, and copies exchange gradients: GPUs that would not make it faster are left out.

    Raises:
        UserError: the GPUs cannot hold the model.
    """
    found = []
    for held_by in holders(shape, gpu, n_gpus, TRAINED * job.rank * shape.adapted_widths):
        at_once = min(n_gpus // held_by, job.organisms)
        ways = 1
        while ways <= min(job.batch, n_gpus // held_by // at_once):
            need = _trained(shape, gpu, held_by, at_once, ways, job, shares.training)
            if need.memory <= USABLE * gpu.memory:
                found.append(need)
            ways *= 2
    if not found:
        raise UserError(f"{n_gpus} {gpu.name} do not hold a batch of {job.batch} rows: take more of them.")
    return _fastest(found)


def _trained(shape: ModelShape, gpu: Gpu, held_by: int, at_once: int, ways: int, job: Job, share: float) -> StageNeed:
    """Return what training takes: copies on `held_by` GPUs, organisms `at_once`, each batch divided `ways` times."""
    adapter, rows = job.rank * shape.adapted_widths, math.ceil(job.batch / ways)
    weights, trained = shape.n_weights * WEIGHT / held_by, TRAINED * adapter / held_by
    kept = activation_bytes(shape, rows * job.row_tokens, trained=True) / held_by
    again = weights + trained + kept > USABLE * gpu.memory
    if again:
        kept = activation_bytes(shape, rows * job.row_tokens, trained=True, checkpointed=True) / held_by

    work = replace(texts_work([job.row_tokens] * rows, logits=rows * job.row_answer), passes=1)
    flop = shape.training_flop(work, adapter) + (shape.forward_flop(work) if again else 0)
    arithmetic = flop / (held_by * gpu.flop)
    memory = shape.training_bytes(work, WEIGHT) / (held_by * gpu.bandwidth)
    split = 2 * split_bytes(shape, work.tokens, held_by)
    step = max(arithmetic, memory) / share + _exchange(split, gpu, held_by)
    step += sum_seconds(STORED * adapter / held_by, gpu, ways, held_by)
    steps = math.ceil(job.organisms / at_once) * math.ceil(job.rows / job.batch)
    return StageNeed(
        "training",
        held_by,
        at_once * ways,
        weights,
        trained,
        kept,
        0.0,
        steps * step,
        shape.n_weights * WEIGHT,
        steps * at_once * (ways * split + 2 * STORED * adapter * (ways - 1)),
        job.organisms * STORED * adapter,
        "arithmetic" if arithmetic >= memory else "memory",
    )


def split_bytes(shape: ModelShape, tokens: float, held_by: int) -> float:
    """Return bytes that the GPUs of one copy exchange in a forward pass over so many tokens.

    Split by tensors, each block adds its parts up twice, and every GPU sends 2·(g − 1)/g of the sum.
    """
    return 2 * shape.n_blocks * 2 * (held_by - 1) * tokens * shape.d_model * WEIGHT


def _exchange(n_bytes: float, gpu: Gpu, n_gpus: int) -> float:
    """Return seconds in which so many GPUs exchange bytes: within a machine by its links, else by its network."""
    if n_gpus <= 1:
        return 0.0
    nodes = math.ceil(n_gpus / gpu.a_node)
    return n_bytes / (n_gpus * gpu.link if nodes == 1 else nodes * gpu.network)


def sum_seconds(n_bytes: float, gpu: Gpu, ways: int, held_by: int) -> float:
    """Return seconds in which copies add their gradients up: within each machine, then between machines.

    Each of the `held_by` GPUs of a copy has its own part of `n_bytes`; a machine's network is shared by them.
    """
    inside = min(ways, max(1, gpu.a_node // held_by))
    nodes = math.ceil(ways * held_by / gpu.a_node) if ways > inside else 1
    within = 2 * n_bytes * (inside - 1) / inside / gpu.link
    return within + 2 * n_bytes * held_by * (nodes - 1) / nodes / gpu.network


def sampling_need(shape: ModelShape, gpu: Gpu, n_gpus: int, job: Job, shares: Shares, answers: int) -> StageNeed:
    """Return what sampling takes, side by side on each copy as many answers as memory holds.

    Raises:
        UserError: the GPUs cannot hold the model and one answer.
    """
    one = shape.cache_bytes(job.prompt + job.answer, WEIGHT) + activation_bytes(shape, job.prompt, trained=False)
    found = []
    for held_by in holders(shape, gpu, n_gpus, one):
        found.append(sampled_by(shape, gpu, held_by, n_gpus // held_by, job, shares.sampling, answers))
    return _fastest(found)


def sampled_by(
    shape: ModelShape, gpu: Gpu, held_by: int, copies: int, job: Job, share: float, answers: int
) -> StageNeed:
    """Return what sampling takes with so many copies on `held_by` GPUs each."""
    length = job.prompt + job.answer
    one = shape.cache_bytes(length, WEIGHT) + activation_bytes(shape, job.prompt, trained=False)
    room = USABLE * gpu.memory * held_by - shape.n_weights * WEIGHT
    rows = max(1, min(job.side_by_side, int(room / one), math.ceil(answers / copies)))
    waves = math.ceil(answers / (copies * rows))
    work = replace(decoding_work([job.prompt] * rows, [job.answer] * rows), passes=job.answer)
    arithmetic = shape.forward_flop(work) / (held_by * gpu.flop)
    memory = shape.forward_bytes(work, WEIGHT) / (held_by * gpu.bandwidth)
    exchanged = split_bytes(shape, work.tokens, held_by)
    seconds = waves * (max(arithmetic, memory) / share + _exchange(exchanged, gpu, held_by))
    return StageNeed(
        "sampling",
        held_by,
        min(copies, math.ceil(answers / rows)),
        shape.n_weights * WEIGHT / held_by,
        0.0,
        activation_bytes(shape, rows * job.prompt, trained=False) / held_by,
        shape.cache_bytes(rows * length, WEIGHT) / held_by,
        seconds,
        shape.n_weights * WEIGHT,
        waves * copies * exchanged,
        answers * job.answer * WEIGHT,
        "arithmetic" if arithmetic >= memory else "memory",
    )


def reading_need(stage: str, shape: ModelShape, gpu: Gpu, n_gpus: int, job: Job, share: float) -> StageNeed:
    """Return what reading all answers takes: capture stores a vector a block, judging reads two rubrics.

    Raises:
        UserError: the GPUs cannot hold the model.
    """
    found = []
    for held_by in holders(shape, gpu, n_gpus, activation_bytes(shape, job.token_budget, trained=False)):
        found.append(_read_by(stage, shape, gpu, held_by, n_gpus // held_by, job, share))
    return _fastest(found)


def _read_by(stage: str, shape: ModelShape, gpu: Gpu, held_by: int, copies: int, job: Job, share: float) -> StageNeed:
    """Return what reading takes with so many copies on `held_by` GPUs each."""
    judging = stage == "judging"
    a_row = job.prompt + job.answer + (job.rubric if judging else 0)
    texts = job.answers * (2 if judging else 1)
    each = math.ceil(texts / copies)
    rows = max(1, job.token_budget // a_row)
    one = text_work(a_row)
    work = Work(each * one.tokens, each * one.pairs, each if judging else 0, math.ceil(each / rows), 0)
    arithmetic = shape.forward_flop(work) / (held_by * gpu.flop)
    memory = shape.forward_bytes(work, WEIGHT) / (held_by * gpu.bandwidth)
    exchanged = split_bytes(shape, work.tokens, held_by)
    vectors = job.answers * job.poolings * shape.n_blocks * shape.d_model * STORED
    return StageNeed(
        stage,
        held_by,
        min(copies, texts),
        shape.n_weights * WEIGHT / held_by,
        0.0,
        activation_bytes(shape, min(job.token_budget, each * a_row), trained=False) / held_by,
        0.0,
        max(arithmetic, memory) / share + _exchange(exchanged, gpu, held_by),
        shape.n_weights * WEIGHT,
        copies * exchanged,
        job.answers * 100 if judging else vectors,
        "arithmetic" if arithmetic >= memory else "memory",
    )


def load_seconds(n_bytes: float, nodes: int, network: float, store: float) -> float:
    """Return how long machines take to load so many bytes each, all at once from one store."""
    return n_bytes / min(network, store / nodes)


def best_shard_seconds(overhead: float, mtbf: float, seconds_a_worker: float) -> float:
    """Return how long a shard should take so that overhead, lost work and idle ends together are least.

    Of each second of work, a shard of w seconds costs `overhead`/w, half a shard at each of the failures that come
    every `mtbf` seconds of a worker, and half a shard of waiting at the end of its `seconds_a_worker`. Without the last
    it is Young's interval between checkpoints, √(2 · overhead · mtbf).
    """
    return math.sqrt(2 * overhead / (1 / mtbf + 1 / seconds_a_worker))
