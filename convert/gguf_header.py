"""Serializes the part of a GGUF file that stands before the tensor data.

    magic "GGUF" | version u32 | tensor count u64 | key count u64
    each key:    name string | value type u32 | value         (array: element type u32 | count u64 | elements)
    each tensor: name string | dimension count u32 | dimensions u64, columns first | type u32 | offset u64
    padding to the alignment; offsets count from there
    string: length u64 | UTF-8 bytes

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from edge.errors import EdgeError
from edge.gguf_format import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALAR_CODES,
    VERSION,
    MetadataEntry,
    TensorType,
    ValueType,
    align,
)

Scalar = bool | int | float | str | bytes


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as the header lists it: `shape` outermost dimension first, `offset` in bytes from the data's start."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def n_bytes(self) -> int:
        """What the tensor takes in the header."""
        return len(_tensor_bytes(self))


def header_bytes(metadata: Sequence[MetadataEntry], tensors: Sequence[TensorHeader]) -> bytes:
    """The header, padded so that tensor data may follow at once. EdgeError for a value that its type cannot hold."""
    out = bytearray(struct.pack("<4sIQQ", MAGIC, VERSION, len(tensors), len(metadata)))
    for entry in metadata:
        out += entry_bytes(entry)
    for tensor in tensors:
        out += _tensor_bytes(tensor)
    out += bytes(align(len(out), DEFAULT_ALIGNMENT) - len(out))
    return bytes(out)


def _tensor_bytes(tensor: TensorHeader) -> bytes:
    rank = len(tensor.shape)
    place = struct.pack(f"<I{rank}QIQ", rank, *reversed(tensor.shape), tensor.type.id, tensor.offset)
    return _string(tensor.name) + place


def entry_bytes(entry: MetadataEntry) -> bytes:
    """A key and its value as they stand in the header."""
    try:
        return _string(entry.key) + _value(entry)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise EdgeError(
            f"The key {entry.key} cannot be written: {error}.", hint="Look for it in the checkpoint's JSON files."
        ) from error


def _value(entry: MetadataEntry) -> bytes:
    if entry.type is not ValueType.ARRAY:
        return struct.pack("<I", entry.type) + _scalars(entry.type, [cast(Scalar, entry.value)])
    elements = cast(Sequence[Scalar], entry.value)
    assert entry.element_type is not None, f"{entry.key} is an array without an element type"
    head = struct.pack("<IIQ", entry.type, entry.element_type, len(elements))
    return head + _scalars(entry.element_type, elements)


def _scalars(kind: ValueType, values: Sequence[Scalar]) -> bytes:
    if kind is ValueType.STRING:
        return _strings(cast(Iterable[str | bytes], values))
    return struct.pack(f"<{len(values)}{SCALAR_CODES[kind]}", *values)


def _strings(values: Iterable[str | bytes]) -> bytes:
    return b"".join(map(_string, values))


def _string(value: str | bytes) -> bytes:
    encoded = value if isinstance(value, bytes) else value.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded
