"""Bootstrap intervals against the known error of a mean, the sign test against scipy and against counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.evaluation import uncertainty
from inpaint.evaluation.uncertainty import bootstrap_intervals, sign_test


def test_interval_is_that_of_the_normal_approximation_for_many_photographs() -> None:
    values = np.random.default_rng(1).normal([3.0, -1.0], [2.0, 0.1], (400, 2))
    intervals = bootstrap_intervals(values, range(400))
    for column, interval in zip(values.T, intervals, strict=True):
        assert interval is not None
        error = 1.96 * column.std() / math.sqrt(400)
        assert interval == pytest.approx((column.mean() - error, column.mean() + error), abs=0.1 * error)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        (interval,) = bootstrap_intervals(generator.normal(size=(40, 1)), range(40), seed=seed, resamples=400)
        assert interval is not None
        covered += interval[0] < 0 < interval[1]
    assert 0.88 < covered / 200 < 0.99  # 95 %, a little less for so few photographs


def test_all_resamples_of_three_photographs() -> None:
    """With 27 equally likely draws the quantiles of the bootstrap are known exactly."""
    values = [0.0, 1.0, 10.0]
    means = [sum(draw) / 3 for draw in itertools.product(values, repeat=3)]
    (interval,) = bootstrap_intervals(np.array(values)[:, None], "abc", resamples=200_000)
    assert interval == (min(means), max(means))  # both have the chance 1/27, more than 2.5 %


def test_rows_of_one_photograph_are_drawn_together() -> None:
    once = np.random.default_rng(3).normal(size=(30, 1))
    (alone,) = bootstrap_intervals(once, range(30))
    (repeated,) = bootstrap_intervals(np.repeat(once, 5, axis=0), np.repeat(np.arange(30), 5).tolist())
    assert repeated == pytest.approx(alone)


def test_draws_in_pieces_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(20, 3))
    at_once = bootstrap_intervals(values, range(20), resamples=1000)
    assert at_once == bootstrap_intervals(values, range(20), resamples=1000)
    assert at_once != bootstrap_intervals(values, range(20), resamples=1000, seed=1)
    monkeypatch.setattr(uncertainty, "DRAWS_AT_ONCE", 700)
    assert at_once == bootstrap_intervals(values, range(20), resamples=1000)


def test_no_interval_where_there_can_be_none() -> None:
    assert bootstrap_intervals([[1.0, 2.0]], ["one"]) == [None, None]
    infinite, finite = bootstrap_intervals([[math.inf, 1.0], [2.0, 1.0]], ["one", "two"])
    assert infinite is None and finite == (1, 1)


@given(st.integers(0, 14), st.integers(0, 14))
@settings(max_examples=60, deadline=None)
def test_sign_test_counts_the_splits_that_are_as_uneven(wins: int, losses: int) -> None:
    trials = wins + losses
    splits = [math.comb(trials, heads) for heads in range(trials + 1) if abs(2 * heads - trials) >= abs(wins - losses)]
    assert sign_test(wins, losses) == sum(splits) / 2**trials


def test_sign_test_of_known_splits_and_of_thousands() -> None:
    assert sign_test(0, 0) == sign_test(25, 25) == 1
    assert sign_test(34, 16) == sign_test(16, 34) == pytest.approx(0.015346677832630107)  # scipy.stats.binomtest
    deviations = 1000 / math.sqrt(9000)
    assert sign_test(5000, 4000) == pytest.approx(math.erfc(deviations / math.sqrt(2)), rel=0.2)
