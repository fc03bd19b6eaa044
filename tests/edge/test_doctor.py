from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from edge import doctor, doctor_findings, doctor_report
from edge.ceiling import Bandwidth
from edge.devices import Cores, Cpu, Gpu, Machine, Ram
from edge.doctor import Report
from edge.doctor_facts import Conditions, Disk, Installation, read_disk
from edge.doctor_findings import findings
from edge.finding import Finding
from edge.llama import library
from edge.llama.system import ComputeDevice

MACHINE = Machine(
    system="Linux 6.8 x86_64",
    cpu=Cpu("AMD Ryzen 7 7840U", ("AVX2", "FMA")),
    cores=Cores(logical=16, physical=8, quota=None),
    ram=Ram(total_bytes=32 * 10**9, available_bytes=20 * 10**9, limit_bytes=None),
    gpus=(),
)
CPU_DEVICE = ComputeDevice("CPU", "AMD Ryzen 7 7840U", "CPU", 32 * 10**9, 32 * 10**9)
GPU_DEVICE = ComputeDevice("CUDA0", "NVIDIA GeForce RTX 3060", "GPU", 12 * 10**9, 11 * 10**9)
INSTALLATION = Installation(
    versions={"Python": "3.11.7", "llama-cpp-python": "0.3.36", "numpy": "2.4.6"},
    simd=("AVX2", "FMA"),
    features=("OPENMP",),
    supports_gpu_offload=False,
    devices=(CPU_DEVICE,),
    encoder="avx2",
)
DISK = Disk("/home/ada/.cache/edge", 500 * 10**9, 100 * 10**9)
NVIDIA = Gpu("NVIDIA", "NVIDIA GeForce RTX 3060", has_driver=True)
BANDWIDTH = Bandwidth(8, 1 << 28, 1 << 25, read=50e9, copy=40e9, triad=30e9)
INSTALL = "pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python==0.3.36"


def found(
    machine: Machine = MACHINE, installation: Installation = INSTALLATION, disk: Disk | None = DISK
) -> list[Finding]:
    return list(findings(machine, installation, disk))


def only(machine: Machine = MACHINE, installation: Installation = INSTALLATION, disk: Disk | None = DISK) -> Finding:
    (finding,) = found(machine, installation, disk)
    return finding


def report(*judged: Finding, machine: Machine = MACHINE, installation: Installation = INSTALLATION) -> Report:
    return Report(machine, installation, 8, DISK, judged, Conditions(), BANDWIDTH)


