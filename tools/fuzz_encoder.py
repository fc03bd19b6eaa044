"""Fuzzes the C module under AddressSanitizer and UndefinedBehaviorSanitizer; any finding ends it with its report.

python tools/fuzz_encoder.py [--seconds N] [--seed N]

Compiles the module with GCC's sanitizers into a temporary folder, and starts itself again with their runtime in front.
Every instruction set is given values of all sizes, any bits, wrong sizes and memory at any alignment, between guard
zones that must stay as they are. All instruction sets must give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

SOURCE = Path(__file__).parent.parent / "convert" / "encoder" / "encoder.c"
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
FLAGS = ("-O1", "-g", "-fPIC", "-shared", "-fno-omit-frame-pointer", "-ffp-contract=off", "-Wno-psabi")
GUARD_BYTES = 64
GUARD = 0xA5
MOST_BLOCKS = 5

Bytes = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the C module that encodes rows, under sanitizers.")
    parser.add_argument("--seconds", type=float, default=30, metavar="N", help="for how long (default: 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)")
    parser.add_argument("--module", type=Path, help=argparse.SUPPRESS)  # what the second start is given
    arguments = parser.parse_args()
    if arguments.module:
        fuzz(load(arguments.module), arguments.seconds, arguments.seed)
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-encoder-") as folder:
        module = Path(folder) / "_encoder.so"
        include = f"-I{sysconfig.get_paths()['include']}"
        subprocess.run(["gcc", *FLAGS, *SANITIZERS, include, str(SOURCE), "-o", str(module)], check=True)
        again = [sys.executable, __file__, "--module", module, "--seconds", arguments.seconds, "--seed", arguments.seed]
        environment = {
            **os.environ,
            "LD_PRELOAD": _runtimes(),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at its end
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # so that every object has the sanitizer's zones around it
        }
        sys.exit(subprocess.run([str(word) for word in again], env=environment, check=False).returncode)


def _runtimes() -> str:
    """The sanitizers' libraries, which have to be loaded before Python."""
    names = ("libasan.so", "libubsan.so")
    found = [subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in names]
    return " ".join(path for path in found if Path(path).is_absolute())


def load(path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader("_encoder", str(path))
    spec = importlib.util.spec_from_loader("_encoder", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def fuzz(encoder: ModuleType, seconds: float, seed: int) -> None:
    """Run random cases until the time is up; AssertionError with the case's number at the first that is wrong."""
    random = np.random.default_rng(seed)
    variants = _variants(encoder)
    shapes = {kind: _block_of(encoder, kind) for kind in encoder.types()}
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        kind = int(random.choice(encoder.types()))
        _fuzz_case(encoder, variants, kind, shapes[kind], random)
        _fuzz_sizes(encoder, kind, random)
        count += 1
    print(f"{count} cases of {len(shapes)} types with {', '.join(variants)}: nothing found")


def _variants(encoder: ModuleType) -> list[str]:
    names = []
    for name in ("avx512", "avx2", "baseline"):
        try:
            names.append(encoder.use(name))
        except ValueError:
            continue
    return names


def _block_of(encoder: ModuleType, kind: int) -> tuple[int, int]:
    """Elements and bytes of a type's block: the sizes that it takes."""
    for elements in (32, 256):
        for n_bytes in range(1, 4 * elements):
            try:
                encoder.encode(kind, np.zeros(elements, np.float32), bytearray(n_bytes), elements)
            except ValueError:
                continue
            return elements, n_bytes
    raise AssertionError(f"type {kind} takes no block")


def _fuzz_case(
    encoder: ModuleType, variants: list[str], kind: int, block: tuple[int, int], random: np.random.Generator
) -> None:
    elements, block_bytes = block
    rows, blocks = (int(number) for number in random.integers(1, MOST_BLOCKS, 2))
    columns = blocks * elements
    values = _misaligned(_values(rows * columns, random), random)
    importance = None if random.random() < 0.4 else _misaligned(np.abs(_values(columns, random)), random)
    results = []
    for variant in variants:
        encoder.use(variant)
        out_bytes = rows * blocks * block_bytes
        start = GUARD_BYTES + int(random.integers(0, 8))
        memory = np.full(start + out_bytes + GUARD_BYTES, GUARD, np.uint8)
        encoder.encode(kind, values, memory[start : start + out_bytes], columns, importance)
        assert (memory[:start] == GUARD).all(), f"{variant} wrote before type {kind}"
        assert (memory[start + out_bytes :] == GUARD).all(), f"{variant} wrote behind type {kind}"
        results.append(memory[start : start + out_bytes].tobytes())
    assert len(set(results)) == 1, f"instruction sets differ in type {kind}"


def _fuzz_sizes(encoder: ModuleType, kind: int, random: np.random.Generator) -> None:
    """Sizes that have nothing to do with each other are refused, or happen to fit."""
    values, out, importance = (bytearray(int(random.integers(0, 3000))) for _ in range(3))
    columns = int(random.choice([random.integers(-64, 1024), random.integers(-(2**63), 2**63)]))
    try:
        encoder.encode(kind, values, out, columns, None if random.random() < 0.5 else importance)
    except ValueError:
        return


def _values(count: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Values of some kind, all finite."""
    values: npt.NDArray[Any]
    kind = random.integers(0, 6)
    if kind == 0:
        values = random.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    elif kind == 1:
        values = random.standard_normal(count).astype(np.float32)
    elif kind == 2:
        values = (10.0 ** random.uniform(-45, 38, count)).astype(np.float32) * random.choice([-1, 1], count)
    elif kind == 3:
        values = np.full(count, random.standard_normal() * 10.0 ** random.uniform(-45, 38))
    elif kind == 4:
        values = random.standard_normal(count) * (random.random(count) < 0.1)
    else:
        values = random.integers(-2, 3, count)
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))


def _misaligned(values: npt.NDArray[np.float32], random: np.random.Generator) -> Bytes:
    """The same bytes, from anywhere in memory on, with nothing behind them."""
    start = int(random.integers(0, 8))
    memory = np.empty(start + values.nbytes, np.uint8)
    memory[start:] = values.view(np.uint8)
    return memory[start:]


if __name__ == "__main__":
    main()
