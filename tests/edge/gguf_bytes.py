"""GGUF files put together from their fields, so that a test can make any one of them wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from edge.gguf_format import SCALAR_CODES, ValueType, align

F32, F16, Q8_0 = 0, 1, 8


def text(value: str | bytes) -> bytes:
    """A length and the characters: what keys, names and strings are in the file."""
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def string(value: str | bytes) -> bytes:
    """A string with its type tag, as it follows a key."""
    return struct.pack("<I", ValueType.STRING) + text(value)


def scalar(kind: ValueType, value: float) -> bytes:
    return struct.pack("<I" + SCALAR_CODES[kind], kind, value)


def array(kind: ValueType, values: Sequence[float] | Sequence[str] | Sequence[bytes]) -> bytes:
    head = struct.pack("<IIQ", ValueType.ARRAY, kind, len(values))
    if kind is ValueType.STRING:
        return head + b"".join(text(value) for value in values)  # type: ignore[arg-type]
    return head + struct.pack(f"<{len(values)}{SCALAR_CODES[kind]}", *values)


def tensor(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


@dataclass(frozen=True)
class Document:
    """The parts of a file; `entries` are keys with the bytes after them, counts are those of the parts if not given."""

    entries: Sequence[tuple[str | bytes, bytes]] = ()
    tensors: Sequence[bytes] = ()
    weights: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    architecture: str | None = "llama"
    tensor_count: int | None = None
    entry_count: int | None = None

    def to_bytes(self) -> bytes:
        entries = [*self.entries]
        if self.architecture is not None:
            entries.insert(0, ("general.architecture", string(self.architecture)))
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entry_count = len(entries) if self.entry_count is None else self.entry_count
        header = self.magic + struct.pack("<IQQ", self.version, tensor_count, entry_count)
        header += b"".join(text(key) + value for key, value in entries) + b"".join(self.tensors)
        return header.ljust(align(len(header), self.alignment), b"\0") + self.weights if self.tensors else header
