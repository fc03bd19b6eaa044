"""The commands that run a model: run, chat. Everything heavy is imported inside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge.errors import EdgeError
from edge.results import Json

if TYPE_CHECKING:
    from edge.constraint import Constraint
    from edge.engine import Engine
    from edge.request import Completion, Request
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
    with _open(model, context, threads, quant, lora, isolate=True) as engine:
        from edge.chat import Chat
        from edge.repl import converse

        sampling = _sampling(engine, temperature, seed)
        converse(Chat(engine, system=system, sampling=sampling, max_tokens=max_tokens))


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
    from edge.models import resolve
    from edge.settings import ModelSettings
    from edge.terminal import byte_progress

    with byte_progress("Converting") as progress:
        path = resolve(model, quantization=quantization, progress=progress)
    adapters = tuple(resolve_adapter(reference, path) for reference in lora or [])
    return Engine(path, ModelSettings(context_tokens=context, threads=threads, adapters=adapters), isolate=isolate)


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
