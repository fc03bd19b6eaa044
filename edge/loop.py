"""The one loop that everything runs on: requests in, events out.

One thread has the context. Each step is one decode over all running requests: the next tokens of those that are
answering, and chunks of the prompts of those that are not there yet, so small that the answers hardly slow down.
Requests with different adapters take turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge.compute_thread import ComputeThread
from edge.constraint import ConstraintCompiler
from edge.errors import EdgeError, EngineBusyError, EngineFailedError, EngineGoneError
from edge.job import Drafting, Job
from edge.llama.context import Batch, CacheFullError, Context
from edge.llama.model import Model
from edge.matcher import Matcher
from edge.outbox import DELIVERY_SECONDS, Outbox
from edge.prefix_cache import PrefixCache
from edge.quantities import counted
from edge.request import FinishReason, Request
from edge.settings import ModelSettings
from edge.slot import AdapterSet, Slot, common_prefix
from edge.step_filling import Fed, StepFilling
from edge.step_times import StepTimes
from edge.stream import Stream
from edge.thread_call import ThreadCall
from edge.waiting import WaitingRequests

_RECORDED_STEPS = 4  # of steps that are like the one before, each fourth is taken for what such steps take

Result = TypeVar("Result")

_CLOSED = EngineGoneError("The engine is closed.", hint="Open the model again.")


class Loop:
    """The scheduler. Everything but `submit`, `call` and `stop` runs in `thread`, which makes its steps.

    `request_tokens` is how much one request may hold; `use_adapters` lets the context compute with a set of adapters;
    `drafting_for` gives what guesses at the answer of a request that is about to start in a slot, if anything does.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        settings: ModelSettings,
        *,
        request_tokens: int,
        use_adapters: Callable[[AdapterSet], None],
        drafting_for: Callable[[Job, Slot, StepTimes], Drafting | None],
        thread: ComputeThread,
        delivery_seconds: float = DELIVERY_SECONDS,
    ) -> None:
        self._thread = thread
        self._context = context
        self._vocab = model.vocab
        self._settings = settings
        self._request_tokens = request_tokens
        self._drafting_for = drafting_for
        self.prefixes = PrefixCache(
            context,
            settings.parallel,
            sliding_window=model.sliding_window,
            is_recurrent=model.is_recurrent,
            checkpoint_bytes=settings.checkpoint_bytes,
        )
        self._batch = Batch(context.batch_tokens, settings.parallel)
        self._step_times = StepTimes()
        self._filling = StepFilling(self._batch, self.prefixes, self._step_times, use_adapters)
        self._waiting = WaitingRequests()
        self._outbox = Outbox(delivery_seconds)
        self._compiler: ConstraintCompiler | None = None
        self._compiler_lock = threading.Lock()
        self._lock = threading.Lock()
        self._in_flight = 0
        self._last_count, self._last_seconds = 1, inf
        self._is_stopped = False
        self._end: EdgeError | None = None
        """Once the loop has ended, what whoever comes too late is told."""
        self.steps = 0
        """Decode steps finished so far: whoever watches from outside sees by it that the loop gets on."""
        thread.add(self)

    # From any thread

    @property
    def is_busy(self) -> bool:
        """Whether there is a request that has not ended."""
        return bool(self._waiting) or bool(self.prefixes.busy)

    def submit(self, request: Request) -> Stream:
        """Queue a request. EdgeError if its constraint cannot be enforced, EngineBusyError if too many are waiting."""
        job = Job(
            request,
            vocab=self._vocab,
            adapters=request.adapters or (),
            limit_tokens=self._limit_tokens(request),
            context_tokens=self._context.context_tokens,
            matcher=self._matcher(request),
            outbox=self._outbox,
            on_cancel=self._thread.interrupt,
        )
        with self._lock:
            self._check_open()
            waiting = self._in_flight - self._settings.parallel
            if waiting >= self._settings.queue_limit:
                verb = "is" if waiting == 1 else "are"
                raise EngineBusyError(
                    f"{counted(max(waiting, 0), 'request')} {verb} waiting already, and no more than that may.",
                    hint="Try again when some are answered, or let more wait with queue_limit.",
                )
            self._in_flight += 1
            self._thread.run(partial(self._take_in, job))
        return job.stream

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function in the loop's thread, between two steps, and give its result."""
        call = ThreadCall(function)
        with self._lock:
            self._check_open()
            self._thread.run(partial(self._run_call, call))
        return call.result()

    def stop(self) -> None:
        """End all requests as cancelled, wherever they are; returns when the thread does nothing for them any more."""
        with self._lock:
            self._is_stopped = True
        self._thread.run(self._shut_down)
        self._thread.remove(self)

    def _check_open(self) -> None:
        if self._is_stopped:
            raise _CLOSED

    def _limit_tokens(self, request: Request) -> int:
        """Completion tokens a request may have; without a wish of its own, to the end of its share of the context."""
        prompt_tokens = len(request.prompt_tokens)
        free = self._request_tokens - prompt_tokens
        share = min(self._context.context_tokens // self._settings.parallel, self._request_tokens) - prompt_tokens
        return min(request.max_tokens or (share if share > 0 else free), free)

    def _matcher(self, request: Request) -> Matcher | None:
        """Compiled in the thread of whoever asks, so that nobody else waits for it."""
        if request.constraint is None:
            return None
        with self._compiler_lock:
            if self._compiler is None:
                self._compiler = ConstraintCompiler(self._vocab)
        return self._compiler.compile(request.constraint)

    # In the loop's own

    def _take_in(self, job: Job) -> None:
        self._waiting.add(job)
        if self._end:
            self._fail(job, self._end)
            self._outbox.deliver()

    def _run_call(self, call: ThreadCall[Result]) -> None:
        if self._end:
            call.refuse(self._end)
        else:
            call.run()

    def step(self) -> None:
        """One decode, and what comes of it."""
        try:
            self._step()
        except BaseException as failure:
            self._shut_down(_told(failure))

    def hand_over(self) -> None:
        self._outbox.deliver()

    def _step(self) -> None:
        self._drop_ended()
        self._admit()
        fed = self._filling.fill()
        count = self._batch.count
        if not fed:
            self._outbox.deliver()
            return
        # just before the decode, which leaves the interpreter to those who are woken
        self._outbox.deliver(self._last_seconds * max(1.0, count / self._last_count))
        if self._make_several(fed):
            return
        started = time.perf_counter()
        fed = self._decode(fed)
        self._last_seconds = time.perf_counter() - started
        if count != self._last_count or self.steps % _RECORDED_STEPS == 0:  # others say nothing new
            self._step_times.record(count, self._last_seconds)
        self._last_count = count
        self.steps += 1
        for each in fed:
            self._note(each)
        for each in fed:
            if each.slot.job and not each.slot.job.pending:
                self._answer(each)

    def _make_several(self, fed: list[Fed]) -> bool:
        """Make as many steps in one as there is time for until something has to be handed over; whether any were made.

        For a single request whose tokens nobody has to look at before the next one.
        """
        (first, *others) = fed
        job = first.slot.job
        if others or self._batch.count > 1 or self._last_count > 1 or len(self.prefixes.busy) > 1 or job is None:
            return False
        if not self._context.can_decode_several:
            return False
        seconds = self._outbox.unhurried_seconds
        if seconds < 2 * self._last_seconds or job.remaining_tokens < 2 or not job.stream.has_text:
            return False
        choice = job.plain_choice()
        if choice is None:
            return False
        steps = min(int(seconds / self._last_seconds), job.remaining_tokens)
        if job.drafting:
            steps = 1 + job.drafting.pass_by(steps - 1)
        started = time.perf_counter()
        made, tokens = self._context.decode_several(
            self._batch, choice, steps=steps, end_tokens=job.end_tokens, interruption=self._thread.interruption
        )
        if not made:
            return False
        self._last_seconds = (time.perf_counter() - started) / made
        self._step_times.record(1, self._last_seconds)
        self.steps += made
        for token in [*tokens, None][:made]:
            self._note(Fed(first.slot, list(job.pending), 0))
            outcome = _outcome_of(job, self._context.logits(0), token)
            if outcome:
                self._end_by(job, outcome)
        return True

    def _drop_ended(self) -> None:
        """End what was cancelled or has run out of time."""
        now = time.perf_counter()
        jobs = [slot.job for slot in self.prefixes.busy if slot.job]
        for job in [*self._waiting, *jobs] if self._waiting else jobs:
            if job.stream.is_cancelled:
                self._finish(job, "cancelled")
            elif now > job.deadline:
                self._finish(job, "deadline")

    def _admit(self) -> None:
        """Start waiting requests by turn, as long as there is a sequence and KV room for the next one.

        One whose prompt begins like another that is being computed waits until it can share that.
        """
        if not self._waiting or not self.prefixes.idle:
            return
        for job in self._waiting.by_turn():
            if self.prefixes.is_about_to_hold(job):
                continue
            placed = self.prefixes.place(job)
            if placed is None:
                return
            self._waiting.start(job)
            self._start(job, *placed)

    def _start(self, job: Job, slot: Slot, kept: int) -> None:
        """Begin a request whose first `kept` tokens are there. What its constraint forces may be all of its answer."""
        if not self.prefixes.is_recurrent:  # wrong guesses have to be cut off
            job.drafting = self._drafting_for(job, slot, self._step_times)
        try:
            reason = job.start(kept)
        except EdgeError as error:
            self._fail(job, error)
            return
        if reason:
            self._finish(job, reason)

    def _decode(self, fed: list[Fed]) -> list[Fed]:
        """Compute the batch; gives what of it was. Without room, idle sequences go first, then the newest request."""
        while True:
            try:
                self._context.decode(self._batch)
                return fed
            except CacheFullError as error:
                if self.prefixes.forget_idle():
                    continue
                newest = max((each.slot.job for each in fed if each.slot.job), key=lambda job: job.submitted)
                self._fail(newest, error)
                return []

    def _note(self, fed: Fed) -> None:
        """What was fed is held."""
        assert fed.slot.job is not None
        del fed.slot.job.pending[: len(fed.tokens)]
        self.prefixes.computed(fed.slot, fed.tokens)

    def _answer(self, fed: Fed) -> None:
        """Choose a request's next token; and behind each guess that it turns out to be, the one after."""
        job = fed.slot.job
        assert job is not None
        right = 0
        outcome: FinishReason | EdgeError | None = None
        while outcome is None and not job.pending:
            index = fed.guesses_index + right - 1 if right else fed.index
            outcome = _outcome_of(job, self._context.logits(index))
            if not fed.guesses:
                break
            matching = common_prefix(job.pending, fed.guesses[right:])
            self.prefixes.computed(fed.slot, job.pending[:matching])
            del job.pending[:matching]
            right += matching
        if fed.guesses:
            job.learn(len(fed.guesses), right)
            if right < len(fed.guesses):
                self.prefixes.drop_behind(fed.slot)
        if outcome:
            self._end_by(job, outcome)

    # The end of a request

    def _end_by(self, job: Job, outcome: FinishReason | EdgeError) -> None:
        if isinstance(outcome, EdgeError):
            self._fail(job, outcome)
        else:
            self._finish(job, outcome)

    def _finish(self, job: Job, reason: FinishReason) -> None:
        self._take_out(job)
        job.finish(reason)

    def _fail(self, job: Job, error: EdgeError) -> None:
        self._take_out(job)
        job.fail(error)

    def _take_out(self, job: Job) -> None:
        """Take a request out of the loop, wherever it is."""
        slot = next((slot for slot in self.prefixes.busy if slot.job is job), None)
        if slot:
            self.prefixes.release(slot)
        self._waiting.end(job)
        with self._lock:
            self._in_flight -= 1

    def _shut_down(self, error: EdgeError | None = None) -> None:
        """End everything: as failed if there was an error, else as cancelled. Nobody is left waiting."""
        if self._end:
            return
        with self._lock:
            self._is_stopped = True
        self._end = error or _CLOSED
        for job in [*self._waiting, *(slot.job for slot in self.prefixes.busy if slot.job)]:
            if error:
                self._fail(job, error)
            else:
                self._finish(job, "cancelled")
        self._outbox.close()


def _outcome_of(job: Job, logits: npt.NDArray[np.float32], token: int | None = None) -> FinishReason | EdgeError | None:
    """Choose and take a token; gives why the request ends by it, an error of its own included.

    `token` is what was sampled freely, if that was done.
    """
    try:
        return job.take(job.choose(logits, token))
    except EdgeError as error:
        return error


def _told(failure: BaseException) -> EngineFailedError:
    """Why the loop ended, for everyone who waits."""
    if isinstance(failure, EngineFailedError):
        return failure
    if isinstance(failure, EdgeError):
        return EngineFailedError(failure.message, hint=failure.hint)
    message = f"The engine failed: {type(failure).__name__}: {failure}"
    return EngineFailedError(message, hint="Open the model again; report it if it happens twice.")
