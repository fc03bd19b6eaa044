"""Medians, intervals and tests for a difference, against reference values computed with scipy 1.17."""

from __future__ import annotations

import pytest

from bench.spread import least_p, mann_whitney_p, median_interval, ratio_interval, summarize, two_sided_p

MANN_WHITNEY = [  # scipy.stats.mannwhitneyu(first, second).pvalue
    ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 0.007936507936507936),
    ([12.1, 11.8, 12.4, 12.0, 11.9], [12.2, 12.6, 12.5, 12.3, 11.7], 0.30952380952380953),
    ([5.1, 5.3, 4.9], [5.2, 5.8, 6.0, 6.1], 0.11428571428571428),
    ([1, 2, 2, 3, 5], [2, 3, 4, 4, 6, 7], 0.13862587987892763),
    (list(range(0, 60, 2)), list(range(11, 80, 3)), 0.011674657102774051),
    ([1.0] * 4, [1.0] * 5, 1.0),
]


@pytest.mark.parametrize(("first", "second", "expected"), MANN_WHITNEY)
def test_p_of_the_mann_whitney_test_is_scipys(first: list[float], second: list[float], expected: float) -> None:
    assert mann_whitney_p(first, second) == pytest.approx(expected, rel=1e-9)
    assert mann_whitney_p(second, first) == pytest.approx(expected, rel=1e-9)


def test_nothing_differs_from_no_samples() -> None:
    assert mann_whitney_p([], [1.0, 2.0]) == 1.0


def test_few_samples_cannot_show_a_difference() -> None:
    assert least_p(3, 3) == pytest.approx(0.1)
    assert least_p(4, 4) == pytest.approx(mann_whitney_p([1, 2, 3, 4], [5, 6, 7, 8]))
    assert least_p(5, 5) == pytest.approx(0.007936507936507936)


def test_summary_has_median_quartiles_and_an_interval_around_the_median() -> None:
    summary = summarize([98.1, 101.2, 99.7, 100.4, 102.9, 97.5, 100.8, 99.9])
    assert (summary.count, summary.median) == (8, pytest.approx(100.15))
    assert summary.quartiles == pytest.approx((99.3, 100.9))
    assert summary.interval == pytest.approx((98.1, 101.2), abs=0.5)  # scipy.stats.bootstrap, method="percentile"


def test_an_interval_of_one_sample_is_that_sample() -> None:
    assert median_interval([4.0]) == (4.0, 4.0)


def test_the_same_samples_give_the_same_interval() -> None:
    samples = [3.0, 1.0, 4.0, 1.5, 9.0]
    assert median_interval(samples) == median_interval(samples)


def test_interval_of_a_ratio_leaves_one_out_when_sides_differ() -> None:
    low, high = ratio_interval([110.0, 111.0, 109.0, 110.5, 112.0], [100.0, 101.0, 99.0, 100.5, 98.0])
    assert 1.05 < low < 1.1 < high < 1.15


def test_p_of_a_normal_difference() -> None:
    assert two_sided_p(1.959963985, 1.0) == pytest.approx(0.05, abs=1e-9)
    assert two_sided_p(0.0, 0.0) == 1.0
    assert two_sided_p(0.1, 0.0) == 0.0
