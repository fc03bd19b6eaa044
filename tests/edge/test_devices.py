from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge import control_groups, devices
from edge.devices import Cores, Cpu, Gpu, Ram
from edge.system_files import parse_fields

RYZEN = """processor\t: 0
model name\t: AMD Ryzen 7 7840U
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 pni ssse3 fma avx f16c bmi2 avx2 avx512f avx512vbmi avx512_vnni avx512_bf16 pkufoo

processor\t: 1
model name\t: AMD Ryzen 7 7840U
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu

processor\t: 2
model name\t: AMD Ryzen 7 7840U
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu
"""
RASPBERRY_PI_5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
MEMINFO = "MemTotal:       16000 kB\nMemFree:         2000 kB\nMemAvailable:    9000 kB\nCached:          5000 kB\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", MEMINFO)
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_x86_processor_is_named_with_ggmls_instruction_sets(root: Path) -> None:
    write(root, "proc/cpuinfo", RYZEN)
    names = (
        "AVX",
        "AVX2",
        "AVX512",
        "AVX512_BF16",
        "AVX512_VBMI",
        "AVX512_VNNI",
        "BMI2",
        "F16C",
        "FMA",
        "SSE3",
        "SSSE3",
    )
    assert devices.read_cpu(root) == Cpu("AMD Ryzen 7 7840U", names)


def test_arm_board_is_named_with_ggmls_instruction_sets(root: Path) -> None:
    write(root, "proc/cpuinfo", RASPBERRY_PI_5)
    assert devices.read_cpu(root) == Cpu("Raspberry Pi 5 Model B Rev 1.0", ("ARM_FMA", "DOTPROD", "FP16_VA", "NEON"))


def test_board_without_a_name_in_cpuinfo_is_named_by_the_device_tree(root: Path) -> None:
    write(root, "proc/cpuinfo", "processor\t: 0\nFeatures\t: asimd\n")
    write(root, "proc/device-tree/model", "Radxa ROCK 5B\0")
    assert devices.read_cpu(root).name == "Radxa ROCK 5B"


def test_apple_processor_has_the_instruction_sets_that_sysctl_says_are_on() -> None:
    settings = parse_fields(
        "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.ncpu: 1\n"
    )
    assert devices.simd_of_sysctl(settings) == ("ARM_FMA", "DOTPROD", "NEON")


def test_hardware_threads_of_one_core_count_once(root: Path) -> None:
    for cpu, siblings in enumerate(["0,4", "1,5", "2", "3", "0,4", "1,5"]):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", siblings + "\n")
    assert devices.count_cores(root, range(6)) == 4
    assert devices.count_cores(root, [0, 4]) == 1
    assert devices.count_cores(root, [4, 5]) == 2


def test_older_kernels_tell_the_siblings_of_a_thread(root: Path) -> None:
    for cpu in range(4):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 2},{cpu % 2 + 2}\n")
    assert devices.count_cores(root, range(4)) == 2


def test_cores_are_taken_from_cpuinfo_without_a_topology_folder(root: Path) -> None:
    write(root, "proc/cpuinfo", RYZEN)
    assert devices.count_cores(root, [0, 1, 2]) == 2
    assert devices.count_cores(root, [0, 1]) == 1


def test_every_thread_is_a_core_when_nothing_tells_otherwise(root: Path) -> None:
    assert devices.count_cores(root, [0, 1, 7]) == 3


@pytest.mark.parametrize(
    ("cores", "usable"),
    [
        (Cores(logical=16, physical=8, quota=None), 8),
        (Cores(logical=16, physical=8, quota=2.5), 2),
        (Cores(logical=16, physical=8, quota=0.5), 1),
        (Cores(logical=16, physical=8, quota=99.0), 8),
        (Cores(logical=1, physical=4, quota=None), 1),
    ],
)
def test_usable_threads_stay_within_cores_mask_and_quota(cores: Cores, usable: int) -> None:
    assert cores.usable == usable


def test_physical_cores_of_this_process_are_within_its_affinity() -> None:
    mask = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert 1 <= devices.physical_cores() <= mask


@pytest.mark.parametrize(
    ("text", "quota"),
    [("200000 100000\n", 2.0), ("50000 100000", 0.5), ("max 100000", None), ("-1 100000", None), ("", None)],
)
def test_cpu_max_is_read_as_cores(text: str, quota: float | None) -> None:
    assert control_groups.parse_cpu_max(text) == quota


def test_groups_of_both_versions_are_told_apart() -> None:
    groups = control_groups.parse_cgroup(
        "12:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/user.slice\n"
    )
    assert {name: str(path) for name, path in groups.items()} == {
        "cpu": "/docker/abc",
        "cpuacct": "/docker/abc",
        "memory": "/docker/abc",
        "name=systemd": "/",
        "": "/user.slice",
    }


