"""By which a set of weights is known again, whatever it is called and however it is cut into files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from convert.safetensors_file import SourceTensor
from edge.errors import EdgeError

WEIGHTS_KEY = "edge.source.weights_sha256"
BASE_KEY = "edge.adapter.base_sha256"
SAMPLE_BYTES = 4096
"""Read of each tensor. Training changes every tensor, so the beginnings tell a fine-tune from its base."""


def weights_sha256(tensors: Mapping[str, SourceTensor]) -> str:
    """A digest over the name, type, shape and first bytes of each tensor, hex.

    It costs a page of each tensor, and is written into every model that is converted: so an adapter can tell later
    whether it belongs to a GGUF file.
    """
    digest = hashlib.sha256()
    files: dict[Path, BinaryIO] = {}
    try:
        for name, tensor in sorted(tensors.items()):
            file = files.get(tensor.file) or files.setdefault(tensor.file, tensor.file.open("rb"))
            file.seek(tensor.offset)
            digest.update(f"{name}\n{tensor.dtype}\n{list(tensor.shape)}\n".encode())
            digest.update(file.read(min(tensor.n_bytes, SAMPLE_BYTES)))
    except OSError as error:
        raise EdgeError(f"{error.filename} cannot be read: {error.strerror or error}.") from error
    finally:
        for file in files.values():
            file.close()
    return digest.hexdigest()
