"""What a processor and the memory beside it are held back by: governor, frequency limits, heat, power, swap.

Reads what Linux tells below /sys and /proc; elsewhere nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge.control_groups import group_folders, parse_counts
from edge.system_files import parse_fields, read_number, read_numbers, read_text, read_word

_CHOSEN_BY_PROCESSOR = ("intel_pstate", "amd-pstate-epp")
_TRIP_DEGREES = range(20, 150)
"""Degrees that a trip point can mean; others are placeholders."""


@dataclass(frozen=True)
class Clock:
    """Frequencies in kilohertz, of the fastest processor."""

    current: int | None = None
    allowed: int | None = None
    """The highest that the system lets it have."""
    highest: int | None = None
    """The highest that it could have."""
    lowest: int | None = None
    driver: str | None = None
    governor: str | None = None
    preference: str | None = None
    """Between energy and performance, where the processor decides by itself."""
    turbo_switch: str | None = None
    """The file, with the value, that would switch turbo on; None: it is on or there is none."""

    @property
    def is_held_at_lowest(self) -> bool:
        """Whether the governor powersave means the lowest frequency, as it does where it is not up to the processor."""
        return self.governor == "powersave" and self.driver not in _CHOSEN_BY_PROCESSOR


@dataclass(frozen=True)
class Heat:
    """The thermal zone nearest to the temperature at which the system slows its processor down."""

    zone: str
    degrees: float
    slows_at: float | None


@dataclass(frozen=True)
class Swap:
    """Memory beyond RAM, and limits on what may be allocated."""

    total_bytes: int = 0
    used_bytes: int = 0
    places: tuple[str, ...] = ()
    """Devices or files; those in RAM, compressed, have `zram` in their name."""
    grantable_bytes: int | None = None
    """What may still be allocated where the system grants no more than it has (overcommit off); None: no limit."""
    address_space_bytes: int | None = None
    """The process's limit (ulimit -v); None: none."""

    @property
    def is_on_disk(self) -> bool:
        return any("zram" not in place for place in self.places)

    @property
    def is_on_card(self) -> bool:
        """Whether it is on an SD card, slow and soon worn out."""
        return any("mmcblk" in place for place in self.places)


def read_clock(root: Path = Path("/")) -> Clock:
    cpus = root / "sys/devices/system/cpu"
    policies = sorted((cpus / "cpufreq").glob("policy[0-9]*"))
    if not policies:
        return Clock(turbo_switch=_turbo_switch(cpus))
    policy = max(policies, key=lambda folder: read_number(folder / "cpuinfo_max_freq") or 0)
    return Clock(
        current=max(read_numbers(folder / "scaling_cur_freq" for folder in policies), default=None),
        allowed=read_number(policy / "scaling_max_freq"),
        highest=read_number(policy / "cpuinfo_max_freq"),
        lowest=read_number(policy / "cpuinfo_min_freq"),
        driver=read_word(policy / "scaling_driver"),
        governor=read_word(policy / "scaling_governor"),
        preference=read_word(policy / "energy_performance_preference"),
        turbo_switch=_turbo_switch(cpus),
    )


def _turbo_switch(cpus: Path) -> str | None:
    if read_number(cpus / "intel_pstate/no_turbo") == 1:
        return "echo 0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    if read_number(cpus / "cpufreq/boost") == 0:
        return "echo 1 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
    return None


def read_heat(root: Path = Path("/")) -> Heat | None:
    zones = [
        Heat(read_word(folder / "type") or folder.name, millidegrees / 1000, _trip_point(folder))
        for folder in sorted((root / "sys/class/thermal").glob("thermal_zone[0-9]*"))
        if (millidegrees := read_number(folder / "temp")) is not None
    ]
    return max(zones, key=lambda zone: zone.degrees - (zone.slows_at or 200), default=None)


def _trip_point(folder: Path) -> float | None:
    points = [
        (read_number(kind.with_name(kind.name.replace("_type", "_temp"))) or 0) / 1000
        for kind in folder.glob("trip_point_*_type")
        if read_word(kind) in ("passive", "hot")
    ]
    return min((point for point in points if int(point) in _TRIP_DEGREES), default=None)


def read_swap(root: Path = Path("/")) -> Swap:
    fields = parse_fields(read_text(root / "proc/meminfo") or "")
    sizes = {name: int(value.split()[0]) << 10 for name, value in fields.items() if value[:1].isdigit()}
    lines = (read_text(root / "proc/swaps") or "").splitlines()[1:]
    limit = re.search(r"^Max address space\s+(\d+)", read_text(root / "proc/self/limits") or "", re.MULTILINE)
    is_strict = read_number(root / "proc/sys/vm/overcommit_memory") == 2
    total = sizes.get("SwapTotal", 0)
    return Swap(
        total_bytes=total,
        used_bytes=max(0, total - sizes.get("SwapFree", 0) - sizes.get("SwapCached", 0)),
        places=tuple(line.split()[0] for line in lines if line.strip()),
        grantable_bytes=max(0, sizes.get("CommitLimit", 0) - sizes.get("Committed_AS", 0)) if is_strict else None,
        address_space_bytes=int(limit[1]) if limit else None,
    )


def read_stopped_periods(root: Path = Path("/")) -> tuple[int, int] | None:
    """Periods in which the quota of the control group stopped this process, and all; None: no quota."""
    for folder in group_folders(root, ""):
        counts = parse_counts(read_text(folder / "cpu.stat") or "")
        if counts.get("nr_periods"):
            return counts.get("nr_throttled", 0), counts["nr_periods"]
    return None


def read_nvidia_driver(root: Path = Path("/")) -> str | None:
    """The version of NVIDIA's kernel module."""
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", read_text(root / "proc/driver/nvidia/version") or "")
    return found[0] if found else None


def read_distribution(root: Path = Path("/")) -> frozenset[str]:
    """The names of the Linux distribution and of those it is made from, such as `ubuntu` and `debian`."""
    text = (read_text(root / "etc/os-release") or "").replace("=", ":")
    fields = parse_fields(text)
    return frozenset(f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split())


def read_load(root: Path = Path("/")) -> float | None:
    """Threads that ran or wanted to run, on average over the last minute."""
    try:
        return float((read_text(root / "proc/loadavg") or "").split()[0])
    except (ValueError, IndexError):
        return None
