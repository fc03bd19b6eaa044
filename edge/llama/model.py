"""A model file opened by llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.errors import EdgeError
from edge.llama import log
from edge.llama.library import backend
from edge.llama.vocab import Vocab

_LOAD_MODE_MMAP = 1
_ON_ONE_GPU, _BY_LAYER = 0, 1  # enum llama_split_mode


def load_model(path: Path, params: Any) -> Any:
    """The native model of a file. EdgeError with llama.cpp's reason if it cannot be loaded."""
    log.forget()
    pointer = backend().llama_model_load_from_file(str(path).encode(), params)
    if not pointer:
        raise EdgeError(
            f"llama.cpp cannot load {path}: {log.first_error() or 'no reason given'}",
            hint=f"See what is in the file with: edge inspect {path}",
        )
    return pointer


def _split_layers(params: Any, gpu_split: Sequence[int]) -> None:
    """Have a model's layers on the graphics cards in this proportion; without any, as llama.cpp spreads them.

    A single card is named, so that nothing is set up on the others.
    """
    used = [card for card, layers in enumerate(gpu_split) if layers]
    if len(used) == 1:
        params.split_mode, params.main_gpu = _ON_ONE_GPU, used[0]
    elif used:
        params.split_mode = _BY_LAYER
        params.tensor_split = (ctypes.c_float * backend().llama_max_devices())(*gpu_split)


class Model:
    """The weights and the vocabulary of one GGUF file. A context manager that frees them.

    The file is trusted to be sound: `edge.gguf_file.read_gguf` has to have seen it, because native code may abort the
    process on one that is not.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        gpu_split: Sequence[int] = (),
        vocabulary_only: bool = False,
        repack_weights: bool = True,
    ) -> None:
        self._llama = backend()
        self.path = path
        self.pointer: Any = None
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        _split_layers(params, gpu_split)
        params.load_mode = _LOAD_MODE_MMAP
        params.vocab_only = vocabulary_only
        params.use_extra_bufts = repack_weights  # a copy in memory in an order that computes faster
        self.pointer = load_model(path, params)
        self.vocab = Vocab(self)

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
    def trained_context_tokens(self) -> int:
        return int(self._llama.llama_model_n_ctx_train(self.pointer))

    @property
    def hidden_size(self) -> int:
        return int(self._llama.llama_model_n_embd(self.pointer))

    @property
    def sliding_window(self) -> int:
        """Tokens that the sliding-window layers see; 0 if the model has none."""
        return int(self._llama.llama_model_n_swa(self.pointer))

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state instead of keys and values, which cannot be cut back to an earlier token."""
        return bool(
            self._llama.llama_model_is_recurrent(self.pointer) or self._llama.llama_model_is_hybrid(self.pointer)
        )

    @property
    def parameter_count(self) -> int:
        return int(self._llama.llama_model_n_params(self.pointer))

    @cached_property
    def chat_template(self) -> str | None:
        template = self._llama.llama_model_chat_template(self.pointer, None)
        return template.decode("utf-8", "replace") if template else None

    def metadata(self, key: str) -> str | None:
        """The value of a metadata key as text, or None; arrays are not available this way."""
        size = self._llama.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self._llama.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")
