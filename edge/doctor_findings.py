"""What `edge doctor` finds to be better: it only compares facts, and names the command that changes each."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edge.condition_findings import condition_findings
from edge.decode_speed import DecodeSpeed
from edge.devices import Gpu, Machine
from edge.doctor_facts import Conditions, Disk, Installation
from edge.finding import Finding
from edge.quantities import size_text

LOW_RAM_BYTES = 2 * 10**9
LOW_DISK_BYTES = 10 * 10**9

# CMake option that compiles llama.cpp for a kind of card, and what the compilation needs
_GPU_BUILDS = {
    "CUDA": ("-DGGML_CUDA=on", "the CUDA toolkit (nvcc)"),
    "ROCm": ("-DGGML_HIP=on", "the ROCm development packages (hipcc)"),
    "Vulkan": ("-DGGML_VULKAN=on", "the Vulkan SDK (glslc and the Vulkan headers)"),
    "Metal": ("-DGGML_METAL=on", "Xcode's command line tools"),
}


def findings(
    machine: Machine,
    installation: Installation,
    disk: Disk | None,
    conditions: Conditions | None = None,
    speed: DecodeSpeed | None = None,
) -> Iterator[Finding]:
    """What could be better, the most important first."""
    yield from _package_findings(installation)
    yield from _graphics_findings(machine.gpus, installation)
    yield from _instruction_findings(machine, installation)
    yield from _core_findings(machine, conditions)
    yield from _memory_findings(machine)
    yield from condition_findings(machine, conditions or Conditions(), speed)
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
        if gpu.vendor == "NVIDIA" and not gpu.has_driver:
            continue  # nothing that is compiled would help before there is one: see edge.condition_findings
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


def _core_findings(machine: Machine, conditions: Conditions | None) -> Iterator[Finding]:
    cores, stopped = machine.cores, conditions.stopped_periods if conditions else None
    if cores.quota is not None and cores.quota < cores.physical:
        yield Finding(
            "cores",
            f"The control group grants {cores.quota:g} of {cores.physical} cores.",
            "Give the container more, if it is one.",
            f"docker update --cpus {cores.physical} CONTAINER",
            f"It has stopped them in {stopped[0]} of {stopped[1]} periods." if stopped and stopped[0] else "",
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
