"""The command that talks with a model: chat. Everything heavy is imported inside it."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge.errors import EdgeError
from edge.model_commands import (
    Context,
    DraftModel,
    GpuLayers,
    KVCacheType,
    Lora,
    MaxTokens,
    NoRepack,
    Quantization,
    Repack,
    Seed,
    System,
    Temperature,
    Threads,
    Ubatch,
    model_settings,
    repack_choice,
    resolve_adapters,
    resolve_model,
    say_fit,
    wanted_model,
)

if TYPE_CHECKING:
    from edge.fitted_model import Wanted
    from edge.loading import ClosableEngine
    from edge.model_desk import ModelChoice, ModelDesk
    from edge.session_record import SessionRecord


def chat(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="As for run; default: the session's, or demo. With --list: a text."),
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Keep the chat under a name, and go on with it.")
    ] = None,
    continues: Annotated[bool, typer.Option("--continue", help="Go on with the session that was used last.")] = False,
    lists_sessions: Annotated[
        bool, typer.Option("--list", help="List the sessions instead, or those that have a text in them.")
    ] = False,
    is_private: Annotated[bool, typer.Option("--private", help="Keep nothing of a chat without a name.")] = False,
    is_plain: Annotated[bool, typer.Option("--plain", help="Show answers as they are, not as Markdown.")] = False,
    system: System = None,
    overflow: Annotated[
        Literal["drop", "error"],
        typer.Option("--overflow", help="Leave out old turns when the context is full, or not."),
    ] = "drop",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    context: Context = None,
    kv_type: KVCacheType = None,
    gpu_layers: GpuLayers = None,
    ubatch: Ubatch = None,
    repack: Repack = False,
    no_repack: NoRepack = False,
    draft: DraftModel = None,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
) -> None:
    """Talk with a model in the terminal."""
    if lists_sessions:
        _print_sessions(model or "")
        return
    name = _session_name(session, continues)
    record = _record(name) if model is None else None
    if record:
        quant = quant or record.model.quantization
    reference = model or (record.model.reference if record else "demo")

    from edge.chat import Chat
    from edge.repl import converse, is_typed
    from edge.session_shelf import Shelf
    from edge.state_directory import sessions_directory
    from edge.terminal import note

    settings = model_settings(context, threads, kv_type, draft)
    wanted = wanted_model(settings, kv_type, gpu_layers, ubatch, repack_choice(repack, no_repack))
    models = _models(reference, quant, lora or [], wanted, waits=not is_typed())
    try:
        talk = Chat(models.engine, system=system, max_tokens=max_tokens, overflow=overflow)
        shelf = Shelf(sessions_directory(), talk, models, keeps_unnamed=is_typed() and not is_private)
        if name is not None:
            note(shelf.open(name, waits=not is_typed()))
        if system is not None:
            talk.system = system
        for setting, value in (("temperature", temperature), ("seed", seed)):
            if value is not None:
                talk.set_sampling(setting, value)
        try:
            converse(talk, models, shelf, is_plain=is_plain)
        finally:
            shelf.close()
    finally:
        models.close()


def _session_name(session: str | None, continues: bool) -> str | None:
    if not continues:
        return session
    if session is not None:
        raise EdgeError(
            "--continue goes on with the session that was used last: there is no place for --session.",
            hint="Leave one of them out.",
        )
    from edge.session_list import last_session
    from edge.state_directory import sessions_directory

    return last_session(sessions_directory())


def _record(name: str | None) -> SessionRecord | None:
    """What there is of a session, which tells its model. EdgeError if it is damaged, or `name` is none."""
    if name is None:
        return None
    from edge.session import SessionFile
    from edge.state_directory import sessions_directory

    with SessionFile(sessions_directory(), name) as file:
        return file.record


def _models(reference: str, quantization: str | None, lora: list[str], wanted: Wanted, *, waits: bool) -> ModelDesk:
    """The model, open or, unless it is waited for, about to be."""
    from collections import deque

    from edge.model_desk import ModelChoice, ModelDesk
    from edge.terminal import note

    remarks = deque[str]()
    tell = note if waits else remarks.append  # a line would break into what is being typed

    def resolve(reference: str, quantization: str | None = None, lora: list[str] | None = None) -> ModelChoice:
        path = resolve_model(reference, quantization)
        return ModelChoice(reference, quantization, path, resolve_adapters(lora, path))

    def open_engine(choice: ModelChoice) -> ClosableEngine:
        from edge.engine import Engine
        from edge.fitted_model import fit_model
        from edge.loading import LoadingEngine

        fitted = fit_model(choice.path, wanted.with_settings(adapters=choice.adapters))
        say_fit(fitted, tell)

        def open_now() -> Engine:
            return fitted.open(lambda settings: Engine(choice.path, settings, isolate=True), tell)

        return open_now() if waits else LoadingEngine(open_now)

    models = ModelDesk(
        resolve(reference, quantization, lora), resolve=resolve, open_engine=open_engine, remarks=remarks
    )
    for remark in models.take_remarks():
        note(remark)
    return models


def _print_sessions(text: str) -> None:
    from edge.repl_sessions import no_sessions, session_table
    from edge.results import print_result
    from edge.session_list import list_sessions
    from edge.state_directory import sessions_directory
    from edge.terminal import note

    folder = sessions_directory()
    found = list_sessions(folder, text)
    if found:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        print_result(None, session_table(found, columns), False)
    else:
        note(no_sessions(folder, text))