def shown(subject: Report, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(doctor_report.render(subject))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_machine_that_is_used_well_has_no_finding() -> None:
    assert found() == []
    assert "Nothing to improve" in shown(report())


def test_instructions_that_the_library_does_not_use_are_found() -> None:
    machine = replace(MACHINE, cpu=Cpu("x", ("AVX2", "AVX512", "FMA")))
    assert only(machine) == Finding(
        "instructions",
        "The processor has AVX512, which llama.cpp is not compiled for.",
        "Compile it on this machine.",
        f'CMAKE_ARGS="-DGGML_NATIVE=on" {INSTALL}',
    )


def test_instructions_that_crash_as_compiled_are_not_used_and_found_with_the_compiler_that_helps() -> None:
    machine = replace(MACHINE, cpu=Cpu("x", ("AMX_INT8", "AVX2", "FMA")))
    installation = replace(INSTALLATION, declined=("AMX_INT8",))
    assert only(machine, installation) == Finding(
        "instructions",
        "edge keeps llama.cpp off AMX_INT8: GCC before version 14, which compiled it, makes code for them that"
        " crashes.",
        "Compile it with GCC 14 or newer.",
        f'CC=gcc-14 CXX=g++-14 CMAKE_ARGS="-DGGML_NATIVE=on" {INSTALL}',
    )
    lines = [" ".join(line.split()) for line in shown(report(machine=machine, installation=installation)).splitlines()]
    assert "instructions used AVX2, FMA" in lines
    assert "not used AMX_INT8" in lines


def test_instructions_that_crash_are_no_finding_where_the_processor_has_none() -> None:
    assert found(installation=replace(INSTALLATION, declined=("AMX_INT8",))) == []


@pytest.mark.parametrize(
    ("gpu", "option", "kind"),
    [
        (NVIDIA, "-DGGML_CUDA=on", "CUDA"),
        (Gpu("AMD", "AMD GPU", has_driver=True), "-DGGML_HIP=on", "ROCm"),
        (Gpu("AMD", "AMD GPU", has_driver=False), "-DGGML_VULKAN=on", "Vulkan"),
        (Gpu("Intel", "Intel GPU", has_driver=False), "-DGGML_VULKAN=on", "Vulkan"),
        (Gpu("Apple", "Apple GPU", has_driver=True), "-DGGML_METAL=on", "Metal"),
    ],
)
def test_unused_gpu_is_found_with_the_build_for_it(gpu: Gpu, option: str, kind: str) -> None:
    finding = only(replace(MACHINE, gpus=(gpu, gpu)))
    assert finding.what == f"{gpu.name} is not used: llama.cpp is compiled for the CPU only."
    assert finding.hint.startswith(f"Compile it for {kind}; this needs ")
    assert finding.command == f'CMAKE_ARGS="{option}" {INSTALL}'


def test_gpu_that_is_used_is_no_finding() -> None:
    installation = replace(INSTALLATION, supports_gpu_offload=True, devices=(GPU_DEVICE, CPU_DEVICE))
    assert found(replace(MACHINE, gpus=(NVIDIA,)), installation) == []


def test_gpu_build_without_a_gpu_is_found() -> None:
    installation = replace(INSTALLATION, supports_gpu_offload=True)
    finding = only(replace(MACHINE, gpus=(NVIDIA,)), installation)
    assert (finding.what, finding.command) == ("llama.cpp is compiled for a GPU but finds none.", "nvidia-smi")
    assert only(MACHINE, installation).command == "ls -l /dev/dri /dev/kfd"


def test_quota_below_the_cores_is_found() -> None:
    finding = only(replace(MACHINE, cores=Cores(logical=16, physical=8, quota=2.5)))
    assert finding.what == "The control group grants 2.5 of 8 cores."
    assert finding.command == "docker update --cpus 8 CONTAINER"
    assert found(replace(MACHINE, cores=Cores(logical=16, physical=8, quota=8.0))) == []


def test_little_memory_is_found() -> None:
    finding = only(replace(MACHINE, ram=Ram(4 * 10**9, 10**9, None)))
    assert finding.what == "1.00 GB of 4.00 GB are available."
    assert finding.command == "edge chat demo --ctx 2048"


def test_little_memory_in_a_control_group_is_found() -> None:
    finding = only(replace(MACHINE, ram=Ram(32 * 10**9, 10**9, 3 * 10**9)))
    assert finding.what == "1.00 GB are available: the control group allows 3.00 GB."


def test_full_disk_is_found() -> None:
    finding = only(disk=replace(DISK, free_bytes=3 * 10**9))
    assert finding.what == "3.00 GB are free in /home/ada/.cache/edge; a 9 B model as Q4_K_M takes 5.8 GB."
    assert finding.command == "export EDGE_CACHE=/path/on/a/larger/disk"


def test_missing_package_is_found() -> None:
    finding = only(installation=replace(INSTALLATION, versions={"gguf": None, "numpy": "2.4.6"}))
    assert (finding.what, finding.command) == ("Not installed: gguf.", "pip install gguf")


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file:///home/ada/edge", "dir_info": {"editable": True}}, "--editable /home/ada/edge"),
        ({"url": "file:///home/ada/my%20edge", "dir_info": {}}, "'/home/ada/my edge'"),
        ({"url": "https://example.org/edge.git", "vcs_info": {"vcs": "git"}}, "git+https://example.org/edge.git"),
        (None, "edge-llm"),
    ],
)
def test_quantizing_without_our_own_module_is_found_with_the_way_to_compile_it(
    origin: dict[str, object] | None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [None, json.dumps(origin) if origin else None]
    found_twice = [SimpleNamespace(read_text=lambda file, text=text: text) for text in records]
    monkeypatch.setattr(doctor_findings, "distributions", lambda name: found_twice)
    finding = only(installation=replace(INSTALLATION, encoder="ggml"))
    assert finding.what.startswith("Conversions quantize with ggml's functions, which take several times as long")
    assert "install a C compiler" in finding.hint
    assert finding.command == f"pip install --force-reinstall --no-deps {source}"


def test_types_that_are_left_to_ggml_are_shown() -> None:
    def encoder(installation: Installation) -> str:
        lines = [" ".join(line.split()) for line in shown(report(installation=installation), width=200).splitlines()]
        return next(line for line in lines if line.startswith("quantizes with"))

    installation = replace(INSTALLATION, encoder="baseline", types_left_to_ggml=("Q4_K", "Q6_K"))
    assert encoder(installation) == ("quantizes with baseline instructions; Q4_K, Q6_K with ggml, for the same bytes")
    assert encoder(replace(INSTALLATION, encoder="ggml")) == "quantizes with ggml"


def test_powershell_gets_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert doctor_findings.reinstall_command("-DGGML_CUDA=on", None) == (
        '$env:CMAKE_ARGS="-DGGML_CUDA=on"; pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python'
    )


def test_report_shows_the_facts_in_80_columns() -> None:
    machine = replace(
        MACHINE,
        cores=Cores(logical=16, physical=8, quota=2.5),
        ram=Ram(32 * 10**9, 5 * 10**9, 6 * 10**9),
        gpus=(replace(NVIDIA, has_driver=False),),
    )
    installation = replace(
        INSTALLATION, versions={**INSTALLATION.versions, "gguf": None}, devices=(GPU_DEVICE, CPU_DEVICE), simd=("FMA",)
    )
    text = shown(report(machine=machine, installation=installation))
    assert max(map(len, text.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "llama-cpp-python 0.3.36",
        "gguf not installed",
        "cores 8 (16 hardware threads), 2.5 granted by the control group",
        "threads used 8",
        "instructions used FMA",
        "not used AVX2",
        "quantizes with avx2 instructions",
        "RAM 5.00 GB available of 32.0 GB",
        "control group at most 6.00 GB",
        "disk 100 GB free of 500 GB for /home/ada/.cache/edge",
        "seen NVIDIA GeForce RTX 3060 (no compute driver)",
        "offload not compiled in",
        "CUDA0 NVIDIA GeForce RTX 3060 (GPU, 12.0 GB)",
    ):
        assert line in lines, line


def test_long_command_is_shown_over_lines_that_a_shell_joins() -> None:
    text = shown(report(only(replace(MACHINE, gpus=(NVIDIA,)))))
    lines = text[text.index("  CMAKE_ARGS") :].splitlines()
    assert len(lines) == 2
    assert " ".join("\n".join(lines).replace("\\\n", " ").split()) == f'CMAKE_ARGS="-DGGML_CUDA=on" {INSTALL}'


def test_json_holds_the_whole_report() -> None:
    finding = only(replace(MACHINE, gpus=(NVIDIA,)))
    document = json.loads(json.dumps(report(finding).to_json()))
    assert document["machine"]["cores"] == {"logical": 16, "physical": 8, "quota": None}
    assert document["installation"]["devices"][0]["name"] == "CPU"
    assert document["findings"][0]["command"] == f'CMAKE_ARGS="-DGGML_CUDA=on" {INSTALL}'


def test_disk_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "not" / "yet")
    assert disk.path == str(tmp_path / "not" / "yet")
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_this_machine_can_be_examined(tmp_path: Path) -> None:
    examined = doctor.examine(tmp_path)
    assert examined.threads >= 1
    assert examined.disk is not None
    assert all(examined.installation.versions[name] for name in ("edge-llm", "llama-cpp-python", "llama.cpp"))
    assert doctor.examine().disk is None
    assert "threads used" in shown(examined)
    assert not set(examined.installation.declined) & set(examined.installation.simd)
    assert library.declines_amx() or not examined.installation.declined
