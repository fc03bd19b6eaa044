"""A llama.cpp context: the KV cache of several sequences, and decode steps over them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError, EngineFailedError
from edge.gguf_format import TENSOR_TYPES
from edge.llama import log
from edge.llama.activations import ActivationRecorder
from edge.llama.cpu_backend import CpuBackend
from edge.llama.library import backend, native_function
from edge.llama.model import Model
from edge.llama.multi_step import is_available, run_steps
from edge.llama.sampler import PlainChoice

_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_NO_POOLING = 0  # LLAMA_POOLING_TYPE_NONE: an embedding for each token
_NO_ROOM = 1  # llama_decode: no free cells in the KV cache
_SPLIT_TYPES = ("F16", "F32")  # of keys and values whose cells are split over threads for one token, see cpu_backend
_FEW_TOKENS = 16  # written one by one, which is sooner done
_PARTIAL_STATE = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: what of the memory cannot be cut back


class CacheFullError(EngineFailedError):
    """The KV cache has no room for a batch. Nothing of it was computed, and nothing was lost."""


class Batch:
    """Tokens of one decode step, of any sequences. Reused from step to step.

    The arrays of llama_batch are numpy arrays that llama.cpp reads in place; `seq_id` holds, for each token, the
    address of its sequence number.
    """

    def __init__(self, capacity: int, sequences: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._sequence_addresses = np.zeros(capacity, np.uintp)
        self._wants_logits = np.zeros(capacity, np.int8)
        self._sequences = np.arange(sequences, dtype=np.int32)
        first = self._sequences.ctypes.data
        self._address_of = [first + 4 * sequence for sequence in range(sequences)]
        # a memoryview takes a single number several times faster than an array does
        self._views = (
            self._tokens.data,
            self._positions.data,
            self._sequence_addresses.data,
            self._wants_logits.data,
        )
        native = backend().llama_batch()
        for field, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._sequence_counts),
            ("seq_id", self._sequence_addresses),
            ("logits", self._wants_logits),
        ):
            kind = dict(native._fields_)[field]
            setattr(native, field, ctypes.cast(array.ctypes.data, kind))
        self._native = native

    def clear(self) -> None:
        self.count = 0

    def add(self, tokens: Sequence[int], *, sequence: int, position: int, last_logits: bool) -> int:
        """Append tokens of a sequence from a position on; gives the index of the last one in the batch."""
        start, end = self.count, self.count + len(tokens)
        assert start < end <= self.capacity, f"batch of {self.capacity} tokens overfilled"
        address = self._address_of[sequence]
        if len(tokens) <= _FEW_TOKENS:
            token_view, position_view, address_view, logits_view = self._views
            for index, token in enumerate(tokens, start):
                token_view[index] = token
                position_view[index] = position + index - start
                address_view[index] = address
                logits_view[index] = 0
        else:
            self._tokens[start:end] = tokens
            self._positions[start:end] = np.arange(position, position + len(tokens))
            self._sequence_addresses[start:end] = address
            self._wants_logits[start:end] = 0
        self._wants_logits[end - 1] = last_logits
        self.count = end
        return end - 1

    def add_all_wanted(self, tokens: Sequence[int], *, sequence: int, position: int) -> int:
        """As `add`, with logits at every token; gives the index of the first one in the batch."""
        start = self.count
        self.add(tokens, sequence=sequence, position=position, last_logits=True)
        self._wants_logits[start : self.count] = 1
        return start

    @property
    def room(self) -> int:
        """Tokens that can still be added."""
        return self.capacity - self.count

    def want_all_logits(self) -> None:
        """Ask for logits at every token added so far."""
        self._wants_logits[: self.count] = 1

    @property
    def native(self) -> ctypes.Structure:
        self._native.n_tokens = self.count
        structure: ctypes.Structure = self._native
        return structure


class Context:
    """The KV cache and compute buffers of a model for `sequences` sequences that share `context_tokens` cells."""

    def __init__(
        self,
        model: Model,
        *,
        context_tokens: int,
        sequences: int = 1,
        threads: int = 1,
        batch_tokens: int = 512,
        max_outputs: int | None = None,
        key_type: str = "F16",
        value_type: str = "F16",
        flash_attention: Literal["auto", "on", "off"] = "auto",
        recorder: ActivationRecorder | None = None,
        gives: Literal["logits", "embeddings"] = "logits",
    ) -> None:
        self._llama = backend()
        self._model = model
        self._recorder = recorder
        params = self._llama.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = min(batch_tokens, context_tokens)
        params.n_seq_max = sequences
        params.n_outputs_max = max_outputs or sequences
        params.n_threads = params.n_threads_batch = threads
        params.type_k, params.type_v = TENSOR_TYPES[key_type].id, TENSOR_TYPES[value_type].id
        params.flash_attn_type = _FLASH_ATTENTION[flash_attention]
        params.kv_unified = True
        params.swa_full = False
        params.no_perf = True
        if gives == "embeddings":
            params.embeddings = True
            params.pooling_type = _NO_POOLING
        if recorder:
            params.cb_eval = recorder.callback
        log.forget()
        with CpuBackend.of_context() as self._processor:
            self.pointer = self._llama.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise EdgeError(
                f"llama.cpp cannot make a context of {context_tokens} tokens: {log.first_error() or 'no reason given'}",
                hint="Ask for a shorter context with --ctx.",
            )
        self.context_tokens: int = self._llama.llama_n_ctx(self.pointer)
        self.batch_tokens: int = self._llama.llama_n_batch(self.pointer)
        self._splits_attention = key_type == value_type and key_type in _SPLIT_TYPES
        self.attends_alike = flash_attention != "off" and (self._processor.is_known or not self._splits_attention)
        """Whether the attention of a token is rounded alike however many others a step computes, on processors."""
        self._memory = self._llama.llama_get_memory(self.pointer)
        self._logits_type = ctypes.c_float * model.vocab.size
        self._logits_rows: dict[int, npt.NDArray[np.float32]] = {}
        self._logits_address = native_function("llama_get_logits_ith", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.pointer:
            self._llama.llama_free(self.pointer)
            self.pointer = None

    @property
    def can_decode_several(self) -> bool:
        return is_available() and self._recorder is None

    def decode_several(
        self, batch: Batch, choice: PlainChoice, *, steps: int, end_tokens: frozenset[int], interruption: bytearray
    ) -> tuple[int, list[int]]:
        """Run the model over a batch of one token, and over what is chosen next; see `edge.llama.multi_step`.

        Where the next step cannot be made, none is: `decode` then says why. Only if `can_decode_several`.
        """
        self._prepare(batch)
        return run_steps(
            self.pointer,
            batch.native,
            choice,
            vocabulary_size=self._model.vocab.size,
            steps=steps,
            end_tokens=end_tokens,
            interruption=interruption,
        )

    def _prepare(self, batch: Batch) -> None:
        log.forget()
        self._processor.use_reference(self._splits_attention and batch.count == 1)

    def decode(self, batch: Batch) -> None:
        """Run the model over a batch. CacheFullError if it has no room, EngineFailedError if it cannot be computed."""
        self._prepare(batch)
        status = self._llama.llama_decode(self.pointer, batch.native)
        if self._recorder:
            self._recorder.raise_failure()
        if status == 0:
            return
        if status == _NO_ROOM:
            raise CacheFullError(
                f"The KV cache of {self.context_tokens} tokens is full.",
                hint="Ask for a longer context with --ctx.",
            )
        raise EngineFailedError(
            f"llama.cpp failed to decode (status {status}): {log.first_error() or 'no reason given'}",
            hint="Check the file with: edge verify FILE.gguf",
        )

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits after the token at `index` of the last batch: a view [vocabulary], valid until the next decode."""
        address = self._logits_address(self.pointer, index)
        assert address, f"no logits were asked for at index {index}"
        row = self._logits_rows.get(address)  # step after step they are in the same places
        if row is None:
            content = memoryview(self._logits_type.from_address(address))
            row = self._logits_rows[address] = np.frombuffer(content, np.float32)
        return row

    def embedding(self, index: int) -> npt.NDArray[np.float32]:
        """The embedding of the token at `index` of the last batch: a copy [hidden]. For a context that gives them."""
        pointer = self._llama.llama_get_embeddings_ith(self.pointer, index)
        assert pointer, f"no embedding was asked for at index {index}"
        address = ctypes.addressof(pointer.contents)
        return np.array((ctypes.c_float * self._model.hidden_size).from_address(address), np.float32)

    def remove(self, sequence: int, first_position: int) -> bool:
        """Forget a sequence from a position on; False if this kind of memory cannot."""
        return bool(self._llama.llama_memory_seq_rm(self._memory, sequence, first_position, -1))

    def first_position(self, sequence: int) -> int:
        """The first position that every layer still holds; -1 if the sequence is empty."""
        return int(self._llama.llama_memory_seq_pos_min(self._memory, sequence))

    def copy(self, source: int, target: int, end_position: int) -> None:
        """Let an empty sequence have what another one holds up to a position; both share its cells."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, end_position)

    def save_state(self, sequence: int, *, partial: bool = False) -> bytes:
        """A sequence's keys and values as llama.cpp writes them; `partial`: only of layers that cannot be cut back,
        as those with a sliding window or a recurrent state."""
        flags = _PARTIAL_STATE if partial else 0
        kinds = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32)
        size = native_function("llama_state_seq_get_size_ext", ctypes.c_size_t, *kinds)(self.pointer, sequence, flags)
        state = np.empty(size, np.uint8)
        write = native_function(
            "llama_state_seq_get_data_ext",
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            *kinds[1:],
        )
        written = write(self.pointer, state.ctypes.data, size, sequence, flags)
        return state[:written].tobytes()

    def restore_state(self, sequence: int, state: bytes | memoryview, *, partial: bool = False) -> bool:
        """Put a saved state in the place of what a sequence holds. False, and an empty sequence, if it does not fit.

        The state must come from `save_state` of a context of the same model, types and build.
        """
        content = np.frombuffer(state, np.uint8)
        read = native_function(
            "llama_state_seq_set_data_ext",
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int32,
            ctypes.c_uint32,
        )
        if not partial:
            self.remove(sequence, 0)
        flags = _PARTIAL_STATE if partial else 0
        if read(self.pointer, content.ctypes.data, content.nbytes, sequence, flags) == content.nbytes:
            return True
        self.remove(sequence, 0)
        return False
