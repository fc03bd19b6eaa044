"""What `edge doctor` reports: versions, processor, memory, disk, graphics, and what could be better, with its command.

Gathering the facts and judging them are separate: `examine` asks machine and library, `findings` only compares.
"""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from convert.encode import encoder_name, types_left_to_ggml
from edge.devices import SIMD_NAMES, Gpu, Machine, examine_machine
from edge.gguf_format import TENSOR_TYPES
from edge.llama import library, system
from edge.llama.system import ComputeDevice
from edge.quantities import size_text
from edge.tables import TITLE_STYLE, cell, section

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

PACKAGES = ("edge-llm", "llama-cpp-python", "gguf", "numpy", "llguidance")
LOW_RAM_BYTES = 2 * 10**9
LOW_DISK_BYTES = 10 * 10**9

_AMX = frozenset({"AMX_INT8"})

# CMake option that compiles llama.cpp for a kind of card, and what the compilation needs
_GPU_BUILDS = {
    "CUDA": ("-DGGML_CUDA=on", "the CUDA toolkit (nvcc)"),
    "ROCm": ("-DGGML_HIP=on", "the ROCm development packages (hipcc)"),
    "Vulkan": ("-DGGML_VULKAN=on", "the Vulkan SDK (glslc and the Vulkan headers)"),
    "Metal": ("-DGGML_METAL=on", "Xcode's command line tools"),
}


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
class Finding:
    """Something that could be better: what it is, what to do, and the exact command where there is one."""

    subject: Literal["instructions", "graphics", "memory", "cores", "disk", "packages", "encoder"]
    what: str
    hint: str
    command: str = ""


@dataclass(frozen=True)
class Report:
    machine: Machine
    installation: Installation
    threads: int
    """What a model is run with when nobody says otherwise."""
    disk: Disk | None
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(cache_folder: Path | None = None) -> Report:
    """The report on this machine; `cache_folder` is where models will be kept, whether it exists yet or not."""
    machine, installation = examine_machine(), examine_installation()
    disk = read_disk(cache_folder) if cache_folder else None
    return Report(machine, installation, machine.cores.usable, disk, tuple(findings(machine, installation, disk)))


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


# Judging


def findings(machine: Machine, installation: Installation, disk: Disk | None) -> Iterator[Finding]:
    """What could be better, the most important first."""
    yield from _package_findings(installation)
    yield from _graphics_findings(machine.gpus, installation)
    yield from _instruction_findings(machine, installation)
    yield from _core_findings(machine)
    yield from _memory_findings(machine)
    if installation.encoder == "ggml":
        yield Finding(
            "encoder",
            "Conversions quantize with ggml's functions, which take several times as long as edge's own.",
            "Those are compiled when edge is installed: install a C compiler (GCC or Clang), then edge again.",
            f"pip install --force-reinstall --no-deps {_installed_from()}",
        )
    if disk is not None and disk.free_bytes < LOW_DISK_BYTES:
        yield Finding(
            "disk",
            f"{size_text(disk.free_bytes)} are free in {disk.path}; a 9 B model as Q4_K_M takes 5.8 GB.",
            "Keep models on a larger disk.",
            "export EDGE_CACHE=/path/on/a/larger/disk",
        )


def _package_findings(installation: Installation) -> Iterator[Finding]:
    missing = [name for name, installed in installation.versions.items() if installed is None]
    if missing:
        yield Finding(
            "packages",
            f"Not installed: {', '.join(missing)}.",
            "Install what edge depends on.",
            f"pip install {' '.join(missing)}",
        )


def _graphics_findings(gpus: Iterable[Gpu], installation: Installation) -> Iterator[Finding]:
    gpus = list(gpus)
    if installation.supports_gpu_offload:
        if not any(device.is_gpu for device in installation.devices):
            yield Finding(
                "graphics",
                "llama.cpp is compiled for a GPU but finds none.",
                "Check that the card's driver is loaded and that this user may use it.",
                "nvidia-smi" if any(gpu.vendor == "NVIDIA" for gpu in gpus) else "ls -l /dev/dri /dev/kfd",
            )
        return
    for gpu in {gpu.vendor: gpu for gpu in gpus}.values():
        kind = _build_kind(gpu)
        option, needs = _GPU_BUILDS[kind]
        yield Finding(
            "graphics",
            f"{gpu.name} is not used: llama.cpp is compiled for the CPU only.",
            f"Compile it for {kind}; this needs {needs}.",
            reinstall_command(option, installation.versions.get("llama-cpp-python")),
        )


def _build_kind(gpu: Gpu) -> str:
    """The vendor's own interface when its driver is there; Vulkan works with every desktop driver."""
    own = {"NVIDIA": "CUDA", "AMD": "ROCm", "Apple": "Metal"}.get(gpu.vendor)
    return own if own and gpu.has_driver else "Vulkan"


def _instruction_findings(machine: Machine, installation: Installation) -> Iterator[Finding]:
    installed, offered = installation.versions.get("llama-cpp-python"), machine.cpu.simd
    if declined := [name for name in offered if name in installation.declined]:
        yield Finding(
            "instructions",
            f"edge keeps llama.cpp off {', '.join(declined)}: GCC before version 14, which compiled it, makes code for"
            " them that crashes.",
            "Compile it with GCC 14 or newer.",
            reinstall_command("-DGGML_NATIVE=on", installed, compilers=("gcc-14", "g++-14")),
        )
    if unused := [name for name in offered if name not in (*installation.simd, *installation.declined)]:
        yield Finding(
            "instructions",
            f"The processor has {', '.join(unused)}, which llama.cpp is not compiled for.",
            "Compile it on this machine.",
            reinstall_command("-DGGML_NATIVE=on", installed),
        )


