"""The engine's loop over a context that is none: who is fed what, and when."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.compute_thread import ComputeThread
from edge.constraint import Constraint
from edge.errors import EdgeError, EngineBusyError
from edge.llama.context import CacheFullError
from edge.loop import Loop
from edge.request import AdapterChoice, Request
from edge.settings import ModelSettings, SamplingSettings
from edge.slot import AdapterSet
from edge.step_times import StepTimes
from edge.stream import Stream
from tests.edge.fake_context import (
    END,
    VOCABULARY_SIZE,
    FakeCompiler,
    FakeContext,
    FakeDrafting,
    FakeMatcher,
    FakeModel,
    completion_of,
)

GREEDY = SamplingSettings(temperature=0)
FOREVER = 30  # seconds after which a test gives up on a thread
CLOSED = EdgeError("The engine is closed.")


@contextmanager
def running(
    context: FakeContext,
    *,
    parallel: int = 1,
    sliding_window: int = 0,
    is_recurrent: bool = False,
    queue_limit: int = 100,
    use_adapters: Callable[[AdapterSet], None] = lambda adapters: None,
    is_guessing: bool = False,
) -> Iterator[Loop]:
    """A loop at work in its own thread."""
    thread = ComputeThread()
    loop = Loop(
        FakeModel(sliding_window=sliding_window, is_recurrent=is_recurrent),
        context,
        ModelSettings(parallel=parallel, queue_limit=queue_limit, checkpoint_bytes=1 << 20),
        request_tokens=context.context_tokens,
        use_adapters=use_adapters,
        drafting_for=lambda job, slot, step_times: FakeDrafting(job.prompt) if is_guessing else None,
        thread=thread,
    )
    try:
        yield loop
    finally:
        loop.stop()
        thread.close()


def request(prompt: Sequence[int], max_tokens: int | None = 8) -> Request:
    return Request(tuple(prompt), sampling=GREEDY, max_tokens=max_tokens)


@contextmanager
def holding(context: FakeContext) -> Iterator[None]:
    """No step is made inside the block, so that all that is submitted there is there at the first one."""
    context.is_free.clear()
    yield
    context.is_free.set()


def prompt(length: int, *, seed: int = 0) -> list[int]:
    """Tokens that do not repeat within fifty, and begin differently for each seed."""
    return [1 + (seed * 7 + index * 3) % (VOCABULARY_SIZE - 1) for index in range(length)]


prompts = st.lists(st.integers(1, 3), min_size=1, max_size=40)  # few tokens, so that prompts begin alike


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=8),
    parallel=st.integers(1, 4),
    context_tokens=st.integers(60, 200),
    batch_tokens=st.integers(4, 64),
    can_cut=st.booleans(),
    sliding_window=st.sampled_from([0, 5]),
    is_guessing=st.booleans(),
    worth_keeping_tokens=st.sampled_from([1, 4, 32]),
    can_decode_several=st.booleans(),
)
def test_requests_get_the_same_tokens_together_as_alone(
    jobs: list[tuple[list[int], int]],
    parallel: int,
    context_tokens: int,
    batch_tokens: int,
    can_cut: bool,
    sliding_window: int,
    is_guessing: bool,
    worth_keeping_tokens: int,
    can_decode_several: bool,
) -> None:
    context = FakeContext(
        context_tokens=context_tokens, batch_tokens=batch_tokens, can_cut=can_cut, sliding_window=sliding_window
    )
    context.can_decode_several = can_decode_several
    with running(
        context,
        parallel=parallel,
        sliding_window=sliding_window,
        is_recurrent=not can_cut,
        is_guessing=is_guessing,
    ) as loop:
        loop.prefixes._worth_keeping_tokens = worth_keeping_tokens
        streams = [loop.submit(request(tokens, max_tokens)) for tokens, max_tokens in jobs]
        found = [list(stream.result().tokens) for stream in streams]
    assert found == [completion_of(tokens, max_tokens) for tokens, max_tokens in jobs]


def test_full_cache_in_the_midst_of_several_steps_is_told_by_a_single_one() -> None:
    context = FakeContext(context_tokens=60)
    fail_at(context, 9, CacheFullError("The KV cache is full."))
    with running(context) as loop, pytest.raises(EdgeError, match=r"^The KV cache is full\.$"):
        loop.submit(request(endless_prompt(), 30)).result()
    assert len(context.batches) == 9


def test_prompt_is_fed_in_chunks_that_fill_the_batch() -> None:
    context = FakeContext(batch_tokens=10)
    with running(context) as loop:
        loop.submit(request(prompt(25), 1)).result()
    assert [len(batch[0]) for batch in context.batches] == [10, 10, 5]


class KnownStepTimes(StepTimes):
    """Knows how much may be added to a step, and has been told of each."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.recorded: list[int] = []

    def record(self, tokens: int, seconds: float) -> None:
        self.recorded.append(tokens)

    def largest_within(self, base_tokens: int, factor: float, limit: int) -> int:
        return min(self.room, limit)


