import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from emscope.errors import UserError
from emscope.residual.adapters.classifier import (
    FeatureSet,
    balanced_accuracy,
    folds_of,
    left_out_scores,
    permutation_null,
    score,
)

PAIRS = [f"{domain}-{number}" for domain in "abc" for number in range(10)]
UNITS = [pair for pair in PAIRS for _ in range(2)]
DOMAINS = [pair[0] for pair in UNITS]
LABELS = np.array([1, 0] * len(PAIRS))


def planted(shift, seed=0, width=300):
    """Pairs that share almost everything, domains far apart, and one direction that careless ones have more of."""
    chooser = np.random.default_rng(seed)
    pair, domain, truth = (chooser.standard_normal((n, width)) for n in (len(PAIRS), 3, 1))
    rows = domain[["abc".index(name) for name in DOMAINS]] + np.repeat(pair, 2, axis=0)
    truth /= np.linalg.norm(truth)
    return rows + 0.3 * chooser.standard_normal(rows.shape) + shift * (LABELS - 0.5)[:, None] * truth


def test_a_planted_difference_is_found_in_a_domain_left_out():
    rows = planted(12.0)
    folds = folds_of(DOMAINS, UNITS)
    for features in (FeatureSet(table=rows), FeatureSet(kernel=rows @ rows.T / 300)):
        assert balanced_accuracy(left_out_scores(features, LABELS, folds), LABELS) > 0.9


def test_without_a_difference_nothing_is_found_and_swapped_labels_say_so():
    folds, found = folds_of(DOMAINS, UNITS), []
    for seed in range(5):
        features = FeatureSet(table=planted(0.0, seed))
        found.append(balanced_accuracy(left_out_scores(features, LABELS, folds), LABELS))
    null = permutation_null(FeatureSet(table=planted(12.0)), LABELS, UNITS, folds, 60)
    assert abs(np.mean(found) - 0.5) < 0.12
    assert not null.exact
    assert abs(null.values.mean() - 0.5) < 0.08
    assert np.quantile(null.values, 0.975) < 0.9


def test_few_units_are_swapped_in_every_way_and_the_true_labels_are_one_of_them():
    cells = [f"{unit[0]}{int(unit[2:]) % 2}" for unit in UNITS]
    features, folds = FeatureSet(table=planted(12.0)), folds_of(DOMAINS, UNITS)
    null = permutation_null(features, LABELS, cells, folds, 64)
    told = balanced_accuracy(left_out_scores(features, LABELS, folds), LABELS)
    assert null.exact
    assert len(null.values) == 64
    assert null.values[0] == told
    assert null.values[-1] == told  # all swapped is the same question
    assert null.p_value(told) >= 2 / 64
    assert len(null.wrong) == 62
    assert null.wrong.mean() == pytest.approx(0.5, abs=0.02)


def test_swapped_cells_are_found_again_where_other_recipes_read_the_same_rows():
    """Each cell has a signal of its own: a recipe left out is told by it under any labels, a domain left out is not."""
    chooser = np.random.default_rng(0)
    members = [(cell, recipe, kind) for cell in range(6) for recipe in "vwxyz" for kind in (1, 0)]
    cells, recipes, labels = (np.array(column) for column in zip(*members, strict=True))
    own = chooser.standard_normal((6, 200))
    rows = own[cells] * (2 * labels - 1)[:, None] + 0.3 * chooser.standard_normal((len(members), 200))
    units, names = [f"{cell}{recipe}" for cell, recipe, _ in members], [str(cell) for cell in cells]
    nulls = {
        scheme: permutation_null(FeatureSet(table=rows), labels, names, folds_of(groups, units), 64)
        for scheme, groups in (("domain", [str(cell // 2) for cell in cells]), ("recipe", list(recipes)))
    }
    assert nulls["recipe"].wrong.mean() > 0.95
    assert abs(nulls["domain"].wrong.mean() - 0.5) < 0.1


def test_a_null_of_nothing_shows_nothing():
    assert permutation_null(FeatureSet(table=planted(0.0)), LABELS, UNITS, folds_of(DOMAINS, UNITS), 0).p_value(1) == 1


def test_scores_are_those_of_scikit_learn_on_standardised_features():
    rows, train = planted(3.0)[:, :40], np.arange(40)
    mean, spread = rows[train].mean(0), rows[train].std(0)
    scaled = (rows - mean) / spread / np.sqrt(40)
    model = LogisticRegression(C=1 / 0.1, tol=1e-10, max_iter=10_000).fit(scaled[train], LABELS[train])
    found = score(FeatureSet(table=rows), LABELS, train, np.arange(40, 60), penalty=0.1)
    np.testing.assert_allclose(found, model.decision_function(scaled[40:]), atol=1e-3)


def test_what_is_left_out_has_no_say_in_the_classifier():
    rows = planted(6.0)
    changed = rows.copy()
    changed[41:] += 1000  # other rows of the fold that is left out
    train = np.arange(40)
    one, two = (score(FeatureSet(table=table), LABELS, train, np.array([40])) for table in (rows, changed))
    np.testing.assert_allclose(one, two)


def test_missing_features_count_as_the_training_mean():
    rows = planted(12.0)
    rows[::6, :100] = np.nan
    rows[:, 0] = np.nan
    assert balanced_accuracy(left_out_scores(FeatureSet(table=rows), LABELS, folds_of(DOMAINS, UNITS)), LABELS) > 0.9


def test_what_belongs_together_is_never_split():
    with pytest.raises(UserError, match="two folds, a and b"):
        folds_of(["a", "b", "a"], ["run", "run", "other"])
    with pytest.raises(UserError, match="two groups"):
        folds_of(["a", "a"], ["x", "y"])
    for train, rows in folds_of(DOMAINS, UNITS):
        assert not {UNITS[row] for row in train} & {UNITS[row] for row in rows}
        assert len(train) + len(rows) == len(UNITS)
