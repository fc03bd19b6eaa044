"""How the files of a split model are named, and which keys tie them together.

Source: llama.cpp's llama_split_path in src/llama.cpp, and tools/gguf-split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.gguf_format import MetadataEntry, ValueType

NUMBER_KEY = "split.no"
COUNT_KEY = "split.count"
TENSOR_COUNT_KEY = "split.tensors.count"
MAX_PARTS = (1 << 16) - 1  # split.count is a UINT16

_NAME = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class PartName:
    """One file of a split model by its name: `number` counts from 1, as in the name."""

    model: str
    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.model}-{self.number:05}-of-{self.count:05}.gguf"

    def all(self) -> list[PartName]:
        """Every part of the same model, in order."""
        return [PartName(self.model, number, self.count) for number in range(1, self.count + 1)]


def parse_part_name(name: str) -> PartName | None:
    """What the name of a file says of its place in a split model; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return None
    return PartName(match["model"], int(match["number"]), int(match["count"]))


def part_paths(path: Path, count: int) -> list[Path]:
    """Where the parts of a model go that would be `path` as one file."""
    return [path.with_name(str(name)) for name in PartName(path.stem, 1, count).all()]


def split_entries(number: int, count: int, tensor_count: int) -> list[MetadataEntry]:
    """The keys of part `number`, counted from 1, of a model with so many parts and tensors."""
    return [
        MetadataEntry(NUMBER_KEY, ValueType.UINT16, number - 1),
        MetadataEntry(COUNT_KEY, ValueType.UINT16, count),
        MetadataEntry(TENSOR_COUNT_KEY, ValueType.INT32, tensor_count),
    ]


def why_no_part(entries: Mapping[str, MetadataEntry], name: PartName | None) -> str:
    """Why a file that says it is a part cannot be one, as the end of a sentence; "" when it can.

    llama.cpp ends the process when a key is of another type.
    """
    number, count = entries.get(NUMBER_KEY), entries.get(COUNT_KEY)
    if number is None or count is None or {number.type, count.type} != {ValueType.UINT16}:
        return f"says that it is part of a split model, but {NUMBER_KEY} and {COUNT_KEY} are not both UINT16"
    assert isinstance(number.value, int) and isinstance(count.value, int)
    place = f"part {number.value + 1} of {count.value}"
    if number.value >= count.value:
        return f"claims to be {place}"
    if name is None:
        return f"is {place} of a split model, which its name does not say"
    if (name.number, name.count) != (number.value + 1, count.value):
        return f"is {place} of a split model, but its name says part {name.number} of {name.count}"
    return ""
