"""Reaches the CPU backend inside a context, for the one switch of it that decides how attention is rounded.

Where a token is computed alone over 512 cells or more, ggml splits the cells over the threads and adds up what they
found; in a step of two tokens it does not. The sums are rounded otherwise, and the likeliest token can be another one:
what follows a text would depend on what was computed beside it. The backend's switch to its reference kernels leaves
out the split. Of what else it leaves out, nothing changes a bit of a token that is computed alone: the other fast
kernels are for more tokens, and a norm that is multiplied in the same pass is rounded as one that is not.

llama.cpp gives nobody the backends of a context. They are made by a function in the table that each ggml device begins
with; for as long as a context is made, that place of the table holds a function that looks at what comes by.
Source: ggml/src/ggml-backend-impl.h (ggml_backend_device), ggml/src/ggml-cpu/ops.cpp (use_split_kv_path).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from functools import cache

from edge.llama.library import cpu_function, cpu_registry, native_function

_KNOWN_LAYOUT = 2  # GGML_BACKEND_API_VERSION, which every registry begins with
_INIT_BACKEND = 5  # its place in ggml_backend_device_i
_SWITCH = "ggml_backend_cpu_set_use_ref"
_InitBackend = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_lock = threading.Lock()


class CpuBackend:
    """The CPU backend of one context; `is_known` is False where it could not be reached."""

    def __init__(self) -> None:
        self._address: int | None = None
        self._uses_reference = False

    @property
    def is_known(self) -> bool:
        return self._address is not None

    def use_reference(self, on: bool) -> None:
        """Compute the next steps with the reference kernels, or with the fast ones. Nothing where it is not known."""
        if on != self._uses_reference and self._address is not None:
            switch = _find_switch()
            assert switch is not None
            switch(self._address, on)
            self._uses_reference = on

    @classmethod
    @contextlib.contextmanager
    def of_context(cls) -> Iterator[CpuBackend]:
        """That of the context which this thread makes inside the block."""
        backend = cls()
        device = _find_device()
        if device is None:
            yield backend
            return
        owner = threading.get_ident()
        table = (ctypes.c_void_p * (_INIT_BACKEND + 1)).from_address(device)
        with _lock:  # one at a time puts something in the table and takes it out
            usual = table[_INIT_BACKEND]
            make = _InitBackend(usual or 0)

            @_InitBackend  # type: ignore[untyped-decorator]
            def look(which: int, parameters: bytes) -> int | None:
                address: int | None = make(which, parameters)
                if threading.get_ident() == owner:
                    backend._address = address
                return address

            table[_INIT_BACKEND] = ctypes.cast(look, ctypes.c_void_p).value
            try:
                yield backend
            finally:
                table[_INIT_BACKEND] = usual


@cache
def _find_device() -> int | None:
    """The address of ggml's CPU device; None if it has no such switch, or is laid out otherwise than known here."""
    registry = cpu_registry()
    if not registry or ctypes.c_int.from_address(registry).value != _KNOWN_LAYOUT or not _find_switch():
        return None
    find = native_function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    device: int | None = find(registry, 0)
    return device


@cache
def _find_switch() -> Callable[[int, bool], None] | None:
    switch: Callable[[int, bool], None] | None = cpu_function(_SWITCH, None, ctypes.c_void_p, ctypes.c_bool)
    return switch
