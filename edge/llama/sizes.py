"""What llama.cpp would allocate for a model and a context, asked of llama.cpp itself without allocating any of it.

It reads the header only, so a sparse file without weights will do. The answer is exact and takes a tenth of a second or
more; `edge.memory` predicts it from the header alone, and is checked against this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES
from edge.llama import log
from edge.llama.library import backend
from edge.llama.model import load_model

_NO_LOADING = 0  # LLAMA_LOAD_MODE_NONE: with a memory map, a model that allocates nothing is refused by an assertion
_FLASH_ATTENTION = {"off": 0, "on": 1}
_MEBIBYTE = 1 << 20
_SIZE = r" = +(?P<mebibytes>\d+\.\d+) MiB"
_CACHE = re.compile(r"^(?:llama_kv_cache|llama_memory_recurrent): size" + _SIZE)
_COMPUTE = re.compile(r"^sched_reserve: +(?P<buffer>\S+) compute buffer size" + _SIZE)
_OUTPUT = re.compile(r"output buffer size" + _SIZE)


@dataclass(frozen=True)
class ContextShape:
    """The parameters of a context that decide how large it is, as `edge.llama.context.Context` sets them."""

    context_tokens: int
    sequences: int = 1
    batch_tokens: int = 512
    max_outputs: int = 1
    key_type: str = "F16"
    value_type: str = "F16"
    has_flash_attention: bool = True


@dataclass(frozen=True)
class ContextSizes:
    """What llama.cpp says it would allocate, rounded to a hundredth of a MiB as it says it."""

    cache_bytes: int
    """Keys and values, and the states of recurrent layers."""
    compute_bytes: int
    output_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.cache_bytes + self.compute_bytes + self.output_bytes


class SizedModel:
    """A model of which only the header is read. A context manager that frees it."""

    def __init__(self, path: Path) -> None:
        self._llama = backend()
        self.path = path
        self.pointer: Any = None
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = _NO_LOADING
        params.no_alloc = True
        self.pointer = load_model(path, params)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.pointer:
            self._llama.llama_model_free(self.pointer)
            self.pointer = None

    @property
    def weights_bytes(self) -> int:
        """What llama.cpp counts for the tensors of the file."""
        return int(self._llama.llama_model_size(self.pointer))

    def context_sizes(self, shape: ContextShape) -> ContextSizes:
        """What a context of this shape would take. EdgeError if llama.cpp refuses it."""
        params = self._llama.llama_context_default_params()
        params.n_ctx = shape.context_tokens
        params.n_batch = params.n_ubatch = min(shape.batch_tokens, shape.context_tokens)
        params.n_seq_max = shape.sequences
        params.n_outputs_max = shape.max_outputs
        params.type_k, params.type_v = TENSOR_TYPES[shape.key_type].id, TENSOR_TYPES[shape.value_type].id
        params.flash_attn_type = _FLASH_ATTENTION["on" if shape.has_flash_attention else "off"]
        params.kv_unified = True
        params.swa_full = False
        params.no_perf = True
        log.forget()
        with log.recorded() as lines:
            pointer = self._llama.llama_init_from_model(self.pointer, params)
        if not pointer:
            raise EdgeError(
                f"llama.cpp cannot make a context of {shape.context_tokens} tokens: "
                f"{log.first_error() or 'no reason given'}",
                hint="Ask for a shorter context with --ctx.",
            )
        self._llama.llama_free(pointer)
        return _read_sizes(lines)


def _read_sizes(lines: list[str]) -> ContextSizes:
    """The sizes in llama.cpp's log of a context that was made."""
    return ContextSizes(
        cache_bytes=_sum_of(_CACHE, lines),
        compute_bytes=_sum_of(_COMPUTE, lines),
        output_bytes=_sum_of(_OUTPUT, lines),
    )


def _sum_of(pattern: re.Pattern[str], lines: list[str]) -> int:
    found = (pattern.search(line) for line in lines)
    return round(sum(float(match["mebibytes"]) for match in found if match) * _MEBIBYTE)
