"""The machine and the versions that figures belong to, as every record has them."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.ceiling import last_cache_bytes
from edge.devices import examine_machine
from edge.llama import system

_PACKAGES = ("edge-llm", "llama-cpp-python", "llguidance", "numpy")


def machine_record(root: Path = Path("/")) -> dict[str, Any]:
    """Processor, memory, cards, load and versions, as JSON gives them back: two runs are compared by them.

    The load is what else the machine had to do before the run.
    """
    machine = asdict(examine_machine(root))
    machine["ram"].pop("available_bytes")  # differs from run to run
    record = {
        **machine,
        "last_cache_bytes": last_cache_bytes(root),
        "governor": _governor(root),
        "load_average": _load_average(),
        "devices": [f"{device.name}: {device.description}" for device in system.devices()],
        "versions": versions(),
    }
    return dict(json.loads(json.dumps(record)))


def versions() -> dict[str, str]:
    """Of Python, the packages that decide about speed, and llama.cpp."""
    library = system.library_versions()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "llama.cpp": f"{library.llama_cpp} ({library.commit})",
    }


def is_same_machine(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether speeds can be compared: processor, cores and cards are the same."""
    return all(first.get(part) == second.get(part) for part in ("cpu", "cores", "gpus"))


def _governor(root: Path) -> str | None:
    path = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return None


def _load_average() -> float | None:
    if not hasattr(os, "getloadavg"):
        return None  # Windows
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
