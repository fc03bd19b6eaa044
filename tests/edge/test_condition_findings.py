"""What is found on machines that are made up of the files that Linux would show there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge import doctor, doctor_report
from edge.ceiling import Bandwidth
from edge.condition_findings import condition_findings
from edge.decode_speed import DecodeSpeed, measure_decode
from edge.devices import Cores, Cpu, Machine, Ram, read_gpus, read_ram
from edge.doctor_facts import Conditions, read_conditions
from edge.doctor_findings import findings
from edge.finding import Finding
from tests.edge.test_doctor import INSTALLATION, report, shown

CPUS = "sys/devices/system/cpu"
POLICY = f"{CPUS}/cpufreq/policy0"
MACHINE = Machine(
    system="Linux 6.6",
    cpu=Cpu("made up", ()),
    cores=Cores(logical=8, physical=4, quota=None),
    ram=Ram(16 * 10**9, 9 * 10**9, limit_bytes=None),
    gpus=(),
)


def machine_of(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def found(root: Path, files: dict[str, str], machine: Machine = MACHINE, firmware: str | None = None) -> list[Finding]:
    conditions = read_conditions(machine_of(root, files), firmware=lambda: firmware)
    return list(condition_findings(machine, conditions, None))


def test_machine_that_tells_nothing_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, {}) == []
    assert read_conditions(tmp_path, firmware=lambda: None) == Conditions()


def test_laptop_with_governor_powersave(tmp_path: Path) -> None:
    files = {
        f"{POLICY}/scaling_driver": "acpi-cpufreq",
        f"{POLICY}/scaling_governor": "powersave",
        f"{POLICY}/cpuinfo_min_freq": "800000",
        f"{POLICY}/cpuinfo_max_freq": "4200000",
        f"{POLICY}/scaling_max_freq": "4200000",
    }
    (finding,) = found(tmp_path, files)
    assert finding.what == "The governor powersave keeps the processor at its lowest frequency of 0.8 GHz."
    assert finding.why == "Prompts are read slower by as much, and tokens often too."
    assert finding.command == ("echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor")


def test_powersave_is_no_finding_where_the_processor_decides_unless_it_shall_save(tmp_path: Path) -> None:
    files = {
        f"{POLICY}/scaling_driver": "intel_pstate",
        f"{POLICY}/scaling_governor": "powersave",
        f"{POLICY}/energy_performance_preference": "balance_performance",
    }
    assert found(tmp_path, files) == []
    (finding,) = found(tmp_path, {f"{POLICY}/energy_performance_preference": "power"})
    assert finding.what == "The processor is told to save energy (preference power)."
    assert finding.command.endswith("policy*/energy_performance_preference")


def test_lowered_frequency_and_turbo_switched_off(tmp_path: Path) -> None:
    files = {
        f"{POLICY}/cpuinfo_max_freq": "4200000",
        f"{POLICY}/scaling_max_freq": "2100000",
        f"{CPUS}/intel_pstate/no_turbo": "1",
    }
    capped, turbo = found(tmp_path, files)
    assert capped.what == "The system allows the processor 2.1 of 4.2 GHz."
    assert capped.command == "echo 4200000 | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq"
    assert turbo.what == "The processor's turbo frequencies are switched off."
    assert turbo.command == "echo 0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"


def test_board_with_too_little_voltage_and_swap_on_its_card(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 8000000 kB\nSwapTotal: 2000000 kB\nSwapFree: 1000000 kB",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/mmcblk0p3 partition 2000000 1000000 -2",
    }
    power, swapped, card = found(tmp_path, files, firmware="throttled=0x10001")
    assert power.what == "The board gets too little voltage."
    assert power.command == "vcgencmd get_throttled"
    assert swapped.what == "1.02 GB of memory are in swap on /dev/mmcblk0p3."
    assert swapped.command == "sudo swapoff -a && sudo swapon -a"
    assert card.what == "Swap is on an SD card."
    assert card.command == "sudo apt install zram-tools && sudo systemctl enable --now zramswap"


def test_voltage_that_was_too_low_before_is_said_as_such(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, {}, firmware="throttled=0x10000")
    assert finding.what == "The board has got, since its start, too little voltage."


def test_swap_that_does_not_fit_back_is_left_where_it_is(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "SwapTotal: 9000000 kB\nSwapFree: 1000000 kB",
        "proc/swaps": "Filename\n/swapfile file 9000000 8000000 -2",
    }
    (finding,) = found(tmp_path, files, replace(MACHINE, ram=Ram(8 * 10**9, 10**9, None)))
    assert finding.hint == "Close programs; these take the most:"
    assert finding.command == "ps aux --sort=-rss | head"


def test_compressed_swap_in_memory_is_no_finding(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "SwapTotal: 2000000 kB\nSwapFree: 0 kB",
        "proc/swaps": "Filename\n/dev/zram0 partition 2000000 2000000 100",
    }
    assert found(tmp_path, files) == []


def test_heat_at_which_the_system_slows_down(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    files = {
        f"{zone}/type": "x86_pkg_temp",
        f"{zone}/temp": "96000",
        f"{zone}/trip_point_0_type": "passive",
        f"{zone}/trip_point_0_temp": "95000",
    }
    (finding,) = found(tmp_path, files)
    assert finding.what == "The machine slows itself down, at 96 degrees Celsius."
    assert finding.command == "watch -n 1 cat /sys/class/thermal/thermal_zone*/temp"
    assert found(tmp_path, {f"{zone}/temp": "60000"}) == []


def test_container_with_quota_and_2_gb(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 32000000 kB\nMemAvailable: 20000000 kB",
        "sys/fs/cgroup/cpu.stat": "nr_periods 200\nnr_throttled 90",
        "sys/fs/cgroup/memory.max": "2000000000",
        "sys/fs/cgroup/memory.current": "500000000",
        f"{CPUS}/online": "0-7",
        "proc/self/status": "Cpus_allowed_list:\t0-1",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-1",
    }
    conditions = read_conditions(machine_of(tmp_path, files), firmware=lambda: None)
    machine = replace(MACHINE, cores=Cores(8, 4, quota=1.5), ram=read_ram(tmp_path))
    quota, memory, cpuset = findings(machine, INSTALLATION, None, conditions)
    assert quota.what == "The control group grants 1.5 of 4 cores."
    assert quota.why == "It has stopped them in 90 of 200 periods."
    assert memory.what == "1.50 GB are available: the control group allows 2.00 GB."
    assert cpuset.what == "This process may not run on 6 of 8 fast hardware threads."
    assert cpuset.command == "docker update --cpuset-cpus 0-7 CONTAINER"


def test_affinity_mask_of_a_shell(tmp_path: Path) -> None:
    files = {f"{CPUS}/online": "0-7", "proc/self/status": "Cpus_allowed_list: 2"}
    (finding,) = found(tmp_path, files)
    assert finding.command == "taskset -pc 0-7 $$"
    assert found(tmp_path, {"proc/self/status": "Cpus_allowed_list: 0-3"}) == [], "one thread of each core is enough"


@pytest.mark.parametrize("of_arm", [False, True])
def test_hybrid_processor(tmp_path: Path, of_arm: bool) -> None:
    slow = {f"{CPUS}/cpu{cpu}/cpu_capacity": "430" if cpu > 3 else "1024" for cpu in range(8)}
    files = {f"{CPUS}/online": "0-7", "proc/self/status": "Cpus_allowed_list: 0-7"}
    files |= slow if of_arm else {"sys/devices/cpu_atom/cpus": "4-7"}
    (finding,) = found(tmp_path, files)
    assert finding.what == "4 of 8 hardware threads are on efficiency cores."
    assert finding.why == "Each step waits for its slowest thread."
    assert finding.command == "taskset -c 0-3 edge chat"
    assert found(tmp_path, {"proc/self/status": "Cpus_allowed_list: 0-3"}) == []


def test_several_nodes(tmp_path: Path) -> None:
    files = {
        f"{CPUS}/online": "0-7",
        "proc/self/status": "Cpus_allowed_list: 0-7",
        "sys/devices/system/node/node0/cpulist": "0-3",
        "sys/devices/system/node/node1/cpulist": "4-7",
        "proc/sys/kernel/numa_balancing": "1",
    }
    balancing, spread = found(tmp_path, files)
    assert balancing.command == "sudo sysctl kernel.numa_balancing=0"
    assert spread.what == "Threads run on 2 NUMA nodes, and the weights may all be on one."
    assert spread.command == "numactl --interleave=all edge chat"
    calm = {"proc/sys/kernel/numa_balancing": "0", "proc/self/numa_maps": "55d0 interleave:0-1 file=/x"}
    assert found(tmp_path, calm) == []


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian", "sudo ubuntu-drivers install"),
        ("ID=debian", "sudo apt install nvidia-driver"),
        ("ID=unheard", "nvidia-smi"),
    ],
)
def test_old_nvidia_driver(tmp_path: Path, system: str, command: str) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.239.06  Sat Feb  3 06:03:07 UTC 2024"
    (finding,) = found(tmp_path, {"proc/driver/nvidia/version": version, "etc/os-release": system})
    assert finding.what == "The NVIDIA driver 470.239.06 is older than 525.60.13."
    assert finding.why == "llama.cpp compiled with CUDA 12 finds no card with it."
    assert finding.command == command
    newer = version.replace("470.239.06", "560.35.03")
    assert found(tmp_path, {"proc/driver/nvidia/version": newer}) == []


def test_nvidia_card_without_a_driver(tmp_path: Path) -> None:
    gpus = read_gpus(machine_of(tmp_path, {"sys/class/drm/card0/device/vendor": "0x10de"}))
    (finding,) = found(tmp_path, {"etc/os-release": "ID=fedora"}, replace(MACHINE, gpus=gpus))
    assert finding.what == "NVIDIA GPU has no driver from NVIDIA."
    assert finding.hint == "Install it, then restart the machine."
    assert finding.why == "llama.cpp compiled with CUDA finds no card without it."
    assert finding.command == "sudo dnf install akmod-nvidia"


def test_limits_on_what_may_be_allocated(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "CommitLimit: 3000000 kB\nCommitted_AS: 1000000 kB",
        "proc/sys/vm/overcommit_memory": "2",
        "proc/self/limits": "Max address space         4000000000           unlimited            bytes",
    }
    granted, mapped = found(tmp_path, files)
    assert granted.what == "The system grants only 2.05 GB more, although 9.00 GB are free."
    assert granted.command == "sudo sysctl vm.overcommit_memory=0"
    assert (mapped.what, mapped.command) == ("This process may map 4.00 GB (ulimit -v).", "ulimit -v unlimited")


def test_busy_machine_and_slow_decoding(tmp_path: Path) -> None:
    (busy,) = found(tmp_path, {"proc/loadavg": "7.50 3 2 1/2 3"})
    assert busy.what == "Other programs keep the processor busy (load 7.5, 8 hardware threads)."
    slow = DecodeSpeed("x.gguf", tokens_per_second=2, allowed_tokens_per_second=20, exceeds_cache=True)
    (finding,) = condition_findings(MACHINE, Conditions(), slow)
    assert finding.what == "Decoding x.gguf reaches 10% of what memory allows."
    (only,) = condition_findings(MACHINE, Conditions(load=7.5), slow)
    assert only.subject == "cores", "on a busy machine, nothing is known of the model"
    assert list(condition_findings(MACHINE, Conditions(), replace(slow, exceeds_cache=False))) == []


def test_decoding_is_measured_against_the_bandwidth(tiny_gguf: Path) -> None:
    bandwidth = Bandwidth(1, 1 << 20, 1 << 25, read=1e9, copy=1e9, triad=1e9)
    speed = measure_decode(tiny_gguf, 1, bandwidth)
    assert speed.model == tiny_gguf.name and speed.tokens_per_second > 0 and not speed.exceeds_cache
    assert speed.share == speed.tokens_per_second / speed.allowed_tokens_per_second


def test_report_has_bandwidth_and_share_and_why(tiny_gguf: Path) -> None:
    measured = doctor.examine(model=tiny_gguf)
    document = measured.to_json()
    assert document["decode"]["share"] > 0 and document["bandwidth"]["read"] > 0
    text = shown(replace(report(Finding("clock", "What.", "Do.", "command", "Why.")), decode=measured.decode))
    assert "! What.\n  Why.\n  Do.\n  command" in "\n".join(map(str.rstrip, text.splitlines()))
    assert "memory bandwidth  50.0 GB/s with 8 threads" in text
    assert "that memory allows" in " ".join(text.split())
    assert "edge doctor MODEL does" in " ".join(shown(report()).split())
    assert doctor_report.render(measured)
