"""Bodies of OpenAI's `/v1/completions` to requests, and completions to its answers: texts continued as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.openai_fields import BodyError, Fields, as_integer, refusal
from edge.openai_request import KNOWN_FIELDS, MAX_TOP_LOGPROBS, ChatBody, parse_options, requests_for
from edge.openai_response import Answer, finish_reason, token_logprob, usage_body
from edge.request import Logprobs, Request, Usage
from edge.text_engine import TextEngine

_UNSUPPORTED = {
    "suffix": "Only the end of a text can be written.",
    "echo": "Put the prompt in front of the text yourself.",
}
_OF_CHATS = frozenset({"messages", "modalities", "top_logprobs", "chat_template_kwargs", "max_completion_tokens"}) | {
    "tools", "tool_choice", "parallel_tool_calls", "session"
}  # fmt: skip
_KNOWN = sorted((set(KNOWN_FIELDS) - _OF_CHATS) | {"prompt", "best_of"} | _UNSUPPORTED.keys())


@dataclass(frozen=True)
class CompletionsBody:
    """Prompts, as texts or as token ids, and how each of them is to be continued. `options` has no messages."""

    prompts: tuple[str | tuple[int, ...], ...]
    options: ChatBody


def parse_completions(value: object) -> CompletionsBody:
    """A body out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_KNOWN)
    for name, hint in _UNSUPPORTED.items():
        if body.members.get(name) not in (None, False, ""):
            raise BodyError(f"{name} is not supported.", hint=hint, field=name)
    best_of, choices = body.integer("best_of", 1), body.integer("n", 1) or 1
    if best_of not in (None, choices):
        raise BodyError(f"best_of is {best_of}, n is {choices}.", hint="Leave best_of out.", field="best_of")
    logprobs = body.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    options = parse_options(Fields({name: item for name, item in body.members.items() if name != "logprobs"}))
    return CompletionsBody(parse_prompts(body, "prompt"), replace(options, logprobs=logprobs))


def plain_requests(body: CompletionsBody, engine: TextEngine) -> list[Request]:
    """The requests of the first prompt, one for each choice, then those of the second, and so on."""
    requests: list[Request] = []
    for prompt in body.prompts:
        tokens = engine.text_tokens(prompt) if isinstance(prompt, str) else prompt
        requests += requests_for(body.options, tokens, engine)
    return requests


def completions_body(
    answers: Sequence[Answer], *, choices: int, identifier: str, created: int, model: str, system_fingerprint: str
) -> dict[str, Any]:
    """A `text_completion` object. `choices` is how many answers each prompt has; `created` in seconds since 1970."""
    return {
        "id": identifier,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, answer) for index, answer in enumerate(answers)],
        "usage": usage_of_prompts([answer.completion.usage for answer in answers], choices),
        "system_fingerprint": system_fingerprint,
    }


def usage_of_prompts(usages: Sequence[Usage], choices: int) -> dict[str, Any]:
    """Tokens of the completions of all prompts, each prompt counted once."""
    firsts = usages[::choices]
    body = usage_body(usages)
    prompt = sum(usage.prompt_tokens for usage in firsts)
    return {
        **body,
        "prompt_tokens": prompt,
        "total_tokens": prompt + body["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in firsts)},
    }


def plain_logprobs(pieces: Sequence[bytes], logprobs: Sequence[Logprobs], offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a text that begins at `offset` characters: lists with an item for each token."""
    described = [token_logprob(*pair) for pair in zip(pieces, logprobs, strict=True)]
    offsets, text = [], b""
    for piece in pieces:
        offsets.append(offset + len(text.decode("utf-8", "ignore")))
        text += piece
    return {
        "tokens": [token["token"] for token in described],
        "token_logprobs": [token["logprob"] for token in described],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in described],
        "text_offset": offsets,
    }


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    completion = answer.completion
    return {
        "index": index,
        "text": completion.text,
        "logprobs": plain_logprobs(answer.pieces, completion.logprobs) if completion.logprobs else None,
        "finish_reason": finish_reason(completion),
    }


def parse_prompts(body: Fields, name: str) -> tuple[str | tuple[int, ...], ...]:
    """One text, several, token ids, or lists of them."""
    body.require(name)
    value = body.members[name]
    if isinstance(value, str):
        return (value,)
    items = body.items(name) or []
    if not items:
        raise BodyError(f"{name} is empty.", hint="Give a text, or the ids of tokens.", field=name)
    if isinstance(items[0][1], int):
        return (tuple(as_integer(item, path, 0) for path, item in items),)
    return tuple(_prompt(path, item) for path, item in items)


def _prompt(path: str, value: object) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return tuple(as_integer(item, f"{path}[{index}]", 0) for index, item in enumerate(value))
    raise refusal(path, value, "a text or a list of token ids")
