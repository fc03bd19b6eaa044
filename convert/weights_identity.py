"""By which a set of weights is known again, whatever it is called and however it is cut into files."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from convert.safetensors_file import SourceTensor
from edge.errors import EdgeError

SAMPLE_BYTES = 4096
"""Read of each tensor. Training changes every tensor, so the beginnings tell a fine-tune from its base."""


def weights_sha256(tensors: Mapping[str, SourceTensor]) -> str:
    """A digest over the name, type, shape and first bytes of each tensor and of what is added to it, hex.

    It costs a page of each tensor, and is written into every model that is converted: so an adapter can tell later
    whether it belongs to a GGUF file.
    """
    digest = hashlib.sha256()
    with contextlib.ExitStack() as cleanup:
        files: dict[Path, BinaryIO] = {}
        for name, tensor in sorted(tensors.items()):
            for part, scale in _parts(tensor):
                if part.file not in files:
                    files[part.file] = cleanup.enter_context(_opened(part.file))
                digest.update(f"{name}\n{scale!r}\n{part.dtype}\n{list(part.shape)}\n".encode())
                files[part.file].seek(part.offset)
                digest.update(files[part.file].read(min(part.n_bytes, SAMPLE_BYTES)))
    return digest.hexdigest()


def _parts(tensor: SourceTensor) -> Iterator[tuple[SourceTensor, float]]:
    yield tensor, 1.0
    for addition in tensor.additions:
        yield addition.left, addition.scale
        yield addition.right, addition.scale


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.") from error
