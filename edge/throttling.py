"""Notices that the machine slows itself down, for heat or for want of power, while something is measured.

Reads the counters that Linux keeps of Intel's processors, how far the system has lowered the frequency that processors
may have, and what a Raspberry Pi's firmware says.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.system_files import read_numbers

_CURRENT_FLAGS = 0xF  # of get_throttled: under-voltage, frequency capped, throttled, soft temperature limit, all now
_EVER_FLAGS = 0xF0000  # the same since the board was started
Firmware = Callable[[], str | None]


@dataclass(frozen=True)
class ThrottleState:
    """What was read at one moment; two of them tell whether something happened in between."""

    events: int | None
    """Times that processors were slowed down since the start of the system; None: nobody counts."""
    allowed_kilohertz: int | None
    """Sum of the highest frequencies that processors may have."""
    firmware_flags: int | None

    @property
    def is_known(self) -> bool:
        """Whether anything here could tell."""
        return not (self.events is None and self.allowed_kilohertz is None and self.firmware_flags is None)


def was_throttled(before: ThrottleState, after: ThrottleState) -> bool:
    """Whether the machine was slowed down at any time between two moments."""
    if before.events is not None and after.events is not None and after.events > before.events:
        return True
    if before.allowed_kilohertz and after.allowed_kilohertz and after.allowed_kilohertz < before.allowed_kilohertz:
        return True
    earlier, later = before.firmware_flags or 0, after.firmware_flags or 0
    return bool((earlier | later) & _CURRENT_FLAGS or (later & ~earlier) & _EVER_FLAGS)


def read_throttle_state(root: Path = Path("/"), firmware: Firmware | None = None) -> ThrottleState:
    """The state now. `firmware` gives what `vcgencmd get_throttled` prints."""
    cpus = root / "sys/devices/system/cpu"
    counters = [
        *cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"),
        *cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"),
    ]
    return ThrottleState(
        _sum_of(counters),
        _sum_of([*cpus.glob("cpufreq/policy[0-9]*/scaling_max_freq")]),
        parse_throttled((firmware or ask_firmware)() or ""),
    )


def parse_throttled(text: str) -> int | None:
    """The flags of `throttled=0x50005`; None for anything else."""
    name, _, value = text.strip().partition("=")
    try:
        return int(value, 16) if name == "throttled" else None
    except ValueError:
        return None


def ask_firmware() -> str | None:
    """What a Raspberry Pi's firmware says; None where there is none."""
    return run_vcgencmd("get_throttled")


def run_vcgencmd(question: str) -> str | None:
    """The answer of `vcgencmd`; None where the command is missing or fails."""
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    done = subprocess.run([command, question], capture_output=True, text=True, check=False, timeout=5)
    return done.stdout if done.returncode == 0 else None


def _sum_of(paths: list[Path]) -> int | None:
    numbers = read_numbers(iter(paths))
    return sum(numbers) if numbers else None
