"""The `edge` command: each subcommand parses its arguments, calls one library function and prints the result.

Everything heavy is imported inside the commands, so that help is instant.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convert.recipes import recipes_text
from edge.errors import EdgeError

if TYPE_CHECKING:
    from convert.merge import ScaledAdapter
    from edge.constraint import Constraint
    from edge.engine import Engine
    from edge.request import Completion, Request
    from edge.settings import SamplingSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn Hugging Face checkpoints into quantized GGUF files and run them on your own hardware.",
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, a checkpoint directory, org/name[:QUANT], or demo.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Context = Annotated[int | None, typer.Option("--ctx", metavar="N", help="Context length in tokens.")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads; default: physical cores.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System text.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="End the answer after N tokens.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="0 always takes the likeliest token.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Make sampling repeatable.")]
Quantization = Annotated[
    str | None, typer.Option("--quant", metavar="QUANT", help="Quantization of a model that has to be converted.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:SCALE]", help="A LoRA adapter, GGUF or a PEFT directory; repeatable."),
]

AgainstLogits = Annotated[
    Path | None,
    typer.Option("--against-logits", metavar="FILE.npz", help="Logits of a reference: tokens, logits[, positions]."),
]
MergeLora = Annotated[
    list[str] | None,
    typer.Option("--merge-lora", metavar="DIR[:SCALE]", help="Merge a PEFT LoRA into the checkpoint; repeatable."),
]


@app.callback(invoke_without_command=True)
def _options(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        from importlib.metadata import version

        print(f"edge {version('edge-llm')}")
        raise typer.Exit


@app.command()
def convert(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SRC",
            help="A Hugging Face checkpoint directory, a GGUF file (F32, F16, BF16, Q8_0), or a PEFT LoRA directory.",
        ),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(
            "--quant",
            metavar="QUANT[,...]",
            help=f"{recipes_text()}; several with commas. Default: Q4_K_M; for an adapter F32.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE|DIR", help="Where to write; default: the current directory.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads; default: all cores.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be written, with exact sizes.")] = False,
    split_max_size: Annotated[
        str | None, typer.Option("--split-max-size", metavar="SIZE", help="Split files larger than this: 2GB, 500M.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Run the model over a text file first, to learn which weights matter; `default` is a text of edge's.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="An importance matrix measured before.")
    ] = None,
    save_imatrix: Annotated[
        Path | None, typer.Option("--save-imatrix", metavar="FILE", help="Keep the importance matrix.")
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option("--tensor-type", metavar="REGEX=TYPE", help="A type for tensors of such names; repeatable."),
    ] = None,
    output_type: Annotated[
        str | None, typer.Option("--output-type", metavar="TYPE", help="A type for the output tensor.")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", metavar="TYPE", help="A type for the token embeddings.")
    ] = None,
    against_logits: AgainstLogits = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not prove the files.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    merge_lora: MergeLora = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="BASE", help="With an adapter: the checkpoint or GGUF file it is for."),
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Print which model families can be converted, and what proves each.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint to GGUF, in one pass for all quantizations, and prove what was written; or an adapter."""
    if families:
        _print_families(as_json)
        return
    if source is None:
        raise typer.BadParameter("What to convert is missing.", param_hint="SRC")
    from convert import report
    from convert.adapter import is_adapter_directory
    from convert.calibration_run import MatrixRequest, obtain_matrix
    from convert.pipeline import check_targets, plan_checkpoint
    from convert.plan import ConversionOptions
    from convert.proven import raise_if_rejected, write_proven, write_unproven
    from convert.tensor_types import read_choices
    from edge.quantities import parse_size
    from edge.terminal import byte_progress

    merge = _merged(merge_lora)
    if is_adapter_directory(source):
        if merge:
            raise EdgeError(f"{source} is an adapter: nothing is merged into it.", hint="Give the base as SRC.")
        _convert_adapter(source, base, quant or "F32", out, is_plan=plan, force=force, as_json=as_json)
        return
    if base is not None:
        raise EdgeError(f"--base is for adapters; {source} is none.", hint="Leave it out.")
    if no_verify and against_logits:
        raise EdgeError("--no-verify leaves out what --against-logits asks for.", hint="Leave one of them out.")
    quantizations = [name.strip() for name in (quant or "Q4_K_M").split(",") if name.strip()]
    max_part_bytes = parse_size(split_max_size) if split_max_size else None
    choices = read_choices(tensor_type or (), output=output_type, embedding=embedding_type)
    request = MatrixRequest(imatrix, calibrate, None if plan else save_imatrix)
    if calibrate:
        if plan:
            raise EdgeError("--plan runs nothing, so --calibrate cannot be planned.", hint="Leave one of them out.")
        check_targets(source, quantizations, out, merge=merge, force=force)
    matrix = obtain_matrix(request, source, merge=merge, beside=out, threads=threads, display=byte_progress)
    options = ConversionOptions(choices, matrix, max_part_bytes)
    planned = plan_checkpoint(source, quantizations, out, merge=merge, options=options, force=force)
    if plan:
        _print_result(report.plan_document(planned), report.render_plan(planned), as_json)
        return
    models = []
    if no_verify:
        with byte_progress(f"Converting to {', '.join(quantizations)}") as progress:
            write_unproven(planned, threads=threads, progress=progress)
    else:
        models = write_proven(planned, against_logits=against_logits, threads=threads, display=byte_progress)
    _print_result(report.result_document(planned, models), report.render_result(planned, models), as_json)
    raise_if_rejected(models)


