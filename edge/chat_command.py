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
    KVCacheType,
    Lora,
    MaxTokens,
    Quantization,
    Seed,
    System,
    Temperature,
    Threads,
    model_settings,
    resolve_model,
)

if TYPE_CHECKING:
    from edge.loading import ClosableEngine
    from edge.model_desk import ModelChoice, ModelDesk
    from edge.session_record import SessionRecord
    from edge.settings import ModelSettings


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
    kv_type: KVCacheType = "F16",
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
    models = _models(reference, quant, lora or [], settings, waits=not is_typed())
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


def _models(
    reference: str, quantization: str | None, lora: list[str], settings: ModelSettings, *, waits: bool
) -> ModelDesk:
    """The model, open or, unless it is waited for, about to be."""
    from dataclasses import replace

    from edge.model_desk import ModelChoice, ModelDesk

    def resolve(reference: str, quantization: str | None = None, lora: list[str] | None = None) -> ModelChoice:
        path = resolve_model(reference, quantization)
        if not lora:
            return ModelChoice(reference, quantization, path)
        from edge.adapters import resolve_adapter

        return ModelChoice(reference, quantization, path, tuple(resolve_adapter(each, path) for each in lora))

    def open_engine(choice: ModelChoice) -> ClosableEngine:
        from edge.engine import Engine
        from edge.loading import LoadingEngine

        with_adapters = replace(settings, adapters=choice.adapters)
        if waits:
            return Engine(choice.path, with_adapters, isolate=True)
        return LoadingEngine(lambda: Engine(choice.path, with_adapters, isolate=True))

    return ModelDesk(resolve(reference, quantization, lora), resolve=resolve, open_engine=open_engine)


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
