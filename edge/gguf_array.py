"""The arrays of GGUF metadata: kept as the bytes of the file, decoded when asked.

A vocabulary has hundreds of thousands of elements, and most readers of a file want none of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

from edge.gguf_format import SCALAR_CODES, ValueType


class FixedArray(Sequence[int | float | bool]):
    """An array of numbers or booleans, kept as the bytes of the file and decoded when asked."""

    def __init__(self, element_type: ValueType, raw: bytes) -> None:
        self.element_type = element_type
        self.raw = raw
        """The elements as they stand in the file: little-endian, packed."""
        self._code = SCALAR_CODES[element_type]
        self._element_bytes = struct.calcsize("<" + self._code)

    def __len__(self) -> int:
        return len(self.raw) // self._element_bytes

    def __iter__(self) -> Iterator[int | float | bool]:
        return iter(struct.unpack(f"<{len(self)}{self._code}", self.raw))

    @overload
    def __getitem__(self, index: int) -> int | float | bool: ...
    @overload
    def __getitem__(self, index: slice) -> list[int | float | bool]: ...
    def __getitem__(self, index: int | slice) -> int | float | bool | list[int | float | bool]:
        if isinstance(index, slice):
            return [self._element(place) for place in range(*index.indices(len(self)))]
        return self._element(range(len(self))[index])

    def _element(self, place: int) -> int | float | bool:
        value: int | float | bool = struct.unpack_from("<" + self._code, self.raw, place * self._element_bytes)[0]
        return value


class StringArray(Sequence[str]):
    """An array of strings, decoded when asked.

    Vocabularies may hold tokens that are no UTF-8 by themselves, so an element may be any bytes: what does not decode
    is kept by surrogate escapes, and `bytes_at` gives the bytes of the file.
    """

    element_type = ValueType.STRING

    def __init__(self, raw: bytes, starts: Sequence[int]) -> None:
        self._raw = raw
        self._starts = starts  # where each element's length field starts in `raw`

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        return (element.decode("utf-8", "surrogateescape") for element in self.iter_bytes())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.bytes_at(index).decode("utf-8", "surrogateescape")

    def bytes_at(self, index: int) -> bytes:
        """The element as it stands in the file."""
        place = range(len(self))[index]
        end = self._starts[place + 1] if place + 1 < len(self) else len(self._raw)
        return self._raw[self._starts[place] + 8 : end]

    def iter_bytes(self) -> Iterator[bytes]:
        """Every element as it stands in the file, in order."""
        raw = self._raw
        start = 8
        for following in self._starts[1:]:
            yield raw[start:following]
            start = following + 8
        if self._starts:
            yield raw[start:]


Value: TypeAlias = bool | int | float | str | FixedArray | StringArray
