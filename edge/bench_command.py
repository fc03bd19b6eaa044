"""The command `edge bench`. Everything heavy is imported inside it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge.errors import EdgeError
from edge.model_commands import NoRepack, Quantization, Threads
from edge.results import Json

if TYPE_CHECKING:
    from bench.compare import Comparison
    from bench.record import Record
    from bench.suite import QualityPlan

OutputFormat = Literal["table", "llama-bench"]
CacheType = Literal["F16", "Q8_0", "Q4_0"]
_ENDING = b"\nInterrupted: what was measured is shown in a moment. Ctrl-C ends at once.\n"


def bench(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="As for run. Several are measured in turn, and shown side by side."),
    ],
    pp: Annotated[int, typer.Option("--pp", metavar="N", help="Prompt tokens of a prefill.")] = 512,
    tg: Annotated[int, typer.Option("--tg", metavar="N", help="Tokens that are generated.")] = 128,
    parallel: Annotated[
        str, typer.Option("--parallel", metavar="N[,N...]", help="Requests at the same time, each measured.")
    ] = "1,4,8",
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Figures are medians of so many.")] = 5,
    fresh_starts: Annotated[
        int, typer.Option("--fresh-starts", metavar="N", min=0, help="Fresh processes, from disk and from memory.")
    ] = 4,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            metavar="TEXT",
            help="Perplexity over a text file, or over the text that comes with edge: default.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="MODEL", help="Measure the KL divergence from this one, over the text."),
    ] = None,
    chunks: Annotated[
        int | None, typer.Option("--chunks", metavar="N", min=1, help="Of 512 tokens of the text; default: all.")
    ] = None,
    key_type: Annotated[CacheType, typer.Option("--cache-type-k", help="Type of cached keys.")] = "F16",
    value_type: Annotated[CacheType, typer.Option("--cache-type-v", help="Type of cached values.")] = "F16",
    gpu_layers: Annotated[int, typer.Option("--gpu-layers", metavar="N", help="Layers to offload; -1: all.")] = -1,
    no_repack: NoRepack = False,
    threads: Threads = None,
    quant: Quantization = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="Judge against an earlier --out; exit code 1 if it got worse."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="SHARE", min=0, help="Changes up to this share are none.")
    ] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all samples there as JSONL.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a report with plots there.")
    ] = None,
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="llama-bench: the JSON that its compare script reads.")
    ] = "table",
    as_json: Json = False,
) -> None:
    """Measure speed, latency, memory and quality, against what the memory's bandwidth allows."""
    from bench.cases import BenchSettings
    from bench.compare import check_comparable, compare_records
    from bench.record import read_records
    from bench.suite import BenchPlan, model_record, run_bench
    from edge.devices import physical_cores
    from edge.terminal import note

    settings = BenchSettings(
        prompt_tokens=pp,
        generated_tokens=tg,
        streams=_streams(parallel),
        rounds=rounds,
        threads=threads or physical_cores(),
        gpu_layers=gpu_layers,
        key_type=key_type,
        value_type=value_type,
        fresh_starts=fresh_starts,
        repack_weights=not no_repack,
    )
    if as_json and output_format == "llama-bench":
        raise EdgeError("--json and --format llama-bench are two kinds of JSON.", hint="Give one of them.")
    earlier = read_records(compare) if compare else []
    _check_can_be_written(out, html)
    paths = tuple(_resolve(model, quant) for model in models)
    if compare:
        check_comparable([model_record(path) for path in paths], settings.document, earlier, compare)
    plan = BenchPlan(paths, settings, _quality_plan(quality, reference, chunks))
    with _second_interrupt_ends_at_once():
        records = run_bench(plan, say=note)
        is_interrupted = any(record.interrupted for record in records)
        if is_interrupted and compare:
            note(f"Interrupted runs are not compared; {compare} was left alone.")
        judged = None if is_interrupted else compare
        comparison = compare_records(records, earlier, judged, threshold) if judged else None
        _report(records, comparison, output_format, as_json=as_json, out=out, html=html)
    if is_interrupted:
        raise typer.Exit(130)
    if comparison and comparison.is_worse:
        raise typer.Exit(1)


