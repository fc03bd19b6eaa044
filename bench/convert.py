"""Measures a conversion against llama.cpp's way to the same file: `python -m bench.convert --help`.

Generates a checkpoint of random weights, then converts it in turn with edge (one pass) and by way of a BF16 file that
llama.cpp quantizes. Each step is a process of its own; what they write is compared and dropped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.convert_checkpoint import SHAPES
from bench.convert_report import Result, Round, SideRun, print_table, result_document
from bench.convert_sides import Case, Converter, Side, sides_of, step_of, verify_step
from bench.encode import KINDS
from bench.encode import measure as measure_encoder
from bench.process import DISK_BLOCK_BYTES, check_can_measure_processes, run_measured
from convert.checkpoint import Checkpoint, read_checkpoint
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.terminal import note, report_error

_CHUNK_BYTES = 1 << 22
_ENCODED_ROWS, _ENCODED_ROUNDS = 128, 3
_DISK_PROBE_BYTES = 1 << 28


def main() -> None:
    arguments = _parse()
    case = Case(
        shape_name=arguments.size,
        quantizations=tuple(dict.fromkeys(arguments.quant.upper().split(","))),
        threads=arguments.threads or physical_cores(),
        converter=Converter(arguments.converter, arguments.converter_python) if arguments.converter else None,
    )
    try:
        result = measure(case, arguments.repeat, keep=arguments.keep)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps(result_document(result), ensure_ascii=False, indent=2))
    else:
        print_table(result)


def measure(case: Case, repeat: int, *, keep: Path | None = None) -> Result:
    """Run every side `repeat` times in turn. Whatever it writes is gone afterwards, but for a checkpoint to keep."""
    check_can_measure_processes()  # before a checkpoint of gigabytes is made
    with tempfile.TemporaryDirectory(prefix="bench-convert-", dir=Path.cwd()) as scratch:
        work = Path(scratch)
        checkpoint = read_checkpoint(_generated(case, keep or work / "checkpoint"))
        source_bytes = sum(tensor.n_bytes for tensor in checkpoint.tensors.values())
        rounds = []
        for number in range(1, repeat + 1):
            note(f"Round {number} of {repeat}")
            disk_rate = disk_write_rate(work, min(source_bytes, _DISK_PROBE_BYTES))
            rounds.append(_run_round(case, checkpoint, work, disk_rate))
    parameter_count = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    made = rounds[0].sides[0].tensor_types
    encoders = tuple(measure_encoder(kind, _ENCODED_ROWS, _ENCODED_ROUNDS) for kind in KINDS if kind.name in made)
    return Result(case, parameter_count, source_bytes, tuple(rounds), encoders)


def _generated(case: Case, directory: Path) -> Path:
    """A directory with a checkpoint of the case's shape, unless there is one in it already, which is then taken."""
    if directory.exists() and any(directory.iterdir()):
        note(f"Using the checkpoint in {directory}")
        return directory
    part = directory.with_name(f"{directory.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    step = step_of("generate", case.shape_name, str(part))
    measurement = run_measured(step.command, folder=part)
    part.replace(directory)
    note(f"Generated a checkpoint of {case.shape_name} parameters in {measurement.wall_seconds:.1f} s")
    return directory


def _run_round(case: Case, checkpoint: Checkpoint, work: Path, disk_rate: float) -> Round:
    runs: list[SideRun] = []
    with _dropped(work / "edge"):
        ours, *others = sides_of(case, checkpoint, work)
        runs.append(_run_side(ours, checkpoint.directory))
        read_back = run_measured(verify_step(case, checkpoint, ours.outputs).command, folder=ours.folder)
        note(f"  read back: {read_back.wall_seconds:.1f} s")
        for side in others:
            with _dropped(side.folder):
                runs.append(_run_side(side, checkpoint.directory))
                for our_file, file in zip(ours.outputs, side.outputs, strict=True):
                    run_measured(step_of("compare", str(our_file), str(file)).command, folder=side.folder)
    return Round(tuple(runs), read_back, disk_rate)


def _run_side(side: Side, directory: Path) -> SideRun:
    """Run a side's steps with the source in the page cache and nothing left to be written by others."""
    note(f"  {side.name}")
    os.sync()
    source_rate = read_once(directory)
    steps = []
    for step in side.steps:
        environment = {**step.environment, "TMPDIR": str(side.folder)}
        measurement = run_measured(step.command, folder=side.folder, environment=environment)
        note(f"    {step.name}: {measurement.wall_seconds:.1f} s")
        steps.append((step.name, measurement))
    sizes = [path.stat() for path in side.outputs]
    return SideRun(
        name=side.name,
        steps=tuple(steps),
        output_bytes=sum(size.st_size for size in sizes),
        output_disk_bytes=sum(size.st_blocks * DISK_BLOCK_BYTES for size in sizes),
        source_read_rate=source_rate,
        tensor_types=tuple(
            sorted({tensor.type.name for path in side.outputs for tensor in read_gguf(path).tensors.values()})
        ),
    )


@contextmanager
def _dropped(folder: Path) -> Iterator[None]:
    folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_once(directory: Path) -> float:
    """Read every file of a directory, so that it is in the page cache; gives the rate in bytes per second."""
    start = time.perf_counter()
    buffer = bytearray(_CHUNK_BYTES)
    total = 0
    for path in sorted(directory.iterdir()):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - start)


def disk_write_rate(folder: Path, n_bytes: int) -> float:
    """Bytes per second of writing a file from one end to the other, until it is on the disk."""
    chunk = os.urandom(_CHUNK_BYTES)
    path = folder / "disk-probe"
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for first in range(0, n_bytes, len(chunk)):
                file.write(chunk[: n_bytes - first])
            os.fsync(file.fileno())
        return n_bytes / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.convert",
        description="Measure a conversion against writing a BF16 file and quantizing that with llama.cpp.",
    )
    parser.add_argument("--quant", default="Q4_K_M", metavar="QUANT[,...]", help="default: Q4_K_M")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores that this process may use")
    parser.add_argument("--size", choices=SHAPES, default="1.2B", help="parameters of the checkpoint")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="rounds; figures are medians of them")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the checkpoint there, or use the one it holds")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--converter", type=Path, metavar="FILE", help="llama.cpp's convert_hf_to_gguf.py, as a third side"
    )
    parser.add_argument(
        "--converter-python", type=Path, default=Path(sys.executable), metavar="FILE", help="the Python to run it with"
    )
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
