"""Judges how schemas are held, on a folder of MaskBench files: `python -m bench.maskbench --help`.

Each file has a schema, and instances that are valid or not. A schema ends right if every valid instance can be written
token by token and passes the check of the whole, and no invalid one does; or if it is refused. Instances are written
with their properties in the order of the schema, as whoever is held to it has to write them: nothing else of them is
changed. Times are those of this process while whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.schema_order import in_schema_order
from edge.checked import checked_constraint
from edge.constraint import Constraint, ConstraintCompiler
from edge.errors import EdgeError
from edge.guidance import Vocabulary
from edge.tables import cell, show, table
from edge.terminal import note, report_error


@dataclass(frozen=True)
class Spread:
    """Of many times in microseconds."""

    mean: float
    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        microseconds = np.array(seconds or [0.0]) * 1e6
        return cls(float(microseconds.mean()), float(np.median(microseconds)), float(np.percentile(microseconds, 99)))


@dataclass(frozen=True)
class Verdict:
    """How one schema ended."""

    name: str
    refusal: str = ""
    """Why it is not held at all; empty if it is."""
    rejected_valid: int = 0
    accepted_invalid: int = 0
    valid: int = 0
    invalid: int = 0

    @property
    def is_right(self) -> bool:
        return not self.rejected_valid and not self.accepted_invalid


@dataclass(frozen=True)
class MaskBench:
    verdicts: tuple[Verdict, ...]
    mask: Spread
    is_allowed: Spread
    accept: Spread
    compile: Spread
    vocabulary_seconds: float
    """To read the vocabulary, once for each model."""

    @property
    def right(self) -> int:
        return sum(verdict.is_right for verdict in self.verdicts)

    @property
    def right_share(self) -> float:
        return self.right / len(self.verdicts)

    @property
    def accepted_invalid(self) -> int:
        return sum(verdict.accepted_invalid for verdict in self.verdicts)


def measure(folder: Path, vocab: Vocabulary, progress: Callable[[str], None] = lambda name: None) -> MaskBench:
    """Every file of a folder, with a vocabulary. EdgeError if there are none or one is no MaskBench file."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise EdgeError(f"There are no JSON files in {folder}.", hint="Give the folder of a MaskBench sample.")
    compiler = ConstraintCompiler(vocab)
    start = time.perf_counter()
    compiler.prepare()
    vocabulary_seconds = time.perf_counter() - start
    judge = _Judge(compiler, vocab)
    verdicts = []
    for file in files:
        progress(file.name)
        verdicts.append(judge.verdict(file.stem, *_parsed(file)))
    mask, is_allowed, accept, compiling = (Spread.of(seconds) for seconds in judge.seconds.values())
    return MaskBench(tuple(verdicts), mask, is_allowed, accept, compiling, vocabulary_seconds)


class _Judge:
    def __init__(self, compiler: ConstraintCompiler, vocab: Vocabulary) -> None:
        self._compiler = compiler
        self._vocab = vocab
        self.seconds: dict[str, list[float]] = {"mask": [], "is_allowed": [], "accept": [], "compile": []}

    def verdict(self, name: str, schema: dict[str, Any], tests: list[tuple[Any, bool]]) -> Verdict:
        valid = [instance for instance, is_valid in tests if is_valid]
        invalid = [instance for instance, is_valid in tests if not is_valid]
        try:
            accepts = self._held(schema)
            rejected = sum(not accepts(instance) for instance in valid)
            accepted = sum(accepts(instance) for instance in invalid)
        except EdgeError as error:
            return Verdict(name, error.message, valid=len(valid), invalid=len(invalid))
        return Verdict(name, "", rejected, accepted, len(valid), len(invalid))

    def _held(self, schema: dict[str, Any]) -> Callable[[Any], bool]:
        """Whether an instance can be written and passes the check. EdgeError if the schema is refused."""
        start = time.perf_counter()
        constraint = Constraint.json_schema(schema)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that the standard does not have
            checked = checked_constraint(constraint)
        enforced = checked.enforced if checked else constraint
        self._compiler.compile(enforced)
        self.seconds["compile"].append(time.perf_counter() - start)

        def accepts(instance: Any) -> bool:
            text = json.dumps(in_schema_order(instance, schema, schema), ensure_ascii=False)
            return self._can_be_written(enforced, text) and not (checked and checked.check.violations(text))

        return accepts

    def _can_be_written(self, constraint: Constraint, text: str) -> bool:
        matcher = self._compiler.compile(constraint)
        for token in self._vocab.tokenize(text):
            self._timed("mask", matcher.allowed_tokens)
            if not self._timed("is_allowed", partial(matcher.is_allowed, token)):
                return False
            self._timed("accept", partial(matcher.accept, token))
        return matcher.is_accepting

    def _timed(self, kind: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.seconds[kind].append(time.perf_counter() - start)
        return result


def _parsed(file: Path) -> tuple[dict[str, Any], list[tuple[Any, bool]]]:
    try:
        document = json.loads(file.read_bytes())
        return document["schema"], [(test["data"], bool(test["valid"])) for test in document["tests"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeError(f"{file} is no MaskBench file: {error}.", hint="Each has a schema and tests.") from error


def main() -> None:
    arguments = _parse()
    try:
        measured = _measure(arguments)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps({**asdict(measured), "right_share": measured.right_share}, indent=2))
    else:
        print_report(measured)


def _measure(arguments: argparse.Namespace) -> MaskBench:
    from edge.demo import find_demo_gguf
    from edge.llama.model import Model

    path: Path | None = arguments.vocabulary or find_demo_gguf()
    if path is None:
        raise EdgeError("The demo model is not installed.", hint="Give a model with --vocabulary.")
    with Model(path, vocabulary_only=True) as model:
        note(f"{arguments.folder}, with a vocabulary of {model.vocab.size} tokens")
        return measure(arguments.folder, model.vocab)


def print_report(measured: MaskBench) -> None:
    verdicts = measured.verdicts
    print(
        f"{measured.right} of {len(verdicts)} schemas end right ({measured.right_share:.1%}), "
        f"{sum(bool(verdict.refusal) for verdict in verdicts)} of them refused.\n"
        f"Valid instances accepted: {sum(v.valid - v.rejected_valid for v in verdicts if not v.refusal)} of "
        f"{sum(v.valid for v in verdicts if not v.refusal)}; invalid ones: {measured.accepted_invalid} of "
        f"{sum(v.invalid for v in verdicts if not v.refusal)}.\n"
        "Instances are written with their properties in the order of the schema."
    )
    for verdict in verdicts:
        if verdict.refusal or not verdict.is_right:
            told = (
                verdict.refusal
                or f"{verdict.rejected_valid} valid rejected, {verdict.accepted_invalid} invalid accepted"
            )
            print(f"  {verdict.name}: {told}")
    times = table("Microseconds", ("", "left"), *((name, "right") for name in ("mean", "median", "p99")))
    for name, spread in (
        ("mask of a token", measured.mask),
        ("is a token allowed", measured.is_allowed),
        ("accept a token", measured.accept),
        ("compile a schema", measured.compile),
    ):
        times.add_row(*map(cell, [name, f"{spread.mean:.1f}", f"{spread.median:.1f}", f"{spread.p99:.1f}"]))
    show(times)
    print(f"The vocabulary was read in {measured.vocabulary_seconds:.2f} s.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.maskbench", description="Judge how the schemas of a MaskBench sample are held."
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="of MaskBench's JSON files, which are not part of edge"
    )
    parser.add_argument("--vocabulary", type=Path, metavar="GGUF", help="a model's vocabulary (default: the demo's)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    main()
