"""The lines that a conversation took: the one that goes on, and those that were left for another answer or question.

Each line is the whole conversation from its first message, so that any of them can go on. Plain values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.errors import EdgeError
from edge.prompt import Message

Line = tuple[Message, ...]


@dataclass(frozen=True)
class Branches:
    """The lines that were left, and the place among them of the current one, which its owner has."""

    others: tuple[Line, ...] = ()
    position: int = 0

    def lines(self, current: Sequence[Message]) -> tuple[Line, ...]:
        """Every line, in the order in which they were begun."""
        return (*self.others[: self.position], tuple(current), *self.others[self.position :])

    def left(self, current: Sequence[Message], new: Sequence[Message]) -> Branches:
        """With the current line kept, for `new` that is begun in its place; no line is there twice."""
        others = tuple(line for line in self.lines(current) if line != tuple(new))
        return Branches(others, len(others))

    def switched(self, current: Sequence[Message], number: int) -> tuple[Branches, Line]:
        """With line `number`, counted from 1, as the current one; gives that line too. EdgeError if there is none."""
        lines = self.lines(current)
        if not 1 <= number <= len(lines):
            raise EdgeError(f"There is no branch {number}.", hint=f"Branches: 1 to {len(lines)}.")
        index = number - 1
        return Branches((*lines[:index], *lines[index + 1 :]), index), lines[index]


def shared_messages(line: Sequence[Message], other: Sequence[Message]) -> int:
    """How many messages two lines begin with in common."""
    pairs = zip(line, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(line), len(other)))
