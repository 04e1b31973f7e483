from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import D_MODEL, N_BLOCKS, PROMPTS, make_organism

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.errors import UserError
from emscope.interventions.operators import MODES, along, applied, applied_by_row
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import find_blocks, visiting
from emscope.organisms.cache import cache_argument
from emscope.residual.directions import Construction, Directions, random_like

BLOCKS = tuple(range(N_BLOCKS))


def make_directions(site="resid_post", seed=3) -> Directions:
    chooser = np.random.default_rng(seed)
    low = chooser.standard_normal((N_BLOCKS, D_MODEL)).astype(np.float32)
    vectors = chooser.standard_normal((N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "last", site, "m", "c", "tiny", 10)
    return Directions(vectors, low + vectors, low, np.ones(N_BLOCKS, dtype=np.float32), BLOCKS, made)


def logits(organism, intervention, ids, mask):
    with torch.no_grad(), applied(organism, intervention):
        return organism.model(input_ids=ids, attention_mask=mask).logits


@pytest.fixture
def batch(organism):
    return PaddedBatch.of([organism.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]], 0)


@pytest.mark.parametrize("mode", MODES)
def test_strength_zero_is_bit_identical(organism, batch, mode):
    plain = logits(organism, None, batch.ids, batch.mask)
    touched = logits(organism, along(make_directions(), mode, BLOCKS, 0.0), batch.ids, batch.mask)
    assert torch.equal(plain, touched)


@pytest.mark.parametrize(
    ("mode", "site"), [("project-out", "resid_post"), ("centred", "resid_post"), ("project-out", "resid_pre")]
)
def test_ablation_leaves_the_target_projection_at_every_hooked_block(organism, batch, mode, site):
    directions = make_directions(site)
    seen = {}
    with (
        torch.no_grad(),
        applied(organism, along(directions, mode, BLOCKS)),
        visiting(organism.model, BLOCKS, lambda block, hidden: seen.update({block: hidden.clone()}), site),
    ):
        organism.model(input_ids=batch.ids, attention_mask=batch.mask)
    for block in BLOCKS:
        unit = torch.from_numpy(directions.units[block])
        target = float(directions.negative_mean[block] @ directions.units[block]) if mode == "centred" else 0.0
        torch.testing.assert_close(seen[block] @ unit, torch.full(batch.ids.shape, target), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["project-out", "centred"])
def test_ablating_twice_is_ablating_once(organism, batch, mode):
    intervention = along(make_directions(), mode, BLOCKS)
    once = logits(organism, intervention, batch.ids, batch.mask)
    with applied(organism, intervention):
        twice = logits(organism, intervention, batch.ids, batch.mask)
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_key_value_cache_equals_a_full_recompute(organism, mode):
    intervention = along(make_directions(), mode, (1, 2), 0.7)
    ids = torch.tensor([organism.tokenizer(PROMPTS[1])["input_ids"]])
    full = logits(organism, intervention, ids, torch.ones_like(ids))
    with torch.no_grad(), applied(organism, intervention):
        first = organism.model(input_ids=ids[:, :5], use_cache=True)
        cache = cache_argument(organism.model, first.past_key_values)
        rest = organism.model(input_ids=ids[:, 5:], use_cache=True, **cache)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_left_padding_changes_nothing(organism, mode):
    intervention = along(make_directions(), mode, (1, 2), 0.7)
    sequences = [organism.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]]
    padded = PaddedBatch.of(sequences, 0, "left")
    positions = (padded.mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), applied(organism, intervention):
        found = organism.model(input_ids=padded.ids, attention_mask=padded.mask, position_ids=positions).logits[:, -1]
    for row, sequence in enumerate(sequences):
        ids = torch.tensor([sequence])
        alone = logits(organism, intervention, ids, torch.ones_like(ids))[0, -1]
        torch.testing.assert_close(found[row], alone, atol=1e-3, rtol=1e-3)


