"""Bodies of OpenAI's `/v1/embeddings`, and vectors to its answers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.openai_completions import parse_prompts
from edge.openai_fields import BodyError, Fields

_KNOWN = ["input", "model", "encoding_format", "dimensions", "user"]


@dataclass(frozen=True)
class EmbeddingsBody:
    """Texts, or their token ids, that are to become vectors. `dimensions`: how many numbers are expected in each."""

    inputs: tuple[str | tuple[int, ...], ...]
    model: str | None
    is_base64: bool
    dimensions: int | None


def parse_embeddings(value: object) -> EmbeddingsBody:
    """A body out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_KNOWN)
    body.text("user")
    encoding = body.choice("encoding_format", ("float", "base64"))
    inputs = parse_prompts(body, "input")
    if "" in inputs:
        raise BodyError("input has an empty text.", hint="Leave it out.", field="input")
    return EmbeddingsBody(inputs, body.text("model"), encoding == "base64", body.integer("dimensions", 1))


def check_dimensions(body: EmbeddingsBody, vector: Sequence[float]) -> None:
    """BodyError if other vectors are expected than the model makes: a cut one would mean something else."""
    if body.dimensions not in (None, len(vector)):
        raise BodyError(
            f"dimensions is {body.dimensions}; this model's vectors have {len(vector)}.",
            hint="Leave it out.",
            field="dimensions",
        )


def embeddings_body(
    body: EmbeddingsBody, vectors: Sequence[Sequence[float]], tokens: int, model: str
) -> dict[str, Any]:
    """A list of `embedding` objects. `tokens` is how many the inputs had together."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if body.is_base64 else list(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    """float32 values, lowest byte first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
