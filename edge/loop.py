"""The one loop that everything runs on: requests in, events out.

A thread owns the context. Each step is one decode over all running requests: the next token of those that are
answering, and a chunk of the prompt of those that are not there yet. Sequences keep their KV cache when a request ends,
and the next prompt that begins the same way continues from it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from edge.constraint import ConstraintCompiler, Matcher
from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.request import FinishReason, Request
from edge.slot import Job, Slot
from edge.stream import Stream


class Loop:
    """The scheduler. Everything but `submit` and `stop` runs in the engine's thread."""

    def __init__(self, model: Model, context: Context, parallel: int) -> None:
        self._context = context
        self._vocab = model.vocab
        self._sliding_window = model.sliding_window
        self._slots = [Slot(sequence) for sequence in range(parallel)]
        self._batch = Batch(context.batch_tokens, parallel)
        self._compiler: ConstraintCompiler | None = None
        self._waiting: list[Job] = []
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopped = False
        self.steps = 0
        """Decode steps finished so far: whoever watches from outside sees by it that the loop gets on."""

    @property
    def is_busy(self) -> bool:
        """Whether there is a request that has not ended."""
        return bool(self._waiting) or any(slot.job for slot in self._slots)

    def submit(self, request: Request) -> Stream:
        job = Job(request, Stream(), self._limit_tokens(request), time.perf_counter())
        with self._lock:
            if self._is_stopped:
                raise EdgeError("The engine is closed.", hint="Open the model again.")
            self._arrivals.put(job)
        return job.stream

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._arrivals.put(None)

    def run(self) -> None:
        try:
            while not self._is_stopped:
                self._receive()
                if not self._is_stopped:
                    self._step()
        except BaseException as error:
            self._fail_all(error)
        finally:
            self._end_all()

    def _limit_tokens(self, request: Request) -> int:
        """Completion tokens a request may have; without a wish of its own, to the end of its share of the context."""
        prompt_tokens = len(request.prompt_tokens)
        free = self._context.context_tokens - prompt_tokens
        share = self._context.context_tokens // len(self._slots) - prompt_tokens
        return min(request.max_tokens or (share if share > 0 else free), free)

    def _receive(self) -> None:
        """Take arrivals in; wait for one if there is nothing else to do."""
        is_idle = not self.is_busy
        while is_idle or not self._arrivals.empty():
            job = self._arrivals.get()
            if job is None:
                return
            self._waiting.append(job)
            is_idle = False

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        fed = self._fill_batch()
        if not fed:
            return
        self._context.decode(self._batch)
        self.steps += 1
        for slot, tokens, index in fed:
            slot.held_tokens += tokens
            assert slot.job is not None
            del slot.job.pending[: len(tokens)]
            if not slot.job.pending:
                self._advance(slot, partial(self._choose_next, slot.job, index))

    def _choose_next(self, job: Job, index: int) -> FinishReason | None:
        return job.take(job.choose(self._context.logits(index)), self._vocab)

    def _advance(self, slot: Slot, action: Callable[[], FinishReason | None]) -> None:
        """Take a job a step further. An error of its own, as from its constraint, ends only that request."""
        try:
            reason = action()
        except EdgeError as error:
            self._release(slot).fail(error)
            return
        if reason:
            self._release(slot).finish(reason)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._waiting if job.stream.is_cancelled]:
            self._waiting.remove(job)
            job.finish("cancelled")
        for slot in self._slots:
            if slot.job and slot.job.stream.is_cancelled:
                self._release(slot).finish("cancelled")

    def _admit(self) -> None:
        """Start waiting requests in order, as long as there is a sequence and KV room for the next one."""
        while self._waiting:
            job = self._waiting[0]
            idle = [slot for slot in self._slots if slot.job is None]
            reserved = sum(slot.job.reserved_tokens for slot in self._slots if slot.job)
            if not idle or reserved + job.reserved_tokens > self._context.context_tokens:
                return
            self._waiting.pop(0)
            try:
                matcher = self._matcher(job.request)
            except EdgeError as error:
                job.fail(error)
                continue
            prompt = job.request.prompt_tokens
            slot = max(idle, key=lambda slot: (slot.common_prefix(prompt), -slot.last_used))
            self._make_room(job, slot)
            slot.job = job
            self._advance(slot, partial(job.start, self._keep_prefix(slot, prompt), matcher, self._vocab))

    def _matcher(self, request: Request) -> Matcher | None:
        if request.constraint is None:
            return None
        if self._compiler is None:
            self._compiler = ConstraintCompiler(self._vocab)
        return self._compiler.compile(request.constraint)

    def _make_room(self, job: Job, chosen: Slot) -> None:
        """Forget idle sequences, the longest unused first, until the job's reserved cells are free."""
        idle = sorted((s for s in self._slots if s.job is None and s is not chosen), key=lambda slot: slot.last_used)
        running = sum(slot.job.reserved_tokens for slot in self._slots if slot.job)
        room = self._context.context_tokens - running - job.reserved_tokens
        for slot in idle:
            if sum(len(other.held_tokens) for other in idle) <= room:
                return
            self._forget(slot, 0)

    def _keep_prefix(self, slot: Slot, prompt: tuple[int, ...]) -> int:
        """Cut a sequence back to what it shares with a prompt; gives how many tokens that is.

        The last prompt token is always computed, for its logits. A sliding-window cache may have dropped what the
        first new token has to see; then nothing is kept.
        """
        kept = min(slot.common_prefix(prompt), len(prompt) - 1)
        if self._sliding_window:
            needed_position = max(0, kept - self._sliding_window)
            if self._context.first_position(slot.sequence) > needed_position:
                kept = 0
        return kept if self._forget(slot, kept) else 0

    def _forget(self, slot: Slot, kept: int) -> bool:
        """Remove a sequence's tokens from `kept` on. False if only removing all of them was possible."""
        is_possible = self._context.remove(slot.sequence, kept)
        if not is_possible:
            self._context.remove(slot.sequence, 0)
        slot.held_tokens = slot.held_tokens[:kept] if is_possible else []
        return is_possible

    def _fill_batch(self) -> list[tuple[Slot, list[int], int]]:
        """Put the running requests' next tokens into the batch, short ones first, so that no prompt delays answers.

        Gives each slot with the tokens it feeds and the batch index of the last one.
        """
        self._batch.clear()
        fed = []
        running = [(slot, slot.job) for slot in self._slots if slot.job]
        for slot, job in sorted(running, key=lambda pair: len(pair[1].pending)):
            tokens = job.pending[: self._batch.capacity - self._batch.count]
            if tokens:
                index = self._batch.add(
                    tokens,
                    sequence=slot.sequence,
                    position=len(slot.held_tokens),
                    last_logits=len(tokens) == len(job.pending),
                )
                fed.append((slot, tokens, index))
        return fed

    def _release(self, slot: Slot) -> Job:
        job = slot.job
        assert job is not None
        slot.job = None
        slot.last_used = time.perf_counter()
        return job

    def _fail_all(self, error: BaseException) -> None:
        """Tell every consumer why the loop ended, so that none waits for ever."""
        with self._lock:
            self._is_stopped = True
        if not isinstance(error, EdgeError):
            message = f"The engine failed: {type(error).__name__}: {error}"
            error = EdgeError(message, hint="Open the model again; report it if it happens twice.")
        for job in self._unfinished():
            job.fail(error)

    def _end_all(self) -> None:
        for job in self._unfinished():
            job.finish("cancelled")

    def _unfinished(self) -> list[Job]:
        """Take every job that was not finished out of the loop."""
        jobs = [self._release(slot) for slot in self._slots if slot.job] + self._waiting
        self._waiting = []
        while not self._arrivals.empty():
            job = self._arrivals.get()
            if job is not None:
                jobs.append(job)
        return jobs
