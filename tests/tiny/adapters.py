"""Tiny LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors.

Like the checkpoints they change, their weights follow from their names. They are large enough that leaving one out, or
scaling it wrongly, moves the logits far.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.safetensors_file import write_safetensors
from tests.tiny import TINY, tensor_shapes
from tests.tiny.weights import bfloat16, noise

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TinyAdapter:
    """What to write. `ranks` are those of modules, by the end of their name, that differ from `rank`."""

    name: str
    base: str
    rank: int
    alpha: float
    modules: tuple[str, ...] = (*ATTENTION, *FEED_FORWARD)
    layers: tuple[int, ...] | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of adapter_config.json."""
    tensor_suffix: str = ""
    """What stands between `lora_A` and `.weight`: older versions of PEFT write the adapter's name there."""
    dtype: str = "BF16"

    @property
    def config(self) -> dict[str, Any]:
        return {
            "alpha_pattern": {},
            "auto_mapping": None,
            "base_model_name_or_path": f"edge-tests/{self.base}",
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "layer_replication": None,
            "layers_pattern": None,
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "lora_alpha": self.alpha,
            "lora_bias": False,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "r": self.rank,
            "rank_pattern": {},
            "target_modules": list(self.modules),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
            **self.settings,
        }


_ADAPTERS = (
    # grouped heads whose query and key rows stand in another order in GGUF
    TinyAdapter("llama3-plain", "llama3", rank=8, alpha=16),
    TinyAdapter("llama3-attention", "llama3", rank=4, alpha=8, modules=ATTENTION, layers=(1, 5), dtype="F32"),
    # embeddings and output, which only a checkpoint that does not tie them can have
    TinyAdapter(
        "llama2-embeddings",
        "llama2",
        rank=4,
        alpha=4,
        modules=("embed_tokens", "lm_head", "q_proj", "down_proj"),
        tensor_suffix=".default",
    ),
    # beside biases, which an adapter leaves alone
    TinyAdapter("qwen2-rslora", "qwen2", rank=4, alpha=4, settings={"use_rslora": True}),
    TinyAdapter(
        "gemma2-patterns",
        "gemma2",
        rank=8,
        alpha=8,
        ranks={"layers.1.self_attn.q_proj": 4, "down_proj": 6},
        settings={
            "alpha_pattern": {"k_proj": 32, r"layers\.2\.mlp\.(gate|up)_proj": 2.5},
            "rank_pattern": {r"^model\.layers\.1\.self_attn\.q_proj": 4, "down_proj": 6},
            "target_modules": r".*\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
        },
        dtype="F16",
    ),
)
ADAPTERS: dict[str, TinyAdapter] = {adapter.name: adapter for adapter in _ADAPTERS}


def write_tiny_adapter(name: str, directory: Path) -> Path:
    """Writes the adapter `name` of `ADAPTERS` into a new folder of `directory` and gives the folder."""
    return write_adapter(ADAPTERS[name], directory)


def write_adapter(adapter: TinyAdapter, directory: Path) -> Path:
    folder = directory / adapter.name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter.config, indent=2) + "\n", encoding="utf-8")
    tensors = [
        (tensor, adapter.dtype, shape, partial(_tensor_bytes, adapter, tensor, shape))
        for tensor, shape in sorted(_tensor_shapes(adapter))
    ]
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    return folder


def _tensor_shapes(adapter: TinyAdapter) -> Iterator[tuple[str, tuple[int, int]]]:
    for weight, shape in tensor_shapes(TINY[adapter.base]).items():
        module = weight.removesuffix(".weight")
        if not module.endswith(adapter.modules) or not _is_chosen_layer(adapter, module):
            continue
        rank = next((rank for end, rank in adapter.ranks.items() if module.endswith(end)), adapter.rank)
        outputs, inputs = shape
        prefix = f"base_model.model.{module}"
        if module.endswith("embed_tokens"):
            yield f"{prefix}.lora_embedding_A{adapter.tensor_suffix}", (rank, outputs)
            yield f"{prefix}.lora_embedding_B{adapter.tensor_suffix}", (inputs, rank)
        else:
            yield f"{prefix}.lora_A{adapter.tensor_suffix}.weight", (rank, inputs)
            yield f"{prefix}.lora_B{adapter.tensor_suffix}.weight", (outputs, rank)


def _is_chosen_layer(adapter: TinyAdapter, module: str) -> bool:
    if adapter.layers is None or ".layers." not in module:
        return True
    return int(module.split(".layers.")[1].split(".")[0]) in adapter.layers


def _tensor_bytes(adapter: TinyAdapter, name: str, shape: tuple[int, int]) -> bytes:
    values = _tensor_values(adapter, name, shape)
    if adapter.dtype == "BF16":
        return bfloat16(values).tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4"}[adapter.dtype]).tobytes()


def _tensor_values(adapter: TinyAdapter, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Products of both have about the size of a checkpoint's weights, halved."""
    gain = 0.5 if "_B" in name else 1.0
    if "lora_A" in name:
        gain /= math.sqrt(shape[1] / 4)
    if "embedding" in name:
        gain *= 0.3
    return noise(f"{adapter.name}/{name}", math.prod(shape)).reshape(shape) * np.float32(gain)
