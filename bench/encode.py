"""Measures our encoder against ggml's for each kind of quantization: `python -m bench.encode --help`.

Both encode the same random rows on one core, in turn, without and with an importance matrix; the bytes are compared.
Times are of the processor, and the least of several rounds, so that whatever else the machine does counts little.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from convert.encode import VECTOR_TYPES, encode_rows, encoder_name
from edge.devices import examine_machine
from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama.quantize import Floats, quantize_rows
from edge.tables import cell, show, table
from edge.terminal import note, report_error

COLUMNS = 2048
KINDS = tuple(kind for kind in TENSOR_TYPES.values() if kind.id in VECTOR_TYPES)


@dataclass(frozen=True)
class Rates:
    """Nanoseconds for each weight on one core."""

    ggml: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ggml / self.ours


@dataclass(frozen=True)
class KindRates:
    kind: str
    plain: Rates
    weighted: Rates
    """With an importance matrix."""


def main() -> None:
    arguments = _parse()
    try:
        if not KINDS:
            raise EdgeError("edge's own encoder is not installed.", hint="edge doctor says how to compile it.")
        measured = [measure(kind, arguments.rows, arguments.rounds) for kind in KINDS]
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    machine = examine_machine().cpu.name
    if arguments.json:
        document = {"processor": machine, "instructions": encoder_name(), "kinds": [asdict(each) for each in measured]}
        print(json.dumps(document, indent=2))
    else:
        print_table(measured, f"Nanoseconds per weight, one core of {machine} ({encoder_name()})")


def measure(kind: TensorType, row_count: int, rounds: int) -> KindRates:
    """The rates of one kind. EdgeError if the two encoders' bytes differ."""
    note(kind.name)
    random = np.random.default_rng(1)
    rows = (random.standard_normal((row_count, COLUMNS)) * 0.02).astype(np.float32)
    importance = (random.standard_normal(COLUMNS) ** 2).astype(np.float32)
    return KindRates(kind.name, _rates(kind, rows, None, rounds), _rates(kind, rows, importance, rounds))


def _rates(kind: TensorType, rows: Floats, importance: Floats | None, rounds: int) -> Rates:
    theirs, ours = (np.empty(len(rows) * kind.row_bytes(COLUMNS), np.uint8) for _ in range(2))
    seconds = _fastest(
        [lambda: quantize_rows(rows, kind, theirs, importance), lambda: encode_rows(rows, kind, ours, importance)],
        rounds,
    )
    if (theirs != ours).any():
        raise EdgeError(f"The encoders' bytes differ in {kind.name}.", hint="Report it, with what edge doctor says.")
    return Rates(*(each / rows.size * 1e9 for each in seconds))


def _fastest(calls: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """The least processor time of each call, in seconds; each round makes all of them."""
    seconds = [float("inf")] * len(calls)
    for _ in range(rounds):
        for place, call in enumerate(calls):
            start = time.process_time()
            call()
            seconds[place] = min(seconds[place], time.process_time() - start)
    return seconds


def print_table(measured: Sequence[KindRates], title: str) -> None:
    columns = ("ggml", "edge", "", "ggml, weighted", "edge, weighted", "")
    rates = table(title, ("Type", "left"), *((name, "right") for name in columns))
    for each in measured:
        figures = [
            text
            for side in (each.plain, each.weighted)
            for text in (f"{side.ggml:.1f}", f"{side.ours:.1f}", f"{side.ratio:.1f}x")
        ]
        rates.add_row(*map(cell, [each.kind, *figures]))
    show(rates)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.encode", description="Measure our encoder against ggml's, on one core."
    )
    parser.add_argument("--rows", type=int, default=128, metavar="N", help=f"of {COLUMNS} weights (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="the best of them counts (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.rows < 1 or arguments.rounds < 1:
        parser.error("--rows and --rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
