"""Whether to draft, simulated on machines and texts that are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import takewhile

import pytest

from edge.prompt_lookup import PromptLookup
from edge.speculation import Drafter, Speculation
from edge.step_times import StepTimes

Machine = Callable[[int], float]
VOCABULARY = 5000


class Clock:
    """Time that passes only where the simulation says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Oracle:
    """A draft model: it knows the text, is wrong at random, and takes time for each token."""

    def __init__(self, text: Sequence[int], position: int, clock: Clock, *, right: float, token_seconds: float) -> None:
        self._text = text
        self._position = position
        self._clock = clock
        self._chance = right
        self._token_seconds = token_seconds
        self._generator = random.Random(4)
        self.chances: list[float] = []
        self.asked = 0
        self.is_behind = False

    def extend(self, tokens: Sequence[int]) -> None:
        self._position += len(tokens)

    def draft(self, limit: int) -> list[int]:
        following = self._text[self._position : self._position + limit]
        draft = [token if self._generator.random() < self._chance else -1 for token in following]
        self.chances = [0.9] * len(draft)  # it thinks well of itself
        self._clock.seconds += len(draft) * self._token_seconds
        self.asked += 1
        return draft


def memory_bound(tokens: int) -> float:
    return 0.010 + 0.001 * tokens


def compute_bound(tokens: int) -> float:
    return 0.001 + 0.010 * tokens


def graphics_card(tokens: int) -> float:
    return 0.020 + 0.0001 * tokens


def generate(
    text: Sequence[int],
    prompt_tokens: int,
    machine: Machine,
    drafter: Drafter,
    *,
    clock: Clock | None = None,
    other_tokens: int = 0,
    times: StepTimes | None = None,
    measured: Machine | None = None,
) -> tuple[float, int]:
    """The seconds that the text behind the prompt takes with drafts, and the tokens that were drafted.

    `measured` is what the machine is thought to take, where that is not exact.
    """
    measured = measured or machine
    clock, times = clock or Clock(), times or StepTimes()
    base_tokens = 1 + other_tokens
    times.record(base_tokens, measured(base_tokens))
    speculation = Speculation(drafter, times, clock=clock)
    position, drafted = prompt_tokens, 0
    while position < len(text):
        draft = speculation.draft(64, base_tokens)
        right = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(draft, text[position:], strict=False))))
        times.record(base_tokens + len(draft), measured(base_tokens + len(draft)))
        clock.seconds += machine(base_tokens + len(draft))
        drafted += len(draft)
        speculation.learn(len(draft), right)
        speculation.extend(text[position : position + right + 1])
        position += right + 1
    return clock.seconds, drafted


def random_text(tokens: int, seed: int, vocabulary: int = VOCABULARY) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(vocabulary) for _ in range(tokens)]