def test_long_prompt_does_not_hold_up_an_answer_that_is_being_written() -> None:
    context = FakeContext(batch_tokens=20)
    with running(context, parallel=2) as loop:
        loop._step_times = loop._filling._step_times = times = KnownStepTimes(room=9)
        first = loop.submit(request(prompt(5), 12))
        streams: list[Stream] = []

        def submit_second(step: int) -> None:
            if step == 3:
                streams.append(loop.submit(request(prompt(40, seed=1), 1)))

        context.before_step = submit_second
        first.result()
        streams[0].result()
    together = [batch for batch in context.batches if len(batch) == 2]
    assert [sorted(map(len, batch.values())) for batch in together[:4]] == [[1, 9]] * 4
    fed = [sum(map(len, batch.values())) for batch in context.batches]
    assert [count for count, _ in groupby(times.recorded)] == [count for count, _ in groupby(fed)]


def test_next_prompt_that_begins_with_the_last_one_and_its_answer_is_computed_from_there() -> None:
    context = FakeContext()
    with running(context) as loop:
        first = loop.submit(request(prompt(20), 4)).result()
        again = [*prompt(20), *first.tokens, 9, 9]
        second = loop.submit(request(again, 4)).result()
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == 20 + 4 - 1  # the last token of an answer is chosen and not computed
    assert list(second.tokens) == completion_of(again, 4)


def test_same_prompt_again_computes_only_its_last_token() -> None:
    context = FakeContext()
    with running(context) as loop:
        results = [loop.submit(request(prompt(20), 4)).result() for _ in range(2)]
    assert results[1].usage.cached_tokens == 19
    assert results[0].tokens == results[1].tokens


def test_sequence_that_shares_most_with_a_prompt_is_continued() -> None:
    context = FakeContext()
    prompts_known = [prompt(20, seed=seed) for seed in range(3)]
    with running(context, parallel=3) as loop:
        for stream in [loop.submit(request(known, 2)) for known in prompts_known]:
            stream.result()
        cached = [loop.submit(request([*known, 5, 5], 2)).result().usage.cached_tokens for known in prompts_known]
    assert cached == [20, 20, 20]


def test_prompt_that_shares_nothing_takes_the_sequence_that_was_unused_longest() -> None:
    context = FakeContext()
    with running(context, parallel=2) as loop:
        for seed in (0, 1, 2):
            loop.submit(request(prompt(20, seed=seed), 2)).result()
        cached = [loop.submit(request(prompt(20, seed=seed), 2)).result().usage.cached_tokens for seed in (1, 2)]
    assert cached == [19, 19]


def test_idle_sequences_give_way_when_their_room_is_needed() -> None:
    context = FakeContext(context_tokens=64)
    with running(context, parallel=2) as loop:
        loop.submit(request(prompt(20), 4)).result()
        long = loop.submit(request(prompt(55, seed=1), 8)).result()
    assert list(long.tokens) == completion_of(prompt(55, seed=1), 8)
    assert context.held[0] == []


def test_request_waits_until_the_context_has_room_for_all_it_may_write() -> None:
    context = FakeContext(context_tokens=64)
    with running(context, parallel=2) as loop:
        streams = [loop.submit(request(prompt(20, seed=seed), 20)) for seed in (0, 1)]
        found = [list(stream.result().tokens) for stream in streams]
    assert found == [completion_of(prompt(20, seed=seed), 20) for seed in (0, 1)]
    assert all(len(batch) == 1 for batch in context.batches)