def _print_families(as_json: bool) -> None:
    from convert.family_table import families_document, render_families

    _print_result(families_document(), render_families(), as_json)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf")],
    against: Annotated[
        Path | None, typer.Option("--against", metavar="SRC", help="The checkpoint or GGUF file it was made of.")
    ] = None,
    merge_lora: MergeLora = None,
    against_logits: AgainstLogits = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads; default: all cores.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a file: its tensors, that it runs, its template; with --against, its errors and its token ids."""
    from convert import report
    from convert.pipeline import prove_file
    from convert.proof_record import proof_document
    from edge.terminal import byte_progress

    merge = _merged(merge_lora)
    if merge and against is None:
        raise EdgeError("--merge-lora says what was merged into the checkpoint.", hint="Name that with --against.")
    proof = prove_file(
        file, against, merge=merge, against_logits=against_logits, threads=threads, display=byte_progress
    )
    _print_result(proof_document(proof), report.render_proof(proof), as_json)
    proof.raise_if_failed()


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf")],
    show_all: Annotated[bool, typer.Option("--all", help="List every key and every tensor.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is in a GGUF file."""
    from edge.description import describe
    from edge.gguf_file import read_gguf
    from edge.inspect import render, render_keys, render_tensors

    description = describe(read_gguf(file))
    renderables = [render(description)]
    if show_all:
        renderables += [render_keys(description), render_tensors(description)]
    _print_result(description.to_json(), renderables, as_json)


