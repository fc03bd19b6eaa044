"""What a file says of its own proof: a BOOL for each check, written as false and set when the check has passed.

A file is complete before it can be checked, so the values change in place and nothing else does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from convert.gguf_header import entry_bytes
from edge.gguf_format import MetadataEntry, ValueType

CHECKS = {
    "tensors": "every tensor is there, finite, and within its type's error of the source",
    "tokens": "token ids are those of the checkpoint's tokenizer",
    "template": "the chat template writes what Jinja writes with the checkpoint's",
    "forward": "llama.cpp loads the file and computes finite logits",
}


def proof_entries() -> list[MetadataEntry]:
    """The keys of a file that nothing was proven of yet."""
    return [MetadataEntry(_key(name), ValueType.BOOL, False) for name in CHECKS]


def mark_passed(path: Path, header_bytes: int, checks: Iterable[str]) -> None:
    """Say in a file, whose header is so long, that these checks have passed."""
    with path.open("r+b") as file:
        header = file.read(header_bytes)
        for name in checks:
            entry = entry_bytes(MetadataEntry(_key(name), ValueType.BOOL, False))
            start = header.rfind(entry)
            assert start >= 0, f"{path} was planned without {_key(name)}"
            file.seek(start + len(entry) - 1)
            file.write(b"\1")
        file.flush()
        os.fsync(file.fileno())


def _key(name: str) -> str:
    return f"general.proof.{name}"
