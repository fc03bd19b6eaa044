"""What a calibration is worth: `python -m bench.calibration --help`.

Converts a checkpoint twice, with and without an importance matrix, and compares the probabilities that both files give
to a text which neither was calibrated on with those of the unquantized model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.quality import Reader, Scores, mean_and_error, read_in_lock_step, share_and_error
from convert.calibration_run import MatrixRequest, obtain_matrix
from convert.calibration_text import DEFAULT_NAME
from convert.pipeline import write_checkpoint
from convert.plan import ConversionOptions
from edge.demo import DEMO_NAME, build_demo_checkpoint
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.llama.model import Model
from edge.models import cache_directory
from edge.terminal import byte_progress, decode_utf8, note, report_error

HELD_OUT = Path(__file__).parent / "texts" / "held_out.txt"
REFERENCE = "F32"
CHUNK_TOKENS = 256
SKIPPED_TOKENS = 32
"""Positions at the start of a chunk that are not counted: there is hardly a text yet to predict from."""


@dataclass(frozen=True)
class Case:
    """What to convert to what, and the texts."""

    checkpoint: Path
    quantization: str
    calibration: str
    held_out: Path
    threads: int


@dataclass(frozen=True)
class Side:
    """How far one file is from the reference: mean KL divergence in nats, its standard error, and agreement."""

    name: str
    file_bytes: int
    mean: float
    standard_error: float
    same_top_share: float
    """Of the positions, at which both find the same token the likeliest."""


@dataclass(frozen=True)
class Comparison:
    case: Case
    positions: int
    plain: Side
    calibrated: Side
    gain: float
    """Mean of the differences, position by position."""
    gain_error: float


def main() -> None:
    arguments = _parse()
    try:
        checkpoint = arguments.checkpoint or build_demo_checkpoint(cache_directory() / "demo" / DEMO_NAME)
        threads = arguments.threads or physical_cores()
        case = Case(checkpoint, arguments.quant.upper(), arguments.calibrate, arguments.text, threads)
        comparison = compare(case)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps(comparison_document(comparison), indent=2))
    else:
        print("\n".join(comparison_lines(comparison)))


def compare(case: Case) -> Comparison:
    """Convert, calibrate and compare; whatever is written is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-calibration-", dir=Path.cwd()) as scratch:
        reference, plain, calibrated = _converted(case, Path(scratch))
        of_plain, of_calibrated = _scores(case, reference, (plain, calibrated))
    gain = mean_and_error(of_plain.divergence - of_calibrated.divergence)
    return Comparison(
        case,
        len(of_plain.divergence),
        _side(f"{case.quantization}", plain.n_bytes, of_plain),
        _side(f"{case.quantization}, calibrated", calibrated.n_bytes, of_calibrated),
        gain.value,
        gain.error,
    )


@dataclass(frozen=True)
class _File:
    path: Path
    n_bytes: int


def _converted(case: Case, folder: Path) -> tuple[_File, _File, _File]:
    note(f"Converting to {REFERENCE} and {case.quantization}")
    paths = write_checkpoint(case.checkpoint, [REFERENCE, case.quantization], folder, threads=case.threads)
    request = MatrixRequest(calibrate=case.calibration)
    matrix = obtain_matrix(request, case.checkpoint, beside=folder, threads=case.threads, display=byte_progress)
    options = ConversionOptions(matrix=matrix)
    target = folder / "calibrated.gguf"
    paths += write_checkpoint(case.checkpoint, [case.quantization], target, options=options, threads=case.threads)
    reference, plain, calibrated = (_File(path, path.stat().st_size) for path in paths)
    return reference, plain, calibrated


def _scores(case: Case, reference: _File, others: Sequence[_File]) -> list[Scores]:
    """For each file how far it is from the reference, position by position."""
    note(f"Reading {case.held_out.name} with all three")
    with contextlib.ExitStack() as stack:
        first, *rest = [_opened(stack, file.path, case.threads) for file in (reference, *others)]
        return read_in_lock_step(first, rest, _chunks(case.held_out, first.model))


def _opened(stack: contextlib.ExitStack, path: Path, threads: int) -> Reader:
    """A reader that rounds nothing but the weights."""
    model = stack.enter_context(Model(path))
    reader = Reader(
        model,
        chunk_tokens=CHUNK_TOKENS,
        first_counted=SKIPPED_TOKENS,
        threads=threads,
        key_type="F32",
        value_type="F32",
        flash_attention="off",
    )
    stack.callback(reader.close)
    return reader


def _chunks(text: Path, model: Model) -> list[list[int]]:
    """Whole chunks of the text, each with the token that begins texts in front."""
    tokens = model.vocab.tokenize(decode_utf8(text.read_bytes(), str(text)))
    bos = [model.vocab.bos_token] if model.vocab.add_bos and model.vocab.bos_token is not None else []
    step = CHUNK_TOKENS - len(bos)
    chunks = [bos + tokens[first : first + step] for first in range(0, len(tokens) - step + 1, step)]
    if not chunks:
        raise EdgeError(f"{text} has {len(tokens)} tokens; {step} are needed.", hint="Give a longer text.")
    return chunks


def _side(name: str, file_bytes: int, scores: Scores) -> Side:
    mean = mean_and_error(scores.divergence)
    return Side(name, file_bytes, mean.value, mean.error, share_and_error(scores.has_same_top).value)


def comparison_lines(comparison: Comparison) -> list[str]:
    """The figures for a person."""
    lines = [
        f"{comparison.case.checkpoint.name} against its {REFERENCE} on {comparison.positions:,} tokens of"
        f" {comparison.case.held_out.name}"
    ]
    for side in (comparison.plain, comparison.calibrated):
        lines.append(
            f"  {side.name:<20}  mean KL divergence {side.mean:.5f} ± {side.standard_error:.5f} nats,"
            f"  same likeliest token {side.same_top_share:.2%},  {side.file_bytes:,} bytes"
        )
    share = comparison.gain / comparison.plain.mean
    lines.append(f"  calibration takes {comparison.gain:.5f} ± {comparison.gain_error:.5f} nats away ({share:.1%})")
    return lines


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    document = asdict(comparison)
    document["case"] = {name: str(value) for name, value in document["case"].items()}
    return document


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.calibration",
        description="Compare a quantization with and without an importance matrix, on a text that neither has seen.",
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help="default: the demo model")
    parser.add_argument("--quant", default="Q4_K_M", metavar="QUANT", help="default: Q4_K_M")
    parser.add_argument("--calibrate", default=DEFAULT_NAME, metavar="TEXT", help="default: the text that edge has")
    parser.add_argument(
        "--text", type=Path, default=HELD_OUT, metavar="FILE", help="default: a text of the bench's own"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: all that this process may use")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    main()
