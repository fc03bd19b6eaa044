"""One sequence of the context: the tokens its cache holds, and the states it can go back to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge.job import Job
from edge.request import AdapterChoice

AdapterSet = tuple[AdapterChoice, ...]


@dataclass(eq=False)
class Checkpoint:
    """What of a sequence's cache cannot be cut back, as it was behind its first `position` tokens."""

    position: int
    state: bytes
    last_used: float = field(default_factory=time.perf_counter)


class Slot:
    """A sequence number with the tokens whose keys and values the context holds for it, oldest first."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.held_tokens: list[int] = []
        self.cells: list[int] = []
        """A number for the cell of each held token. Sequences that share a cell share its number."""
        self.checkpoints: list[Checkpoint] = []
        self.adapters: AdapterSet = ()
        """With which the held tokens were computed."""
        self.job: Job | None = None
        self.last_used = 0.0

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` are what the slot holds."""
        return common_prefix(tokens, self.held_tokens)

    def hold(self, tokens: Sequence[int], first_cell: int) -> None:
        """Note that tokens were computed behind those that are held."""
        self.held_tokens += tokens
        self.cells += range(first_cell, first_cell + len(tokens))

    def cut(self, kept: int) -> None:
        """Note that only the first `kept` tokens are held any more."""
        del self.held_tokens[kept:]
        del self.cells[kept:]
        self.checkpoints = [checkpoint for checkpoint in self.checkpoints if checkpoint.position <= kept]

    def share(self, other: Slot, kept: int) -> None:
        """Note that the first `kept` tokens of another slot are held, and nothing else."""
        self.held_tokens, self.cells = other.held_tokens[:kept], other.cells[:kept]
        self.checkpoints = [checkpoint for checkpoint in other.checkpoints if checkpoint.position <= kept]
        self.adapters = other.adapters

    @property
    def future_tokens(self) -> int:
        """Cells that its request may still come to need."""
        return max(0, self.job.reserved_tokens - len(self.held_tokens)) if self.job else 0


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    length = min(len(left), len(right))
    if list(left[:length]) == list(right[:length]):
        return length
    return next(index for index in range(length) if left[index] != right[index])
