"""The commands that run a model: run, chat. Everything heavy is imported inside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge.errors import EdgeError
from edge.results import Json

if TYPE_CHECKING:
    from edge.chat import Chat
    from edge.constraint import Constraint
    from edge.engine import Engine
    from edge.request import Completion, Request
    from edge.session import SessionFile, SessionModel
    from edge.settings import SamplingSettings

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, a checkpoint directory, org/name[:QUANT], or demo.")
]
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
    from edge.prompt import Message
    from edge.request import Request

    if raw and system is not None:
        raise EdgeError(
            "--raw continues the prompt as it is: there is no place for --system.", hint="Leave one of them out."
        )
    constraint = _constraint(schema, regex, grammar)
    question = _prompt_text(prompt)
    with _open(model, context, threads, quant, lora) as engine:
        if raw:
            tokens = engine.text_tokens(question)
        else:
            messages = [] if system is None else [Message("system", system)]
            tokens = engine.chat_tokens([*messages, Message("user", question)])
        request = Request(
            tokens,
            sampling=_sampling(engine, temperature, seed),
            max_tokens=max_tokens,
            constraint=constraint,
        )
        _answer(engine, request, as_json)


def chat(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="As for run; default: the session's, or demo.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Keep the chat under a name, and go on with it.")
    ] = None,
    lists_sessions: Annotated[bool, typer.Option("--list", help="List the sessions instead.")] = False,
    system: System = None,
    overflow: Annotated[
        Literal["drop", "error"],
        typer.Option("--overflow", help="Leave out old turns when the context is full, or not."),
    ] = "drop",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    context: Context = None,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
) -> None:
    """Talk with a model in the terminal."""
    if lists_sessions:
        _print_sessions()
        return
    with _session(session) as file:
        record = file.record if file else None
        if record and model is None:
            quant = quant or record.model.quantization
        reference = model or (record.model.reference if record else "demo")
        known_model = _known_model(file, reference, quant)
        with _open(reference, context, threads, quant, lora, isolate=True) as engine:
            from edge.chat import Chat
            from edge.repl import converse

            sampling = _sampling(engine, temperature, seed, record.sampling if record else None)
            talk = Chat(engine, system=system, sampling=sampling, max_tokens=max_tokens, overflow=overflow)
            with _kept(file, known_model, talk, engine, system) as after_answer:
                converse(talk, after_answer)


@contextlib.contextmanager
def _session(name: str | None) -> Iterator[SessionFile | None]:
    """The session of a name, opened; None for no name."""
    if name is None:
        yield None
        return
    from edge.repl import state_directory
    from edge.session import SessionFile

    with SessionFile(state_directory() / "sessions", name) as file:
        yield file


def _known_model(file: SessionFile | None, reference: str, quantization: str | None) -> SessionModel | None:
    """What a session remembers of the model. EdgeError if it was begun with another one."""
    if file is None:
        return None
    from edge.session import SessionModel

    model = SessionModel.of(_resolve(reference, quantization), reference, quantization)
    file.check_model(model)
    return model


@contextlib.contextmanager
def _kept(
    file: SessionFile | None, model: SessionModel | None, talk: Chat, engine: Engine, system: str | None
) -> Iterator[Callable[[], None]]:
    """Inside, the chat is that of the session; gives what is to be called after every answer."""
    if file is None or model is None:
        yield lambda: None
        return
    from edge.session import KeptChat
    from edge.terminal import note

    kept = KeptChat(file, model, talk, engine)
    note(kept.resume())
    if system is not None:
        talk.system = system
    try:
        yield kept.save
    finally:
        kept.finish()


def _print_sessions() -> None:
    from edge.quantities import size_text
    from edge.repl import state_directory
    from edge.results import print_result
    from edge.session import list_sessions
    from edge.tables import cell, table
    from edge.terminal import note

    folder = state_directory() / "sessions"
    sessions = list_sessions(folder)
    if not sessions:
        note(f"There are no sessions in {folder}.")
        return
    listed = table(
        "Sessions", ("Name", "left"), ("Messages", "right"), ("Size", "right"), ("Used", "left"), ("Model", "left")
    )
    for each in sessions:
        messages = "damaged" if each.messages is None else str(each.messages)
        used = each.updated.replace("T", " ").removesuffix("+00:00")
        listed.add_row(*map(cell, (each.name, messages, size_text(each.n_bytes), used, each.model)))
    print_result(None, listed, False)


def bake(
    model: Model,
    system: System = None,
    system_file: Annotated[
        Path | None,
        typer.Option(
            "--system-file", metavar="FILE", help="A file with the system text; line ends at its end are left out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; default: beside the model.")
    ] = None,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
    as_json: Json = False,
) -> None:
    """Compute a system text ahead: conversations that begin with it then start at once."""
    from edge.bake import bake, baked_path
    from edge.gguf_file import read_gguf
    from edge.quantities import size_text
    from edge.results import print_result

    text = _system_text(system, system_file)
    path = out or baked_path(read_gguf(_resolve(model, quant)).path, text, lora or ())
    with _open(model, None, threads, quant, lora) as engine:
        tokens = bake(engine, text, path)
    n_bytes = path.stat().st_size
    document = {"path": str(path), "tokens": tokens, "bytes": n_bytes}
    print_result(document, f"{path}\n  {tokens:,} tokens, {size_text(n_bytes)}", as_json)


def _system_text(system: str | None, system_file: Path | None) -> str:
    if system is not None and system_file is None:
        return system
    if system_file is not None and system is None:
        return _file_text(system_file).rstrip("\r\n")
    raise EdgeError("Which system text?", hint="Give it with --system, or a file that holds it with --system-file.")


def _file_text(path: Path) -> str:
    from edge.terminal import decode_utf8

    try:
        return decode_utf8(path.read_bytes(), str(path))
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error


def _prompt_text(prompt: str) -> str:
    from edge.terminal import read_stdin

    return read_stdin() if prompt == "-" else prompt


def _constraint(schema: Path | None, regex: str | None, grammar: Path | None) -> Constraint | None:
    from edge.constraint import Constraint

    options = {"--schema": schema, "--regex": regex, "--grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise EdgeError(f"{' and '.join(given)} exclude each other.", hint="Give one constraint.")
    if regex is not None:
        return Constraint.regex(regex)
    path = schema or grammar
    if path is None:
        return None
    text = _file_text(path)
    return Constraint.json_schema(text) if schema else Constraint.grammar(text)


def _open(
    model: str,
    context: int | None,
    threads: int | None,
    quantization: str | None,
    lora: list[str] | None,
    *,
    isolate: bool = False,
) -> Engine:
    from edge.adapters import resolve_adapter
    from edge.engine import Engine
    from edge.settings import ModelSettings

    path = _resolve(model, quantization)
    adapters = tuple(resolve_adapter(reference, path) for reference in lora or [])
    return Engine(path, ModelSettings(context_tokens=context, threads=threads, adapters=adapters), isolate=isolate)


def _resolve(model: str, quantization: str | None) -> Path:
    """The file of a model, made if need be; when asked again, it is found at once."""
    from edge.models import resolve
    from edge.terminal import byte_progress

    with byte_progress("Converting") as progress:
        return resolve(model, quantization=quantization, progress=progress)


def _answer(engine: Engine, request: Request, as_json: bool) -> None:
    """Print the answer, as it comes or as one document. EdgeError if it was cut off before it met its constraint."""
    from edge.checked import CheckedStream
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
    if is_cut_off and request.constraint and not isinstance(stream, CheckedStream):
        raise EdgeError(
            "The answer was cut off at the token limit, so it may not meet its constraint.",
            hint="Allow more with --max-tokens, or bound what may be long: maxLength, maxItems, additionalProperties.",
        )


def _sampling(
    engine: Engine, temperature: float | None, seed: int | None, earlier: SamplingSettings | None = None
) -> SamplingSettings:
    """What is asked for; for the rest, what a session had, or what the model's makers recommend."""
    from dataclasses import replace

    chosen = earlier or engine.default_sampling
    if temperature is not None:
        chosen = replace(chosen, temperature=temperature)
    return chosen if seed is None else replace(chosen, seed=seed)


def _completion_document(completion: Completion) -> dict[str, Any]:
    from dataclasses import asdict

    rate = completion.timing.tokens_per_second(completion.usage)
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
        "timing": {**asdict(completion.timing), "tokens_per_second": round(rate, 2)},
    }
