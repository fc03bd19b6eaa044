"""Writes tiny checkpoints as folders."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from convert.safetensors_file import write_safetensors
from tests.tiny.checkpoint import TinyCheckpoint
from tests.tiny.weights import bfloat16, tensor_values

TOKENIZERS = Path(__file__).parents[1] / "tokenizers"


def write_checkpoint(checkpoint: TinyCheckpoint, directory: Path) -> Path:
    """Writes a checkpoint into a new folder of `directory` and gives the folder."""
    folder = directory / checkpoint.name
    shutil.copytree(TOKENIZERS / checkpoint.tokenizer, folder)
    _write_json(folder / "config.json", checkpoint.config)
    generation = {"_from_model_config": True, "transformers_version": checkpoint.config["transformers_version"]}
    _write_json(folder / "generation_config.json", {**generation, **checkpoint.generation_config})
    _write_weights(folder, checkpoint)
    return folder


def weights_sha256(folder: Path) -> str:
    """Digest of the safetensors files in `folder`, by which golden logits know their checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write_weights(folder: Path, checkpoint: TinyCheckpoint) -> None:
    def tensor_bytes(name: str) -> bytes:
        return bfloat16(tensor_values(checkpoint, name, shapes[name])).tobytes()

    shapes = dict(sorted(checkpoint.shapes(checkpoint.config).items()))
    files = _shard_names(shapes, checkpoint.shards)
    for file in dict.fromkeys(files.values()):
        names = [name for name in shapes if files[name] == file]
        entries = [(name, "BF16", shapes[name], partial(tensor_bytes, name)) for name in names]
        write_safetensors(folder / file, entries, {"format": "pt"})
    if checkpoint.shards > 1:
        parameters = sum(map(math.prod, shapes.values()))
        metadata = {"total_parameters": parameters, "total_size": 2 * parameters}
        _write_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": files})


def _shard_names(shapes: Mapping[str, tuple[int, ...]], shards: int) -> dict[str, str]:
    """The file of each tensor: consecutive tensors, about as many bytes in each file."""
    if shards == 1:
        return dict.fromkeys(shapes, "model.safetensors")
    total = sum(map(math.prod, shapes.values()))
    names, written = {}, 0
    for name, shape in shapes.items():
        names[name] = f"model-{written * shards // total + 1:05d}-of-{shards:05d}.safetensors"
        written += math.prod(shape)
    return names


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
