"""LoRA adapters beside an open model's weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.errors import EdgeError
from edge.llama import log
from edge.llama.context import Context
from edge.llama.library import backend
from edge.llama.model import Model


class Adapter:
    """The matrices of one GGUF adapter in a model's memory. A context manager that frees them.

    It has to be loaded before a context is made, whose buffers are measured for it, and closed before its model.
    `edge.adapter_check.check_adapter` has to have seen the file.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self._llama = backend()
        self._model = model  # keeps the native model alive
        self.path = path
        log.forget()
        self.pointer: Any = self._llama.llama_adapter_lora_init(model.pointer, str(path).encode())
        if not self.pointer:
            raise EdgeError(
                f"llama.cpp cannot load the adapter {path}: {log.first_error() or 'no reason given'}",
                hint="Convert it again for this model: edge convert ADAPTER --base MODEL",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.pointer:
            self._llama.llama_adapter_lora_free(self.pointer)
            self.pointer = None


def use_adapters(context: Context, scaled: Sequence[tuple[Adapter, float]]) -> None:
    """Let a context compute with exactly these adapters, each with its scale.

    Keys and values that are in its cache were computed with those before: a caller that changes them has to drop these.
    """
    llama = backend()
    pointers = (llama.llama_adapter_lora_p_ctypes * len(scaled))(*(adapter.pointer for adapter, _ in scaled))
    scales = (ctypes.c_float * len(scaled))(*(scale for _, scale in scaled))
    status = llama.llama_set_adapters_lora(context.pointer, pointers, len(scaled), scales)
    assert status == 0, f"llama_set_adapters_lora gave {status}"
