"""What a terminal chat consists of while it runs, and what its commands have it do next."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.chat import Chat
from edge.model_desk import ModelDesk
from edge.repl_input import Source
from edge.request import Completion
from edge.session_shelf import Shelf


@dataclass
class Attachment:
    """A file whose text goes with the next message."""

    name: str
    text: str


@dataclass
class Talk:
    """A conversation in a terminal, with all that its commands work on."""

    chat: Chat
    models: ModelDesk
    shelf: Shelf
    source: Source
    attachments: list[Attachment] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    """Of the answers so far, with what they took."""
    unanswered: str | None = None
    """The last question, if an error came in the place of its answer."""

    def with_attachments(self, text: str) -> str:
        """A message as it is sent: the files first, each under its name."""
        return "\n\n".join([*(f"{each.name}:\n\n{fenced(each.text)}" for each in self.attachments), text])


def fenced(text: str) -> str:
    """A text as a Markdown block that nothing in it can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}"


@dataclass(frozen=True)
class Say:
    """Send this; in the place of a turn, counted from 1, if one is given."""

    text: str
    turn: int | None = None


@dataclass(frozen=True)
class Leave:
    """End the chat."""


Outcome = Say | Leave | None
