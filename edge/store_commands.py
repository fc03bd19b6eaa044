"""The commands of the model store: pull, list, rm. Everything heavy is imported inside them."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import EdgeError
from edge.results import Json, print_result

if TYPE_CHECKING:
    from edge.store import Store
    from edge.store_record import Record


def pull(
    reference: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="org/name[:QUANT] on the hub, a checkpoint directory, or demo."),
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", metavar="QUANT", help="The same as behind the colon of the name.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(
            "--lock", metavar="FILE", help="Follow a lockfile, or add the model to it; alone: pull all that is in it."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Pack the model into one file, for a machine without a network."),
    ] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--from-bundle", metavar="FILE", help="Take in a model that was packed so.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get a model into the store and check it: from the hub, as it was locked, or out of a bundle."""
    from edge.models import cache_directory
    from edge.store import Store
    from edge.store_report import record_document, render_pulled

    store = Store(cache_directory())
    if from_bundle is not None:
        if reference or quant or lock or bundle:
            raise EdgeError("--from-bundle takes all there is from the bundle.", hint="Leave the other options out.")
        records = [_unpacked(store, from_bundle)]
    elif reference is None:
        if lock is None:
            raise typer.BadParameter("What to pull is missing.", param_hint="MODEL")
        if quant or bundle:
            raise EdgeError("--quant and --bundle are for one model.", hint="Name it before the options.")
        records = _pulled_as_locked(lock)
    else:
        if bundle is not None:
            _check_bundle_place(bundle)
        records = [_pulled(reference, quant, lock)]
        if bundle is not None:
            _pack(store, records[0], bundle)
    document = {"models": [record_document(store, record) for record in records]}
    print_result(document, render_pulled(store, records), as_json)


def list_models(as_json: Json = False) -> None:
    """List the models in the store: pulled, converted, or out of bundles."""
    from edge.models import cache_directory
    from edge.store import Store
    from edge.store_report import list_document, render_list

    store = Store(cache_directory())
    if as_json:
        print_result(list_document(store), [], as_json)
    else:
        print_result(None, render_list(store), as_json)


def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `edge list` shows it; without :QUANT, all of them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a model from the store. Files elsewhere are never touched."""
    from edge.models import cache_directory
    from edge.quantities import size_text
    from edge.store import Store
    from edge.store_report import removal_document, removal_lines
    from edge.terminal import note

    store = Store(cache_directory())
    removals = [store.removal(record) for record in store.called(name)]
    unfinished = store.unfinished(name) if "/" in name and ":" not in name else []
    if not removals and not unfinished:
        _refuse_unknown(store, name)
    freed_bytes = sum(removal.freed_bytes for removal in removals) + sum(path.stat().st_size for path in unfinished)
    if not yes:
        for line in removal_lines(removals, unfinished):
            note(line)
        _ask(f"Remove this, and free {size_text(freed_bytes)}?")
    for removal in removals:
        with store.held(removal.record.repository or removal.record.name):
            store.remove(removal)
    with store.held(name) if unfinished else nullcontext():  # another process may be downloading it just now
        for path in unfinished:
            store.remove_file(path)
    print_result(removal_document(removals, unfinished, freed_bytes), f"{size_text(freed_bytes)} freed.", as_json)


def _pulled(reference: str, quantization: str | None, lock: Path | None) -> Record:
    from edge.locked_pull import pull_one
    from edge.model_file import is_file
    from edge.models import hub_name, obtain, puller
    from edge.terminal import byte_progress

    if is_file(reference):
        raise EdgeError(
            f"{reference} is a file of yours: every command takes it as it is.",
            hint="Pull a name on the hub, a checkpoint directory, or demo.",
        )
    if lock is None:
        with byte_progress("Converting") as progress:
            return obtain(reference, quantization=quantization, progress=progress)
    name = hub_name(reference, quantization)
    if name is None:
        raise EdgeError(
            f"{reference} does not come from the hub, so that a lockfile cannot say where to get it.",
            hint="Take it to the other machine as a file: edge pull ... --bundle FILE",
        )
    return pull_one(puller(), name, lock, lambda: obtain(reference, quantization=quantization))


def _pulled_as_locked(lock: Path) -> list[Record]:
    from edge.locked_pull import pull_all
    from edge.models import puller

    return pull_all(puller(), lock)


def _check_bundle_place(bundle: Path) -> None:
    """EdgeError before gigabytes are downloaded that could not be packed there."""
    if bundle.exists():
        raise EdgeError(f"{bundle} exists already.", hint="Remove it, or name another file.")
    if not bundle.absolute().parent.is_dir():
        raise EdgeError(f"There is no folder for {bundle}.", hint="Make it, or name another file.")


def _pack(store: Store, record: Record, bundle: Path) -> None:
    from edge.bundle import write_bundle
    from edge.terminal import byte_progress

    with byte_progress(f"Packing {bundle.name}") as progress:
        write_bundle(store, record, bundle, progress)


def _unpacked(store: Store, bundle: Path) -> Record:
    from edge.bundle import read_bundle
    from edge.terminal import byte_progress

    with byte_progress(f"Taking in {bundle.name}") as progress:
        return read_bundle(store, bundle, progress)


def _refuse_unknown(store: Store, name: str) -> None:
    import difflib

    if os.path.exists(os.path.expanduser(name)):  # noqa: PTH110, PTH111 - these never raise
        raise EdgeError(
            f"{name} is not in the model store {store.folder}, and edge removes nothing else.",
            hint="Delete it yourself, if you mean to.",
        )
    names = [record.name for record in store.records()]
    near = difflib.get_close_matches(name, names, n=3)
    raise EdgeError(
        f"There is no model {name} in the store.",
        hint=f"Did you mean {' or '.join(near)}?" if near else "`edge list` shows what there is.",
    )


def _ask(question: str) -> None:
    """An exit with code 1 unless a person says yes. EdgeError when there is none to ask."""
    if not sys.stdin.isatty():
        raise EdgeError("Nothing was removed: there is nobody to ask.", hint="Give --yes to do without.")
    if not typer.confirm(question, err=True):
        print("Nothing was removed.", file=sys.stderr)
        raise typer.Exit(1)
