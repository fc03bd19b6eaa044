"""Sides measured in turn, so that what else the machine does falls on all of them, and compared round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from types import TracebackType
from typing import Any, Self, TypeVar

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Speed:
    """Tokens of all streams together."""

    per_second: float
    per_cpu_second: float
    """Of processor time of this process, which other processes take less from."""


class Stopwatch:
    """Wall and processor time of everything inside its blocks."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]

    def speed(self, tokens: int) -> Speed:
        """Of so many tokens in that time."""
        return Speed(tokens / self.seconds, tokens / self.cpu_seconds)


@dataclass(frozen=True)
class Samples:
    """What two sides had in each round."""

    ours: Sequence[float]
    anchor: Sequence[float]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(ours / anchor for ours, anchor in zip(self.ours, self.anchor, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: a round in which the machine was slow counts like any other."""
        return median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return quartiles(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        return median(self.ours), median(self.anchor)

    @property
    def document(self) -> dict[str, Any]:
        return {"ours": list(self.ours), "anchor": list(self.anchor)}


def measure_in_turn(
    ours: Callable[[int], Figure], anchor: Callable[[int], Figure], rounds: int
) -> tuple[list[Figure], list[Figure]]:
    """What each side gives in every round, called with its number; who goes first changes from round to round.

    Round 0 warms up and does not count.
    """
    measured: tuple[list[Figure], list[Figure]] = [], []
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            figure = (ours, anchor)[side](number)
            if number:
                measured[side].append(figure)
    return measured


def compare(ours: Callable[[int], float], anchor: Callable[[int], float], rounds: int) -> Samples:
    """Two sides with one figure each."""
    return Samples(*measure_in_turn(ours, anchor, rounds))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; of fewer than two values, the least and the greatest."""
    if len(values) < 2:
        return min(values), max(values)
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