@app.command()
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question; - reads it from stdin.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", metavar="FILE", help="JSON Schema that the answer will conform to.")
    ] = None,
    regex: Annotated[
        str | None, typer.Option("--regex", metavar="RE", help="Regular expression the whole answer will match.")
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option("--grammar", metavar="FILE", help="Lark or GBNF grammar for the answer.")
    ] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    context: Context = None,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text, without template.")] = False,
    as_json: Json = False,
) -> None:
    """Answer one prompt."""
    from edge.prompt import Message, plain_tokens
    from edge.request import Request

    if raw and system is not None:
        raise EdgeError(
            "--raw continues the prompt as it is: there is no place for --system.", hint="Leave one of them out."
        )
    constraint = _constraint(schema, regex, grammar)
    question = _prompt_text(prompt)
    with _open(model, context, threads, quant, lora) as engine:
        if raw:
            tokens = plain_tokens(question, engine.vocab)
        else:
            messages = [] if system is None else [Message("system", system)]
            tokens = engine.template.tokens([*messages, Message("user", question)], engine.vocab)
        request = Request(
            tuple(tokens),
            sampling=_sampling(engine, temperature, seed),
            max_tokens=max_tokens,
            constraint=constraint,
        )
        _answer(engine, request, as_json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="As for run; default: demo.")] = "demo",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    context: Context = None,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
) -> None:
    """Talk with a model in the terminal."""
    from edge.chat import Chat
    from edge.repl import converse

    with _open(model, context, threads, quant, lora) as engine:
        sampling = _sampling(engine, temperature, seed)
        converse(Chat(engine, system=system, sampling=sampling, max_tokens=max_tokens))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine and this installation can do, and what to change."""
    from edge.doctor import examine, render
    from edge.models import cache_directory

    report = examine(cache_directory())
    _print_result(report.to_json(), [render(report)], as_json)


def main() -> None:
    """The console script: exit code 0 done, 1 EdgeError, 2 usage, 130 interrupted."""
    from edge.terminal import report_error

    try:
        app(standalone_mode=True)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _merged(references: list[str] | None) -> list[ScaledAdapter]:
    """What --merge-lora names."""
    from convert.merge import ScaledAdapter
    from edge.adapters import split_scale

    return [ScaledAdapter(*split_scale(reference)) for reference in references or []]


def _convert_adapter(
    source: Path, base: Path | None, quantization: str, out: Path | None, *, is_plan: bool, force: bool, as_json: bool
) -> None:
    from convert import report
    from convert.pipeline import plan_adapter_file, write_adapter
    from edge.terminal import byte_progress

    planned = plan_adapter_file(source, base, quantization, out, force=force)
    document = report.plan_document(planned)
    if is_plan:
        _print_result(document, report.render_plan(planned), as_json)
        return
    with byte_progress(f"Converting {source.name}") as progress:
        proof = write_adapter(planned, progress=progress)
    _print_result(document, report.render_adapter(planned, proof), as_json)


def _print_result(document: Any, renderables: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty())  # in a pipe, no line is broken or cut
    for renderable in renderables if isinstance(renderables, list) else [renderables]:
        console.print(renderable)


def _prompt_text(prompt: str) -> str:
    from edge.terminal import read_stdin

    return read_stdin() if prompt == "-" else prompt


def _constraint(schema: Path | None, regex: str | None, grammar: Path | None) -> Constraint | None:
    from edge.constraint import Constraint
    from edge.terminal import decode_utf8

    options = {"--schema": schema, "--regex": regex, "--grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise EdgeError(f"{' and '.join(given)} exclude each other.", hint="Give one constraint.")
    if regex is not None:
        return Constraint.regex(regex)
    path = schema or grammar
    if path is None:
        return None
    try:
        text = decode_utf8(path.read_bytes(), str(path))
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error
    return Constraint.json_schema(text) if schema else Constraint.grammar(text)


def _open(
    model: str, context: int | None, threads: int | None, quantization: str | None, lora: list[str] | None
) -> Engine:
    from edge.adapters import resolve_adapter
    from edge.engine import Engine
    from edge.models import resolve
    from edge.settings import ModelSettings
    from edge.terminal import byte_progress

    with byte_progress("Converting") as progress:
        path = resolve(model, quantization=quantization, progress=progress)
    adapters = tuple(resolve_adapter(reference, path) for reference in lora or [])
    return Engine(path, ModelSettings(context_tokens=context, threads=threads, adapters=adapters))


def _answer(engine: Engine, request: Request, as_json: bool) -> None:
    """Print the answer, as it comes or as one document. EdgeError if it was cut off before it met its constraint."""
    from edge.request import FinishEvent

    stream = engine.submit(request)
    if as_json:
        completion = stream.result()
        print(json.dumps(_completion_document(completion), ensure_ascii=False, indent=2))
        is_cut_off = completion.finish_reason == "length"
    else:
        is_cut_off = False
        for event in stream:
            print(event.text, end="", flush=True)
            is_cut_off = isinstance(event, FinishEvent) and event.reason == "length"
        print()
    if is_cut_off and request.constraint:
        raise EdgeError(
            "The answer was cut off at the token limit, so it may not meet its constraint.",
            hint="Allow more with --max-tokens, or bound what may be long: maxLength, maxItems, additionalProperties.",
        )


def _sampling(engine: Engine, temperature: float | None, seed: int | None) -> SamplingSettings:
    from dataclasses import replace

    chosen = engine.default_sampling
    if temperature is not None:
        chosen = replace(chosen, temperature=temperature)
    return replace(chosen, seed=seed)


def _completion_document(completion: Completion) -> dict[str, Any]:
    from dataclasses import asdict

    rate = completion.timing.tokens_per_second(completion.usage)
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
        "timing": {**asdict(completion.timing), "tokens_per_second": round(rate, 2)},
    }


if __name__ == "__main__":
    main()
