"""How llama.cpp itself describes a model, as its tools print it."""

from __future__ import annotations

import ctypes

from edge.llama.library import backend
from edge.llama.model import Model

_BUFFER_BYTES = 256


def model_description(model: Model) -> str:
    """Family, size and quantization, such as "llama 7B Q4_K - Medium"."""
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    backend().llama_model_desc(model.pointer, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")
