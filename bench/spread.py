"""Samples as a median with its spread, and whether two sets of samples differ: what every reported figure rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, median

import numpy as np
import numpy.typing as npt

from bench.engine_turns import quartiles

_RESAMPLES = 2000
_SEED = 20240607  # the same samples always give the same interval
_MOST_EXACT_PAIRS = 400  # of so many pairs and fewer, ranks are counted out instead of approximated


@dataclass(frozen=True)
class Summary:
    """The middle of some samples. The interval is where the median would be 95 times in 100."""

    count: int
    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]


def summarize(samples: Sequence[float]) -> Summary:
    """Of at least one sample."""
    return Summary(len(samples), median(samples), quartiles(samples), median_interval(samples))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the median; of one sample, the sample itself."""
    return _percentiles(_resampled_medians(samples, _SEED), confidence)


def ratio_interval(new: Sequence[float], old: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the ratio of two medians."""
    return _percentiles(_resampled_medians(new, _SEED) / _resampled_medians(old, _SEED + 1), confidence)


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely samples that differ as much are when nothing differs: the two-sided Mann-Whitney U test.

    Counted out exactly for few samples without ties, and else by the normal approximation with corrections for ties and
    continuity, as scipy.stats.mannwhitneyu does.
    """
    if not first or not second:
        return 1.0
    pairs = len(first) * len(second)
    wins = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    larger = max(wins, pairs - wins)
    values = [*first, *second]
    has_ties = len(set(values)) < len(values)
    if not has_ties and pairs <= _MOST_EXACT_PAIRS:
        counts = _arrangements(len(first), len(second))
        return min(1.0, 2 * sum(counts[int(larger) :]) / sum(counts))
    total = len(values)
    tied = sum(count**3 - count for count in (values.count(value) for value in set(values)))
    variance = pairs / 12 * (total + 1 - tied / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    score = (larger - pairs / 2 - 0.5) / math.sqrt(variance)
    return min(1.0, 2 * (1 - NormalDist().cdf(score)))


def least_p(first: int, second: int) -> float:
    """What the test gives at best for so many samples: below 4 and 4, it cannot fall under 0.05."""
    return 2 / math.comb(first + second, first)


def two_sided_p(difference: float, standard_error: float) -> float:
    """How likely a normally distributed difference is as far from 0."""
    if standard_error <= 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * (1 - NormalDist().cdf(abs(difference) / standard_error))


@cache
def _arrangements(first: int, second: int) -> tuple[int, ...]:
    """For each value of U, in how many orders of so many samples it comes out."""
    if not first or not second:
        return (1,)
    counts = [0] * (first * second + 1)
    for wins, count in enumerate(_arrangements(first - 1, second)):  # the largest is of the first: it wins all
        counts[wins + second] += count
    for wins, count in enumerate(_arrangements(first, second - 1)):
        counts[wins] += count
    return tuple(counts)


def _resampled_medians(samples: Sequence[float], seed: int) -> npt.NDArray[np.float64]:
    chosen = np.random.default_rng(seed).integers(0, len(samples), (_RESAMPLES, len(samples)))
    return np.asarray(np.median(np.asarray(samples, np.float64)[chosen], axis=1))


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)
