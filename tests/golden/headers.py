"""What llama.cpp's own converter wrote for tiny checkpoints, as the files in `headers` hold it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "headers"
LONGEST_LIST = 16  # longer ones are stored as a digest


@dataclass(frozen=True)
class Header:
    """The keys of a file, and of each tensor its type, its shape (columns first) and the sha256 of its bytes."""

    keys: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...], str]]


def read_header(name: str) -> Header:
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    tensors = {name: (kind, tuple(shape), digest) for name, (kind, shape, digest) in document["tensors"].items()}
    return Header(document["keys"], tensors)


def stored_value(value: Any) -> Any:
    """A key's value as it is stored: long lists and texts by their digest."""
    if isinstance(value, str):
        return value if len(value) < 200 else _digest(value)
    if isinstance(value, Sequence):
        values = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
        return values if len(values) <= LONGEST_LIST else _digest(json.dumps(values))
    return value


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