@pytest.mark.parametrize(("shared", "cached"), [(20, 0), (30, 0), (38, 38)])
def test_prefix_is_reused_only_while_its_window_is_held(shared: int, cached: int) -> None:
    context = FakeContext(sliding_window=8)
    with running(context, sliding_window=8) as loop:
        loop.submit(request(prompt(40), 2)).result()  # positions before the 28th are lost
        branch = [*prompt(shared), 9, 9, 9]
        branched = loop.submit(request(branch, 2)).result()
    assert branched.usage.cached_tokens == cached
    assert list(branched.tokens) == completion_of(branch, 2)


def test_memory_that_cannot_be_cut_is_emptied() -> None:
    context = FakeContext(can_cut=False)
    with running(context) as loop:
        loop.submit(request(prompt(20), 2)).result()
        branched = loop.submit(request([*prompt(10), 9], 2)).result()
    assert branched.usage.cached_tokens == 0
    assert list(branched.tokens) == completion_of([*prompt(10), 9], 2)


def test_answer_ends_with_the_models_end_token_which_is_no_part_of_it() -> None:
    start = next(
        tokens for tokens in (prompt(4, seed=seed) for seed in range(60)) if len(completion_of(tokens, 40)) < 10
    )
    with running(FakeContext()) as loop:
        result = loop.submit(request(start, 40)).result()
    assert result.finish_reason == "stop"
    assert list(result.tokens) == completion_of(start, 40)
    assert END not in result.tokens
    assert result.usage.completion_tokens == len(result.tokens)


def endless_prompts() -> list[list[int]]:
    """Prompts whose answers have no end within a hundred tokens."""
    candidates = ([*prompt(9), first, second] for first in range(1, 20) for second in range(1, 20))
    return [tokens[1:] for tokens in candidates if len(completion_of(tokens[1:], 100)) == 100]


def endless_prompt() -> list[int]:
    return endless_prompts()[0]


def test_answer_of_unstated_length_ends_with_its_share_of_the_context() -> None:
    for parallel in (1, 2):
        with running(FakeContext(context_tokens=80), parallel=parallel) as loop:
            result = loop.submit(request(endless_prompt(), None)).result()
        assert result.finish_reason == "length"
        assert result.usage.completion_tokens == 80 // parallel - 10


def test_prompt_beyond_its_share_may_have_the_rest_of_the_context() -> None:
    start = prompt(60)
    with running(FakeContext(context_tokens=80), parallel=2) as loop:
        result = loop.submit(request(start, None)).result()
    assert list(result.tokens) == completion_of(start, 20)


def test_cancelled_request_ends_and_the_next_one_takes_its_place() -> None:
    context = FakeContext()
    context.before_step = lambda step: first.cancel() if step == 5 else None
    with running(context) as loop:
        with holding(context):
            first = loop.submit(request(endless_prompt(), 100))
            second = loop.submit(request(prompt(5, seed=1), 3))
        cancelled, following = first.result(), second.result()
    assert cancelled.finish_reason == "cancelled"
    assert list(cancelled.tokens) == completion_of(endless_prompt(), 6)
    assert list(following.tokens) == completion_of(prompt(5, seed=1), 3)


def test_request_cancelled_while_it_waits_is_never_fed() -> None:
    context = FakeContext()
    with running(context) as loop:
        with holding(context):
            first = loop.submit(request(prompt(5), 8))
            second = loop.submit(request(prompt(5, seed=1), 8))
            second.cancel()
        result = second.result()
        first.result()
    assert (result.finish_reason, result.tokens) == ("cancelled", ())
    assert all(prompt(5, seed=1) not in batch.values() for batch in context.batches)


def constrained(prompt: Sequence[int], text: str) -> Request:
    return Request(tuple(prompt), sampling=GREEDY, max_tokens=20, constraint=Constraint("grammar", text))


def test_forced_tokens_are_fed_in_one_step_with_the_chosen_one() -> None:
    context = FakeContext()
    with running(context) as loop:
        loop._compiler = FakeCompiler()
        result = loop.submit(constrained(prompt(10), "5 6 8 10 7 9 2 4 3")).result()
    assert (list(result.tokens), result.finish_reason) == ([5, 6, 8, 10, 7, 9, 2, 4, 3], "stop")
    assert [batch[0] for batch in context.batches] == [prompt(10), [5, 6, 8, 10], [7], [9, 2, 4]]


