"""What holds a machine back at the moment, each with the command that changes it."""

from __future__ import annotations

from collections.abc import Iterator

from edge.decode_speed import DecodeSpeed
from edge.devices import Machine
from edge.doctor_facts import Conditions
from edge.finding import Finding
from edge.quantities import size_text
from edge.system_files import number_list_text

OLDEST_CUDA_12_DRIVER = (525, 60, 13)
"""Source: NVIDIA's CUDA 12 release notes, minor version compatibility on Linux."""
_SWAPPED_BYTES = 256 << 20
_BUSY_SHARE = 0.5
_LOW_SHARE = 0.25
_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_UNDER_VOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = 1, 2, 4, 8
_DRIVER_COMMANDS = {
    "ubuntu": "sudo ubuntu-drivers install",
    "fedora": "sudo dnf install akmod-nvidia",
    "arch": "sudo pacman -Syu nvidia",
    "debian": "sudo apt install nvidia-driver",
}


def condition_findings(machine: Machine, now: Conditions, speed: DecodeSpeed | None) -> Iterator[Finding]:
    yield from _driver_findings(machine, now)
    yield from _power_findings(now)
    yield from _clock_findings(now)
    yield from _heat_findings(now)
    yield from _placement_findings(now)
    yield from _swap_findings(machine, now)
    yield from _speed_findings(machine, now, speed)


def _driver_findings(machine: Machine, now: Conditions) -> Iterator[Finding]:
    commands = (command for name, command in _DRIVER_COMMANDS.items() if name in now.distribution)
    install = next(commands, "nvidia-smi")
    if without := next((gpu for gpu in machine.gpus if gpu.vendor == "NVIDIA" and not gpu.has_driver), None):
        yield Finding(
            "graphics",
            f"{without.name} has no driver from NVIDIA.",
            "Install it, then restart the machine.",
            install,
            "llama.cpp compiled with CUDA finds no card without it.",
        )
    elif now.nvidia_driver and tuple(map(int, now.nvidia_driver.split("."))) < OLDEST_CUDA_12_DRIVER:
        yield Finding(
            "graphics",
            f"The NVIDIA driver {now.nvidia_driver} is older than {'.'.join(map(str, OLDEST_CUDA_12_DRIVER))}.",
            "Install a newer one, then restart the machine.",
            install,
            "llama.cpp compiled with CUDA 12 finds no card with it.",
        )


def _power_findings(now: Conditions) -> Iterator[Finding]:
    flags = now.throttling.firmware_flags or 0
    if (flags | flags >> 16) & _UNDER_VOLTAGE:
        when = "gets" if flags & _UNDER_VOLTAGE else "has got, since its start,"
        yield Finding(
            "power",
            f"The board {when} too little voltage.",
            "Use the supply made for the board and a short cable; then, after a restart, this prints 0x0:",
            "vcgencmd get_throttled",
            "The firmware slows the processor down until the voltage is back.",
        )


def _clock_findings(now: Conditions) -> Iterator[Finding]:
    clock = now.clock
    if clock.is_held_at_lowest:
        lowest = f" of {clock.lowest / 1e6:.1f} GHz" if clock.lowest else ""
        yield Finding(
            "clock",
            f"The governor powersave keeps the processor at its lowest frequency{lowest}.",
            "Choose performance, until the next restart.",
            f"echo performance | sudo tee {_POLICIES}/scaling_governor",
            "Prompts are read slower by as much, and tokens often too.",
        )
    elif clock.preference in ("power", "balance_power"):
        yield Finding(
            "clock",
            f"The processor is told to save energy (preference {clock.preference}).",
            "Let it prefer performance, until the next restart.",
            f"echo performance | sudo tee {_POLICIES}/energy_performance_preference",
            "It raises its frequency late and not all the way.",
        )
    if clock.allowed and clock.highest and clock.allowed < clock.highest:
        yield Finding(
            "clock",
            f"The system allows the processor {clock.allowed / 1e6:.1f} of {clock.highest / 1e6:.1f} GHz.",
            "Allow all of it, if it is not for heat that it was lowered.",
            f"echo {clock.highest} | sudo tee {_POLICIES}/scaling_max_freq",
            "Prompts are read slower by as much.",
        )
    if clock.turbo_switch:
        yield Finding(
            "clock",
            "The processor's turbo frequencies are switched off.",
            "Switch them on, until the next restart.",
            clock.turbo_switch,
            "Prompts are read slower.",
        )


