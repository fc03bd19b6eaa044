"""What this machine has for a model, as far as this process may use it: cores, instructions, memory, graphics cards.

Reads what the operating system shows in files (Linux), `sysctl` (macOS) or psutil (elsewhere). It knows nothing of
llama.cpp; instruction sets carry the names that ggml gives them, so that both can be compared.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from edge.control_groups import group_folders, read_cpu_quota, read_memory_limit
from edge.system_files import parse_fields, read_text

GpuVendor = Literal["NVIDIA", "AMD", "Intel", "Apple"]

SIMD_OF_FLAG: dict[str, str] = {
    # x86, from "flags" of /proc/cpuinfo
    "pni": "SSE3",
    "ssse3": "SSSE3",
    "avx": "AVX",
    "avx_vnni": "AVX_VNNI",
    "avx2": "AVX2",
    "f16c": "F16C",
    "fma": "FMA",
    "bmi2": "BMI2",
    "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    # Arm, from "Features" of /proc/cpuinfo
    "asimd": "NEON",
    "neon": "NEON",
    "asimdhp": "FP16_VA",
    "i8mm": "MATMUL_INT8",
    "asimddp": "DOTPROD",
    "sve": "SVE",
    "sme": "SME",
    # macOS, from sysctl
    "hw.optional.neon": "NEON",
    "hw.optional.arm.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16_VA",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.avx1_0": "AVX",
    "hw.optional.avx2_0": "AVX2",
    "hw.optional.f16c": "F16C",
    "hw.optional.fma": "FMA",
    "hw.optional.bmi2": "BMI2",
    "hw.optional.avx512f": "AVX512",
}
SIMD_NAMES = frozenset(SIMD_OF_FLAG.values()) | {"ARM_FMA"}
_VENDOR_OF_PCI_ID: dict[str, GpuVendor] = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}


@dataclass(frozen=True)
class Cpu:
    name: str
    simd: tuple[str, ...]
    """Instruction sets that the processor offers, by ggml's names, sorted."""


@dataclass(frozen=True)
class Cores:
    logical: int
    """Hardware threads that this process may run on."""
    physical: int
    """Cores behind them; on Apple's processors, the fast ones only."""
    quota: float | None
    """Cores' worth of time that the control group grants; None: no limit."""

    @property
    def usable(self) -> int:
        """Threads that make sense for computing: a core each, within the quota."""
        return max(1, min(self.logical, self.physical, int(self.quota or self.physical)))


@dataclass(frozen=True)
class Ram:
    total_bytes: int
    available_bytes: int
    """What can be taken without swapping, inside the limit as well."""
    limit_bytes: int | None
    """The control group's limit; None: only the machine's memory limits."""
    swap_free_bytes: int = 0
    """What could still be swapped out, which no plan should count on."""


@dataclass(frozen=True)
class Gpu:
    vendor: GpuVendor
    name: str
    has_driver: bool
    """Whether the vendor's compute driver is loaded: CUDA for NVIDIA, ROCm for AMD, Metal for Apple."""


@dataclass(frozen=True)
class Machine:
    system: str
    cpu: Cpu
    cores: Cores
    ram: Ram
    gpus: tuple[Gpu, ...]