def text_with_copies(seed: int, *, copied: int, fresh: int) -> tuple[list[int], int, list[int]]:
    """A prompt, an answer that copies stretches of it with new text in between, and the lengths of the copies."""
    generator = random.Random(seed)
    prompt = random_text(1000, seed)
    text, copies = list(prompt), []
    for _ in range(20):
        text += random_text(generator.randint(1, 2 * fresh), generator.randrange(10**9))
        length = generator.randint(copied // 2, 3 * copied // 2)
        start = generator.randrange(len(prompt) - length)
        text += prompt[start : start + length]
        copies.append(length)
    return text, len(prompt), copies


def best_seconds(text: Sequence[int], prompt_tokens: int, copies: Sequence[int], machine: Machine) -> float:
    """Each token computed once, in the fewest steps: the first two of a copy, by which it shows, one by one."""
    answer_tokens = len(text) - prompt_tokens
    drafting_steps = sum(-(-(length - 1) // 33) for length in copies)  # with the token that follows the copy
    steps = answer_tokens - sum(length - 1 for length in copies) + drafting_steps
    return steps * machine(0) + answer_tokens * (machine(1) - machine(0))


@pytest.mark.parametrize("machine", [memory_bound, graphics_card])
@pytest.mark.parametrize(("copied", "fresh"), [(40, 5), (100, 20), (300, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_copies_are_nearly_as_fast_as_they_can_be(machine: Machine, copied: int, fresh: int, seed: int) -> None:
    text, prompt_tokens, copies = text_with_copies(seed, copied=copied, fresh=fresh)
    seconds, _ = generate(text, prompt_tokens, machine, PromptLookup(text[:prompt_tokens]))
    plain = (len(text) - prompt_tokens) * machine(1)
    best = plain / best_seconds(text, prompt_tokens, copies, machine)
    assert plain / seconds >= 0.8 * best


@pytest.mark.parametrize("machine", [memory_bound, compute_bound, graphics_card])
@pytest.mark.parametrize("vocabulary", [2, 10, 100, VOCABULARY])
@pytest.mark.parametrize("seed", range(3))
def test_random_text_loses_next_to_nothing(machine: Machine, vocabulary: int, seed: int) -> None:
    text = random_text(3000, seed, vocabulary)
    seconds, _ = generate(text, 1000, machine, PromptLookup(text[:1000]))
    assert seconds <= 1.02 * 2000 * machine(1)


def noisy(machine: Machine, seed: int) -> Machine:
    """Some jitter, and one step in twenty that is interrupted."""
    generator = random.Random(seed)

    def seconds(tokens: int) -> float:
        interrupted = generator.choice([2, 5, 20]) if generator.random() < 0.05 else 1
        return machine(tokens) * (1 + abs(generator.gauss(0, 0.08))) * interrupted

    return seconds


@pytest.mark.parametrize("machine", [memory_bound, graphics_card])
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_interrupted_steps_do_not_stop_drafts_that_pay(machine: Machine, seed: int) -> None:
    text, prompt_tokens, copies = text_with_copies(seed, copied=100, fresh=20)
    drafter = PromptLookup(text[:prompt_tokens])
    seconds, _ = generate(text, prompt_tokens, machine, drafter, measured=noisy(machine, seed))
    assert best_seconds(text, prompt_tokens, copies, machine) / seconds >= 0.8


@pytest.mark.parametrize("vocabulary", [10, 100])
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_interrupted_steps_do_not_start_drafts_that_do_not_pay(vocabulary: int, seed: int) -> None:
    text = random_text(3000, seed, vocabulary)
    measured = noisy(compute_bound, seed)
    seconds, _ = generate(text, 1000, compute_bound, PromptLookup(text[:1000]), measured=measured)
    assert seconds <= 1.02 * 2000 * compute_bound(1)


def test_nothing_is_drafted_where_every_token_costs_a_step() -> None:
    text, prompt_tokens, _ = text_with_copies(1, copied=100, fresh=5)
    seconds, _ = generate(text, prompt_tokens, lambda tokens: 0.01 * tokens, PromptLookup(text[:prompt_tokens]))
    assert seconds <= 1.02 * 0.01 * (len(text) - prompt_tokens)


@pytest.mark.parametrize("right", [0.0, 0.3])
def test_draft_model_that_is_often_wrong_is_asked_less_and_less(right: float) -> None:
    text, clock = random_text(4000, 5), Clock()
    drafter = Oracle(text, 0, clock, right=right, token_seconds=0.005)
    seconds, _ = generate(text, 0, memory_bound, drafter, clock=clock)
    assert seconds <= 1.02 * 4000 * memory_bound(1)


@pytest.mark.parametrize("right", [0.8, 0.95, 1.0])
def test_draft_model_that_is_mostly_right_is_used(right: float) -> None:
    text, clock = random_text(4000, 6), Clock()
    drafter = Oracle(text, 0, clock, right=right, token_seconds=0.001)
    seconds, _ = generate(text, 0, memory_bound, drafter, clock=clock)

    def seconds_per_token(count: int) -> float:
        tokens = sum(right**ahead for ahead in range(count + 1))
        return (memory_bound(1 + count) + 0.001 * count) / tokens

    best = min(seconds_per_token(count) for count in range(33))
    assert 4000 * best / seconds >= 0.8


def test_draft_model_is_tried_again_once_it_has_become_right() -> None:
    text, clock = random_text(6000, 7), Clock()
    drafter = Oracle(text, 0, clock, right=0.0, token_seconds=0.002)
    times = StepTimes()
    generate(text[:1000], 0, memory_bound, drafter, clock=clock, times=times)
    drafter._chance = 1.0
    before = clock.seconds
    generate(text, 1000, memory_bound, drafter, clock=clock, times=times)
    assert clock.seconds - before <= 0.5 * 5000 * memory_bound(1)


def test_draft_model_that_takes_in_a_long_prompt_is_not_given_up() -> None:
    text, clock = random_text(2000, 8), Clock()
    drafter = Oracle(text, 0, clock, right=1.0, token_seconds=0.001)
    times = StepTimes()
    times.record(1, memory_bound(1))
    speculation = Speculation(drafter, times, clock=clock)
    drafter.is_behind = True
    for position in range(100):
        assert speculation.draft(8, 1) == []
        speculation.extend(text[position : position + 1])
    drafter.is_behind = False
    assert speculation.draft(8, 1) == text[100 : 100 + len(drafter.chances)][:8]


def test_other_streams_make_drafts_shorter_where_tokens_are_not_free() -> None:
    text, prompt_tokens, _ = text_with_copies(2, copied=100, fresh=20)

    def curved(tokens: int) -> float:
        return 0.01 if tokens <= 16 else 0.01 * tokens / 16

    _, alone = generate(text, prompt_tokens, curved, PromptLookup(text[:prompt_tokens]))
    _, beside_many = generate(text, prompt_tokens, curved, PromptLookup(text[:prompt_tokens]), other_tokens=15)
    assert beside_many < 0.2 * alone


def test_nothing_is_drafted_before_the_first_step_or_without_room() -> None:
    times = StepTimes()
    speculation = Speculation(PromptLookup([1, 2, 3] * 20), times)
    assert speculation.draft(8, 1) == []
    times.record(1, 0.01)
    assert speculation.draft(0, 1) == []
    assert 0 < len(speculation.draft(3, 1)) <= 3


def test_draft_that_was_not_computed_teaches_nothing() -> None:
    times = StepTimes()
    times.record(1, 0.01)
    speculation = Speculation(PromptLookup([1, 2, 3] * 20), times)
    before = speculation.draft(16, 1)
    for _ in range(100):
        speculation.learn(0, 0)
    assert speculation.draft(16, 1) == before


def test_drafts_keep_to_steps_that_are_computed_exactly() -> None:
    times = StepTimes()
    times.record(1, 0.01)
    speculation = Speculation(PromptLookup([1, 2, 3] * 20), times, exact_tokens=3)
    assert len(speculation.draft(16, 1)) == 2
    assert len(speculation.draft(16, 2)) == 1
    assert speculation.draft(16, 3) == []
    assert len(speculation.draft(16, 4)) > 2  # such a step is not exact in any case


def test_steps_passed_by_count_towards_the_pause() -> None:
    step_times, clock = StepTimes(), Clock()
    step_times.record(1, 0.010)
    oracle = Oracle(range(VOCABULARY), 0, clock, right=0.0, token_seconds=0.005)
    speculation = Speculation(oracle, step_times, clock=clock)
    asked = -1
    while oracle.asked > asked:  # until it is left alone: for eight steps at first, of which one is over then
        asked = oracle.asked
        speculation.learn(len(speculation.draft(4, 1)), 0)
    assert [speculation.pass_by(3), speculation.pass_by(3), speculation.pass_by(3)] == [3, 3, 1]
    speculation.draft(4, 1)
    assert oracle.asked == asked + 1


def test_no_step_is_passed_by_where_drafts_pay() -> None:
    step_times, clock = StepTimes(), Clock()
    for tokens in (1, 2, 3, 4, 5):
        step_times.record(tokens, 0.010)
    speculation = Speculation(
        Oracle(range(VOCABULARY), 0, clock, right=1.0, token_seconds=0.0), step_times, clock=clock
    )
    assert speculation.pass_by(5) == 5  # nothing has paid yet
    drafted = len(speculation.draft(4, 1))
    assert drafted == 4
    speculation.learn(drafted, drafted)
    assert speculation.pass_by(5) == 0
