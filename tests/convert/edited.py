"""Checkpoints with other weights than they had: tensors taken out, put in or changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.checkpoint import ShardMaps, read_checkpoint
from convert.safetensors_file import write_safetensors

NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64}


@dataclass
class Weights:
    """A tensor as it is stored; bfloat16 as the integers that hold its bits."""

    dtype: str
    values: npt.NDArray[Any]


def stored(values: npt.ArrayLike, dtype: str = "F32") -> Weights:
    """Values as a tensor of the file; bfloat16 is cut off, not rounded."""
    if dtype == "BF16":
        bits = np.asarray(values, np.float32).view(np.uint32) >> np.uint32(16)
        return Weights(dtype, bits.astype(np.uint16))
    return Weights(dtype, np.asarray(values, NUMPY_TYPES[dtype]))


def floats(tensor: Weights) -> npt.NDArray[np.float32]:
    """The values of a stored tensor."""
    if tensor.dtype == "BF16":
        return (tensor.values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return tensor.values.astype(np.float32)


def edited_weights(source: Path, folder: Path, edit: Callable[[dict[str, Weights]], None]) -> Path:
    """A copy of a checkpoint in `folder`, its tensors by name as `edit` left them, in one file."""
    shutil.copytree(source, folder)
    with ShardMaps() as maps:
        weights = {
            name: Weights(tensor.dtype, maps.rows(tensor, 0, tensor.rows).reshape(tensor.shape).copy())
            for name, tensor in read_checkpoint(source).tensors.items()
        }
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        path.unlink()
    edit(weights)
    write_safetensors(
        folder / "model.safetensors",
        [(name, tensor.dtype, tensor.values.shape, tensor.values.tobytes) for name, tensor in weights.items()],
    )
    return folder


def edited_json(source: Path, folder: Path, file: str = "config.json", **changes: Any) -> Path:
    """A copy of a checkpoint in `folder` with other values in one of its JSON files; None takes a key out."""
    shutil.copytree(source, folder)
    path = folder / file
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in document.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return folder
