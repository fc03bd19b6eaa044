"""Plans for machines as they are: cards that are partly taken, small or several, containers, boards with swap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.device_profiles import DEFAULT_GPU_BANDWIDTH, Device, MemoryPool, card_bandwidth, this_device
from edge.devices import Cores, Cpu, Gpu, Machine, Ram
from edge.errors import EdgeError
from edge.fitting import Fit, Shortfall, allows, context_of, fit
from edge.llama.system import ComputeDevice
from edge.plan import make_plan
from edge.plan_report import render
from edge.plan_source import find_model
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


def fits_within(device: Device, name: str) -> list[str]:
    """The quantizations that a plan chooses, each held to what is free."""
    plan = make_plan(candidates(name), device)
    for choice in plan.choices:
        gpu, ram = choice.fit.prediction.gpu, choice.fit.prediction.ram
        assert ram.with_error <= device.ram.free_bytes
        assert device.gpu is None or gpu.with_error <= device.gpu.free_bytes
        if device.is_unified:
            assert gpu.with_error + ram.with_error <= device.ram.free_bytes
    return [choice.settings.quantization for choice in plan.choices]


def test_card_of_12_gb_of_which_one_is_taken(cards: list[ComputeDevice]) -> None:
    cards.append(card("NVIDIA GeForce RTX 3060", 12.88, 11.8))
    device = device_of(DESKTOP)
    assert device.gpu == MemoryPool(12_880_000_000, 11_500_000_000, 360e9, 20e12)
    assert fits_within(device, GEMMA)[0] == "Q8_0"
    cards[-1] = card("NVIDIA GeForce RTX 3060", 12.88, 9.0)
    assert fits_within(device_of(DESKTOP), GEMMA)[0] == "Q6_K", "what another program has taken is not planned with"


def test_laptop_card_of_4_gb_holds_a_part(cards: list[ComputeDevice]) -> None:
    cards.append(card("NVIDIA GeForce RTX 3050 Laptop GPU", 4.29, 3.9))
    device = device_of(replace(DESKTOP, ram=Ram(16 * GB, 11 * GB, None)))
    assert fits_within(device, GEMMA)
    found = fit(candidate(GEMMA, "Q4_K_M"), context_of(4096), device)
    assert isinstance(found, Fit) and 0 < found.gpu_layers < 43


def test_the_emptier_of_two_cards_is_planned_for(cards: list[ComputeDevice]) -> None:
    cards += [card("NVIDIA GeForce RTX 3060", 12.88, 2), card("NVIDIA GeForce RTX 4070", 12.88, 12)]
    device = device_of(DESKTOP)
    assert device.gpu is not None and device.gpu.bandwidth == 504e9
    assert fits_within(device, GEMMA)


def test_without_a_card_everything_is_in_main_memory() -> None:
    device = device_of(replace(DESKTOP, gpus=()))
    assert device.gpu is None
    plan = make_plan(candidates(GEMMA), device)
    assert {choice.settings.gpu_layers for choice in plan.choices} == {0}


def test_container_of_2_gb_gets_what_its_limit_allows() -> None:
    limited = replace(DESKTOP, gpus=(), ram=Ram(32 * GB, 1_900_000_000, limit_bytes=2 * GB))
    device = device_of(limited)
    assert fits_within(device, "meta-llama/Llama-3.2-1B-Instruct")
    with pytest.raises(EdgeError, match="more than is free"):
        make_plan(candidates(GEMMA), device)


def test_swap_of_a_board_is_shown_and_not_counted() -> None:
    device = device_of(PI)
    assert device.swap_bytes == 2 * GB and device.ram.free_bytes == 7 * GB
    assert fits_within(device, LLAMA)
    found = find_model(LLAMA)
    about = render(found, make_plan(found.candidates, device))[0]
    assert "Swap" in [str(text) for text in about.columns[0].cells]


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
    assert fits_within(device, GEMMA)
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
