"""The commands about files: convert, verify, inspect. Everything heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convert.recipes import recipes_text
from edge.errors import EdgeError
from edge.results import Json, print_result

if TYPE_CHECKING:
    from convert.merge import ScaledAdapter
    from edge.store_record import Record

AgainstLogits = Annotated[
    Path | None,
    typer.Option("--against-logits", metavar="FILE.npz", help="Logits of a reference: tokens, logits[, positions]."),
]
MergeLora = Annotated[
    list[str] | None,
    typer.Option("--merge-lora", metavar="DIR[:SCALE]", help="Merge a PEFT LoRA into the checkpoint; repeatable."),
]


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
        print_result(report.plan_document(planned), report.render_plan(planned), as_json)
        return
    models = []
    if no_verify:
        with byte_progress(f"Converting to {', '.join(quantizations)}") as progress:
            write_unproven(planned, threads=threads, progress=progress)
    else:
        models = write_proven(planned, against_logits=against_logits, threads=threads, display=byte_progress)
    print_result(report.result_document(planned, models), report.render_result(planned, models), as_json)
    raise_if_rejected(models)


def _print_families(as_json: bool) -> None:
    from convert.family_table import families_document, render_families

    print_result(families_document(), render_families(), as_json)


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.gguf|NAME", help="A file, or a model in the store: is it what came?")
    ],
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
    if record := None if file.is_file() else _stored(str(file)):
        from edge.content import check_content
        from edge.models import cache_directory
        from edge.store import Store
        from edge.store_report import content_document, render_content

        store = Store(cache_directory())
        check_content(store, record, byte_progress)
        if against is None and against_logits is None:
            print_result(content_document(store, record), render_content(store, record), as_json)
            return
        file = store.paths(record)[0]
    proof = prove_file(
        file, against, merge=merge, against_logits=against_logits, threads=threads, display=byte_progress
    )
    print_result(proof_document(proof), report.render_proof(proof), as_json)
    proof.raise_if_failed()


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
    print_result(description.to_json(), renderables, as_json)


def _stored(name: str) -> Record | None:
    """The model of that name in the store, which may leave out its quantization if there is only one of it.

    EdgeError for what cannot be a file either.
    """
    from edge.models import cache_directory
    from edge.store import Store

    store = Store(cache_directory())
    found = [record] if (record := store.recorded(name)) else store.called(name)
    if len(found) > 1:
        raise EdgeError(
            f"There are several models of {name} in the store: {', '.join(each.name for each in found)}.",
            hint="Name one of them.",
        )
    if not found and not name.lower().endswith(".gguf"):
        raise EdgeError(
            f"There is no file {name}, and no model of that name in the store.",
            hint="Check the path; `edge list` shows what is in the store.",
        )
    return found[0] if found else None


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
        print_result(document, report.render_plan(planned), as_json)
        return
    with byte_progress(f"Converting {source.name}") as progress:
        proof = write_adapter(planned, progress=progress)
    print_result(document, report.render_adapter(planned, proof), as_json)