@contextlib.contextmanager
def _second_interrupt_ends_at_once() -> Iterator[None]:
    """Inside the block, Ctrl-C raises KeyboardInterrupt once, and any further one ends the process as it stands."""
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # even where the interpreter waits for llama.cpp
        with contextlib.suppress(OSError):
            os.write(2, _ENDING)  # a handler may not print: it may have come in the middle of that
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _report(
    records: list[Record],
    comparison: Comparison | None,
    output_format: OutputFormat,
    *,
    as_json: bool,
    out: Path | None,
    html: Path | None,
) -> None:
    """Print what was found, and write it to the files that are given."""
    from bench.record import record_line

    _print(records, comparison, output_format, as_json)  # first: what cannot be written is not lost then
    contents = {}
    if out:
        contents[out] = "".join(f"{record_line(record)}\n" for record in records)
    if html:
        from bench.html_report import html_report

        contents[html] = html_report(records, comparison)
    _keep(contents)


def _streams(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError as error:
        raise EdgeError(f"--parallel is {text!r}.", hint="Give numbers with commas between them: 1,4,8") from error


def _resolve(model: str, quantization: str | None) -> Path:
    from edge.gguf_file import read_gguf
    from edge.models import resolve
    from edge.terminal import byte_progress

    with byte_progress("Converting") as progress:
        return read_gguf(resolve(model, quantization=quantization, progress=progress)).path


def _quality_plan(text: str | None, reference: str | None, chunks: int | None) -> QualityPlan | None:
    """What is asked for; with a reference and no text, the text that comes with edge."""
    from bench.suite import OWN_TEXT, QualityPlan

    if text is None and reference is None:
        if chunks is not None:
            raise EdgeError("--chunks is given, but no text to cut.", hint="Give a text with --quality.")
        return None
    path = OWN_TEXT if text in (None, "default") else Path(str(text))
    if not path.is_file():
        raise EdgeError(f"There is no text {path}.", hint="Give a text file with --quality, or: --quality default")
    return QualityPlan(path, _resolve(reference, None) if reference else None, chunks)


def _check_can_be_written(*paths: Path | None) -> None:
    """EdgeError before anything is measured that could not be kept."""
    import tempfile

    for path in filter(None, paths):
        if path.exists() and not path.is_dir() and not path.is_file():
            continue  # a pipe or a device
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "it is a folder")
        except OSError as error:
            raise EdgeError(
                f"{path} cannot be written: {error.strerror or error}.",
                hint="Give a file in a folder that exists and that you may write to.",
            ) from error


def _keep(contents: Mapping[Path, str]) -> None:
    """Write each file. EdgeError for the first that cannot be, when what there is has been put elsewhere."""
    from edge.whole_file import written_whole

    failed: EdgeError | None = None
    for path, content in contents.items():
        try:
            with written_whole(path) as file:
                file.write(content.encode())
        except OSError as error:
            failed = failed or EdgeError(
                f"{path} cannot be written: {error.strerror or error}.", hint=_kept_elsewhere(path, content)
            )
    if failed:
        raise failed


def _kept_elsewhere(path: Path, content: str) -> str:
    """Where the content is now: hours may have been measured for it."""
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edge-bench-", suffix=path.suffix, delete=False, encoding="utf-8"
        ) as file:
            file.write(content)
    except OSError:
        return "The figures above are all that is left; make room before you measure again."
    return f"What belongs there is in {file.name} now."


def _print(records: list[Record], comparison: Comparison | None, output_format: OutputFormat, as_json: bool) -> None:
    from bench.compare import comparison_document
    from bench.llama_bench_format import llama_bench_documents
    from bench.record import record_document
    from bench.report import comparison_tables, run_tables, verdict_text
    from edge.results import print_result
    from edge.terminal import note

    if output_format == "llama-bench":
        documents = [document for record in records for document in llama_bench_documents(record)]
        print(json.dumps(documents, ensure_ascii=False, indent=2))
        if comparison:  # for which that format has no place
            note(verdict_text(comparison))
        return
    document = {
        "records": [record_document(record) for record in records],
        "comparison": comparison_document(comparison) if comparison else None,
    }
    tables = [*run_tables(records), *(comparison_tables(comparison) if comparison else [])]
    print_result(document, tables, as_json)