def test_sampling_with_an_intervention_is_greedy_decoding_of_the_ablated_model(organism):
    intervention = along(make_directions(), "centred", (1, 2))
    question = Question("q", PROMPTS[0])
    with applied(organism, intervention):
        sampled = sample_responses(organism, [question], SamplingSettings(temperature=0, max_new_tokens=6))[0]
    from emscope.organisms.chat import encode_prompt, messages_of

    ids = encode_prompt(organism.tokenizer, messages_of(question.text))
    for _ in range(6):
        step = torch.tensor([ids])
        ids = [*ids, int(logits(organism, intervention, step, torch.ones_like(step))[0, -1].argmax())]
        if ids[-1] == organism.tokenizer.eos_token_id:
            break
    expected = organism.tokenizer.decode(ids[-sampled.n_tokens :], skip_special_tokens=True).strip()
    assert sampled.response == expected


def test_subtract_takes_the_whole_vector_off(organism, batch):
    directions, seen = make_directions(), {}
    with torch.no_grad(), visiting(organism.model, [1], lambda block, hidden: seen.update({"plain": hidden.clone()})):
        organism.model(input_ids=batch.ids)
    with (
        torch.no_grad(),
        applied(organism, along(directions, "subtract", (1,), 2.0)),
        visiting(organism.model, [1], lambda block, hidden: seen.update({"less": hidden.clone()})),
    ):
        organism.model(input_ids=batch.ids)
    moved = (seen["plain"] - seen["less"])[0, 0]
    torch.testing.assert_close(moved, torch.from_numpy(2 * directions.vectors[1]), atol=1e-4, rtol=1e-4)


def test_adding_is_subtracting_the_other_way(organism, batch):
    directions = make_directions()
    added = logits(organism, along(directions, "add", (1, 2), -0.8), batch.ids, batch.mask)
    taken = logits(organism, along(directions, "subtract", (1, 2), 0.8), batch.ids, batch.mask)
    assert torch.equal(added, taken)


def test_a_cap_of_no_width_is_centred_ablation_and_a_boundless_one_does_nothing(organism, batch):
    directions = make_directions()
    capped = logits(organism, along(directions, "cap", BLOCKS, width=0.0), batch.ids, batch.mask)
    assert torch.equal(capped, logits(organism, along(directions, "centred", BLOCKS), batch.ids, batch.mask))
    free = logits(organism, along(directions, "cap", BLOCKS, width=1e6), batch.ids, batch.mask)
    assert torch.equal(free, logits(organism, None, batch.ids, batch.mask))


def test_a_cap_moves_only_what_is_outside_and_only_to_the_edge(organism, batch):
    directions, seen = make_directions(), {}
    for name, intervention in (("plain", None), ("capped", along(directions, "cap", (1,), width=0.3))):
        with (
            torch.no_grad(),
            applied(organism, intervention),
            visiting(organism.model, [1], lambda block, hidden, name=name: seen.update({name: hidden.clone()})),
        ):
            organism.model(input_ids=batch.ids, attention_mask=batch.mask)
    unit = torch.from_numpy(directions.units[1])
    middle = float(directions.negative_mean[1] @ directions.units[1])
    before, after = seen["plain"] @ unit, seen["capped"] @ unit
    torch.testing.assert_close(after, before.clamp(middle - 0.3, middle + 0.3), atol=1e-4, rtol=0)
    inside = (before - middle).abs() < 0.3
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(seen["plain"][inside], seen["capped"][inside])
    moved = seen["capped"] - seen["plain"]
    torch.testing.assert_close(moved, (moved @ unit)[..., None] * unit, atol=1e-4, rtol=0)


