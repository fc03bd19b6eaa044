"""Devices by name, as a person describes them, and as this machine is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge import device_profiles
from edge.device_profiles import (
    THIS,
    MemoryPool,
    described_device,
    device_names,
    find_device,
    operations_per_core,
    parse_bandwidth,
    repacked_types,
    this_device,
)
from edge.devices import Cores, Cpu, Gpu, Machine, Ram
from edge.errors import EdgeError
from edge.llama.system import ComputeDevice

MACHINE = Machine(
    system="Linux 6.1 x86_64",
    cpu=Cpu("AMD Ryzen 7 7840U", ("AVX", "AVX2")),
    cores=Cores(logical=16, physical=8, quota=None),
    ram=Ram(total_bytes=16_000_000_000, available_bytes=9_000_000_000, limit_bytes=None, swap_free_bytes=2_000_000_000),
    gpus=(),
)
NVIDIA = Gpu("NVIDIA", "NVIDIA GeForce RTX 3060", has_driver=True)


def test_the_promised_devices_are_known() -> None:
    assert device_names() == ("rtx-3060-12gb", "rtx-4070-12gb", "raspberry-pi-5-8gb", "laptop-16gb", "this")


@pytest.mark.parametrize("name", [name for name in device_names() if name != THIS])
def test_profile_leaves_memory_for_the_system(name: str) -> None:
    device = find_device(name.upper())
    for pool in (device.ram, *device.gpus):
        assert 0.7 * pool.total_bytes < pool.free_bytes < pool.total_bytes
        assert 1e10 < pool.bandwidth < 1e12


def test_card_of_12_gb_has_what_its_maker_states() -> None:
    (gpu,) = find_device("rtx-3060-12gb").gpus
    assert gpu == MemoryPool(12_880_000_000, 11_680_000_000, 360e9, 20e12)


def test_unknown_device_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(EdgeError) as caught:
        find_device("rtx-9090")
    assert caught.value.message == "The device 'rtx-9090' is not known."
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Known are rtx-3060-12gb, rtx-4070-12gb, raspberry-pi-5-8gb, laptop-16gb and")
    assert caught.value.hint.endswith("or describe it with --vram, --ram and --bandwidth.")


def test_described_device_has_all_that_is_given() -> None:
    device = described_device(vram="12GB", ram="16GB", bandwidth="360GB/s")
    assert device.gpus == (MemoryPool(12 * 10**9, 12 * 10**9, 360e9, 20e12),)
    assert device.ram.free_bytes == 16 * 10**9
    assert device.description == "12GB of graphics memory and 16GB of main memory"


def test_bandwidth_is_that_of_main_memory_without_a_card() -> None:
    device = described_device(vram=None, ram="8GB", bandwidth="17GB/s")
    assert not device.gpus and device.ram.bandwidth == 17e9


def test_bandwidth_alone_is_no_device() -> None:
    with pytest.raises(EdgeError) as caught:
        described_device(vram=None, ram=None, bandwidth="17GB/s")
    assert caught.value.message == "--bandwidth describes no device."
    assert caught.value.hint == "Give --ram or --vram with it, or --device NAME."


def test_bandwidth_that_is_no_size_is_refused() -> None:
    assert parse_bandwidth("360 GB/s") == parse_bandwidth("360GB") == 360e9
    with pytest.raises(EdgeError) as caught:
        parse_bandwidth("fast")
    assert caught.value.message == "'fast' is no bandwidth."


def test_this_machine_offers_what_is_free_now() -> None:
    device = this_device(MACHINE, measures_bandwidth=False)
    assert (device.ram.total_bytes, device.ram.free_bytes) == (16_000_000_000, 9_000_000_000)
    assert not device.gpus and device.swap_bytes == 2_000_000_000
    assert "Q4_K" in device.repacked_types


def test_limit_of_a_container_is_its_total() -> None:
    limited = replace(MACHINE, ram=Ram(16_000_000_000, 1_500_000_000, limit_bytes=2_000_000_000))
    pool = this_device(limited, measures_bandwidth=False).ram
    assert (pool.total_bytes, pool.free_bytes) == (2_000_000_000, 1_500_000_000)


def test_cards_are_numbered_as_llama_cpp_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        ComputeDevice("CPU", "", "CPU", 16_000_000_000, 9_000_000_000),
        ComputeDevice("CUDA0", "", "GPU", 12_000_000_000, 1_000_000_000),
        ComputeDevice("CUDA1", "", "GPU", 12_000_000_000, 11_000_000_000),
        ComputeDevice("Vulkan0", "the first one once more", "GPU", 12_000_000_000, 1_000_000_000),
        ComputeDevice("Vulkan1", "in the processor", "integrated GPU", 16_000_000_000, 9_000_000_000),
    ]
    monkeypatch.setattr("edge.llama.system.devices", lambda: cards)
    device = this_device(replace(MACHINE, gpus=(NVIDIA,)), measures_bandwidth=False)
    assert [gpu.free_bytes for gpu in device.gpus] == [700_000_000, 10_700_000_000]
    assert device.graphics is not None and device.graphics.free_bytes == 11_400_000_000
    assert not device.is_unified


def test_card_is_used_whatever_the_system_shows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [ComputeDevice("Vulkan0", "Intel(R) Arc(TM) A770", "GPU", 16_000_000_000, 15_000_000_000)]
    monkeypatch.setattr("edge.llama.system.devices", lambda: listed)
    assert this_device(replace(MACHINE, gpus=()), measures_bandwidth=False).gpus[0].free_bytes == 14_700_000_000
    without = replace(MACHINE, gpus=(Gpu("Intel", "Intel GPU", has_driver=False),))
    assert len(this_device(without, measures_bandwidth=False).gpus) == 1


def test_card_that_the_library_cannot_use_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.llama.system.devices", lambda: [ComputeDevice("CPU", "", "CPU", 1, 1)])
    assert this_device(replace(MACHINE, gpus=(NVIDIA,)), measures_bandwidth=False).gpus == ()


def test_bandwidth_of_this_machine_is_measured() -> None:
    assert this_device(MACHINE).ram.bandwidth > 1e8


def test_arithmetic_depends_on_the_instructions_and_on_the_cores() -> None:
    pi = replace(MACHINE, cpu=Cpu("Raspberry Pi 5 Model B Rev 1.0", ("DOTPROD", "NEON")), cores=Cores(4, 4, None))
    planned = [this_device(each, measures_bandwidth=False).ram.operations for each in (MACHINE, pi)]
    assert planned == [8 * 60e9, find_device("raspberry-pi-5-8gb").ram.operations]
    assert operations_per_core(("MATMUL_INT8", "DOTPROD", "NEON")) > operations_per_core(())


def test_second_copies_depend_on_the_instructions() -> None:
    assert repacked_types(("AVX2", "AVX512")) == repacked_types(("AVX2",)) | {"Q2_K"}
    assert "Q8_0" in repacked_types(("NEON", "DOTPROD")) and "Q8_0" not in repacked_types(("AVX2",))
    assert repacked_types(("SSE3",)) == frozenset()


def test_profiles_come_from_a_file_of_data() -> None:
    assert set(device_profiles._profiles()) | {THIS} == set(device_names())
