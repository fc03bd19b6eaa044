"""The energy that work takes, where the machine has a meter: RAPL, NVIDIA's driver, a Raspberry Pi's power controller.

What a meter counts is the whole processor, card or board, with everything else that runs on it meanwhile.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from edge.throttling import run_vcgencmd

_SAMPLE_SECONDS = 0.1
_RAIL = re.compile(
    r"^\s*(?P<rail>\w+)_(?P<kind>[AV])\s+(?:current|volt)\(\d+\)=(?P<value>[\d.]+)[AV]\s*$", re.MULTILINE
)


class EnergyMeter(Protocol):
    """Counts what is used between start and stop."""

    @property
    def name(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> float:
        """Joules since `start`."""


class RaplMeter:
    """Intel's and AMD's own counters of each processor package and its memory. They wrap around."""

    name = "RAPL"

    def __init__(self, domains: Sequence[Path]) -> None:
        self._domains = [(path / "energy_uj", _number(path / "max_energy_range_uj") or 0) for path in domains]
        self._before: list[int] = []

    def start(self) -> None:
        self._before = [_number(path) or 0 for path, _ in self._domains]

    def stop(self) -> float:
        used = 0
        for (path, wraps_at), before in zip(self._domains, self._before, strict=True):
            after = _number(path) or 0
            used += after - before if after >= before else after - before + wraps_at
        return used / 1e6


class NvidiaMeter:
    """What the driver has counted for each card since it was loaded."""

    name = "NVML"

    def __init__(self, library: Any) -> None:
        self._library = library
        self._cards = [library.nvmlDeviceGetHandleByIndex(number) for number in range(library.nvmlDeviceGetCount())]
        self._before = 0

    def start(self) -> None:
        self._before = self._millijoules()

    def stop(self) -> float:
        return (self._millijoules() - self._before) / 1e3

    def _millijoules(self) -> int:
        return sum(self._library.nvmlDeviceGetTotalEnergyConsumption(card) for card in self._cards)


class PowerSampler:
    """A meter of something that only tells its power: asked again and again, in a thread of its own."""

    def __init__(self, name: str, read_watts: Callable[[], float]) -> None:
        self.name = name
        self._read_watts = read_watts
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[tuple[float, float]] = []

    def start(self) -> None:
        self._samples = []
        self._is_over.clear()
        self._take()
        self._thread = threading.Thread(target=self._watch, name="power-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        assert self._thread is not None, "the meter was not started"
        self._is_over.set()
        self._thread.join()
        self._take()
        return integrate(self._samples)

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            self._take()

    def _take(self) -> None:
        self._samples.append((time.perf_counter(), self._read_watts()))


class SeveralMeters:
    """Meters of different parts of a machine, added up."""

    def __init__(self, meters: Sequence[EnergyMeter]) -> None:
        self._meters = meters
        self.name = " + ".join(meter.name for meter in meters)

    def start(self) -> None:
        for meter in self._meters:
            meter.start()

    def stop(self) -> float:
        return sum([meter.stop() for meter in self._meters])


def find_energy_meter(root: Path = Path("/")) -> EnergyMeter | None:
    """What this machine has, or None."""
    found: list[EnergyMeter] = []
    domains = readable_rapl_domains(root)
    if domains:
        found.append(RaplMeter(domains))
    library = _nvidia_library()
    if library:
        found.append(NvidiaMeter(library))
    if parse_pmic_watts(run_vcgencmd("pmic_read_adc") or "") is not None:
        found.append(PowerSampler("PMIC", lambda: parse_pmic_watts(run_vcgencmd("pmic_read_adc") or "") or 0.0))
    return SeveralMeters(found) if len(found) > 1 else next(iter(found), None)


def readable_rapl_domains(root: Path) -> list[Path]:
    """Packages, and memory that they do not include, of which the system lets this user read the counter."""
    return [path for path in _rapl_domains(root) if _number(path / "energy_uj") is not None]


def hidden_meter(root: Path = Path("/")) -> str | None:
    """What to say where the processor counts its energy and the system keeps it from this user; else None."""
    if not _rapl_domains(root) or readable_rapl_domains(root):
        return None
    return (
        "Energy is counted (RAPL) but only an administrator may read it: sudo chmod a+r /sys/class/powercap/*/energy_uj"
    )


def _rapl_domains(root: Path) -> list[Path]:
    """Cores are part of a package, the platform includes packages: neither is counted again."""
    folder = root / "sys/class/powercap"
    candidates = {*folder.glob("intel-rapl:[0-9]*"), *folder.glob("intel-rapl:[0-9]*:[0-9]*")}
    return sorted(path for path in candidates if _domain_name(path).startswith(("package", "dram")))


def parse_pmic_watts(text: str) -> float | None:
    """The sum over all rails of `vcgencmd pmic_read_adc` that tell both current and voltage; None without any."""
    rails: dict[str, dict[str, float]] = {}
    for match in _RAIL.finditer(text):
        rails.setdefault(match["rail"], {})[match["kind"]] = float(match["value"])
    powers = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(powers) if powers else None


def integrate(samples: Sequence[tuple[float, float]]) -> float:
    """Joules under (seconds, watts), by trapezoids."""
    return sum(
        (later - earlier) * (watts + next_watts) / 2
        for (earlier, watts), (later, next_watts) in itertools.pairwise(samples)
    )


def _nvidia_library() -> Any:
    """pynvml, if it is installed and finds a card that counts its energy."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(number))
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except pynvml.NVMLError:
        return None


def _domain_name(path: Path) -> str:
    try:
        return (path / "name").read_text("ascii").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