def _core_findings(machine: Machine) -> Iterator[Finding]:
    cores = machine.cores
    if cores.quota is not None and cores.quota < cores.physical:
        yield Finding(
            "cores",
            f"The control group grants {cores.quota:g} of {cores.physical} cores.",
            "Give the container more, if it is one.",
            f"docker update --cpus {cores.physical} CONTAINER",
        )


def _memory_findings(machine: Machine) -> Iterator[Finding]:
    ram = machine.ram
    if ram.available_bytes >= LOW_RAM_BYTES:
        return
    if ram.limit_bytes is not None:
        yield Finding(
            "memory",
            f"{size_text(ram.available_bytes)} are available: the control group allows {size_text(ram.limit_bytes)}.",
            "Give the container more, if it is one.",
            "docker update --memory 8g --memory-swap 8g CONTAINER",
        )
    else:
        yield Finding(
            "memory",
            f"{size_text(ram.available_bytes)} of {size_text(ram.total_bytes)} are available.",
            "Close other programs, or take a small model with a short context.",
            "edge chat demo --ctx 2048",
        )


def reinstall_command(option: str, installed: str | None, compilers: tuple[str, str] | None = None) -> str:
    """Compiles the installed version of llama-cpp-python again with a CMake option, and other compilers of C and C++.

    Only Linux has a use for these.
    """
    package = f"llama-cpp-python=={installed}" if installed else "llama-cpp-python"
    install = f"pip install --force-reinstall --no-deps --no-cache-dir {package}"
    if sys.platform == "win32":
        return f'$env:CMAKE_ARGS="{option}"; {install}'
    chosen = f"CC={compilers[0]} CXX={compilers[1]} " if compilers else ""
    return f'{chosen}CMAKE_ARGS="{option}" {install}'


def _installed_from() -> str:
    """What pip has to be given to install edge as it was installed before."""
    records = (found.read_text("direct_url.json") for found in distributions(name="edge-llm"))
    origin = json.loads(next(filter(None, records), "{}"))
    if vcs := origin.get("vcs_info"):
        return f"{vcs['vcs']}+{origin['url']}"
    folder = origin.get("dir_info")
    if folder is None:
        return "edge-llm"
    path = shlex.quote(url2pathname(urlsplit(origin["url"]).path))
    return f"--editable {path}" if folder.get("editable") else path


# Rendering


def render(report: Report) -> RenderableType:
    """The report in sections, what could be better last."""
    from rich.console import Group

    sections = [
        section("Versions", [(name, found or "not installed") for name, found in report.installation.versions.items()]),
        section("Processor", _processor_rows(report)),
        section("Memory and disk", _memory_rows(report)),
        section("Graphics", _graphics_rows(report)),
    ]
    parts = [part for each in sections for part in (each, "")]
    return Group(*parts, cell("Findings", TITLE_STYLE), *_finding_lines(report.findings))


def _processor_rows(report: Report) -> list[tuple[str, str]]:
    cores, installation = report.machine.cores, report.installation
    unused = [name for name in report.machine.cpu.simd if name not in installation.simd]
    quota = f", {cores.quota:g} granted by the control group" if cores.quota is not None else ""
    return [
        ("system", report.machine.system),
        ("name", report.machine.cpu.name),
        ("cores", f"{cores.physical} ({cores.logical} hardware threads){quota}"),
        ("threads used", str(report.threads)),
        ("instructions used", ", ".join(installation.simd) or "none beyond the baseline"),
        ("not used", ", ".join(unused) or "none"),
        ("quantizes with", _encoder_text(installation)),
        ("library features", ", ".join(installation.features) or "none"),
    ]


def _encoder_text(installation: Installation) -> str:
    if installation.encoder == "ggml":
        return "ggml"
    left = installation.types_left_to_ggml
    exceptions = f"; {', '.join(left)} with ggml, for the same bytes" if left else ""
    return f"{installation.encoder} instructions{exceptions}"


def _memory_rows(report: Report) -> list[tuple[str, str]]:
    ram, disk = report.machine.ram, report.disk
    rows = [("RAM", f"{size_text(ram.available_bytes)} available of {size_text(ram.total_bytes)}")]
    if ram.limit_bytes is not None:
        rows.append(("control group", f"at most {size_text(ram.limit_bytes)}"))
    if disk is not None:
        rows.append(("disk", f"{size_text(disk.free_bytes)} free of {size_text(disk.total_bytes)} for {disk.path}"))
    return rows


def _graphics_rows(report: Report) -> list[tuple[str, str]]:
    rows = [("seen", f"{gpu.name}{'' if gpu.has_driver else ' (no compute driver)'}") for gpu in report.machine.gpus]
    rows = rows or [("seen", "no GPU that llama.cpp could use")]
    rows.append(("offload", "supported" if report.installation.supports_gpu_offload else "not compiled in"))
    for device in report.installation.devices:
        rows.append((device.name, f"{device.description} ({device.kind}, {size_text(device.total_bytes)})"))
    return rows


def _finding_lines(found: tuple[Finding, ...]) -> Iterator[Text]:
    if not found:
        yield cell("Nothing to improve: this installation uses what the machine has.", "green")
    for finding in found:
        yield cell(f"! {finding.what}", "yellow")
        yield cell(f"  {finding.hint}")
        if finding.command:
            yield cell(_continued(finding.command), "bold")


def _continued(command: str) -> str:
    """A long command over several lines as the shell allows it, so that it can still be copied."""
    lines = textwrap.wrap(command, 72, break_long_words=False, break_on_hyphens=False)
    mark = "`" if sys.platform == "win32" else "\\"
    return textwrap.indent(f" {mark}\n  ".join(lines), "  ")
