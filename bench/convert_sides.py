"""What the conversion bench compares: ways from a checkpoint to quantized files, as commands to run one by one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.checkpoint import Checkpoint


@dataclass(frozen=True)
class Converter:
    """llama.cpp's convert_hf_to_gguf.py, and a Python that has what it needs (torch, transformers)."""

    script: Path
    python: Path


@dataclass(frozen=True)
class Case:
    """What is converted to what, and with how many threads."""

    shape_name: str
    quantizations: tuple[str, ...]
    threads: int
    converter: Converter | None = None


@dataclass(frozen=True)
class Step:
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """The steps of one way, and the files that are there in the end. Everything it writes is in `folder`."""

    name: str
    folder: Path
    steps: tuple[Step, ...]
    outputs: tuple[Path, ...]


OURS = "edge"
ANCHOR = "BF16 file, then quantize"
TOOLS = "llama.cpp's two tools"


def sides_of(case: Case, checkpoint: Checkpoint, work: Path) -> list[Side]:
    """Ours first, then what it is compared with."""
    sides = [our_side(case, checkpoint, work / "edge"), anchor_side(case, checkpoint, work / "anchor")]
    if case.converter:
        sides.append(tools_side(case, case.converter, checkpoint, work / "tools"))
    return sides


def our_side(case: Case, checkpoint: Checkpoint, folder: Path) -> Side:
    """One pass over the source for all quantizations."""
    step = step_of("convert", str(checkpoint.directory), str(folder), ",".join(case.quantizations), str(case.threads))
    outputs = tuple(folder / f"{checkpoint.name}-{quantization}.gguf" for quantization in case.quantizations)
    return Side(OURS, folder, (step,), outputs)


def anchor_side(case: Case, checkpoint: Checkpoint, folder: Path) -> Side:
    """Our own BF16 file, which llama.cpp then quantizes: once for each quantization."""
    middle = folder / "BF16.gguf"
    write = step_of("convert", str(checkpoint.directory), str(middle), "BF16", str(case.threads), name="write BF16")
    return _quantized(ANCHOR, folder, write, middle, case)


def tools_side(case: Case, converter: Converter, checkpoint: Checkpoint, folder: Path) -> Side:
    """What llama.cpp's own documentation says to do: its converter, then its quantizer."""
    middle = folder / "BF16.gguf"
    arguments = (str(converter.python), str(converter.script), str(checkpoint.directory))
    convert = Step(
        "convert_hf_to_gguf.py",
        (*arguments, "--outtype", "bf16", "--outfile", str(middle)),
        {"OMP_NUM_THREADS": str(case.threads)},
    )
    return _quantized(TOOLS, folder, convert, middle, case)


def verify_step(case: Case, checkpoint: Checkpoint, outputs: tuple[Path, ...]) -> Step:
    """Reading our files back against the checkpoint, which the others do not do."""
    return step_of("verify", str(checkpoint.directory), str(case.threads), *map(str, outputs), name="read back")


def step_of(step: str, *arguments: str, name: str = "") -> Step:
    """A step of `bench.convert_steps` as a command."""
    return Step(name or step, (sys.executable, "-m", "bench.convert_steps", step, *arguments))


def _quantized(name: str, folder: Path, first: Step, middle: Path, case: Case) -> Side:
    outputs = tuple(folder / f"{quantization}.gguf" for quantization in case.quantizations)
    threads = str(case.threads)
    quantize = (
        step_of("quantize", str(middle), str(out), kind, threads, name=f"quantize {kind}")
        for out, kind in zip(outputs, case.quantizations, strict=True)
    )
    return Side(name, folder, (first, *quantize), outputs)
