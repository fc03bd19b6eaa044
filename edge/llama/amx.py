"""Keeps llama.cpp off the matrix unit (AMX) where its build would crash on it.

Up to GCC 13, `_tile_loadconfig` tells the compiler of 8 of the 64 bytes that it reads; the others, being of no use to
anybody, are not written, and the first product of two matrices ends the process. The library asks the kernel for the
unit once. While a thread has a signal stack that is too small for the unit's registers, the kernel says no, and the
library computes with AVX-512 instead.
Source: GCC's amxtileintrin.h; validate_sigaltstack in Linux; ggml_amx_init in ggml-cpu/amx/amx.cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_SMALL_STACK_BYTES = 8192  # signals with AVX-512 registers fit, those with the 8 KiB of tiles do not
_FIRST_SOUND_GCC = 14
_COMPILER = re.compile(rb"GCC: \([^)]*\) (\d+)\.")


def is_miscompiled(library: Path) -> bool:
    """Whether a library was compiled by a GCC that gets the configuration of AMX wrong."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        versions = [int(version) for version in _COMPILER.findall(content)]
    return any(version < _FIRST_SOUND_GCC for version in versions)


def must_be_declined(libraries: Iterable[Path]) -> bool:
    """Whether one of ggml's CPU libraries is miscompiled, on a system whose kernel may have AMX to give."""
    return platform.system() == "Linux" and platform.machine() == "x86_64" and any(map(is_miscompiled, libraries))


@contextlib.contextmanager
def declined(libraries: Iterable[Path]) -> Iterator[None]:
    """Inside the block, the kernel refuses AMX to this process if one of ggml's CPU libraries is miscompiled."""
    if not must_be_declined(libraries):
        yield
        return
    with _small_signal_stack(), _silent_stderr():  # the library prints that AMX is not ready
        yield


class _SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _small_signal_stack() -> Iterator[None]:
    """This thread handles signals on a stack of `_SMALL_STACK_BYTES` inside the block."""
    libc = ctypes.CDLL(None)
    memory = ctypes.create_string_buffer(_SMALL_STACK_BYTES)
    small, usual = _SignalStack(ctypes.addressof(memory), 0, _SMALL_STACK_BYTES), _SignalStack()
    is_set = libc.sigaltstack(ctypes.byref(small), ctypes.byref(usual)) == 0
    try:
        yield
    finally:
        if is_set:
            libc.sigaltstack(ctypes.byref(usual), None)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """What native code writes to standard error inside the block is dropped."""
    try:
        kept = os.dup(2)
    except OSError:  # a desktop app may have none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a descriptor is wanted, not a path
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