def test_lowest_quota_on_the_way_up_counts(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/a.slice/b.scope\n")
    write(root, "sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n")
    write(root, "sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n")
    assert control_groups.read_cpu_quota(root) == 1.5


def test_quota_of_version_1_is_found_at_the_top_of_a_container(root: Path) -> None:
    write(root, "proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert control_groups.read_cpu_quota(root) == 3.0


def test_no_quota_without_control_groups(root: Path) -> None:
    assert control_groups.read_cpu_quota(root) is None


def test_group_path_that_climbs_out_is_not_followed(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/../../outside\n")
    write(root, "sys/outside/cpu.max", "100000 100000\n")
    assert control_groups.read_cpu_quota(root) is None


def test_memory_without_a_limit_is_the_machines(root: Path) -> None:
    assert devices.read_ram(root) == Ram(total_bytes=16000 << 10, available_bytes=9000 << 10, limit_bytes=None)


def test_kernel_that_does_not_tell_the_available_memory_counts_free_and_cached() -> None:
    assert devices.parse_meminfo("MemTotal: 100 kB\nMemFree: 20 kB\nCached: 30 kB\nHugePages_Total: 0\n") == (
        100 << 10,
        50 << 10,
    )


def test_limit_of_version_2_leaves_what_is_not_used_or_can_be_reclaimed(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/box\n")
    write(root, "sys/fs/cgroup/box/memory.max", f"{4000 << 10}\n")
    write(root, "sys/fs/cgroup/box/memory.current", f"{3000 << 10}\n")
    write(root, "sys/fs/cgroup/box/memory.stat", f"anon 5\ninactive_file {1000 << 10}\n")
    assert devices.read_ram(root) == Ram(total_bytes=16000 << 10, available_bytes=2000 << 10, limit_bytes=4000 << 10)


def test_limit_above_which_processes_are_slowed_down_counts_as_one(root: Path) -> None:
    write(root, "sys/fs/cgroup/memory.max", f"{8000 << 10}\n")
    write(root, "sys/fs/cgroup/memory.high", f"{4000 << 10}\n")
    write(root, "sys/fs/cgroup/memory.current", f"{3000 << 10}\n")
    assert devices.read_ram(root) == Ram(total_bytes=16000 << 10, available_bytes=1000 << 10, limit_bytes=4000 << 10)
    write(root, "sys/fs/cgroup/memory.high", "max\n")
    assert devices.read_ram(root).limit_bytes == 8000 << 10


def test_limit_of_version_1_counts_the_whole_group(root: Path) -> None:
    write(root, "proc/self/cgroup", "4:memory:/box\n")
    write(root, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{4000 << 10}\n")
    write(root, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{3500 << 10}\n")
    write(root, "sys/fs/cgroup/memory/box/memory.stat", f"inactive_file 9\ntotal_inactive_file {500 << 10}\n")
    assert devices.read_ram(root).available_bytes == 1000 << 10


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_limit_above_the_machine_is_none(root: Path, limit: str) -> None:
    write(root, "sys/fs/cgroup/memory.max", limit)
    assert devices.read_ram(root).limit_bytes is None


def test_virtual_display_adapters_are_no_gpus(root: Path) -> None:
    write(root, "sys/class/drm/card0/device/vendor", "0x1af4\n")
    assert devices.read_gpus(root) == ()


def test_nvidia_card_is_named_by_its_driver(root: Path) -> None:
    write(root, "sys/class/drm/card0/device/vendor", "0x10de\n")
    write(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA GeForce RTX 3060\nIRQ: 1\n")
    assert devices.read_gpus(root) == (Gpu("NVIDIA", "NVIDIA GeForce RTX 3060", has_driver=True),)


def test_nvidia_card_without_its_driver_is_seen_all_the_same(root: Path) -> None:
    write(root, "sys/class/drm/card0/device/vendor", "0x10de\n")
    assert devices.read_gpus(root) == (Gpu("NVIDIA", "NVIDIA GPU", has_driver=False),)


def test_nvidia_card_of_a_windows_host_is_seen_in_its_linux(root: Path) -> None:
    write(root, "usr/lib/wsl/lib/libcuda.so.1", "")
    assert devices.read_gpus(root) == (Gpu("NVIDIA", "NVIDIA GPU of the Windows host", has_driver=True),)


def test_amd_card_has_its_driver_with_kfd(root: Path) -> None:
    write(root, "sys/class/drm/card1/device/vendor", "0x1002\n")
    write(root, "sys/class/drm/card1-HDMI-A-1/device/vendor", "0x1002\n")
    assert devices.read_gpus(root) == (Gpu("AMD", "AMD GPU", has_driver=False),)
    write(root, "dev/kfd", "")
    assert devices.read_gpus(root) == (Gpu("AMD", "AMD GPU", has_driver=True),)


def test_this_machine_has_a_core_and_memory() -> None:
    machine = devices.examine_machine()
    assert machine.cores.physical >= 1
    assert 0 < machine.ram.available_bytes <= machine.ram.total_bytes
    assert machine.cpu.name


def test_free_swap_is_that_of_the_machine(root: Path) -> None:
    write(root, "proc/meminfo", MEMINFO + "SwapTotal:       8000 kB\nSwapFree:        6000 kB\n")
    assert devices.read_ram(root).swap_free_bytes == 6000 * 1024


def test_group_without_swap_has_none_whatever_the_machine_has(root: Path) -> None:
    write(root, "proc/meminfo", MEMINFO + "SwapFree:        6000 kB\n")
    write(root, "proc/self/cgroup", "0::/box\n")
    write(root, "sys/fs/cgroup/box/memory.swap.max", "0\n")
    assert devices.read_ram(root).swap_free_bytes == 0
    write(root, "sys/fs/cgroup/box/memory.swap.max", "max\n")
    assert devices.read_ram(root).swap_free_bytes == 6000 * 1024
