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
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from edge.adapter_check import check_adapter, check_is_model
from edge.checked import CheckedStream, submit_checked
from edge.constraint import ConstraintCompiler, Matcher
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.adapter import Adapter, use_adapters
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from edge.prompt import PromptTemplate
from edge.request import FinishReason, Request
from edge.settings import ModelSettings, SamplingSettings
from edge.slot import Job, Slot
from edge.stream import Stream

DEFAULT_CONTEXT_TOKENS = 8192


class Engine:
    """A loaded model that answers requests. A context manager; closing it ends what is still running.

    `submit` may be called from any thread.
    """

    def __init__(self, path: Path, settings: ModelSettings | None = None) -> None:
        settings = settings or ModelSettings()
        file = read_gguf(path)  # native code only sees files that are sound
        path = file.path  # of a split model, the first part
        check_is_model(file)
        for wanted in settings.adapters:
            check_adapter(read_gguf(wanted.path), file)
        with ExitStack() as opened:
            self._model = opened.enter_context(Model(path, gpu_layers=settings.gpu_layers))
            adapters = [
                (opened.enter_context(Adapter(self._model, wanted.path)), wanted.scale) for wanted in settings.adapters
            ]
            self._context = opened.enter_context(_make_context(self._model, settings))
            use_adapters(self._context, adapters)
            self._opened = opened.pop_all()
        self.path = path
        self.vocab: Vocab = self._model.vocab
        self.context_tokens = self._context.context_tokens
        self._loop = _Loop(self._model, self._context, settings.parallel)
        self._thread = threading.Thread(target=self._loop.run, name="edge-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def template(self) -> PromptTemplate:
        """The model's chat template. EdgeError if it has none."""
        return PromptTemplate.of_model(self._model.chat_template, self.vocab)

    @property
    def model(self) -> Model:
        """What is loaded, for its metadata."""
        return self._model

    @cached_property
    def default_sampling(self) -> SamplingSettings:
        """What the model's makers recommend, where the file says so, and else the defaults."""
        defaults = SamplingSettings()

        def stored(name: str, default: float) -> float:
            value = self._model.metadata(f"general.sampling.{name}")
            return default if value is None else float(value)

        return replace(
            defaults,
            temperature=stored("temp", defaults.temperature),
            top_k=int(stored("top_k", defaults.top_k)),
            top_p=stored("top_p", defaults.top_p),
            min_p=stored("min_p", defaults.min_p),
            repeat_penalty=stored("penalty_repeat", defaults.repeat_penalty),
        )

    def submit(self, request: Request) -> Stream | CheckedStream:
        """Queue a request and give its stream at once. EdgeError if the prompt can never fit.

        Where a JSON Schema says more than can be enforced, the stream gives only a reply that was checked.
        """
        prompt_tokens = len(request.prompt_tokens)
        if not prompt_tokens:
            raise EdgeError("The prompt is empty.", hint="Give at least one token.")
        if prompt_tokens >= self.context_tokens:
            raise EdgeError(
                f"The prompt has {prompt_tokens} tokens, the context holds {self.context_tokens}.",
                hint="Shorten the prompt or ask for a longer context with --ctx.",
            )
        if not all(0 <= token < self.vocab.size for token in request.prompt_tokens):
            raise EdgeError(
                f"The prompt has token ids outside of the vocabulary of {self.vocab.size} tokens.",
                hint="Make the tokens with the vocabulary of the same model.",
            )
        if request.max_tokens is not None and request.max_tokens < 1:
            raise EdgeError(f"max_tokens is {request.max_tokens}.", hint="Ask for at least 1 token.")
        return submit_checked(request, self._loop.submit)

    def close(self) -> None:
        """End running requests as cancelled and free the model. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.stop()
            self._thread.join()
        self._opened.close()


def _make_context(model: Model, settings: ModelSettings) -> Context:
    trained = model.trained_context_tokens
    wanted = settings.context_tokens or min(trained, DEFAULT_CONTEXT_TOKENS)
    if wanted > trained:
        raise EdgeError(
            f"A context of {wanted} tokens was asked for; the model was trained on {trained}.",
            hint=f"Ask for at most {trained} with --ctx.",
        )
    return Context(
        model,
        context_tokens=wanted,
        sequences=settings.parallel,
        threads=settings.threads or physical_cores(),
        batch_tokens=settings.prefill_tokens,
    )


class _Loop:
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
        is_idle = not self._waiting and not any(slot.job for slot in self._slots)
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
