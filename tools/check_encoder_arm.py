"""Compares edge's encoder with ggml's functions as they are on 64-bit Arm, on any machine, in an emulator.

python tools/check_encoder_arm.py GGML [--compiler COMMAND] [--flags FLAGS] [--emulator NAME]

GGML is the folder `ggml` of llama.cpp's source. Needs a cross compiler and an emulator of user programs; on Debian the
packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user. Arm's compilers fuse some multiplications and
additions, not always the same ones in both encoders, so that another of two scales that are nearly as good can win;
with --flags=-ffp-contract=off they do not.

For every kind, with the rows and the importance of the tests: how many blocks are the same, and by how much our
weighted error, which the search minimizes, exceeds ggml's. Fails if that is more than 0.01 % where `convert.encode`
would use our encoder: where the bytes of its sample are the same.
"""

from __future__ import annotations

import argparse
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from convert.encode import SAMPLE_COLUMNS, VECTOR_TYPES, sample_rows  # noqa: E402
from edge.gguf_format import TENSOR_TYPES, TensorType  # noqa: E402
from edge.llama.quantize import Floats, dequantize_rows  # noqa: E402
from tests.convert.encoder_rows import COLUMNS, IMPORTANCE, ROWS  # noqa: E402

assert SAMPLE_COLUMNS == COLUMNS
LARGEST_EXCESS = 1e-4
MANY_ROWS = 256
KINDS = [kind for kind in TENSOR_TYPES.values() if kind.id in VECTOR_TYPES]

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    kind: TensorType
    name: str
    rows: Floats
    importance: Floats | None

    @property
    def n_bytes(self) -> int:
        return len(self.rows) * self.kind.row_bytes(COLUMNS)