def examine_machine(root: Path = Path("/")) -> Machine:
    """Everything at once; `root` is where the system's files are looked for."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=read_cpu(root),
        cores=read_cores(root),
        ram=read_ram(root),
        gpus=read_gpus(root),
    )


@cache
def physical_cores() -> int:
    """The number of threads to compute with when nobody says otherwise: at least 1, never above mask or quota."""
    return read_cores().usable


# Processor


def read_cpu(root: Path = Path("/")) -> Cpu:
    cpuinfo = read_text(root / "proc/cpuinfo")
    if cpuinfo is not None:
        board = (read_text(root / "proc/device-tree/model") or "").strip("\0 \n")
        return Cpu(name=cpu_name(cpuinfo) or board or platform.machine(), simd=simd_of_cpuinfo(cpuinfo))
    if sys.platform == "darwin":
        settings = parse_fields(_sysctl())
        return Cpu(name=settings.get("machdep.cpu.brand_string", platform.machine()), simd=simd_of_sysctl(settings))
    return Cpu(name=platform.processor() or platform.machine(), simd=())


def cpu_name(cpuinfo: str) -> str:
    """The processor's name in /proc/cpuinfo, or the board's where the processor has none; "" if neither is there."""
    fields = parse_fields(cpuinfo)
    return fields.get("model name") or fields.get("Model") or fields.get("Hardware") or ""


def simd_of_cpuinfo(cpuinfo: str) -> tuple[str, ...]:
    fields = parse_fields(cpuinfo)
    flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    return _simd_names(flags)


def simd_of_sysctl(settings: Mapping[str, str]) -> tuple[str, ...]:
    return _simd_names(key for key, value in settings.items() if value == "1")


def _simd_names(flags: Iterable[str]) -> tuple[str, ...]:
    names = {SIMD_OF_FLAG[flag] for flag in flags if flag in SIMD_OF_FLAG}
    if "NEON" in names:
        names.add("ARM_FMA")  # part of Advanced SIMD, so no system lists it
    return tuple(sorted(names))


# Cores


def read_cores(root: Path = Path("/")) -> Cores:
    if sys.platform == "linux":
        usable = sorted(os.sched_getaffinity(0))
        return Cores(logical=len(usable), physical=count_cores(root, usable), quota=read_cpu_quota(root))
    logical = os.cpu_count() or 1
    if sys.platform == "darwin":
        settings = parse_fields(_sysctl())
        physical = settings.get("hw.perflevel0.physicalcpu") or settings.get("hw.physicalcpu") or str(logical)
        return Cores(logical=logical, physical=int(physical), quota=None)
    import psutil  # type: ignore[import-untyped]

    return Cores(logical=logical, physical=psutil.cpu_count(logical=False) or logical, quota=None)


def count_cores(root: Path, cpus: Iterable[int]) -> int:
    """How many different cores the hardware threads `cpus` belong to."""
    cpus = list(cpus)
    topology = root / "sys/devices/system/cpu"
    siblings = {
        read_text(topology / f"cpu{cpu}/topology/core_cpus_list")
        or read_text(topology / f"cpu{cpu}/topology/thread_siblings_list")
        for cpu in cpus
    }
    if None not in siblings:
        return len(siblings)
    cores = cores_of_cpuinfo(read_text(root / "proc/cpuinfo") or "")
    return len({cores.get(cpu, (cpu, "")) for cpu in cpus})


def cores_of_cpuinfo(cpuinfo: str) -> dict[int, tuple[str, str]]:
    """For each hardware thread of /proc/cpuinfo its socket and core; those that do not say are left out."""
    cores = {}
    for block in cpuinfo.split("\n\n"):
        fields = parse_fields(block)
        if fields.get("processor", "").isdigit() and "core id" in fields:
            cores[int(fields["processor"])] = (fields.get("physical id", ""), fields["core id"])
    return cores


# Memory


def read_ram(root: Path = Path("/")) -> Ram:
    meminfo = read_text(root / "proc/meminfo")
    if meminfo is None:
        import psutil

        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return Ram(memory.total, memory.available, limit_bytes=None, swap_free_bytes=swap.free)
    total, available = parse_meminfo(meminfo)
    swap_free = _free_swap(root, meminfo)
    limit, left = read_memory_limit(root)
    if limit is None or limit >= total:
        return Ram(total, available, limit_bytes=None, swap_free_bytes=swap_free)
    return Ram(total, max(0, min(available, left)), limit_bytes=limit, swap_free_bytes=swap_free)


def parse_meminfo(meminfo: str) -> tuple[int, int]:
    """Total and available bytes; kernels before 3.14 do not tell what is available, so free and cached count."""
    kilobytes = _kilobytes(meminfo)
    available = kilobytes.get("MemAvailable", kilobytes.get("MemFree", 0) + kilobytes.get("Cached", 0))
    return kilobytes.get("MemTotal", 0) * 1024, available * 1024


def _free_swap(root: Path, meminfo: str) -> int:
    """Free swap in bytes, as far as the process's control groups allow it."""
    limits = [(read_text(folder / "memory.swap.max") or "").strip() for folder in group_folders(root, "")]
    free = _kilobytes(meminfo).get("SwapFree", 0) * 1024
    return min([free, *(int(limit) for limit in limits if limit.isdigit())])


def _kilobytes(meminfo: str) -> dict[str, int]:
    return {name: int(value.split()[0]) for name, value in parse_fields(meminfo).items() if value[:1].isdigit()}


# Graphics


def read_gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The cards that llama.cpp could compute on; virtual display adapters are left out."""
    if sys.platform == "darwin":
        return (Gpu("Apple", "Apple GPU", has_driver=True),) if platform.machine() == "arm64" else ()
    vendors = [
        _VENDOR_OF_PCI_ID[vendor]
        for path in sorted((root / "sys/class/drm").glob("card*/device/vendor"))
        if path.parent.parent.name.removeprefix("card").isdigit()
        and (vendor := (read_text(path) or "").strip()) in _VENDOR_OF_PCI_ID
    ]
    informations = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    nvidia = [Gpu("NVIDIA", nvidia_model(read_text(path) or ""), has_driver=True) for path in informations]
    if not nvidia and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        nvidia = [Gpu("NVIDIA", "NVIDIA GPU of the Windows host", has_driver=True)]
    if not nvidia:
        nvidia = [Gpu("NVIDIA", "NVIDIA GPU", has_driver=False) for vendor in vendors if vendor == "NVIDIA"]
    has_rocm = (root / "dev/kfd").exists()
    others = [
        Gpu(vendor, f"{vendor} GPU", has_driver=vendor == "AMD" and has_rocm)
        for vendor in vendors
        if vendor != "NVIDIA"
    ]
    return (*nvidia, *others)


def nvidia_model(information: str) -> str:
    """The card's name in /proc/driver/nvidia/gpus/*/information."""
    return parse_fields(information).get("Model") or "NVIDIA GPU"


@cache
def _sysctl() -> str:
    import subprocess

    command = ["/usr/sbin/sysctl", "hw", "machdep.cpu"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
