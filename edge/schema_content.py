"""JSON Schema's keywords for what a string holds: `contentEncoding`, `contentMediaType` and `contentSchema`.

The standard leaves them to who reads the string. Here they are checked where they can be, and else refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from typing import Any

from edge.errors import EdgeError
from edge.schema_check import Schema

CONTENT_KEYWORDS = frozenset({"contentEncoding", "contentMediaType", "contentSchema"})
_DECODERS: dict[str, Callable[[str], bytes]] = {
    "base64": lambda text: base64.b64decode(text, validate=True),
    "base32": base64.b32decode,
    "base16": base64.b16decode,
    "7bit": lambda text: text.encode("ascii"),
    "8bit": lambda text: text.encode(),
}
_JSON = "application/json"


def content_problem(schema: Schema) -> str:
    """Why what a string of this schema holds cannot be checked; empty if it can."""
    encoding, media_type = schema.get("contentEncoding", "8bit"), schema.get("contentMediaType", _JSON)
    if encoding not in _DECODERS:
        return f"the contentEncoding {encoding!r} (known are {', '.join(_DECODERS)})"
    if "contentSchema" in schema and "contentMediaType" not in schema:
        return "contentSchema without contentMediaType"
    return "" if media_type == _JSON else f"the contentMediaType {media_type!r} (known is {_JSON})"


def check_content(validator: Any, value: Any, instance: object, schema: Schema) -> Iterator[Exception]:
    """For each of the keywords, what is wrong with a string, as jsonschema asks for it."""
    from jsonschema import ValidationError

    if not isinstance(instance, str):
        return
    try:
        content = _DECODERS[schema.get("contentEncoding", "8bit")](instance)
        decoded = json.loads(content) if "contentMediaType" in schema else None
    except (ValueError, binascii.Error, RecursionError):
        yield ValidationError(f"{instance!r} does not hold what is asked for: {value!r}")
        return
    if value is schema.get("contentSchema"):
        yield from validator.descend(decoded, value)


def refuse_unknown_content(schema: Schema, pointer: str) -> None:
    """EdgeError where what a string has to hold can neither be enforced nor checked."""
    problem = content_problem(schema) if CONTENT_KEYWORDS & schema.keys() else ""
    if problem:
        raise EdgeError(
            f"The JSON Schema has at {pointer} {problem}, which can neither be enforced nor checked.",
            hint="Say it with a pattern, or leave it out.",
        )