def _heat_findings(now: Conditions) -> Iterator[Finding]:
    flags = (now.throttling.firmware_flags or 0) & (_CAPPED | _THROTTLED | _SOFT_LIMIT)
    is_at_limit = now.heat is not None and now.heat.slows_at is not None and now.heat.degrees >= now.heat.slows_at
    if not (now.was_throttled or flags or is_at_limit):
        return
    degrees = f", at {now.heat.degrees:.0f} degrees Celsius" if now.heat else ""
    yield Finding(
        "clock",
        f"The machine slows itself down{degrees}.",
        "Cool it better (fan, heat sink, free vents), and watch its temperature:",
        "watch -n 1 cat /sys/class/thermal/thermal_zone*/temp",
        "Long replies are slower than short ones.",
    )


def _placement_findings(now: Conditions) -> Iterator[Finding]:
    place = now.placement
    allowed = set(place.allowed)
    if missing := set(place.fast) - allowed if not allowed & set(place.fast) or _is_cut(now) else set():
        hint = "Give the container more, if it is one." if place.is_cpuset else "Let this shell use all of them."
        command = (
            f"docker update --cpuset-cpus {number_list_text(place.online)} CONTAINER"
            if place.is_cpuset
            else f"taskset -pc {number_list_text(place.online)} $$"
        )
        yield Finding(
            "cores",
            f"This process may not run on {len(missing)} of {len(place.fast)} fast hardware threads.",
            hint,
            command,
            "Fewer cores read prompts slower.",
        )
    if place.slow and allowed & set(place.slow) and allowed & set(place.fast):
        yield Finding(
            "cores",
            f"{len(place.slow)} of {len(place.online)} hardware threads are on efficiency cores.",
            "Keep edge on the fast ones; the number of threads follows.",
            f"taskset -c {number_list_text(place.fast)} edge chat",
            "Each step waits for its slowest thread.",
        )
    if place.used_nodes > 1 and place.moves_pages:
        yield Finding(
            "memory",
            "The system moves memory between NUMA nodes by itself.",
            "Switch that off, until the next restart.",
            "sudo sysctl kernel.numa_balancing=0",
            "It follows threads that change what they read all the time.",
        )
    if place.used_nodes > 1 and not place.is_interleaved:
        yield Finding(
            "memory",
            f"Threads run on {place.used_nodes} NUMA nodes, and the weights may all be on one.",
            "Spread the weights over the nodes.",
            "numactl --interleave=all edge chat",
            "What is on another node is read slower.",
        )


def _is_cut(now: Conditions) -> bool:
    """Whether the mask leaves out more than a second thread of each core: less than half of the fast ones are left."""
    place = now.placement
    return 2 * len(set(place.allowed) & set(place.fast)) < len(place.fast)


def _swap_findings(machine: Machine, now: Conditions) -> Iterator[Finding]:
    swap, available = now.swap, machine.ram.available_bytes
    if swap.is_on_disk and swap.used_bytes >= _SWAPPED_BYTES:
        fits = swap.used_bytes < available
        yield Finding(
            "swap",
            f"{size_text(swap.used_bytes)} of memory are in swap on {', '.join(swap.places)}.",
            "Bring it back into memory." if fits else "Close programs; these take the most:",
            "sudo swapoff -a && sudo swapon -a" if fits else "ps aux --sort=-rss | head",
            "A model that is read from there answers at the speed of the disk.",
        )
    if swap.is_on_card:
        yield Finding(
            "swap",
            "Swap is on an SD card.",
            "Keep it in memory, compressed.",
            "sudo apt install zram-tools && sudo systemctl enable --now zramswap",
            "Cards are slow, and writing wears them out.",
        )
    if swap.grantable_bytes is not None and swap.grantable_bytes < available:
        yield Finding(
            "memory",
            f"The system grants only {size_text(swap.grantable_bytes)} more, although {size_text(available)} are free.",
            "Let it grant more than it could give to all at once.",
            "sudo sysctl vm.overcommit_memory=0",
            "Larger models fail to load.",
        )
    if swap.address_space_bytes is not None:
        yield Finding(
            "memory",
            f"This process may map {size_text(swap.address_space_bytes)} (ulimit -v).",
            "Lift the limit in this shell.",
            "ulimit -v unlimited",
            "Model files are mapped, so larger ones fail to load.",
        )


def _speed_findings(machine: Machine, now: Conditions, speed: DecodeSpeed | None) -> Iterator[Finding]:
    is_busy = now.load is not None and now.load > _BUSY_SHARE * machine.cores.logical
    if is_busy:
        yield Finding(
            "cores",
            f"Other programs keep the processor busy (load {now.load:g}, {machine.cores.logical} hardware threads).",
            "See which, and let them finish.",
            "top",
            "What is measured here is too low, and edge is slower for as long.",
        )
    if speed is not None and not is_busy and speed.exceeds_cache and speed.share < _LOW_SHARE:
        yield Finding(
            "speed",
            f"Decoding {speed.model} reaches {speed.share:.0%} of what memory allows.",
            "See what time goes into, on a machine that does nothing else.",
            "edge bench demo",
            "Computing, not memory, is what it waits for: instructions, clock or other programs.",
        )
