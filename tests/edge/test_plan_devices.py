"""Plans for graphics processors that share main memory, and what keeps keys and values in 16 bits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.device_profiles import DEFAULT_GPU_BANDWIDTH, Device, card_bandwidth, this_device
from edge.devices import Cores, Cpu, Gpu, Machine, Ram
from edge.fitting import Shortfall, allows, context_of, fit
from edge.llama.system import ComputeDevice
from edge.plan import make_plan
from tests.edge.published import GEMMA, LLAMA, candidate, candidates

GB = 1_000_000_000
DESKTOP = Machine(
    system="Linux 6.1 x86_64",
    cpu=Cpu("AMD Ryzen 7 5800X", ("AVX", "AVX2")),
    cores=Cores(logical=16, physical=8, quota=None),
    ram=Ram(total_bytes=32 * GB, available_bytes=26 * GB, limit_bytes=None),
    gpus=(Gpu("NVIDIA", "NVIDIA GeForce RTX 3060", has_driver=True),),
)
PI = Machine(
    system="Linux 6.6 aarch64",
    cpu=Cpu("Raspberry Pi 5 Model B Rev 1.0", ("DOTPROD", "NEON")),
    cores=Cores(logical=4, physical=4, quota=None),
    ram=Ram(total_bytes=8 * GB, available_bytes=7 * GB, limit_bytes=None, swap_free_bytes=2 * GB),
    gpus=(),
)


def card(name: str, total_gigabytes: float, free_gigabytes: float, kind: str = "GPU") -> ComputeDevice:
    return ComputeDevice("CUDA0", name, kind, int(total_gigabytes * GB), int(free_gigabytes * GB))


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[ComputeDevice]:
    """What llama.cpp lists as devices, for a test to fill."""
    listed = [ComputeDevice("CPU", "CPU", "CPU", 32 * GB, 26 * GB)]
    monkeypatch.setattr("edge.llama.system.devices", lambda: listed)
    return listed


def device_of(machine: Machine) -> Device:
    return this_device(machine, measures_bandwidth=False)


@pytest.mark.parametrize(
    ("kind", "gpu"),
    [("integrated GPU", Gpu("Intel", "Intel GPU", True)), ("GPU", Gpu("Apple", "Apple GPU", True))],
)
def test_graphics_processor_without_memory_of_its_own_shares_what_is_free(
    cards: list[ComputeDevice], kind: str, gpu: Gpu
) -> None:
    cards.append(card("Apple M2", 16, 12, kind))
    device = device_of(replace(DESKTOP, gpus=(gpu,), ram=Ram(16 * GB, 12 * GB, None)))
    assert device.is_unified
    for choice in make_plan(candidates(GEMMA), device).choices:
        (gpu,), ram = choice.fit.prediction.gpus, choice.fit.prediction.ram
        assert gpu.with_error + ram.with_error <= device.ram.free_bytes
    large = fit(
        candidate(GEMMA, "Q8_0"), context_of(8192), replace(device, ram=replace(device.ram, free_bytes=10 * GB))
    )
    assert isinstance(large, Shortfall) or large.prediction.total < 10 * GB


def test_bandwidth_of_a_card_is_known_by_its_name() -> None:
    assert card_bandwidth("NVIDIA GeForce RTX 4070 Ti SUPER") == 672e9
    assert card_bandwidth("nvidia geforce rtx 4070 laptop gpu") == 256e9
    assert card_bandwidth("a card of tomorrow") == DEFAULT_GPU_BANDWIDTH


def test_keys_that_do_not_fill_blocks_are_not_quantized() -> None:
    chosen = candidate(LLAMA, "Q4_K_M")
    layers = tuple(replace(layer, key_width=80, value_width=80) for layer in chosen.model.shape.layers)
    odd = replace(chosen, model=replace(chosen.model, shape=replace(chosen.model.shape, layers=layers)))
    assert allows(odd, ("F16", "F16")) and not allows(odd, ("Q8_0", "Q8_0"))
    assert allows(chosen, ("Q8_0", "Q4_0"))
    plan = make_plan([odd], device_of(PI))
    assert {choice.settings.key_type for choice in plan.choices} == {"F16"}
