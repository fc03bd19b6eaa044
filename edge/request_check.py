"""Whether an engine can answer a request, before it is queued."""

from __future__ import annotations

from collections.abc import Sequence

from edge.errors import EdgeError
from edge.request import Request


def check_request(request: Request, *, vocabulary_size: int, context_tokens: int) -> None:
    """EdgeError for a request that cannot be answered. `context_tokens` is what one request may hold."""
    prompt_tokens = len(request.prompt_tokens)
    if not prompt_tokens:
        raise EdgeError("The prompt is empty.", hint="Give at least one token.")
    if prompt_tokens >= context_tokens:
        raise EdgeError(
            f"The prompt has {prompt_tokens} tokens, the context holds {context_tokens}.",
            hint="Shorten the prompt or ask for a longer context with --ctx.",
        )
    _check_ids("The prompt has", request.prompt_tokens, vocabulary_size)
    _check_ids("stop_tokens has", request.stop_tokens, vocabulary_size)
    _check_numbers(request)


def _check_ids(where: str, tokens: Sequence[int], vocabulary_size: int) -> None:
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocabulary_size):
        raise EdgeError(
            f"{where} token ids outside of the vocabulary of {vocabulary_size} tokens.",
            hint="Make the tokens with the vocabulary of the same model.",
        )


def _check_numbers(request: Request) -> None:
    if request.max_tokens is not None and request.max_tokens < 1:
        raise EdgeError(f"max_tokens is {request.max_tokens}.", hint="Ask for at least 1 token.")
    if request.min_tokens < 0:
        raise EdgeError(f"min_tokens is {request.min_tokens}.", hint="Ask for at least 0 tokens.")
    if request.max_tokens is not None and request.min_tokens > request.max_tokens:
        raise EdgeError(
            f"min_tokens is {request.min_tokens}, max_tokens {request.max_tokens}.", hint="Ask for at most max_tokens."
        )
    if request.logprobs is not None and request.logprobs < 0:
        raise EdgeError(f"logprobs is {request.logprobs}.", hint="Ask for the log probabilities of 0 tokens or more.")
    if request.deadline_seconds is not None and not request.deadline_seconds > 0:
        raise EdgeError(
            f"deadline_seconds is {request.deadline_seconds}.", hint="Give the seconds that the request may take."
        )
