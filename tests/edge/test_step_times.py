"""Step times, held to machines whose curves are known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.step_times import StepTimes

LIMIT = 512
Machine = Callable[[int], float]


def memory_bound(tokens: int) -> float:
    """A small model on a processor: a fixed cost, and one for each token."""
    return 0.010 + 0.001 * tokens


def compute_bound(tokens: int) -> float:
    return 0.001 + 0.004 * tokens


def graphics_card(tokens: int) -> float:
    """Free up to a number of tokens, then linear."""
    return 0.020 * max(1.0, tokens / 64)


def jumping(tokens: int) -> float:
    """Another kernel from 9 tokens on."""
    return 0.010 + 0.0005 * tokens + (0.008 if tokens > 8 else 0)


MACHINES = [memory_bound, compute_bound, graphics_card, jumping]


def possible_tokens(machine: Machine, base_tokens: int, factor: float) -> int:
    """The best answer: the largest number of tokens that the machine computes in time."""
    return max(
        (count for count in range(1, LIMIT + 1) if machine(base_tokens + count) <= factor * machine(base_tokens)),
        default=1,
    )


def noisy(machine: Machine, generator: random.Random) -> Machine:
    """Some jitter, and one step in twenty that is interrupted."""

    def seconds(tokens: int) -> float:
        interrupted = generator.choice([2, 5, 20]) if generator.random() < 0.05 else 1
        return machine(tokens) * (1 + abs(generator.gauss(0, 0.08))) * interrupted

    return seconds


def serve(times: StepTimes, machine: Machine, *, base_tokens: int, factor: float, prompts: int) -> list[int]:
    """Prompts of 40 chunks with 60 plain steps before each; gives the size of every chunk."""
    chunks = []
    for _ in range(prompts):
        for _ in range(60):
            times.record(base_tokens, machine(base_tokens))
        for _ in range(40):
            chunks.append(times.largest_within(base_tokens, factor, LIMIT))
            times.record(base_tokens + chunks[-1], machine(base_tokens + chunks[-1]))
    return chunks


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("base_tokens", [1, 4, 8])
@pytest.mark.parametrize("factor", [1.5, 2.5])
def test_chunks_come_to_fill_the_time_they_may_take(machine: Machine, base_tokens: int, factor: float) -> None:
    times = StepTimes()
    chunks = serve(times, machine, base_tokens=base_tokens, factor=factor, prompts=5)[20:]
    ratios = [machine(base_tokens + chunk) / machine(base_tokens) for chunk in chunks]
    possible = possible_tokens(machine, base_tokens, factor)
    smallest_ratio = machine(base_tokens + 1) / machine(base_tokens)  # even one token may be too much
    assert mean(ratios) <= max(factor, smallest_ratio) * 1.15
    assert mean(chunks) >= 0.7 * possible


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_interrupted_steps_do_not_mislead(machine: Machine, seed: int) -> None:
    times, factor, base_tokens = StepTimes(), 2.5, 4
    chunks = serve(times, noisy(machine, random.Random(seed)), base_tokens=base_tokens, factor=factor, prompts=10)[40:]
    ratios = [machine(base_tokens + chunk) / machine(base_tokens) for chunk in chunks]
    assert mean(ratios) <= factor * 1.15
    assert mean(chunks) >= 0.7 * possible_tokens(machine, base_tokens, factor)


def test_first_prompt_gets_large_chunks_within_a_few_steps() -> None:
    chunks = serve(StepTimes(), graphics_card, base_tokens=1, factor=2.5, prompts=1)
    assert chunks[0] == 16
    assert chunks[6] >= 0.7 * possible_tokens(graphics_card, 1, 2.5)


def test_first_chunks_are_never_much_too_large() -> None:
    for machine in (memory_bound, graphics_card):
        chunks = serve(StepTimes(), machine, base_tokens=2, factor=2.5, prompts=1)
        assert max(machine(2 + chunk) / machine(2) for chunk in chunks) <= 2.5 * 1.25


@pytest.mark.parametrize("speed", [0.5, 3.0])
def test_throttling_is_followed(speed: float) -> None:
    times = StepTimes()
    serve(times, memory_bound, base_tokens=2, factor=2.5, prompts=2)

    def throttled(tokens: int) -> float:
        return speed * memory_bound(tokens)

    chunks = serve(times, throttled, base_tokens=2, factor=2.5, prompts=3)[40:]
    assert mean(throttled(2 + chunk) / throttled(2) for chunk in chunks) <= 2.5 * 1.15
    assert mean(chunks) >= 0.7 * possible_tokens(throttled, 2, 2.5)


def test_growing_contexts_are_followed() -> None:
    times = StepTimes()
    context = 0

    def growing(tokens: int) -> float:
        return 0.01 + 0.001 * tokens * (1 + context / 1000)

    ratios = []
    for _ in range(2000):
        context += 1
        chunk = times.largest_within(1, 2.0, LIMIT)
        ratios.append(growing(1 + chunk) / growing(1))
        times.record(1 + chunk, growing(1 + chunk))
        times.record(1, growing(1))
    assert mean(ratios[100:]) <= 2.0 * 1.15
    assert mean(ratios[100:]) >= 2.0 * 0.85


def test_outlier_as_the_first_measurement_is_measured_again() -> None:
    times = StepTimes()
    for _ in range(10):
        times.record(1, memory_bound(1))
    times.record(17, 50 * memory_bound(17))
    chunks = serve(times, memory_bound, base_tokens=1, factor=2.5, prompts=2)
    assert mean(chunks[40:]) >= 0.7 * possible_tokens(memory_bound, 1, 2.5)


def test_one_interrupted_step_among_many_changes_no_prediction() -> None:
    times = StepTimes()
    for _ in range(10):
        times.record(1, 0.01)
        times.record(64, 0.05)
    before = times.predict(32)
    times.record(1, 3.0)
    times.record(64, 3.0)
    assert times.predict(32) == pytest.approx(before)


def test_nothing_is_predicted_before_the_first_step() -> None:
    times = StepTimes()
    assert times.predict(1) is None
    assert times.largest_tokens == 0
    assert times.largest_within(1, 2.0, 512) == 16
    assert times.largest_within(1, 2.0, 5) == 5


def test_step_without_others_may_be_as_large_as_is_wished() -> None:
    assert StepTimes().largest_within(0, 2.0, 512) == 512
    assert StepTimes().largest_within(4, 2.0, 0) == 0


def test_something_is_always_added_so_that_nobody_waits_for_ever() -> None:
    times = StepTimes()
    for tokens in (1, 2, 4, 8):
        times.record(tokens, 0.1 * tokens)
    assert times.largest_within(4, 1.0, 512) == 1


def test_time_beyond_the_largest_step_grows_with_the_tokens() -> None:
    times = StepTimes()
    times.record(1, 0.01)
    times.record(16, 0.04)
    assert times.predict(32) == pytest.approx(0.08)
    assert times.largest_tokens == 16


def test_time_between_two_steps_lies_on_a_line() -> None:
    times = StepTimes()
    times.record(4, 0.01)
    times.record(16, 0.04)
    assert times.predict(8) == pytest.approx(0.02)
    assert times.predict(1) == pytest.approx(0.01)


def test_steps_without_a_duration_are_left_out() -> None:
    times = StepTimes()
    times.record(0, 1.0)
    times.record(1, 0.0)
    times.record(1, float("nan"))
    assert times.predict(1) is None


@given(
    steps=st.lists(st.tuples(st.integers(1, 3000), st.floats(1e-6, 10)), min_size=1, max_size=60),
    base_tokens=st.integers(0, 300),
    factor=st.floats(1, 10),
    limit=st.integers(0, 600),
)
def test_predictions_never_fall_and_answers_stay_in_their_limits(
    steps: list[tuple[int, float]], base_tokens: int, factor: float, limit: int
) -> None:
    times = StepTimes()
    for tokens, seconds in steps:
        times.record(tokens, seconds)
    predicted = [times.predict(tokens) or 0.0 for tokens in range(1, 4000, 13)]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(predicted))
    assert min(predicted) > 0
    assert min(limit, 1) <= times.largest_within(base_tokens, factor, limit) <= limit


def test_chunk_sizes_settle() -> None:
    chunks = serve(StepTimes(), memory_bound, base_tokens=4, factor=2.5, prompts=4)[80:]
    assert median(chunks) >= 0.9 * possible_tokens(memory_bound, 4, 2.5)