@dataclass(frozen=True)
class Outcome:
    case: Case
    same_blocks: int
    blocks: int
    ours: float
    theirs: float

    @property
    def excess(self) -> float:
        """By which share of ggml's weighted error ours is larger."""
        return self.ours / self.theirs - 1 if self.theirs else float(self.ours > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare edge's encoder with ggml's on 64-bit Arm.")
    parser.add_argument("ggml", type=Path, metavar="GGML", help="the folder ggml of llama.cpp's source")
    parser.add_argument("--compiler", default="aarch64-linux-gnu-gcc", metavar="COMMAND")
    parser.add_argument("--flags", default="", help="for both encoders")
    parser.add_argument("--emulator", default="qemu-aarch64", metavar="NAME")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check-encoder-") as folder:
        program = build(Path(folder), arguments.ggml, shlex.split(arguments.compiler), shlex.split(arguments.flags))
        command = [arguments.emulator, str(program)]
        is_near = [report(kind, has_importance, command) for kind in KINDS for has_importance in (False, True)]
    if not all(is_near):
        sys.exit("The weighted error exceeds ggml's by more than 0.01 %.")


def build(folder: Path, ggml: Path, compiler: list[str], flags: list[str]) -> Path:
    """A program with both encoders, ggml's compiled as its own build does it."""
    objects = folder / "ggml-quants.o", folder / "compare.o"
    includes = [f"-I{ggml / 'include'}", f"-I{ggml / 'src'}"]
    source = ggml / "src" / "ggml-quants.c"
    theirs = ["-O3", "-DNDEBUG", "-std=gnu11", *flags, *includes, "-c", source, "-o", objects[0]]
    compare = ROOT / "tools" / "compare_encoders.c"
    ours = ["-O3", *flags, "-fno-math-errno", "-Wno-psabi", "-c", compare, "-o", objects[1]]
    program = folder / "compare"
    for words in (theirs, ours, ["-static", *objects, "-lm", "-o", program]):
        subprocess.run([*compiler, *map(str, words)], check=True)
    return program


def cases(kind: TensorType, *, has_importance: bool) -> list[Case]:
    """The sample, then every kind of rows with every kind of importance, and many ordinary rows."""
    with np.errstate(over="ignore"):
        rows = {name: make().astype(np.float32) for name, make in ROWS.items()}
    rows["many"] = (np.random.default_rng(1).standard_normal((MANY_ROWS, COLUMNS)) * 0.02).astype(np.float32)
    sample, sample_importance = sample_rows()
    importance = {
        name: weights for name, make in IMPORTANCE.items() if ((weights := make()) is not None) == has_importance
    }
    return [
        Case(kind, "sample", sample, sample_importance if has_importance else None),
        *(
            Case(kind, f"{row_name}, importance {name}", values, weights)
            for row_name, values in rows.items()
            for name, weights in importance.items()
        ),
    ]


def run(command: list[str], cases: list[Case]) -> Iterator[Outcome]:
    parts = []
    for case in cases:
        parts.append(struct.pack("<4i", case.kind.id, *case.rows.shape, case.importance is not None))
        parts += [values.tobytes() for values in (case.rows, case.importance) if values is not None]
    output = np.frombuffer(subprocess.run(command, input=b"".join(parts), capture_output=True, check=True).stdout, "u1")
    place = 0
    for case in cases:
        pair = output[place : place + 2 * case.n_bytes].reshape(2, -1, case.kind.block_bytes)
        place += 2 * case.n_bytes
        yield judge(case, *pair)


def judge(case: Case, ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> Outcome:
    same = int((ours == theirs).all(axis=1).sum())
    our_values, their_values = (decoded(case, each) for each in (ours, theirs))
    if not np.isfinite(their_values).all():  # a conversion refuses such values, whoever encoded them
        return Outcome(case, same, len(ours), 0, 0)
    return Outcome(case, same, len(ours), weighted_error(case, our_values), weighted_error(case, their_values))


def decoded(case: Case, encoded: npt.NDArray[np.uint8]) -> Wide:
    return dequantize_rows(np.ascontiguousarray(encoded.reshape(-1)), case.kind, COLUMNS).astype(np.float64)


def weighted_error(case: Case, values: Wide) -> float:
    """The sum over all weights of what the kind's search minimizes."""
    difference = np.abs(values - case.rows)
    if case.kind.name == "Q2_K" and case.importance is None:
        return float((search_weights(case) * difference).sum())
    return float((search_weights(case) * difference**2).sum())


def search_weights(case: Case) -> Wide:
    """Source: llama.cpp, ggml/src/ggml-quants.c, quantize_row_*_impl, and *_ref where there is no importance."""
    x, name = case.rows.astype(np.float64), case.kind.name
    is_small = name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
    if name == "Q8_0" or (is_small and case.importance is None):
        return np.ones_like(x)
    if case.importance is None:
        if name in ("Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS"):
            return x**2
        return np.abs(x) if name == "Q2_K" else np.abs(x) + np.sqrt(_mean_square(x, 32))
    importance = case.importance.astype(np.float64)
    if name == "Q6_K":
        return np.broadcast_to(importance, x.shape)
    stretch = COLUMNS if is_small else 32 if name == "IQ4_NL" else 256
    return importance * np.sqrt(_mean_square(x, stretch) * (1 if is_small or name == "Q2_K" else 2) + x**2)


def _mean_square(x: Wide, stretch: int) -> Wide:
    squares: Any = np.square(x).reshape(len(x), -1, stretch).mean(axis=2)
    return np.repeat(squares, stretch, axis=1)


def report(kind: TensorType, has_importance: bool, command: list[str]) -> bool:
    """Print a line about a kind; gives whether the error is near ggml's, or ggml is used."""
    sample, *outcomes = run(command, cases(kind, has_importance=has_importance))
    same, blocks = sum(each.same_blocks for each in outcomes), sum(each.blocks for each in outcomes)
    many = [each.excess for each in outcomes if each.case.name.startswith("many")]
    worst = max(outcomes, key=lambda each: each.excess)
    is_used = sample.same_blocks == sample.blocks
    print(
        f"{kind.name:7}{'weighted' if has_importance else 'plain':9}{'edge' if is_used else 'ggml'}:"
        f" {same / blocks:9.4%} same blocks; excess of ordinary rows {min(many):+.4%} to {max(many):+.4%},"
        f" at worst {worst.excess:+.4%} ({worst.case.name})",
        flush=True,
    )
    return worst.excess <= LARGEST_EXCESS or not is_used


if __name__ == "__main__":
    main()
