"""What a host and its engine's process say to each other, and how it goes over their pipes.

A frame is a length of four bytes and a pickled list of messages. The pipes are private to the two processes, which run
the same package, so what arrives is what the other one wrote.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from edge.errors import EdgeError
from edge.request import Delivery, Request
from edge.settings import ModelSettings, SamplingSettings

OPENING = 0
"""The number of the call that opens the model; those of later calls and requests are counted up from it."""

Method = Literal["chat_tokens", "text_tokens", "tokens_text", "embed", "status", "save_prefix", "load_prefix"]

_LENGTH = struct.Struct("!I")


# From the host


@dataclass(frozen=True)
class Open:
    """The first message: what to open, and how the process shows that it lives."""

    path: Path
    settings: ModelSettings
    heartbeat_seconds: float
    hang_seconds: float
    """An interpreter that is stuck for longer ends itself, in case its host can no longer do that."""


@dataclass(frozen=True)
class Call:
    number: int
    method: Method
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Submit:
    """Answered like a call; what is delivered then comes under the same number."""

    number: int
    request: Request


@dataclass(frozen=True)
class Cancel:
    number: int


@dataclass(frozen=True)
class Close:
    pass


# From the engine's process


@dataclass(frozen=True)
class Opened:
    """What there is to know of the engine, as the answer to `Open`."""

    context_tokens: int
    default_sampling: SamplingSettings


@dataclass(frozen=True)
class Returned:
    number: int
    value: Any


@dataclass(frozen=True)
class Raised:
    """An EdgeError, by its class and what it carries."""

    number: int
    kind: type[EdgeError]
    attributes: dict[str, object]

    @classmethod
    def by(cls, number: int, error: EdgeError) -> Raised:
        return cls(number, type(error), vars(error))

    def error(self) -> EdgeError:
        error = self.kind.__new__(self.kind, self.attributes["message"])
        vars(error).update(self.attributes)
        return error


@dataclass(frozen=True)
class Delivered:
    """Events of a request, oldest first."""

    number: int
    deliveries: list[Delivery]


@dataclass(frozen=True)
class Warned:
    """Something that a person should know, though the answer is right. Comes before the answer to what led to it."""

    message: str


@dataclass(frozen=True)
class Heartbeat:
    step_seconds: float
    """For how long the engine has been busy without finishing a step."""


FromHost = Open | Call | Submit | Cancel | Close
FromEngine = Returned | Raised | Delivered | Warned | Heartbeat


def pack(messages: Sequence[FromHost | FromEngine]) -> bytes:
    """A frame. Raises what pickle does if something in it cannot go to another process."""
    content = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def write_frame(pipe: IO[bytes], frame: bytes) -> None:
    pipe.write(frame)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> list[Any]:
    """The messages of the next frame; EOFError if the other end is gone, in the middle of it or before."""
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    messages: list[Any] = pickle.loads(_read(pipe, length))
    return messages


def _read(pipe: IO[bytes], size: int) -> bytes:
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return content
