"""Machines that are made up: a folder of what Linux shows below /proc and /sys, and the cards that a driver reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import edge.device_profiles
from edge.ceiling import Bandwidth
from edge.devices import examine_machine
from edge.llama.system import ComputeDevice

GB = 1_000_000_000
MIB = 1 << 20
RYZEN = "processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X\nflags\t\t: pni ssse3 fma avx f16c bmi2 avx2\n"
RASPBERRY_PI_5 = "processor\t: 0\nFeatures\t: asimd asimdhp asimddp\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
NVIDIA_PCI_ID = "0x10de\n"


@dataclass(frozen=True)
class FakeMachine:
    """What is read of it. Sizes of cards are in MiB, as nvidia-smi has them; of memory in kB, as Linux has them."""

    memory_kb: int
    available_kb: int
    swap_free_kb: int = 0
    cpuinfo: str = RYZEN
    cards: tuple[tuple[str, int, int], ...] = ()
    """Name, all and free memory of each."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further ones, by their paths."""
    bandwidth: float = 40e9

    def write(self, root: Path) -> None:
        write(root, "proc/cpuinfo", self.cpuinfo)
        write(root, "proc/meminfo", self._meminfo)
        for number, (name, _, _) in enumerate(self.cards):
            write(root, f"sys/class/drm/card{number}/device/vendor", NVIDIA_PCI_ID)
            write(root, f"proc/driver/nvidia/gpus/0000:0{number + 1}:00.0/information", f"Model: \t\t {name}\n")
        for path, text in self.files.items():
            write(root, path, text)

    @property
    def _meminfo(self) -> str:
        sizes = {
            "MemTotal": self.memory_kb,
            "MemFree": self.available_kb // 4,
            "MemAvailable": self.available_kb,
            "SwapTotal": self.swap_free_kb,
            "SwapFree": self.swap_free_kb,
        }
        return "".join(f"{name}: {size:>12} kB\n" for name, size in sizes.items())

    @property
    def compute_devices(self) -> list[ComputeDevice]:
        """As llama.cpp lists them, whose backends ask the driver."""
        cpu = ComputeDevice("CPU", "CPU", "CPU", self.memory_kb * 1024, self.available_kb * 1024)
        cards = [
            ComputeDevice(f"CUDA{number}", name, "GPU", total * MIB, free * MIB)
            for number, (name, total, free) in enumerate(self.cards)
        ]
        return [*cards, cpu]


UseMachine = Callable[[FakeMachine], None]


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, "utf-8")


@pytest.fixture
def use_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseMachine:
    """Has `this` be a machine that is made up."""

    def use(machine: FakeMachine) -> None:
        root = tmp_path / "root"
        machine.write(root)
        bandwidth = Bandwidth(8, 256 * MIB, 32 * MIB, machine.bandwidth, machine.bandwidth, machine.bandwidth)
        monkeypatch.setattr(edge.device_profiles, "examine_machine", lambda: examine_machine(root))
        monkeypatch.setattr("edge.llama.system.devices", lambda: machine.compute_devices)
        monkeypatch.setattr("edge.ceiling.measure_bandwidth", lambda *_, **__: bandwidth)

    return use