def test_forced_tokens_count_towards_the_limit() -> None:
    with running(FakeContext()) as loop:
        loop._compiler = FakeCompiler()
        limited = Request((1, 2), sampling=GREEDY, max_tokens=3, constraint=Constraint("grammar", "5 6 8 10 7"))
        result = loop.submit(limited).result()
    assert (list(result.tokens), result.finish_reason) == ([5, 6, 8], "length")


def test_constraint_that_fails_ends_only_its_own_request() -> None:
    context = FakeContext()
    with running(context, parallel=2) as loop:
        loop._compiler = FakeCompiler()
        with holding(context):
            with pytest.raises(EdgeError, match=r"The grammar cannot be enforced\.\nCorrect it\."):
                loop.submit(constrained(prompt(5), "no token"))
            failing = loop.submit(constrained(prompt(5), f"5 7 {FakeMatcher.FAILING} 9"))
            other = loop.submit(request(prompt(5, seed=1), 9))
        with pytest.raises(EdgeError, match="cannot be followed any further"):
            failing.result()
        assert list(other.result().tokens) == completion_of(prompt(5, seed=1), 9)
        assert list(loop.submit(request(prompt(5), 9)).result().tokens) == completion_of(prompt(5), 9)


def fail_at(context: FakeContext, step: int, error: Exception) -> None:
    def fail(current: int) -> None:
        if current == step:
            raise error

    context.before_step = fail


# Shared prefixes


def fed_tokens(context: FakeContext) -> int:
    return sum(len(tokens) for batch in context.batches for tokens in batch.values())


def test_two_conversations_with_the_same_beginning_do_not_drive_each_other_out() -> None:
    context = FakeContext()
    system = prompt(20)
    with running(context, parallel=2) as loop:
        first = loop.submit(request([*system, 9, 8, 7], 4)).result()
        second = loop.submit(request([*system, 4, 5, 6], 4)).result()
        third = loop.submit(request([*system, 9, 8, 7, *first.tokens, 1], 4)).result()
        fourth = loop.submit(request([*system, 4, 5, 6, *second.tokens, 1], 4)).result()
    cached = [result.usage.cached_tokens for result in (first, second, third, fourth)]
    assert cached == [0, 20, 23 + len(first.tokens) - 1, 23 + len(second.tokens) - 1]


def test_beginning_of_a_prompt_that_is_being_answered_is_shared_at_once() -> None:
    context = FakeContext()
    start = endless_prompt()
    with running(context, parallel=2) as loop:
        streams = [loop.submit(request(start, 60))]

        def submit_second(step: int) -> None:
            if step == 5:
                streams.append(loop.submit(request([*start, 9], 4)))

        context.before_step = submit_second
        results = [streams[0].result(), streams[1].result()]
    assert results[1].usage.cached_tokens == len(start)
    assert [list(result.tokens) for result in results] == [completion_of(start, 60), completion_of([*start, 9], 4)]


@pytest.mark.parametrize("sliding_window", [0, 8])
def test_prompt_asked_for_several_times_at_once_is_computed_once(sliding_window: int) -> None:
    context = FakeContext(batch_tokens=16, sliding_window=sliding_window)
    with running(context, parallel=3, sliding_window=sliding_window) as loop:
        with holding(context):
            streams = [loop.submit(request(prompt(50), 4)) for _ in range(3)]
        results = [stream.result() for stream in streams]
    assert [result.usage.cached_tokens for result in results] == [0, 49, 49]
    assert {result.tokens for result in results} == {tuple(completion_of(prompt(50), 4))}
    assert fed_tokens(context) == 50 + 2 + 3 * 3


def test_room_counts_shared_cells_once() -> None:
    context = FakeContext(context_tokens=64)
    with running(context, parallel=3) as loop:
        with holding(context):
            streams = [loop.submit(request(prompt(50), 4)) for _ in range(3)]
        for stream in streams:
            stream.result()
    assert max(len(batch) for batch in context.batches) == 3  # side by side, though 3 * 54 tokens would not fit


# Memory that forgets: windows and recurrent states


def test_turn_that_is_asked_again_begins_at_the_checkpoint_behind_its_prompt() -> None:
    context = FakeContext(sliding_window=8)
    start = [*endless_prompt(), *prompt(40)]
    with running(context, sliding_window=8) as loop:
        first = loop.submit(request(start, 30)).result()  # the window has long gone on
        again = loop.submit(request([*start, 9], 4)).result()
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, len(start))
    assert list(again.tokens) == completion_of([*start, 9], 4)