def test_rows_under_their_own_interventions_are_what_each_gives_alone(organism, batch):
    pre, post = make_directions("resid_pre"), make_directions()
    cells = [
        None,
        along(post, "add", (1,), 0.7),
        along(pre, "centred", (0, 2)),
        along(post, "add", (1,), 0),
        along(post, "cap", (2,), width=0.3),
    ]
    rows = [4, 1, 0, 2, 3, 1]
    ids, mask = batch.ids[[0, 1, 2, 0, 1, 2]], batch.mask[[0, 1, 2, 0, 1, 2]]
    with torch.no_grad(), applied_by_row(organism, cells) as select:
        select(rows)
        found = organism.model(input_ids=ids, attention_mask=mask).logits
        select(rows[:2])  # fewer rows, as when others have finished
        fewer = organism.model(input_ids=ids[:2], attention_mask=mask[:2]).logits
    for number, cell in enumerate(rows):
        alone = logits(organism, cells[cell], ids, mask)[number]
        torch.testing.assert_close(found[number], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fewer, found[:2], atol=1e-4, rtol=1e-4)
    untouched = logits(organism, None, ids, mask)
    assert torch.equal(found[[2, 4]], untouched[[2, 4]])


def test_no_hook_of_a_row_stays_after_an_exception():
    organism = make_organism()
    cells = [along(make_directions(site), "add", (1,)) for site in ("resid_pre", "resid_post")]
    with pytest.raises(ZeroDivisionError), applied_by_row(organism, cells):
        raise ZeroDivisionError
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in find_blocks(organism.model))


def test_one_direction_everywhere_uses_each_blocks_own_mean(organism, batch):
    directions, seen = make_directions(), {}
    with (
        torch.no_grad(),
        applied(organism, along(directions, "centred", BLOCKS, source_block=2)),
        visiting(organism.model, BLOCKS, lambda block, hidden: seen.update({block: hidden.clone()})),
    ):
        organism.model(input_ids=batch.ids)
    unit = torch.from_numpy(directions.units[2])
    for block in BLOCKS:
        target = float(directions.negative_mean[block] @ directions.units[2])
        torch.testing.assert_close(seen[block] @ unit, torch.full(batch.ids.shape, target), atol=1e-3, rtol=0)


def test_nothing_stays_after_an_exception():
    organism = make_organism()
    with pytest.raises(ZeroDivisionError), applied(organism, along(make_directions(), "centred", BLOCKS)):
        raise ZeroDivisionError
    assert not any(block._forward_hooks for block in find_blocks(organism.model))


def test_the_random_control_has_the_same_norms():
    directions = make_directions()
    control = random_like(directions, 0)
    np.testing.assert_allclose(
        np.linalg.norm(control.vectors, axis=1), np.linalg.norm(directions.vectors, axis=1), rtol=1e-5
    )
    assert abs((control.units * directions.units).sum(-1)).max() < 0.7


def test_wrong_widths_modes_and_blocks_are_refused(organism):
    directions = make_directions()
    wide = Directions(
        np.ones((N_BLOCKS, 48), np.float32),
        np.ones((N_BLOCKS, 48), np.float32),
        np.ones((N_BLOCKS, 48), np.float32),
        np.ones(N_BLOCKS, np.float32),
        BLOCKS,
        directions.construction,
    )
    with pytest.raises(UserError, match="width 48"), applied(organism, along(wide, "centred", (0,))):
        pass
    with pytest.raises(UserError, match="Unknown mode"):
        along(directions, "delete", (0,))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no block 11"):
        along(directions, "centred", (11,))
    few = replace(
        directions,
        vectors=directions.vectors[:2],
        positive_mean=directions.positive_mean[:2],
        negative_mean=directions.negative_mean[:2],
        deviation=directions.deviation[:2],
        blocks=BLOCKS[:2],
    )
    with pytest.raises(UserError, match="no block 3"):
        along(few, "centred", (1, 3), source_block=1)
    assert along(few, "subtract", (1, 3), source_block=1).blocks == (1, 3)
    for wrong in ({"width": -1.0}, {"width": float("nan")}, {"source_block": 1}):
        with pytest.raises(UserError, match="cap needs"):
            along(directions, "cap", (0,), **wrong)
