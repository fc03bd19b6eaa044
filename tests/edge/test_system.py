from __future__ import annotations

from llama_cpp import llama_cpp

from edge.devices import SIMD_NAMES, read_cpu
from edge.llama import system


def test_features_are_read_for_each_backend() -> None:
    text = "CUDA : ARCHS = 500,860 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX512 = 0 | SVE_CNT = 16 | "
    assert system.parse_system_info(text) == {
        "CUDA": {"ARCHS": "500,860", "USE_GRAPHS": "1"},
        "CPU": {"SSE3": "1", "SVE_CNT": "16"},
    }


def test_nothing_is_read_from_an_empty_text() -> None:
    assert system.parse_system_info("") == {}


def test_library_compiled_here_names_instructions_as_the_processor_does() -> None:
    compiled = {name for name in system.system_info()["CPU"] if name in SIMD_NAMES}
    assert compiled <= set(read_cpu().simd)


def test_devices_include_the_cpu_with_its_memory() -> None:
    cpu = next(device for device in system.devices() if device.kind == "CPU")
    assert cpu.name == "CPU"
    assert not cpu.is_gpu
    assert cpu.total_bytes >= cpu.free_bytes > 0


def test_gpu_offload_is_what_the_binding_says() -> None:
    assert system.supports_gpu_offload() is bool(llama_cpp.llama_supports_gpu_offload())
    assert system.supports_gpu_offload() is any(device.is_gpu for device in system.devices())


def test_library_tells_its_versions() -> None:
    versions = system.library_versions()
    assert versions.llama_cpp[0].isdigit()
    assert versions.ggml[0].isdigit()
    assert versions.commit
