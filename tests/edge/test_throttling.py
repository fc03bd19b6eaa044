"""Whether throttling is noticed, on made-up systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.throttling import ThrottleState, parse_throttled, read_throttle_state, was_throttled

QUIET = ThrottleState(3, 4_000_000, 0)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_counters_of_all_processors_add_up(tmp_path: Path) -> None:
    cpus = tmp_path / "sys/devices/system/cpu"
    for number, count in ((0, 2), (1, 5)):
        _write(cpus / f"cpu{number}/thermal_throttle/core_throttle_count", f"{count}\n")
        _write(cpus / f"cpufreq/policy{number}/scaling_max_freq", "2400000\n")
    _write(cpus / "cpu0/thermal_throttle/package_throttle_count", "10\n")
    state = read_throttle_state(tmp_path, firmware=lambda: "throttled=0x50000\n")
    assert state == ThrottleState(17, 4_800_000, 0x50000)
    assert state.is_known


def test_a_system_that_tells_nothing_is_known_as_such(tmp_path: Path) -> None:
    state = read_throttle_state(tmp_path, firmware=lambda: None)
    assert state == ThrottleState(None, None, None)
    assert not state.is_known
    assert not was_throttled(state, state)


def test_a_counter_that_went_up_was_throttling() -> None:
    assert was_throttled(QUIET, ThrottleState(4, 4_000_000, 0))
    assert not was_throttled(QUIET, QUIET)


def test_a_frequency_that_was_lowered_was_throttling() -> None:
    assert was_throttled(QUIET, ThrottleState(3, 3_000_000, 0))
    assert not was_throttled(QUIET, ThrottleState(3, 4_500_000, 0))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0x0, 0x4, True),  # throttled now
        (0x2, 0x0, True),  # the frequency was capped when it began
        (0x0, 0x80000, True),  # a temperature limit was reached in between
        (0x50000, 0x50000, False),  # something happened long ago
    ],
)
def test_flags_of_the_firmware_are_read_as_now_and_ever(before: int, after: int, expected: bool) -> None:
    assert was_throttled(ThrottleState(None, None, before), ThrottleState(None, None, after)) is expected


@pytest.mark.parametrize("text", ["", "error=1", "throttled=hot", "0x5"])
def test_other_answers_of_the_firmware_are_none(text: str) -> None:
    assert parse_throttled(text) is None
