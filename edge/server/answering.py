"""Requests of any protocol to answers: a model is leased, its engine asked, and what it says passed on.

Whatever ends the block of an answer, an error, the end of the text or a client that is gone, frees its places in the
engine at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from edge.checked import CheckedStream
from edge.errors import EdgeError, EngineFailedError
from edge.openai_request import ChatBody
from edge.openai_response import Answer, collect
from edge.request import EngineStatus, Event, FinishEvent, Request, TokenEvent
from edge.server.errors import RefusedError
from edge.server.metrics import AnswerMetrics, Metrics
from edge.server.model_pool import LoadedModel, ModelPool
from edge.server.replies import Numbered, Replies, Waker
from edge.server.server_settings import ServerSettings
from edge.server.sessions import SessionKey, Sessions
from edge.stream import Stream
from edge.text_engine import TextEngine
from edge.tool_grammar import submit_with_tools
from edge.tool_requests import chat_requests
from edge.tools import ToolSet

PAUSE_SECONDS = 10.0
"""Of silence, after which an answer that is streamed gives a sign of life."""
_SUBMITTING_THREADS = 8
_CHECKING_THREADS = 32

Streams = Sequence[Stream | CheckedStream]
Result = TypeVar("Result")
MakeRequests = Callable[[TextEngine], Sequence[Request]]
Submit = Callable[[Request, TextEngine], Stream | CheckedStream]


def _submit_as_it_is(request: Request, engine: TextEngine) -> Stream | CheckedStream:
    return engine.submit(request)


@dataclass(frozen=True)
class Asked:
    """What is asked of a model. `make_requests` is called in a thread, with its engine; it may raise EdgeErrors."""

    model: str | None
    make_requests: MakeRequests
    prompt_field: str = "prompt"
    """Where in the body the prompt is."""
    submit: Submit = _submit_as_it_is
    """Gives each request to the engine; called in a thread."""


class Answers:
    """The completions of one request while they are written."""

    def __init__(self, model: LoadedModel, requests: Sequence[Request], replies: Replies, metrics: AnswerMetrics):
        self.model = model
        self.requests = requests
        self._replies = replies
        self._metrics = metrics
        self.held_tokens: list[int] | None = None
        """Prompt and answer of the first completion, if they are wanted: None is replaced by a list for that."""
        self.is_complete = False
        """Whether the first completion has come to its end."""

    async def batches(self) -> AsyncIterator[list[Numbered]]:
        """Events with the number of their completion, all that have arrived at a time; an empty list now and then when
        nothing has. EdgeError if the engine gives up."""
        async for batch in self._replies.batches(PAUSE_SECONDS):
            if batch:
                self._metrics.note(batch)
                if self.held_tokens is not None:
                    self._hold(batch, self.held_tokens)
            if any(isinstance(event, FinishEvent) and event.reason == "cancelled" for _, event in batch):
                raise EngineFailedError("The model was closed.", hint="Send the request again.")
            yield batch

    def _hold(self, batch: Sequence[Numbered], held: list[int]) -> None:
        for number, event in batch:
            if number == 0 and isinstance(event, FinishEvent):
                self.is_complete = True
            elif number == 0 and isinstance(event, TokenEvent):
                held.append(event.token)

    async def collected(self) -> list[Answer]:
        """All of it, one answer for each completion. EdgeError if the engine gives up."""
        events: list[list[Event]] = [[] for _ in self.requests]
        async for batch in self.batches():
            for number, event in batch:
                events[number].append(event)
        return [collect(each) for each in events]


class Answering:
    """Asks the models of a pool. Made inside of the event loop that it is used in; to be closed."""

    def __init__(self, pool: ModelPool, settings: ServerSettings, metrics: Metrics, sessions: Sessions) -> None:
        self.pool = pool
        self._settings = settings
        self._metrics = metrics
        self._sessions = sessions
        self._waker = Waker(asyncio.get_running_loop())
        self._submitting = ThreadPoolExecutor(_SUBMITTING_THREADS, thread_name_prefix="edge-submit")
        self._embedding: dict[str, asyncio.Lock] = {}
        self._checking = ThreadPoolExecutor(_CHECKING_THREADS, thread_name_prefix="edge-check")

    def close(self) -> None:
        self._submitting.shutdown(wait=False, cancel_futures=True)
        self._checking.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def chat(
        self, body: ChatBody, tools: ToolSet | None = None, *, prompt_field: str = "messages", owner: str = ""
    ) -> AsyncIterator[Answers]:
        """The answers to a conversation, as many as it asks for. EdgeError before the block if there will be none.

        `owner` tells sessions of one name apart.
        """
        self._check_limits(body, prompt_field)
        submit = _submit_as_it_is
        if tools is not None:
            offered = tools

            def submit(request: Request, engine: TextEngine) -> Stream | CheckedStream:
                return submit_with_tools(request, engine, offered, body.constraint)

        key = None if body.session is None else SessionKey(owner, body.model or self.pool.default_name, body.session)

        def make_requests(engine: TextEngine) -> Sequence[Request]:
            known = self._sessions.resume(key, engine) if key else ()
            return chat_requests(replace(body, known_tokens=known), tools, engine)

        async with self.ask(Asked(body.model, make_requests, prompt_field, submit)) as answers:
            if key is None:
                yield answers
                return
            answers.held_tokens = held = list(answers.requests[0].prompt_tokens)
            yield answers
            if answers.is_complete:
                keep = self._submitting.submit(self._sessions.keep, key, tuple(held), answers.model.engine)
                await asyncio.wrap_future(keep)

    @contextlib.asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Answers]:
        """The answers to requests of any kind."""
        async with self.pool.lease(asked.model) as model:
            requests, streams = await self._submitted(model.engine, asked)
            metrics = AnswerMetrics(self._metrics, model.source.name, len(streams))
            replies = Replies(streams, self._waker, self._checking)
            try:
                yield Answers(model, requests, replies, metrics)
            finally:
                replies.cancel()
                metrics.end()

    async def in_thread(self, model: str | None, function: Callable[[TextEngine], Result]) -> Result:
        """What a function of an engine gives, one that does not take long."""
        async with self.pool.lease(model) as leased:
            return await asyncio.wrap_future(self._submitting.submit(function, leased.engine))

    async def read(self, parse: Callable[[], Result]) -> Result:
        """What a body says, read in a thread: schemas of functions take long enough to keep others waiting."""
        return await asyncio.wrap_future(self._submitting.submit(parse))

    def check_inputs(self, count: int) -> None:
        """RefusedError if more texts are to be embedded than one request may bring."""
        _check_count(count, self._settings.max_inputs, "input", "texts")

    async def embedded(self, model: LoadedModel, item: str | Sequence[int]) -> tuple[Sequence[int], list[float]]:
        """The token ids and the vector of a text, or of token ids. One at a time for each model."""

        def embed() -> tuple[Sequence[int], list[float]]:
            tokens = model.engine.text_tokens(item) if isinstance(item, str) else item
            return tokens, model.engine.embed(tokens)

        async with self._embedding.setdefault(model.source.name, asyncio.Lock()):
            return await asyncio.wrap_future(self._submitting.submit(embed))

    async def status(self, model: LoadedModel) -> EngineStatus | None:
        """How busy a model's engine is; None if it cannot tell, as when its process has just died."""
        try:
            return await asyncio.wrap_future(self._submitting.submit(model.engine.status))
        except EdgeError:
            return None

    def _check_limits(self, body: ChatBody, prompt_field: str) -> None:
        _check_count(len(body.messages), self._settings.max_messages, prompt_field, "messages")

    async def _submitted(self, engine: TextEngine, asked: Asked) -> tuple[Sequence[Request], Streams]:
        """The requests and their streams. If the client leaves meanwhile, they are cancelled once they are there."""
        future = self._submitting.submit(self._submit, engine, asked)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_cancel_submitted)
            raise

    def _submit(self, engine: TextEngine, asked: Asked) -> tuple[Sequence[Request], Streams]:
        requests = [self._limited(request) for request in asked.make_requests(engine)]
        self._check_requests(requests, engine, asked.prompt_field)
        streams: list[Stream | CheckedStream] = []
        try:
            for request in requests:
                streams.append(asked.submit(request, engine))
        except EdgeError:
            for stream in streams:
                stream.cancel()
            raise
        return requests, streams

    def _limited(self, request: Request) -> Request:
        """The request with no more tokens and time than this server gives."""
        tokens = [limit for limit in (request.max_tokens, self._settings.max_answer_tokens) if limit is not None]
        wanted, most = request.deadline_seconds, self._settings.answer_seconds
        seconds = most if wanted is None else min(wanted, most)
        return replace(request, max_tokens=min(tokens, default=None), deadline_seconds=seconds)

    def _check_requests(self, requests: Sequence[Request], engine: TextEngine, prompt_field: str) -> None:
        _check_count(len(requests), self._settings.max_choices, "n", "completions")
        prompt = max((len(request.prompt_tokens) for request in requests), default=0)
        if prompt >= engine.context_tokens:
            raise RefusedError(
                f"The prompt has {prompt} tokens, the context holds {engine.context_tokens}.",
                hint="Shorten the prompt, or start the server with a longer context: --ctx.",
                status=400,
                code="context_length_exceeded",
                field=prompt_field,
            )


def _check_count(count: int, most: int, field: str, things: str) -> None:
    """RefusedError if a request has more of something than it may."""
    if count > most:
        raise RefusedError(
            f"There are {count} {things}; one request may have {most}.",
            hint="Send less in one request.",
            status=400,
            field=field,
        )


def _cancel_submitted(future: Future[tuple[Sequence[Request], Streams]]) -> None:
    if not future.cancelled() and not future.exception():
        for stream in future.result()[1]:
            stream.cancel()
