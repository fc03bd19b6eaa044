"""The commands that run a model once: run, bake. Everything heavy is imported inside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge.errors import EdgeError
from edge.results import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.constraint import Constraint
    from edge.engine import Engine
    from edge.fitted_model import FittedModel, Wanted
    from edge.request import Completion, Request
    from edge.settings import AdapterSettings, ModelSettings, SamplingSettings

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, a checkpoint directory, org/name[:QUANT], or demo.")
]
Context = Annotated[
    int | None, typer.Option("--ctx", metavar="N", help="Context length in tokens; default: the best that fits.")
]
KVCacheType = Annotated[
    str | None,
    typer.Option("--kv-type", metavar="TYPE[/TYPE]", help="How the KV cache keeps keys and values: F16, Q8_0 or Q4_0."),
]
GpuLayers = Annotated[
    int | None,
    typer.Option("--gpu-layers", metavar="N", help="Layers on the graphics card, -1 all; default: as many as fit."),
]
Ubatch = Annotated[
    int | None,
    typer.Option("--ubatch", metavar="N", help="Prompt tokens of a step: fewer need less memory; default: 512."),
]
Repack = Annotated[
    bool, typer.Option("--repack", help="Weights once more in an order that decodes faster; default: if there is room.")
]
NoRepack = Annotated[bool, typer.Option("--no-repack", help="Weights only as they are in the file.")]
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
    kv_type: KVCacheType = None,
    gpu_layers: GpuLayers = None,
    ubatch: Ubatch = None,
    repack: Repack = False,
    no_repack: NoRepack = False,
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
    wanted = wanted_model(settings, kv_type, gpu_layers, ubatch, repack_choice(repack, no_repack))
    with _open_fitted(model, quant, lora, _enough_for(wanted, question), is_quiet=as_json) as engine:
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
    kv_type: KVCacheType = None,
    no_repack: NoRepack = False,
    threads: Threads = None,
    quant: Quantization = None,
    lora: Lora = None,
    as_json: Json = False,
) -> None:
    """Compute a system text ahead: conversations that begin with it then start at once."""
    from edge.bake import bake, baked_path
    from edge.gguf_file import read_gguf
    from edge.quantities import counted, size_text
    from edge.results import print_result

    text = _system_text(system, system_file)
    path = out or baked_path(read_gguf(resolve_model(model, quant)).path, text, lora or ())
    settings = model_settings(None, threads, kv_type, None)
    # with what a chat has to be opened with here as well, which the file is good for only then
    wanted = wanted_model(settings, kv_type, None, None, repack_choice(False, no_repack))
    with _open_fitted(model, quant, lora, wanted, is_quiet=as_json) as engine:
        tokens = bake(engine, text, path)
    n_bytes = path.stat().st_size
    document = {"path": str(path), "tokens": tokens, "bytes": n_bytes}
    print_result(document, f"{path}\n  {counted(tokens, 'token')}, {size_text(n_bytes)}", as_json)


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
    options = {"--schema": schema, "--regex": regex, "--grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return None
    from edge.constraint import Constraint

    if len(given) > 1:
        raise EdgeError(f"{' and '.join(given)} exclude each other.", hint="Give one constraint.")
    if regex is not None:
        return Constraint.regex(regex)
    path = schema or grammar
    assert path
    text = _file_text(path)
    return Constraint.json_schema(text) if schema else Constraint.grammar(text)


def model_settings(context: int | None, threads: int | None, kv_type: str | None, draft: str | None) -> ModelSettings:
    """What the options say of the model. EdgeError for a type that the KV cache cannot have."""
    from edge.settings import ModelSettings, kv_cache_types

    keys, values = kv_cache_types(kv_type or "F16")
    draft_model = resolve_model(draft, None) if draft else None
    return ModelSettings(
        context_tokens=context, threads=threads, key_type=keys, value_type=values, draft_model=draft_model
    )


def repack_choice(repack: bool, no_repack: bool) -> bool | None:
    """Whether weights are to be repacked; None if no option says so. EdgeError if both do."""
    if repack and no_repack:
        raise EdgeError("--repack and --no-repack exclude each other.", hint="Give one of them, or none.")
    return repack if repack or no_repack else None


def wanted_model(
    settings: ModelSettings, kv_type: str | None, gpu_layers: int | None, ubatch: int | None, repack: bool | None
) -> Wanted:
    """Settings with what else the options say, and which of them were given and are to stay."""
    from dataclasses import replace

    from edge.fitted_model import Wanted

    if gpu_layers is not None:
        settings = replace(settings, gpu_layers=gpu_layers)
    if ubatch is not None:
        settings = replace(settings, prefill_tokens=ubatch)
    if repack is not None:
        settings = replace(settings, repack_weights=repack)
    options = {
        "context_tokens": settings.context_tokens,
        "key_type": kv_type,
        "value_type": kv_type,
        "gpu_layers": gpu_layers,
        "prefill_tokens": ubatch,
        "repack_weights": repack,
    }
    return Wanted(settings, frozenset(name for name, value in options.items() if value is not None))


def say_fit(fitted: FittedModel, tell: Callable[[str], None], *, is_quiet: bool = False) -> None:
    """Tell in a line what was chosen: to who looks at a terminal, and to everyone if it may not do."""
    if fitted.line and (fitted.may_not_fit or (sys.stderr.isatty() and not is_quiet)):
        tell(fitted.line)


def _enough_for(wanted: Wanted, question: str) -> Wanted:
    """For one answer a usual context is enough, and takes less time to set up; a token has a byte at least."""
    from dataclasses import replace

    from edge.settings import DEFAULT_CONTEXT_TOKENS

    is_short = len(question.encode()) <= DEFAULT_CONTEXT_TOKENS // 2
    return replace(wanted, longest_tokens=DEFAULT_CONTEXT_TOKENS) if is_short else wanted


def _open_fitted(
    model: str, quantization: str | None, lora: list[str] | None, wanted: Wanted, *, is_quiet: bool
) -> Engine:
    """The model in this process, with the best settings that fit."""
    from edge.engine import Engine
    from edge.fitted_model import fit_model
    from edge.terminal import note

    path = resolve_model(model, quantization)
    fitted = fit_model(path, wanted.with_settings(adapters=resolve_adapters(lora, path)))
    say_fit(fitted, note, is_quiet=is_quiet)
    return fitted.open(lambda settings: Engine(fitted.file, settings, isolate=False), note)


def resolve_adapters(references: list[str] | None, model: Path) -> tuple[AdapterSettings, ...]:
    """What --lora means for the model's file."""
    if not references:
        return ()
    from edge.adapters import resolve_adapter

    return tuple(resolve_adapter(reference, model) for reference in references)


def resolve_model(model: str, quantization: str | None) -> Path:
    """The file of a model, made if need be; when asked again, it is found at once."""
    from edge.model_file import is_file

    if quantization is None and is_file(model):
        return Path(model).expanduser()
    from edge.models import resolve
    from edge.terminal import byte_progress

    def choose(reference: str, gguf_bytes: Mapping[str, int]) -> str | None:
        from edge.quantization_choice import choose_quantization

        return choose_quantization(reference, gguf_bytes)

    with byte_progress("Converting") as progress:
        return resolve(model, quantization=quantization, progress=progress, choose=choose)


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
