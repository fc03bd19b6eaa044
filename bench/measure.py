"""Runs cases in turn, round after round, each with its energy, and again where the machine slowed itself down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.energy import EnergyMeter
from edge.throttling import ThrottleState, read_throttle_state, was_throttled

_ATTEMPTS = 3
_COOL_DOWN_SECONDS = 10.0


@dataclass(frozen=True)
class Observation:
    """What one run of a case gave: figures by the names of its metrics."""

    values: Mapping[str, float]
    tokens: int = 0
    """Tokens that were computed, by which energy is shared out."""
    gaps_seconds: tuple[float, ...] = ()
    """Between the tokens of each stream."""


class Case(Protocol):
    """Something that can be measured again and again."""

    @property
    def name(self) -> str: ...

    def run(self, number: int) -> Observation:
        """Measure once. `number` says which round it is, from 0, which warms up."""


@dataclass(frozen=True)
class Sample:
    observation: Observation
    joules: float | None
    attempts: int
    """1, or more if it was measured again."""
    is_throttled: bool
    """Whether the machine slowed itself down even in the last attempt."""


@dataclass
class Guard:
    """Watches over samples: their energy, and whether the machine kept its speed meanwhile."""

    meter: EnergyMeter | None = None
    read_state: Callable[[], ThrottleState] = read_throttle_state
    cool_down: Callable[[], None] = field(default=lambda: time.sleep(_COOL_DOWN_SECONDS))

    def take(self, case: Case, number: int) -> Sample:
        """A sample; where the machine slowed itself down, a later one, after it could cool down."""
        for attempt in range(1, _ATTEMPTS + 1):
            before = self.read_state()
            if self.meter:
                self.meter.start()
            observation = case.run(number)
            joules = self.meter.stop() if self.meter else None
            is_throttled = was_throttled(before, self.read_state())
            if not is_throttled or attempt == _ATTEMPTS:
                return Sample(observation, joules, attempt, is_throttled)
            self.cool_down()
        raise AssertionError("unreachable")


def measure_in_turn(
    cases: Sequence[Case], rounds: int, guard: Guard, progress: Callable[[int], None] = lambda _: None
) -> Iterator[list[Sample]]:
    """After each round a sample of each case, in the order of the cases; they are asked in one that turns around.

    Round 0 warms up and is not given.
    """
    for number in range(rounds + 1):
        progress(number)
        places = range(len(cases)) if number % 2 else reversed(range(len(cases)))
        taken = {place: guard.take(cases[place], number) for place in places}
        if number:
            yield [taken[place] for place in range(len(cases))]
