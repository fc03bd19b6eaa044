"""Cases in turn, with energy, and again after throttling: with made-up cases."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.measure import Guard, Observation, measure_in_turn
from edge.throttling import ThrottleState


@dataclass
class _Case:
    name: str
    log: list[tuple[str, int]]

    def run(self, number: int) -> Observation:
        self.log.append((self.name, number))
        return Observation({self.name: float(number)}, tokens=10)


@dataclass
class _Meter:
    name: str = "made up"
    used: list[float] = field(default_factory=lambda: [1.0, 2.0, 3.0, 4.0])

    def start(self) -> None:
        pass

    def stop(self) -> float:
        return self.used.pop(0)


def _states(*events: int) -> list[ThrottleState]:
    return [ThrottleState(count, None, None) for count in events]


def test_cases_are_run_in_an_order_that_turns_around_and_the_first_round_warms_up() -> None:
    log: list[tuple[str, int]] = []
    rounds: list[int] = []
    taken = list(measure_in_turn([_Case("a", log), _Case("b", log)], 2, Guard(), rounds.append))
    assert log == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert [[sample.observation.values for sample in each] for each in taken] == [
        [{"a": 1.0}, {"b": 1.0}],
        [{"a": 2.0}, {"b": 2.0}],
    ]
    assert rounds == [0, 1, 2]


def test_a_sample_taken_while_the_machine_slowed_itself_down_is_taken_again() -> None:
    log: list[tuple[str, int]] = []
    states, pauses = _states(5, 6, 6, 6), []
    guard = Guard(_Meter(), read_state=lambda: states.pop(0), cool_down=lambda: pauses.append("pause"))
    sample = guard.take(_Case("a", log), 1)
    assert (sample.attempts, sample.is_throttled, sample.joules) == (2, False, 2.0)
    assert log == [("a", 1), ("a", 1)] and pauses == ["pause"]


def test_a_machine_that_never_recovers_gives_a_sample_that_says_so() -> None:
    states = _states(0, 1, 1, 2, 2, 3)
    guard = Guard(read_state=lambda: states.pop(0), cool_down=lambda: None)
    sample = guard.take(_Case("a", []), 1)
    assert (sample.attempts, sample.is_throttled, sample.joules) == (3, True, None)
