"""The model that a chat talks with, and how it is changed for another one in the middle of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.loading import ClosableEngine, LoadingEngine
from edge.session_record import SessionModel
from edge.settings import AdapterSettings


@dataclass(frozen=True)
class ModelChoice:
    """A model as it was asked for, and the files that this came to."""

    reference: str
    quantization: str | None
    path: Path
    adapters: tuple[AdapterSettings, ...] = ()

    def session_model(self) -> SessionModel:
        """By what a session knows it again."""
        return SessionModel.of(self.path, self.reference, self.quantization)


class ModelDesk:
    """Has one model open at a time: two may not fit the memory."""

    def __init__(
        self,
        choice: ModelChoice,
        *,
        resolve: Callable[[str], ModelChoice],
        open_engine: Callable[[ModelChoice], ClosableEngine],
        remarks: deque[str] | None = None,
    ) -> None:
        """`remarks` is where `open_engine` puts what a person should know, from whatever thread."""
        self.choice = choice
        self._remarks = deque[str]() if remarks is None else remarks
        self._resolve = resolve
        self._open = open_engine
        self.engine = open_engine(choice)

    @property
    def is_ready(self) -> bool:
        """Whether nobody has to wait for the model."""
        return not isinstance(self.engine, LoadingEngine) or self.engine.is_ready

    def take_remarks(self) -> Iterator[str]:
        """What has come up about opening models and was not told yet."""
        while self._remarks:
            yield self._remarks.popleft()

    def switch(self, reference: str) -> None:
        """Close the model and open another one. EdgeError if that cannot be; then the earlier one is open again."""
        choice = self._resolve(reference)
        if choice.path == self.choice.path and not self.choice.adapters:
            raise EdgeError(f"{choice.path.name} is the model in use.", hint="Name another one.")
        self.engine.close()
        try:
            engine = self._open(choice)
            _ = engine.context_tokens  # waits for it
        except BaseException:  # a KeyboardInterrupt too
            self.engine = self._open(self.choice)
            raise
        self.choice, self.engine = choice, engine

    def close(self) -> None:
        self.engine.close()
