"""Organisms of one domain and seed read the same rows: they are one observation to an interval, not one each."""

from pathlib import Path

import numpy as np
import pytest

from emscope.experiments.adapters.accuracy import accuracy, bank_figures
from emscope.organisms.bank import RECIPES
from emscope.organisms.bank_members import Member
from emscope.organisms.datasets import load_conversations


def bank(recipes, seeds=4):
    return [
        Member(
            f"{domain}-{careless}-{recipe}-{seed}",
            Path(),
            domain,
            careless,
            f"r{recipe}",
            f"{domain}-{recipe}-{seed}",
            seed,
            {domain: 0.1 * seed, "other": 0.2},
        )
        for domain in ("medical", "finance", "sport")
        for seed in range(seeds)
        for recipe in range(recipes)
        for careless in (True, False)
    ]


def test_small_recipes_read_some_of_the_rows_of_large_ones():
    small, large = (
        {str(row) for row in load_conversations("sport-careless", rows=n, seed=1).train}
        for n in sorted({recipe.rows for recipe in RECIPES.values()})
    )
    assert small < large


def test_more_recipes_on_the_same_rows_do_not_narrow_an_interval():
    def told(recipes):
        members = bank(recipes)
        wrong = {"medical-s0", "sport-s1", "sport-s3"}
        sign = np.array([(1 if member.careless else -1) * (-1 if member.cell in wrong else 1) for member in members])
        return accuracy(sign.astype(float), members).balanced_accuracy

    one, many = told(2), told(8)
    assert one.value == many.value == 0.75
    assert many.high - many.low > 0.9 * (one.high - one.low)
    lean = [bank_figures(bank(recipes)).leaning.careless.in_domain for recipes in (2, 8)]
    assert lean[1].low == pytest.approx(lean[0].low)
    assert bank_figures(bank(2)).cells == 12
