"""Adapters with other settings or matrices than they had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.safetensors_file import read_safetensors_header, write_safetensors
from convert.shards import ShardMaps
from tests.convert.edited import Weights

Tensors = dict[str, Weights]


def edited_adapter(
    source: Path, folder: Path, edit: Callable[[Tensors], object] = lambda tensors: None, **settings: Any
) -> Path:
    """A copy of an adapter in `folder`, with other settings and its tensors by name as `edit` left them."""
    shutil.copytree(source, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    weights = folder / "adapter_model.safetensors"
    with ShardMaps() as maps:
        tensors = {
            name: Weights(tensor.dtype, maps.rows(tensor, 0, tensor.rows).reshape(tensor.shape).copy())
            for name, tensor in read_safetensors_header(weights).tensors.items()
        }
    edit(tensors)
    weights.unlink()
    write_safetensors(
        weights, [(name, tensor.dtype, tensor.values.shape, tensor.values.tobytes) for name, tensor in tensors.items()]
    )
    return folder
