"""What the loaded library is: its version, the instructions it was compiled for, the devices it can compute on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edge.llama.library import backend, native_function

# enum ggml_backend_dev_type in ggml-backend.h
_DEVICE_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "several devices")


@dataclass(frozen=True)
class ComputeDevice:
    """A processor that the library can compute on; integrated GPUs share the machine's memory."""

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int

    @property
    def is_gpu(self) -> bool:
        return "GPU" in self.kind


@dataclass(frozen=True)
class LibraryVersions:
    llama_cpp: str
    ggml: str
    commit: str
    """llama.cpp's commit as the build saw it; "-dirty" is added when its git tree was incomplete."""


def system_info() -> dict[str, dict[str, str]]:
    """The features of each backend, such as {"CPU": {"AVX2": "1", "OPENMP": "1"}}; absent ones are not listed."""
    return parse_system_info(backend().llama_print_system_info().decode("utf-8", "replace"))


def parse_system_info(text: str) -> dict[str, dict[str, str]]:
    """Reads `CPU : AVX = 1 | AVX2 = 1 | CUDA : ARCHS = 860 | `. Source: llama_print_system_info in llama.cpp"""
    features: dict[str, dict[str, str]] = {}
    name = "CPU"
    for part in text.split("|"):
        start, colon, rest = part.rpartition(" : ")
        if colon:
            name = start.strip()
        feature, equals, value = rest.partition("=")
        if equals and value.strip() != "0":
            features.setdefault(name, {})[feature.strip()] = value.strip()
    return features


def supports_gpu_offload() -> bool:
    """Whether layers can be computed anywhere but on the CPU."""
    return bool(backend().llama_supports_gpu_offload())


def devices() -> list[ComputeDevice]:
    """Every device of every backend, the CPU too."""
    count = native_function("ggml_backend_dev_count", ctypes.c_size_t)
    get = native_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_device(ctypes.c_void_p(get(index))) for index in range(count())]


def library_versions() -> LibraryVersions:
    names = ("llama_version", "ggml_version", "ggml_commit")
    return LibraryVersions(*(native_function(name, ctypes.c_char_p)().decode("utf-8", "replace") for name in names))


def _device(pointer: ctypes.c_void_p) -> ComputeDevice:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    native_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size_pointer, size_pointer)(pointer, free, total)
    kind = native_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(pointer)
    name, description = (
        native_function(f"ggml_backend_dev_{part}", ctypes.c_char_p, ctypes.c_void_p)(pointer).decode(
            "utf-8", "replace"
        )
        for part in ("name", "description")
    )
    return ComputeDevice(
        name=name,
        description=description.strip(),
        kind=_DEVICE_KINDS[kind] if kind < len(_DEVICE_KINDS) else "other",
        total_bytes=total.value,
        free_bytes=free.value,
    )
