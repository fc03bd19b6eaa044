"""What flows into each weight matrix while a context decodes: sums of squares per column, for importance matrices.

llama.cpp's scheduler asks about every node of the graph before it is computed, and shows those that were asked for
afterwards. Only products with the blocks' weights are: the input of q, k and v is the same tensor and is read once.
Source: llama.cpp, tools/imatrix/imatrix.cpp (IMatrixCollector::collect_imatrix); ggml.h (struct ggml_tensor).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.llama.library import backend, native_function

_MAX_DIMS, _MAX_SRC, _MAX_NAME, _OP_PARAMS_BYTES = 4, 10, 64, 64
_OBJECT_BYTES = 32  # GGML_OBJECT_SIZE, which ggml_tensor_overhead adds
_F32 = 0
_FEWEST_ROWS = 16  # smaller products are not of a whole chunk of text


class _Tensor(ctypes.Structure):
    """struct ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _MAX_DIMS),
        ("nb", ctypes.c_size_t * _MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_OP_PARAMS_BYTES // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


_OP_OFFSET = _Tensor.op.offset


@dataclass
class ActivationSums:
    """Squares summed by matrix (an expert each) and column, and how many rows each sum is of.

    `counts` has one number for each expert, or a single one.
    """

    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


class ActivationRecorder:
    """Collects the sums of everything that a context decodes that was made with its `callback`.

    The callback must live as long as the context; an error in it is kept, and raised by `raise_failure`, since it
    cannot pass through native code.
    """

    def __init__(self) -> None:
        self._multiply, self._multiply_experts = _operation_numbers()
        self._read_tensor = native_function(
            "ggml_backend_tensor_get", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
        )
        self._sums: dict[str, ActivationSums] = {}
        self._failure: BaseException | None = None
        self._last_input: tuple[int, npt.NDArray[np.float32]] | None = None
        self.callback: Any = backend().ggml_backend_sched_eval_callback(self._on_node)

    @property
    def sums(self) -> Mapping[str, ActivationSums]:
        """By name of the weight matrix."""
        return self._sums

    def raise_failure(self) -> None:
        """Raise what went wrong inside the callback, if anything did."""
        if self._failure:
            raise self._failure

    def _on_node(self, address: int, is_question: bool, user_data: Any) -> bool:
        try:
            if is_question:
                return self._is_wanted(address)
            self._collect(_Tensor.from_address(address))
        except BaseException as error:  # raised again by the thread that decodes, once it is out of native code
            self._failure = self._failure or error
            return False
        return True

    def _is_wanted(self, address: int) -> bool:
        operation = ctypes.c_int.from_address(address + _OP_OFFSET).value
        if operation not in (self._multiply, self._multiply_experts):
            return False
        node = _Tensor.from_address(address)
        weights, inputs = _source(node, 0), _source(node, 1)
        if inputs.type != _F32 or not _weight_name(weights).startswith("blk."):
            return False
        return operation == self._multiply_experts or inputs.ne[1] >= _FEWEST_ROWS

    def _collect(self, node: _Tensor) -> None:
        weights = _source(node, 0)
        name = _weight_name(weights)
        if node.op == self._multiply_experts:
            chosen = self._values(_source(node, 2), np.int32)[0, 0]
            self._add_experts(name, weights.ne[2], chosen, self._values(_source(node, 1), np.float32)[0])
        else:
            self._add(name, weights.ne[2] * weights.ne[3], self._squares(node), _source(node, 1).ne[1])

    def _squares(self, node: _Tensor) -> npt.NDArray[np.float32]:
        """Sums over the rows of a product's input, [outer, columns]."""
        address = node.src[1]
        if self._last_input is None or self._last_input[0] != address:
            values = self._values(_source(node, 1), np.float32)
            outer = values.reshape(-1, *values.shape[-2:])
            self._last_input = address, np.einsum("bij,bij->bj", outer, outer)
        return self._last_input[1]

    def _add(self, name: str, matrices: int, squares: npt.NDArray[np.float32], rows: int) -> None:
        """`squares` [outer, columns] of so many rows each: inputs of one matrix, or of several in turn."""
        entry = self._entry(name, matrices, squares.shape[1], 1)
        for number, row in enumerate(squares):
            entry.squares[number % matrices] += row
        entry.counts += rows * len(squares) // matrices

    def _add_experts(
        self, name: str, experts: int, chosen: npt.NDArray[np.int32], inputs: npt.NDArray[np.float32]
    ) -> None:
        """`chosen` [tokens, slots] names the expert of each slot; `inputs` is [tokens, slots or 1, columns]."""
        entry = self._entry(name, experts, inputs.shape[2], experts)
        for expert in np.unique(chosen):
            tokens, slots = np.nonzero(chosen == expert)
            picked = inputs[tokens, slots % inputs.shape[1]]
            entry.squares[expert] += np.einsum("ij,ij->j", picked, picked)
            entry.counts[expert] += len(picked)

    def _entry(self, name: str, matrices: int, columns: int, counts: int) -> ActivationSums:
        entry = self._sums.get(name)
        if entry is None:
            entry = ActivationSums(np.zeros((matrices, columns)), np.zeros(counts, np.int64))
            self._sums[name] = entry
        return entry

    def _values(self, tensor: _Tensor, kind: type[Any]) -> npt.NDArray[Any]:
        """A copy of a tensor's values, outermost dimension first, wherever its memory is."""
        item_bytes = np.dtype(kind).itemsize
        n_bytes = item_bytes + sum((size - 1) * step for size, step in zip(tensor.ne, tensor.nb, strict=True))
        memory = np.empty(n_bytes, np.uint8)
        self._read_tensor(ctypes.addressof(tensor), memory.ctypes.data, 0, n_bytes)
        shape, steps = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
        return np.ndarray(shape, kind, memory.data, strides=steps)


def _source(node: _Tensor, number: int) -> _Tensor:
    return _Tensor.from_address(node.src[number])


def _weight_name(tensor: _Tensor) -> str:
    """The name of a weight tensor; a copy of it on a device is called `DEVICE#NAME#NUMBER`."""
    parts = tensor.name.decode("utf-8", "replace").split("#")
    name: str = parts[1] if len(parts) > 1 else parts[0]
    return name


def _operation_numbers() -> tuple[int, int]:
    """The numbers of both kinds of matrix product. EdgeError if this ggml has another layout of tensors."""
    overhead = native_function("ggml_tensor_overhead", ctypes.c_size_t)
    name_of = native_function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    names = [name_of(number) for number in range(64)]
    if overhead() != ctypes.sizeof(_Tensor) + _OBJECT_BYTES or b"MUL_MAT_ID" not in names:
        raise EdgeError(
            "Activations cannot be read: the installed llama-cpp-python lays out its tensors in another way.",
            hint="Install the version that edge is tested with: pip install --upgrade edge-llm",
        )
    return names.index(b"MUL_MAT"), names.index(b"MUL_MAT_ID")
