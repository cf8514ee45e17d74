"""How sure a mean and a comparison are: bootstrap intervals over photographs, and the exact sign test."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 10_000
DRAWS_AT_ONCE = 4_000_000  # numbers; bounds the memory of a large bootstrap to about 32 MB

Interval = tuple[float, float]


def bootstrap_intervals(
    values: npt.ArrayLike, photographs: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES
) -> list[Interval | None]:
    """Percentile bootstrap intervals (Efron 1979) of column means, at a level of 95 %.

    Photographs are drawn with replacement, each with all of its rows: rows of one photograph (several masks) are not
    independent. All columns see the same draws.

    Args:
        values: (rows, columns), float. A column that holds NaN or infinity gets None.
        photographs: for each row, which photograph it was measured on. Fewer than two different ones give None.
        seed: of the draws; the same seed gives the same intervals.
        resamples: how many times the photographs are drawn.

    Returns:
        (low, high) per column, in the columns' units.
    """
    table = np.asarray(values, dtype=np.float64)
    names = list(dict.fromkeys(photographs))
    finite = np.asarray(np.isfinite(table).all(axis=0))
    if len(names) < 2:
        return [None] * table.shape[1]
    index = {name: position for position, name in enumerate(names)}
    group = np.array([index[name] for name in photographs])
    totals = np.zeros((len(names), int(finite.sum())))
    np.add.at(totals, group, table[:, finite])
    rows = np.bincount(group).astype(np.float64)

    generator = np.random.default_rng(seed)
    chance = np.full(len(names), 1 / len(names))
    step = max(1, DRAWS_AT_ONCE // len(names))
    means = []
    for start in range(0, resamples, step):
        times_drawn = generator.multinomial(len(names), chance, size=min(step, resamples - start)).astype(np.float64)
        means.append(times_drawn @ totals / (times_drawn @ rows)[:, None])
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    bounds = iter(zip(low.tolist(), high.tolist(), strict=True))
    return [next(bounds) if is_finite else None for is_finite in finite]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact sign test: the chance of a split at least this uneven if either outcome were equally likely.

    Ties are left out beforehand. No trial at all gives 1.
    """
    trials = wins + losses
    ways, tail = 1, 1  # to choose `count` of the trials, and their sum so far
    for count in range(min(wins, losses)):
        ways = ways * (trials - count) // (count + 1)
        tail += ways
    return float(min(Fraction(1), Fraction(2 * tail, 2**trials)))