def test_third_prompt_begins_where_the_second_was_seen_to_part_from_the_first() -> None:
    context = FakeContext(sliding_window=8)
    system = prompt(40)
    prompts_known = [[*system, *prompt(20, seed=seed)] for seed in (1, 2, 3)]
    with running(context, parallel=3, sliding_window=8) as loop:
        results = [loop.submit(request(known, 4)).result() for known in prompts_known]
    assert [result.usage.cached_tokens for result in results] == [0, 0, 40]
    assert [list(result.tokens) for result in results] == [completion_of(known, 4) for known in prompts_known]


def test_recurrent_memory_goes_back_to_its_checkpoints_only() -> None:
    context = FakeContext(can_cut=False)
    start = prompt(40)
    with running(context, is_recurrent=True) as loop:
        first = loop.submit(request(start, 6)).result()
        again = loop.submit(request(start, 6)).result()
        following = loop.submit(request([*start, *again.tokens, 9], 4)).result()
    computed = len(again.tokens) - (again.finish_reason == "length")  # the last token of a cut answer is only chosen
    assert [result.usage.cached_tokens for result in (first, again, following)] == [0, 39, 40 + computed]
    assert list(again.tokens) == completion_of(start, 6)
    assert list(following.tokens) == completion_of([*start, *again.tokens, 9], 4)


def test_checkpoints_beyond_their_memory_are_dropped_the_longest_unused_first() -> None:
    context = FakeContext(sliding_window=8)
    starts = [[*prompt(40, seed=seed), *prompt(10)] for seed in range(3)]
    with running(context, parallel=3, sliding_window=8) as loop:
        for start in starts:
            loop.submit(request(start, 30)).result()
            size = max(len(each.state) for slot in loop.prefixes.slots for each in slot.checkpoints)
            loop.prefixes._checkpoint_bytes = 2 * size
        assert [len(slot.checkpoints) for slot in loop.prefixes.slots] == [0, 1, 1]


# Turns


def order_of(requests: Sequence[Request]) -> list[int]:
    """In which order requests that are there at once are answered by a single sequence."""
    context = FakeContext()
    with running(context) as loop:
        with holding(context):
            blocking = loop.submit(request(prompt(3, seed=50), 2))
            streams = [loop.submit(each) for each in requests]
        blocking.result()
        begun = [stream.result().timing.queued_seconds for stream in streams]
    return sorted(range(len(begun)), key=begun.__getitem__)


def test_higher_priorities_go_first_and_else_who_came_first() -> None:
    asked = [replace(request(prompt(5, seed=seed), 2), priority=priority) for seed, priority in enumerate((0, 1, 0, 2))]
    assert order_of(asked) == [3, 1, 0, 2]


def test_client_with_many_requests_does_not_keep_another_waiting() -> None:
    asked = [replace(request(prompt(5, seed=seed), 2), client=client) for seed, client in enumerate("aaaab")]
    assert order_of(asked).index(4) <= 1


@pytest.mark.parametrize(
    ("queue_limit", "waiting"), [(0, "0 requests are"), (1, "1 request is"), (2, "2 requests are")]
)
def test_one_request_too_many_is_refused_and_the_others_are_answered(queue_limit: int, waiting: str) -> None:
    context = FakeContext()
    with running(context, queue_limit=queue_limit) as loop:
        with holding(context):
            streams = [loop.submit(request(prompt(5, seed=seed))) for seed in range(1 + queue_limit)]
            with pytest.raises(EngineBusyError) as caught:
                loop.submit(request(prompt(5)))
        assert caught.value.message == f"{waiting} waiting already, and no more than that may."
        assert caught.value.hint == "Try again when some are answered, or let more wait with queue_limit."
        for seed, stream in enumerate(streams):
            assert list(stream.result().tokens) == completion_of(prompt(5, seed=seed), 8)
        loop.submit(request(prompt(5))).result()


