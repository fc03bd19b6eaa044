"""The models of a server: loaded when they are first asked for, closed when others need their memory or nobody does.

A model in use is never closed. Loads go one after the other; who waits for one may leave without stopping it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge.errors import EdgeError
from edge.fitted_model import Wanted
from edge.quantities import size_text
from edge.server.errors import RefusedError
from edge.settings import ModelSettings
from edge.text_engine import TextEngine

_RETRY_SECONDS = 5
_SHORTEST_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 30.0
_LOADING_SECONDS = 1.0


class ServedEngine(TextEngine, Protocol):
    def close(self) -> None:
        """End what is running and free the model."""


@dataclass(frozen=True)
class ModelSource:
    """A model that may be asked for."""

    name: str
    """By which requests choose it."""
    path: Path
    settings: ModelSettings = field(default_factory=ModelSettings)
    memory_bytes: int = 0
    """What it takes when it is loaded, as far as is known."""
    created: int = 0
    """Seconds since 1970: when its file was made."""
    wanted: Wanted | None = None
    """What of the settings a person chose, where the others are to be what fits when the model is loaded."""


@dataclass(frozen=True)
class LoadedModel:
    source: ModelSource
    engine: ServedEngine
    fingerprint: str
    """OpenAI's `system_fingerprint`: the same for the same weights and template."""


Open = Callable[[ModelSource], LoadedModel]


class _Entry:
    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.loaded: LoadedModel | None = None
        self.loading: asyncio.Task[LoadedModel] | None = None
        self.users = 0
        self.last_used = 0.0


class ModelPool:
    """Used from one event loop. `open_model` is called in a thread, and may raise EdgeErrors."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        open_model: Open,
        *,
        memory_bytes: int | None = None,
        idle_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory_bytes` is what all loaded models together may take; after `idle_seconds` unused, one is closed."""
        self._entries = {source.name: _Entry(source) for source in sources}
        if len(self._entries) < len(sources) or not sources:
            names = ", ".join(source.name for source in sources) or "none"
            raise EdgeError(f"The models are called: {names}.", hint="Give one or more, each with a name of its own.")
        too_large = [source for source in sources if memory_bytes is not None and source.memory_bytes > memory_bytes]
        if too_large:
            raise EdgeError(
                f"{too_large[0].name} takes about {size_text(too_large[0].memory_bytes)}; models may take "
                f"{size_text(memory_bytes or 0)}.",
                hint="Allow more with --memory, or take a smaller quantization or context.",
            )
        self._open_model = open_model
        self._memory_bytes = memory_bytes
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._changing = asyncio.Lock()
        self._is_closed = False

    @property
    def sources(self) -> list[ModelSource]:
        return [entry.source for entry in self._entries.values()]

    @property
    def default_name(self) -> str:
        return next(iter(self._entries))

    @property
    def loaded(self) -> list[LoadedModel]:
        return [entry.loaded for entry in self._entries.values() if entry.loaded]

    @contextlib.asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[LoadedModel]:
        """A model to work with, loaded if need be, and kept for the time of the block. None: the first one."""
        entry = self._entry(self.default_name if name is None else name)
        entry.users += 1
        try:
            yield entry.loaded or await self._wait_for(entry)
        finally:
            entry.users -= 1
            entry.last_used = self._clock()

    def source(self, name: str) -> ModelSource:
        """RefusedError if there is no model of that name."""
        return self._entry(name).source

    async def close_idle(self) -> None:
        """Close what nobody has used for the time after which models are closed."""
        if self._idle_seconds is None:
            return
        async with self._changing:
            for entry in self._unused():
                if self._clock() - entry.last_used >= self._idle_seconds:
                    await self._close(entry)

    async def keep_closing_idle(self) -> None:
        """Runs until it is cancelled."""
        if self._idle_seconds is None:
            return
        pause = min(max(self._idle_seconds / 4, _SHORTEST_LOOK_SECONDS), _LONGEST_LOOK_SECONDS)
        while True:
            await asyncio.sleep(pause)
            await self.close_idle()

    async def close(self) -> None:
        """Close all models, with what still runs on them. A load that takes its time is not waited for."""
        self._is_closed = True
        loading = [entry.loading for entry in self._entries.values() if entry.loading]
        if loading:
            _, slow = await asyncio.wait(loading, timeout=_LOADING_SECONDS)
            for task in slow:
                task.cancel()
            await asyncio.wait(loading)
        async with self._changing:
            for entry in self._entries.values():
                await self._close(entry)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise RefusedError(
                f"There is no model {name[:100]!r}.",
                hint=f"Here are: {', '.join(self._entries)}.",
                status=404,
                code="model_not_found",
                field="model",
            )
        return entry

    async def _wait_for(self, entry: _Entry) -> LoadedModel:
        """The model once it is loaded. Who waits may be cancelled; the load goes on, for whoever comes next."""
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # looked at, if only here
        return await asyncio.shield(entry.loading)

    async def _load(self, entry: _Entry) -> LoadedModel:
        try:
            async with self._changing:
                await self._make_room(entry)
                entry.loaded = await self._opened(entry.source)
                entry.last_used = self._clock()
                return entry.loaded
        finally:
            entry.loading = None

    async def _opened(self, source: ModelSource) -> LoadedModel:
        """The model, opened in a thread that keeps no process from ending. Nobody may want it by then: it is closed."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[LoadedModel] = loop.create_future()

        def settle(model: LoadedModel | None, error: Exception | None) -> None:
            if opened.done():
                return
            if error:
                opened.set_exception(error)
            elif model:
                opened.set_result(model)

        def open_model() -> None:
            model, error = None, None
            try:
                model = self._open_model(source)
            except Exception as failure:
                error = failure
            if model and self._is_closed:
                model.engine.close()
                return
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its process will
                loop.call_soon_threadsafe(settle, model, error)

        threading.Thread(target=open_model, name="edge-models", daemon=True).start()
        return await opened

    async def _make_room(self, entry: _Entry) -> None:
        """Close models that nobody uses, the longest unused first, until there is memory for one more."""
        if self._memory_bytes is None:
            return
        while self._taken_bytes() + entry.source.memory_bytes > self._memory_bytes and self.loaded:
            unused = self._unused()
            if not unused:
                busy = ", ".join(model.source.name for model in self.loaded)
                raise RefusedError(
                    f"There is no memory for {entry.source.name} ({size_text(entry.source.memory_bytes)}) "
                    f"while {busy} is in use.",
                    hint="Try again when it is done.",
                    status=503,
                    code="no_memory",
                    retry_seconds=_RETRY_SECONDS,
                )
            await self._close(unused[0])

    def _taken_bytes(self) -> int:
        return sum(model.source.memory_bytes for model in self.loaded)

    def _unused(self) -> list[_Entry]:
        """Loaded models without users, the longest unused first."""
        unused = [entry for entry in self._entries.values() if entry.loaded and not entry.users]
        return sorted(unused, key=lambda entry: entry.last_used)

    async def _close(self, entry: _Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded:
            await asyncio.to_thread(loaded.engine.close)
