"""AMX declined: which libraries are miscompiled, and that nothing else of the process changes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edge.llama import amx

on_amd64_linux = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="no kernel here has AMX to give"
)

PREFILL = """
import sys
from pathlib import Path
from edge.llama.context import Batch, Context
from edge.llama.model import Model

tokens = list(range(100, 164))
with Model(Path(sys.argv[1])) as model, Context(model, context_tokens=256) as context:
    batch = Batch(len(tokens), 1)
    batch.add(tokens, sequence=0, position=0, last_logits=True)
    context.decode(batch)
    print(len(context.logits(len(tokens) - 1)))
"""


def compiled_by(folder: Path, comment: bytes) -> Path:
    """A file with a compiler's mark among other bytes, as a library has it."""
    path = folder / "libggml-cpu.so"
    path.write_bytes(b"\x7fELF" + bytes(5000) + b"\0" + comment + b"\0" + bytes(300))
    return path


@pytest.mark.parametrize(
    ("comment", "is_miscompiled"),
    [
        (b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", True),
        (b"GCC: (GNU) 13.3.1 20240522", True),
        (b"GCC: (Ubuntu 9.4.0-1ubuntu1~20.04.2) 9.4.0", True),
        (b"GCC: (GNU) 14.2.1 20250110", False),
        (b"GCC: (crosstool-NG 1.27) 15.1.0", False),
        (b"GCC: (GNU) 14.2.1\0GCC: (GNU) 8.5.0", True),  # a library of several compilers' objects
        (b"clang version 18.1.8", False),
        (b"GCC: () of no version", False),
        (b"", False),
    ],
)
def test_library_is_miscompiled_by_a_gcc_before_14(tmp_path: Path, comment: bytes, is_miscompiled: bool) -> None:
    assert amx.is_miscompiled(compiled_by(tmp_path, comment)) is is_miscompiled


@on_amd64_linux
def test_one_miscompiled_library_is_enough(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = compiled_by(tmp_path / "old", b"GCC: (GNU) 12.2.0"), compiled_by(tmp_path / "new", b"GCC: (GNU) 14.2.1")
    assert amx.must_be_declined([new, old])
    assert not amx.must_be_declined([new])
    assert not amx.must_be_declined([])


def test_other_systems_have_no_amx_to_decline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = compiled_by(tmp_path, b"GCC: (GNU) 12.2.0")
    for system, machine in (("Darwin", "x86_64"), ("Windows", "AMD64"), ("Linux", "aarch64")):
        monkeypatch.setattr(platform, "system", lambda name=system: name)
        monkeypatch.setattr(platform, "machine", lambda name=machine: name)
        assert not amx.must_be_declined([old])


def signal_stack() -> tuple[int | None, int, int]:
    """Address, flags and size of this thread's signal stack."""
    stack = amx._SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.address, stack.flags, stack.size


@on_amd64_linux
def test_signal_stack_and_standard_error_are_as_before_afterwards(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, descriptors = signal_stack(), sorted(Path("/proc/self/fd").iterdir())
    with contextlib.suppress(KeyError), amx.declined([compiled_by(tmp_path, b"GCC: (GNU) 12.2.0")]):
        assert signal_stack()[2] == amx._SMALL_STACK_BYTES
        os.write(2, b"not to be seen")
        raise KeyError  # as whatever is done inside may fail
    assert signal_stack() == before
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


@on_amd64_linux
def test_nothing_changes_for_a_library_that_is_sound(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal_stack()
    with amx.declined([compiled_by(tmp_path, b"GCC: (GNU) 14.2.1")]):
        assert signal_stack() == before
        os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


@on_amd64_linux
def test_amx_is_declined_where_standard_error_is_closed(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from edge.llama import amx
os.close(2)
with amx.declined([Path(sys.argv[1])]):
    print("declined")
"""
    old = compiled_by(tmp_path, b"GCC: (GNU) 12.2.0")
    result = subprocess.run([sys.executable, "-c", program, str(old)], capture_output=True, text=True, check=True)
    assert result.stdout == "declined\n"


@pytest.mark.model
def test_library_installed_here_multiplies_the_matrices_of_a_prompt(demo_gguf: Path) -> None:
    """In a process of its own, which the product of two matrices would end on a processor with AMX."""
    command = [sys.executable, "-c", PREFILL, str(demo_gguf)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "49152\n", "")
