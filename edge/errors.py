"""The one error that a person sees."""

from __future__ import annotations


class EdgeError(Exception):
    """What happened, with the value that was wrong, and what to do about it.

    The command line prints `message` and `hint` on a line each and exits with code 1; nothing else that is raised
    is meant for a person's eyes.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class EngineBusyError(EdgeError):
    """So many requests are waiting already that one more was refused."""


class EngineFailedError(EdgeError):
    """Why there is no answer lies with the engine, and not with what was asked of it."""


class EngineGoneError(EngineFailedError):
    """There is no engine to answer: it was closed, or its process died."""
