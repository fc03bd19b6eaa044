"""What a device has for a model: memory that is free for it and how fast it is read, by name or as this machine has it.

Profiles are in device_profiles.json. `bandwidth` is what the maker states, a second. `reserved` is what is taken by the
system, the screen and other programs, and on a graphics card by the compute driver for each process (some 300 MB for
CUDA); `operations` is what llama.cpp reaches a second when it reads prompts, from published speeds. Both are
assumptions for a usual machine: `this`, `--vram` and `--ram` say what is really free.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edge.devices import Machine, Ram, examine_machine
from edge.errors import EdgeError
from edge.quantities import parse_size

if TYPE_CHECKING:
    from edge.llama.system import ComputeDevice

THIS = "this"
DEFAULT_RAM_BANDWIDTH = 40_000_000_000
"""Bytes a second of two channels of DDR4 or DDR5, where nothing is said."""
DEFAULT_GPU_BANDWIDTH = 360_000_000_000
DEFAULT_GPU_OPERATIONS = 20e12
DESCRIBED_OPERATIONS = 2.4e11
"""Of a processor of which nothing is said: that of a laptop."""
_GPU_RESERVE_BYTES = 300_000_000
_X86_REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_ARM_REPACKED = frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0"})


@dataclass(frozen=True)
class MemoryPool:
    """One kind of memory of a device."""

    total_bytes: int
    free_bytes: int
    bandwidth: float
    """Bytes that it gives in a second."""
    operations: float
    """Multiplications and additions a second of what computes on it, with quantized weights."""


@dataclass(frozen=True)
class Device:
    name: str
    description: str
    ram: MemoryPool
    gpus: tuple[MemoryPool, ...] = ()
    """Graphics cards, as llama.cpp numbers them."""
    repacked_types: frozenset[str] = _X86_REPACKED
    """Tensor types of which its processor gets a second copy."""
    is_unified: bool = False
    """Whether the graphics processor computes in main memory, so that both share what is free there."""
    swap_bytes: int = 0
    """Free, and not counted: a model that is read from there answers at the speed of the disk."""
    idle_gpus: tuple[str, ...] = ()
    """Names of graphics cards that are there, and that the installed llama.cpp cannot compute on."""

    @property
    def graphics(self) -> MemoryPool | None:
        """All graphics cards together, as fast as the slowest of them; None if there is none."""
        if not self.gpus:
            return None
        return MemoryPool(
            total_bytes=sum(gpu.total_bytes for gpu in self.gpus),
            free_bytes=sum(gpu.free_bytes for gpu in self.gpus),
            bandwidth=min(gpu.bandwidth for gpu in self.gpus),
            operations=min(gpu.operations for gpu in self.gpus),
        )


def find_device(name: str) -> Device:
    """The device of a name in any case; `this` is the machine that runs this. EdgeError that lists the known ones."""
    if name.lower() == THIS:
        return this_device()
    profiles = _profiles()
    if name.lower() not in profiles:
        raise EdgeError(
            f"The device {name!r} is not known.",
            hint=f"Known are {', '.join(profiles)} and {THIS}; or describe it with --vram, --ram and --bandwidth.",
        )
    return _of_profile(name.lower(), profiles[name.lower()])


def device_names() -> tuple[str, ...]:
    return (*_profiles(), THIS)


def described_device(*, vram: str | None, ram: str | None, bandwidth: str | None) -> Device:
    """A device as a person describes it: all of the memory given is free for the model.

    `bandwidth` is that of the graphics card if there is one, else of main memory. EdgeError for what is no size.
    """
    if vram is None and ram is None:
        raise EdgeError("--bandwidth describes no device.", hint="Give --ram or --vram with it, or --device NAME.")
    rate = parse_bandwidth(bandwidth) if bandwidth is not None else None
    gpu_bytes = 0 if vram is None else _memory_size("--vram", vram)
    ram_bytes = gpu_bytes if ram is None else _memory_size("--ram", ram)
    gpu = MemoryPool(gpu_bytes, gpu_bytes, rate or DEFAULT_GPU_BANDWIDTH, DEFAULT_GPU_OPERATIONS)
    ram_rate = DEFAULT_RAM_BANDWIDTH if gpu_bytes or rate is None else rate
    parts = [f"{vram} of graphics memory" if vram else "", f"{ram} of main memory" if ram else ""]
    return Device(
        name="described",
        description=" and ".join(part for part in parts if part),
        ram=MemoryPool(ram_bytes, ram_bytes, ram_rate, DESCRIBED_OPERATIONS),
        gpus=(gpu,) if gpu_bytes else (),
    )


def parse_bandwidth(text: str) -> float:
    """Bytes a second of `360GB/s`, the `/s` being optional. EdgeError for anything else, and for nothing."""
    try:
        return float(parse_size(text.strip().removesuffix("/s")))
    except EdgeError as error:
        raise EdgeError(
            f"{text!r} is no bandwidth.", hint="Give bytes a second to --bandwidth, such as 360GB/s."
        ) from error


def _memory_size(option: str, text: str) -> int:
    try:
        return parse_size(text)
    except EdgeError as error:
        raise EdgeError(
            f"{option} is {text!r}, which is no size.",
            hint=f"Write it with a unit, such as 12GB; without such memory, leave {option} out.",
        ) from error


def this_device(machine: Machine | None = None, *, measures_bandwidth: bool = True) -> Device:
    """This machine as it is now: memory that is free inside its limits, and the graphics cards llama.cpp can use."""
    machine = machine or examine_machine()
    bandwidth = _measured_bandwidth(machine) if measures_bandwidth else DEFAULT_RAM_BANDWIDTH
    cards = _usable_cards()
    return Device(
        name=THIS,
        description=machine.cpu.name,
        ram=_pool_of(machine.ram, bandwidth, machine.cores.usable * operations_per_core(machine.cpu.simd)),
        gpus=tuple(_graphics_memory(card) for card in cards),
        is_unified=any(card.kind != "GPU" for card in cards) or any(gpu.vendor == "Apple" for gpu in machine.gpus),
        repacked_types=repacked_types(machine.cpu.simd),
        swap_bytes=machine.ram.swap_free_bytes,
        idle_gpus=() if cards else tuple(gpu.name for gpu in machine.gpus),
    )


def without_gpu(device: Device) -> Device:
    return replace(device, gpus=())


def _pool_of(ram: Ram, bandwidth: float, operations: float) -> MemoryPool:
    total = ram.total_bytes if ram.limit_bytes is None else min(ram.total_bytes, ram.limit_bytes)
    return MemoryPool(total, ram.available_bytes, bandwidth, operations)


def _usable_cards() -> list[ComputeDevice]:
    """The cards that the installed llama.cpp computes on, in its order; integrated ones only where there are no others.

    It is asked itself: a card may be there without a driver or a build for it, or need none that the system shows.
    Of several interfaces the first counts, because the others may list the same cards once more.
    Source: llama.cpp, src/llama.cpp (llama_prepare_model_devices).
    """
    from edge.llama.system import devices

    found = [device for device in devices() if device.is_gpu]
    cards = [device for device in found if device.kind == "GPU"] or found
    return [card for card in cards if _interface(card) == _interface(cards[0])]


def _interface(card: ComputeDevice) -> str:
    """CUDA of CUDA0."""
    return card.name.rstrip("0123456789")


def _graphics_memory(card: ComputeDevice) -> MemoryPool:
    free = max(0, card.free_bytes - _GPU_RESERVE_BYTES)
    return MemoryPool(card.total_bytes, free, card_bandwidth(card.description), DEFAULT_GPU_OPERATIONS)


def card_bandwidth(description: str) -> float:
    """Bytes a second of the card whose name a description has; a middling guess for one that is not known.

    Of names that are in others (RTX 4070, RTX 4070 Ti SUPER), the longest counts.
    """
    known = [name for name in _card_bandwidths() if name.lower() in description.lower()]
    return _card_bandwidths()[max(known, key=len)] * 1e9 if known else DEFAULT_GPU_BANDWIDTH


def repacked_types(simd: Collection[str]) -> frozenset[str]:
    """Tensor types that llama.cpp keeps a second copy of for a processor with these instructions.

    Source: llama.cpp, ggml/src/ggml-cpu/repack.cpp (ggml_repack_get_optimal_repack_type).
    """
    if "AVX2" in simd:
        return _X86_REPACKED | ({"Q2_K"} if "AVX512" in simd else set())
    return _ARM_REPACKED if "DOTPROD" in simd or "MATMUL_INT8" in simd else frozenset()


def operations_per_core(simd: Collection[str]) -> float:
    """Multiplications and additions a second of a core with these instructions, for steps of a few tokens.

    Measured with AVX2: 54 to 116 billion with a model of 1B in Q4_K_M and Q8_0, and a little more with AVX-512. Assumed
    with the others: Apple's cores have MATMUL_INT8, and those of a Raspberry Pi 5 have not.
    """
    if "AVX2" in simd:
        return 60e9
    return 30e9 if "MATMUL_INT8" in simd else 10e9


def _measured_bandwidth(machine: Machine) -> float:
    """Bytes a second that all cores together get."""
    from edge.ceiling import measure_bandwidth

    return measure_bandwidth(machine.cores.usable, available_bytes=machine.ram.available_bytes).highest


def _of_profile(name: str, profile: Mapping[str, Any]) -> Device:
    simd = profile.get("simd")
    return Device(
        name=name,
        description=profile["description"],
        ram=_pool(profile["ram"]),
        gpus=(_pool(profile["gpu"]),) if "gpu" in profile else (),
        repacked_types=repacked_types(simd) if simd else _X86_REPACKED,
    )


def _pool(sizes: Mapping[str, Any]) -> MemoryPool:
    total = parse_size(sizes["total"])
    return MemoryPool(
        total_bytes=total,
        free_bytes=total - parse_size(sizes["reserved"]),
        bandwidth=parse_bandwidth(sizes["bandwidth"]),
        operations=float(sizes["operations"]),
    )


@cache
def _profiles() -> dict[str, dict[str, Any]]:
    profiles: dict[str, dict[str, Any]] = json.loads(files("edge").joinpath("device_profiles.json").read_text("utf-8"))
    return profiles


@cache
def _card_bandwidths() -> dict[str, float]:
    """GB a second by the name of a card, as its maker states it."""
    cards: dict[str, float] = json.loads(files("edge").joinpath("graphics_cards.json").read_text("utf-8"))
    return cards
