"""What is asked of machine and library for `edge doctor`, and kept as values."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convert.encode import encoder_name, types_left_to_ggml
from edge.conditions import (
    Clock,
    Heat,
    Swap,
    read_clock,
    read_distribution,
    read_heat,
    read_load,
    read_nvidia_driver,
    read_stopped_periods,
    read_swap,
)
from edge.devices import SIMD_NAMES
from edge.gguf_format import TENSOR_TYPES
from edge.llama import library, system
from edge.llama.system import ComputeDevice
from edge.placement import Placement, read_placement
from edge.throttling import Firmware, ThrottleState, read_throttle_state

PACKAGES = ("edge-llm", "llama-cpp-python", "gguf", "numpy", "llguidance")
_AMX = frozenset({"AMX_INT8"})


@dataclass(frozen=True)
class Disk:
    path: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Installation:
    """What is installed: package versions (None: missing), and what the loaded library can do."""

    versions: dict[str, str | None]
    simd: tuple[str, ...]
    """Instruction sets that the library was compiled for, without those it is kept off."""
    features: tuple[str, ...]
    """What else it was compiled with, such as OPENMP."""
    supports_gpu_offload: bool
    devices: tuple[ComputeDevice, ...]
    encoder: str
    """What quantizes weights in conversions: the instruction set of edge's own module, or "ggml"."""
    types_left_to_ggml: tuple[str, ...] = ()
    """Types that ggml quantizes even so, because the module's bytes would differ on this processor."""
    declined: tuple[str, ...] = ()
    """Instruction sets that edge keeps the library off, because it was compiled wrongly for them."""


@dataclass(frozen=True)
class Conditions:
    """What the machine is held back by at the moment."""

    placement: Placement = field(default_factory=Placement)
    clock: Clock = field(default_factory=Clock)
    heat: Heat | None = None
    throttling: ThrottleState = field(default_factory=lambda: ThrottleState(None, None, None))
    was_throttled: bool = False
    """Whether the machine slowed itself down while it was measured."""
    swap: Swap = field(default_factory=Swap)
    load: float | None = None
    stopped_periods: tuple[int, int] | None = None
    """In which the control group's quota stopped the process, and all."""
    nvidia_driver: str | None = None
    distribution: frozenset[str] = frozenset()

    @property
    def document(self) -> dict[str, object]:
        return {**asdict(self), "distribution": sorted(self.distribution)}


def read_conditions(root: Path = Path("/"), firmware: Firmware | None = None) -> Conditions:
    """The state now; `root` is where the system's files are looked for."""
    return Conditions(
        placement=read_placement(root),
        clock=read_clock(root),
        heat=read_heat(root),
        throttling=read_throttle_state(root, firmware),
        swap=read_swap(root),
        load=read_load(root),
        stopped_periods=read_stopped_periods(root),
        nvidia_driver=read_nvidia_driver(root),
        distribution=read_distribution(root),
    )


def examine_installation() -> Installation:
    of_library = system.library_versions()
    versions: dict[str, str | None] = {"Python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    versions |= {"llama.cpp": f"{of_library.llama_cpp} ({of_library.commit})", "ggml": of_library.ggml}
    features = system.system_info().get("CPU", {})
    compiled = {name for name in features if name in SIMD_NAMES}
    declined = compiled & _AMX if library.declines_amx() else set()
    return Installation(
        versions=versions,
        simd=tuple(sorted(compiled - declined)),
        features=tuple(sorted(features.keys() - compiled)),
        supports_gpu_offload=system.supports_gpu_offload(),
        devices=tuple(system.devices()),
        encoder=encoder_name(),
        types_left_to_ggml=types_left_to_ggml(TENSOR_TYPES.values()),
        declined=tuple(sorted(declined)),
    )


def read_disk(folder: Path) -> Disk:
    """The space where `folder` is or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return Disk(path=str(folder), total_bytes=usage.total, free_bytes=usage.free)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
