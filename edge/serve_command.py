"""The command that serves models over HTTP: serve. Everything heavy is imported inside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import EdgeError
from edge.model_commands import (
    GpuLayers,
    KVCacheType,
    NoRepack,
    Repack,
    Ubatch,
    repack_choice,
    resolve_adapters,
    resolve_model,
    wanted_model,
)

if TYPE_CHECKING:
    from edge.fitted_model import Wanted
    from edge.server.model_pool import ModelSource
    from edge.server.server_settings import ServerSettings

_KEY_VARIABLE = "EDGE_API_KEY"


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="As for run, NAME=MODEL gives it another name. Of several, each is loaded when it is asked for.",
        ),
    ],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 takes one that is free.")] = 8080,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", help="Answers written at once.")] = 4,
    context: Annotated[
        int | None,
        typer.Option(
            "--ctx", metavar="N", help="Context shared by all answers, in tokens; default: the best that fits."
        ),
    ] = None,
    kv_type: KVCacheType = None,
    gpu_layers: GpuLayers = None,
    ubatch: Ubatch = None,
    repack: Repack = False,
    no_repack: NoRepack = False,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="KEY", help=f"Ask for this key; better in a file, or in {_KEY_VARIABLE}."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="Keys, one on each line.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option("--allowed-host", metavar="NAME", help="Another name of the server; repeatable.")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option("--allowed-origin", metavar="ORIGIN", help="Web pages that may call it; repeatable."),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", metavar="N", help="Answers that may wait; more are refused.")] = 256,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What loaded models may take together, such as 12GB.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option("--idle-minutes", metavar="N", help="Close a model after so long without requests.")
    ] = None,
    ready_fd: Annotated[
        int | None, typer.Option("--ready-fd", metavar="N", help="Write the URL to this file descriptor when ready.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Threads; default: physical cores.")
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", metavar="QUANT", help="Quantization of models that have to be converted.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE[:SCALE]", help="A LoRA adapter of the first model; repeatable."),
    ] = None,
    sessions: Annotated[
        Path | None, typer.Option("--sessions", metavar="DIR", help="Keep the sessions of requests over a restart.")
    ] = None,
    logs_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Show in the log what is asked, which is private.")
    ] = False,
) -> None:
    """Serve models over HTTP, in the protocols of OpenAI, Anthropic and Ollama, and a web page to chat in."""
    from edge.server.model_files import open_model
    from edge.server.model_pool import ModelPool
    from edge.server.run import serve
    from edge.server.server_settings import ServerSettings
    from edge.settings import ModelSettings, kv_cache_types

    keys = _keys(api_key, api_key_file)
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=keys,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        sessions_folder=sessions,
        logs_prompts=logs_prompts,
    )
    settings = _with_key(settings)
    key_type, value_type = kv_cache_types(kv_type or "F16")
    model_settings = ModelSettings(
        context_tokens=context,
        parallel=parallel,
        threads=threads,
        queue_limit=queue,
        key_type=key_type,
        value_type=value_type,
    )
    wanted = wanted_model(model_settings, kv_type, gpu_layers, ubatch, repack_choice(repack, no_repack))
    limit_bytes = _memory_bytes(memory, len(models))
    if idle is not None and not idle > 0:
        raise EdgeError(f"--idle-minutes is {idle:g}.", hint="Give a time above 0, or leave it out.")
    pool = ModelPool(
        _sources(models, quant, lora or [], wanted, limit_bytes),
        open_model,
        memory_bytes=limit_bytes,
        idle_seconds=None if idle is None else idle * 60,
    )
    _log_to_stderr()
    serve(pool, settings, _print_ready, ready_fd=ready_fd)


def _memory_bytes(asked: str | None, models: int) -> int | None:
    """What loaded models may take together. One model alone may take what it needs."""
    from edge.quantities import parse_size
    from edge.server.model_files import usable_memory_bytes

    if asked is not None:
        return parse_size(asked)
    return usable_memory_bytes() if models > 1 else None


def _keys(key: str | None, file: Path | None) -> tuple[str, ...]:
    """The keys that were given: by option, in a file, or else in the environment."""
    from edge.server.security import read_keys

    given = (() if key is None else (key,)) + (() if file is None else read_keys(file))
    return given or tuple(filter(None, [os.environ.get(_KEY_VARIABLE)]))


def _with_key(settings: ServerSettings) -> ServerSettings:
    """The settings with a key made on the spot, where others than this machine's programs could reach the server."""
    from dataclasses import replace

    from edge.server.security import make_key
    from edge.terminal import note

    if settings.api_keys or settings.is_local:
        return settings
    key = make_key()
    note(f"{settings.host} is reached from other machines, so requests need a key. This time it is: {key}")
    return replace(settings, api_keys=(key,))


def _sources(
    references: list[str], quantization: str | None, lora: list[str], wanted: Wanted, limit_bytes: int | None
) -> list[ModelSource]:
    """The models' files, converted or downloaded where need be; adapters are for the first one."""
    from edge.server.model_files import fitted_source

    sources = []
    for index, given in enumerate(references):
        name, reference = _named(given)
        path = resolve_model(reference, quantization)
        chosen = wanted.with_settings(adapters=resolve_adapters(lora, path) if index == 0 else ())
        sources.append(fitted_source(name or _name_of(reference, path), path, chosen, limit_bytes))
    return sources


def _named(given: str) -> tuple[str, str]:
    """NAME=MODEL in its parts; a path that exists is a model as it is."""
    name, equals, reference = given.partition("=")
    if not equals or os.path.exists(given):  # noqa: PTH110 - never raises, whatever a person types
        return "", given
    if not name or not reference:
        raise EdgeError(f"{given!r} names no model.", hint="Write NAME=MODEL, or the model alone.")
    return name, reference


def _name_of(reference: str, path: Path) -> str:
    """What a model is called that was given no name: a file by its stem, all else as it was asked for."""
    return path.stem if Path(reference).suffix == ".gguf" else Path(reference).name if "/" in reference else reference


def _log_to_stderr() -> None:
    """One line for each request. A server's log is for whoever runs it, so it goes where errors go."""
    import logging

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("edge.server").setLevel(logging.INFO)


def _print_ready(url: str) -> None:
    print(f"Ready at {url}", flush=True)
