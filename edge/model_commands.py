"""The commands that run a model once: run, bake. Everything heavy is imported inside them."""

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
    from edge.settings import ModelSettings, SamplingSettings

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, a checkpoint directory, org/name[:QUANT], or demo.")
]
Context = Annotated[int | None, typer.Option("--ctx", metavar="N", help="Context length in tokens.")]
KVCacheType = Annotated[
    str, typer.Option("--kv-type", metavar="TYPE", help="How the KV cache is kept: F16, Q8_0 or Q4_0.")
]
DraftModel = Annotated[
    str | None,
    typer.Option("--draft", metavar="MODEL", help="A small model of the same vocabulary that guesses ahead."),
]
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
    kv_type: KVCacheType = "F16",
    draft: DraftModel = None,
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
    settings = model_settings(context, threads, kv_type, draft)
    with _open(model, quant, lora, settings) as engine:
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
    kv_type: KVCacheType = "F16",
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
    path = out or baked_path(read_gguf(resolve_model(model, quant)).path, text, lora or ())
    with _open(model, quant, lora, model_settings(None, threads, kv_type, None)) as engine:
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


def model_settings(context: int | None, threads: int | None, kv_type: str, draft: str | None) -> ModelSettings:
    """What the options say of the model. EdgeError for a type that the KV cache cannot have."""
    from edge.settings import ModelSettings, kv_cache_type

    kept = kv_cache_type(kv_type)
    draft_model = resolve_model(draft, None) if draft else None
    return ModelSettings(
        context_tokens=context, threads=threads, key_type=kept, value_type=kept, draft_model=draft_model
    )


def _open(model: str, quantization: str | None, lora: list[str] | None, settings: ModelSettings) -> Engine:
    from dataclasses import replace

    from edge.adapters import resolve_adapter
    from edge.engine import Engine

    path = resolve_model(model, quantization)
    adapters = tuple(resolve_adapter(reference, path) for reference in lora or [])
    return Engine(path, replace(settings, adapters=adapters), isolate=False)


def resolve_model(model: str, quantization: str | None) -> Path:
    """The file of a model, made if need be; when asked again, it is found at once."""
    from edge.models import resolve
    from edge.terminal import byte_progress

    with byte_progress("Converting") as progress:
        return resolve(model, quantization=quantization, progress=progress)


def _answer(engine: Engine, request: Request, as_json: bool) -> None:
    """Print the answer, as it comes or as one document. EdgeError if it was cut off before it met its constraint."""
    from edge.request import FinishEvent

    stream = engine.submit(request)
    if as_json:
        completion = stream.result()
        print(json.dumps(_completion_document(completion), ensure_ascii=False, indent=2))
        is_valid = completion.is_valid
    else:
        is_valid = True
        for event in stream:
            print(event.text, end="", flush=True)
            is_valid = not isinstance(event, FinishEvent) or event.is_valid
        print()
    if not is_valid:
        raise EdgeError(
            "The answer was cut off at the token limit, so it may not meet its constraint.",
            hint="Allow more with --max-tokens, or bound what may be long: maxLength, maxItems, additionalProperties.",
        )


def _sampling(engine: Engine, temperature: float | None, seed: int | None) -> SamplingSettings:
    """What is asked for; for the rest, what the model's makers recommend."""
    from dataclasses import replace

    chosen = engine.default_sampling
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