def test_request_ends_at_its_deadline_with_what_there_is() -> None:
    context = FakeContext()
    context.before_step = lambda step: time.sleep(0.2) if step == 5 else None
    with running(context) as loop:
        with holding(context):
            late = loop.submit(replace(request(endless_prompt(), 100), deadline_seconds=0.15))
            waiting = loop.submit(replace(request(prompt(5), 4), deadline_seconds=0.01))
            patient = loop.submit(request(prompt(5), 4))
            time.sleep(0.02)
        result = late.result()
        assert waiting.result().finish_reason == "deadline"
        assert list(patient.result().tokens) == completion_of(prompt(5), 4)
    assert result.finish_reason == "deadline"
    assert 0 < len(result.tokens) <= 6
    assert list(result.tokens) == completion_of(endless_prompt(), len(result.tokens))


# Adapters


def with_adapter(tokens: Sequence[int], *names: str) -> Request:
    return replace(request(tokens, 8), adapters=tuple(AdapterChoice(name) for name in names))


def test_requests_with_different_adapters_are_never_in_one_step() -> None:
    context = FakeContext()
    used: list[AdapterSet] = [()]
    steps: list[AdapterSet] = []
    context.before_step = lambda step: steps.append(used[-1])
    asked = [with_adapter(prompt(5, seed=seed), *names) for seed, names in enumerate(["", "a", "b", "a"])]
    asked = [replace(each, adapters=tuple(a for a in each.adapters or () if a.name)) for each in asked]
    with running(context, parallel=4, use_adapters=used.append) as loop:
        with holding(context):
            streams = [loop.submit(each) for each in asked]
        sequences = {}
        results = [stream.result() for stream in streams]
        for slot in loop.prefixes.slots:
            sequences[slot.sequence] = slot.adapters
    for batch, adapters in zip(context.batches, steps, strict=True):
        assert {sequences[sequence] for sequence in batch} == {adapters}
    assert any(len(batch) == 2 for batch in context.batches), "those with the same adapters share steps"
    assert [list(result.tokens) for result in results] == [completion_of(each.prompt_tokens, 8) for each in asked]


def test_prefix_computed_with_other_adapters_is_not_reused() -> None:
    context = FakeContext()
    with running(context, parallel=3) as loop:
        results = [
            loop.submit(with_adapter(prompt(20), *names)).result() for names in (["a"], ["b"], ["a"], ["a", "b"])
        ]
    assert [result.usage.cached_tokens for result in results] == [0, 0, 19, 0]


# Ends


def test_token_that_may_not_end_the_answer_yet_is_replaced() -> None:
    start = next(
        tokens for tokens in (prompt(4, seed=seed) for seed in range(60)) if 1 < len(completion_of(tokens, 40)) < 10
    )
    usual = completion_of(start, 40)
    with running(FakeContext()) as loop:
        longer = loop.submit(replace(request(start, 12), min_tokens=12)).result()
        endless = loop.submit(replace(request(start, 12), ignore_eos=True)).result()
    assert len(usual) < 12 == len(longer.tokens)
    assert list(longer.tokens)[: len(usual)] == usual
    assert longer.tokens == endless.tokens
    assert (longer.finish_reason, END in longer.tokens) == ("length", False)


def test_stop_token_ends_the_answer_and_is_no_part_of_it() -> None:
    usual = completion_of(endless_prompt(), 20)
    stop = usual[7]
    with running(FakeContext()) as loop:
        result = loop.submit(replace(request(endless_prompt(), 20), stop_tokens=(stop,))).result()
    assert (list(result.tokens), result.finish_reason) == (usual[: usual.index(stop)], "stop")


def test_log_probabilities_are_those_of_the_logits() -> None:
    with running(FakeContext()) as loop:
        result = loop.submit(replace(request(prompt(5), 3), logprobs=2)).result()
        without = loop.submit(request(prompt(5), 3)).result()
    best = 1 - math.log(math.e + VOCABULARY_SIZE - 1)  # one logit of 1 among zeros
    assert [each.logprob for each in result.logprobs] == pytest.approx([best] * 3)
    assert [(each.top[0].token, len(each.top)) for each in result.logprobs] == [(token, 2) for token in result.tokens]
    assert without.logprobs == ()


def test_forced_tokens_have_the_log_probability_of_what_is_certain() -> None:
    with running(FakeContext()) as loop:
        loop._compiler = FakeCompiler()
        result = loop.submit(replace(constrained(prompt(5), "5 6 8 7"), logprobs=1)).result()
    assert [each.logprob for each in result.logprobs][1:3] == [0, 0]
    assert result.usage.forced_tokens == 2


