"""The command `edge batch`. Everything heavy is imported inside it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import EdgeError
from edge.model_commands import (
    KVCacheType,
    Lora,
    Model,
    NoRepack,
    Quantization,
    Threads,
    model_settings,
    resolve_adapters,
    resolve_model,
)

if TYPE_CHECKING:
    from edge.batch import Totals
    from edge.batch_input import Line
    from edge.batch_output import Output, Written
    from edge.settings import ModelSettings

_STANDARD = "-"
_ANNOUNCED_LINES = 2000  # of which the prompts take some seconds to read


def batch(
    model: Model,
    input_file: Annotated[str, typer.Argument(metavar="IN.jsonl", help="Requests in OpenAI's format; - is stdin.")],
    output_file: Annotated[str, typer.Argument(metavar="OUT.jsonl", help="Answers; - is stdout.")],
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, help="Requests answered at the same time.")
    ] = 8,
    context: Annotated[
        int | None,
        typer.Option("--ctx", metavar="N", help="Context that they share; default: enough for the longest."),
    ] = None,
    kv_type: KVCacheType = None,
    no_repack: NoRepack = False,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
) -> None:
    """Answer a file of chat completions. The same command again goes on where one ended."""
    from dataclasses import replace

    from edge.batch_output import examine_output
    from edge.terminal import note

    settings = replace(model_settings(context, threads, kv_type, None), parallel=parallel, repack_weights=not no_repack)
    lines, input_name = _read(input_file, output_file)
    with _locked(output_file):
        written = None
        if output_file != _STANDARD:
            written = examine_output(Path(output_file), lines, input_name)
            lines = [line for line in lines if line.custom_id not in written.done]
        if not lines:
            note(f"All lines are answered already: {output_file}")
            return
        path, settings = _open_settings(model, quant, lora, settings)
        totals = _answer(lines, path, settings, output_file, written)
    if totals.wrong_lines:
        raise EdgeError(
            f"{totals.wrong_lines:,} of {totals.lines:,} lines got no answer, one of them because: {totals.last_error}",
            hint="The output says why of each. Correct them, and run the same command again: it asks only them.",
        )


def _read(input_file: str, output_file: str) -> tuple[list[Line], str]:
    """The lines of the batch, and its name for messages."""
    from edge.batch_input import read_lines

    if input_file == _STANDARD:
        return read_lines(sys.stdin.buffer.read(), "stdin"), "stdin"
    path, output = Path(input_file), Path(output_file)
    try:
        if output_file != _STANDARD and output.exists() and output.samefile(path):
            raise EdgeError(f"{path} is both input and output.", hint="Give another file for the answers.")
        return read_lines(path.read_bytes(), str(path)), str(path)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error


@contextlib.contextmanager
def _locked(output_file: str) -> Iterator[None]:
    """While it lasts, no other process answers into the same file."""
    from edge.batch_output import lock_output, release_output

    path = Path(output_file)
    if output_file == _STANDARD or (path.exists() and not path.is_file()):
        yield
        return
    lock = lock_output(path)
    try:
        yield
    finally:
        release_output(lock)


def _open_settings(
    model: str, quantization: str | None, lora: list[str] | None, settings: ModelSettings
) -> tuple[Path, ModelSettings]:
    """The model's file, and the settings with its adapters."""
    from dataclasses import replace

    path = resolve_model(model, quantization)
    return path, replace(settings, adapters=resolve_adapters(lora, path))


def _answer(
    lines: list[Line], path: Path, settings: ModelSettings, output_file: str, written: Written | None
) -> Totals:
    """Plan the lines that are left, open the model and answer them."""
    from dataclasses import replace

    from edge.batch import BatchSettings, run_batch
    from edge.batch_plan import open_prompts, plan_batch, trained_tokens
    from edge.batch_progress import batch_progress, summary
    from edge.engine import Engine
    from edge.fingerprint import system_fingerprint
    from edge.gguf_file import read_gguf
    from edge.terminal import note

    file = read_gguf(path)
    fingerprint = system_fingerprint(file, settings)
    _check_origin(written, fingerprint, output_file)
    if len(lines) >= _ANNOUNCED_LINES:
        note(f"Reading {len(lines):,} prompts")
    with open_prompts(file) as prompts:
        plan = plan_batch(lines, prompts)
    parallel = plan.sequences(settings.parallel)
    context = settings.context_tokens or plan.context_tokens(parallel, trained_tokens(file))
    settings = replace(settings, parallel=parallel, context_tokens=context)
    origin = BatchSettings(path.stem, fingerprint, parallel)
    with _opened(output_file, written) as output, Engine(path, settings) as engine, batch_progress(len(lines)) as bar:
        try:
            totals = run_batch(plan.lines, engine, output.write, origin, bar.update)
        except KeyboardInterrupt:
            bar.close()
            note(f"Interrupted. {_kept(output_file)}")
            raise
    note(summary(totals))
    return totals


def _check_origin(written: Written | None, fingerprint: str, output_file: str) -> None:
    """EdgeError if the answers that are there are not of the same model."""
    if written and written.fingerprints - {fingerprint}:
        raise EdgeError(
            f"{output_file} holds answers of another model, or with other adapters.",
            hint="Go on with the model that it was begun with, or give a new output file.",
        )


def _kept(output_file: str) -> str:
    if output_file == _STANDARD:
        return "What was answered is above."
    return "What was answered is kept; the same command goes on from there."


@contextlib.contextmanager
def _opened(output_file: str, written: Written | None) -> Iterator[Output]:
    from edge.batch_output import OutputFile, StandardOutput

    if written is None:
        yield StandardOutput()
        return
    with OutputFile(Path(output_file), written) as output:
        yield output
