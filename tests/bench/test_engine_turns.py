"""How the engine bench measures in turn, and what it makes of the samples."""

from __future__ import annotations

import pytest

from bench.engine_turns import Samples, Speed, Stopwatch, compare, measure_in_turn, percentile, quartiles


def test_sides_take_turns_in_going_first_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str, number: int) -> str:
        calls.append(f"{name}{number}")
        return calls[-1]

    measured = measure_in_turn(lambda number: side("a", number), lambda number: side("b", number), 3)
    assert calls == ["b0", "a0", "a1", "b1", "b2", "a2", "a3", "b3"]
    assert measured == (["a1", "a2", "a3"], ["b1", "b2", "b3"])


def test_ratio_is_taken_round_by_round() -> None:
    """A slow round slows both sides: the ratio of the medians would be 0.5."""
    samples = Samples([10, 2, 5, 9], [10, 2, 10, 10])
    assert samples.ratios == (1, 1, 0.5, 0.9)
    assert samples.ratio == pytest.approx(0.95)
    assert samples.medians == (7, 10)
    assert samples.document == {"ours": [10, 2, 5, 9], "anchor": [10, 2, 10, 10]}


def test_figures_of_two_sides_are_compared() -> None:
    assert compare(lambda number: 2.0 * number, lambda number: 1.0 * number, 2).ratio == 2


def test_quartiles_of_a_single_value_are_the_value() -> None:
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


def test_percentile_is_the_nearest_rank() -> None:
    values = list(map(float, range(1, 101)))
    assert percentile(values, 0.95) == 95
    assert percentile([5.0, 1.0], 0.95) == 5
    assert percentile([5.0, 1.0], 0.5) == 1


def test_stopwatch_adds_up_its_blocks() -> None:
    watch = Stopwatch()
    seconds = []
    for _ in range(2):
        with watch:
            sum(range(1000))
        seconds.append(watch.seconds)
    assert 0 < seconds[0] < seconds[1]
    watch.seconds, watch.cpu_seconds = 4.0, 2.0
    assert watch.speed(8) == Speed(2.0, 4.0)