def test_full_cache_ends_the_newest_request_and_the_others_go_on() -> None:
    context = FakeContext(context_tokens=64)
    starts = endless_prompts()[:2]
    with running(context, parallel=2) as loop:
        loop.prefixes._has_room = lambda job, start: True
        with holding(context):
            streams = [loop.submit(request(start, 60)) for start in starts]
        with pytest.raises(EdgeError, match="The KV cache of 64 tokens is full"):
            streams[1].result()
        assert list(streams[0].result().tokens) == completion_of(starts[0], 54)


def test_function_is_run_between_two_steps_and_its_error_comes_back() -> None:
    context = FakeContext()
    with running(context) as loop:
        assert loop.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(EdgeError, match="There is no such prefix"):
            loop.call(lambda: (_ for _ in ()).throw(EdgeError("There is no such prefix.")))
        assert list(loop.submit(request(prompt(5), 4)).result().tokens) == completion_of(prompt(5), 4)
    with pytest.raises(EdgeError, match=CLOSED.message):
        loop.call(threading.get_ident)


# Failures and the end


def test_failure_reaches_every_request_running_or_waiting() -> None:
    context = FakeContext()
    fail_at(context, 3, EdgeError("The KV cache is full.", hint="Ask for a longer context."))
    with running(context, parallel=2) as loop:
        with holding(context):
            streams = [loop.submit(request(endless_prompt(), 50)) for _ in range(4)]
        for stream in streams:
            with pytest.raises(EdgeError) as caught:
                stream.result()
            assert (caught.value.message, caught.value.hint) == ("The KV cache is full.", "Ask for a longer context.")


def test_unexpected_failure_is_told_with_its_kind_and_the_engine_is_closed_then() -> None:
    context = FakeContext()
    fail_at(context, 0, ValueError("bad tensor"))
    with running(context) as loop:
        with pytest.raises(EdgeError, match="The engine failed: ValueError: bad tensor"):
            loop.submit(request(prompt(5))).result()
        with pytest.raises(EdgeError, match=CLOSED.message):
            loop.submit(request(prompt(5)))


def test_closing_ends_running_and_waiting_requests_as_cancelled() -> None:
    context = FakeContext()
    with running(context) as loop:
        context.before_step = lambda step: loop.stop() if step == 5 else None
        with holding(context):
            streams = [loop.submit(request(endless_prompt(), 100)) for _ in range(3)]
    assert [stream.result().finish_reason for stream in streams] == ["cancelled"] * 3


def test_closed_engine_takes_no_requests() -> None:
    with running(FakeContext()) as loop:
        pass
    with pytest.raises(EdgeError, match=CLOSED.message) as caught:
        loop.submit(request(prompt(5)))
    assert caught.value.hint == "Open the model again."


def test_seconds_of_a_request_are_told() -> None:
    with running(FakeContext()) as loop:
        timing = loop.submit(request(prompt(5), 4)).result().timing
    assert 0 <= timing.queued_seconds <= timing.first_token_seconds
    assert timing.decode_seconds > 0


def test_what_a_constraint_forces_from_the_start_is_computed_with_the_prompt() -> None:
    context = FakeContext()
    with running(context) as loop:
        loop._compiler = FakeCompiler()
        stream = loop.submit(Request((1, 2), sampling=GREEDY, constraint=Constraint("grammar", "4 6 5")))
        assert stream.result().tokens == (4, 6, 5)
    assert context.batches == [{0: [1, 2, 4, 6]}]


def test_a_constraint_that_leaves_no_choice_needs_no_step() -> None:
    context = FakeContext()
    with running(context) as loop:
        loop._compiler = FakeCompiler()
        completion = loop.submit(Request((1, 2), sampling=GREEDY, constraint=Constraint("grammar", "4 6"))).result()
        assert (completion.tokens, completion.finish_reason) == ((4, 6), "stop")
    assert context.batches == []


def test_a_constraint_that_fails_at_the_start_ends_only_its_request() -> None:
    context = FakeContext()
    with running(context, parallel=2) as loop:
        loop._compiler = FakeCompiler()
        with pytest.raises(EdgeError, match="cannot be enforced"):
            loop.submit(Request((1, 2), sampling=GREEDY, constraint=Constraint("grammar", "x")))
        assert loop.submit(request([3, 4])).result().tokens
