"""What llama.cpp's own quantizer chooses for the tensors of a made-up model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from convert.gguf_header import TensorHeader, header_bytes
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType, align
from edge.llama import log
from edge.llama.quantize import FileQuantization, quantize_file

VOCABULARY = 4
HEADS = 8

Shapes = dict[str, tuple[int, ...]]

# [  1/  11] token_embd.weight - [ 256, 4, 1, 1], type = bf16, size = 0.00 MiB -> 0.00 MiB (q4_K)
_CHOICE = re.compile(r"\] +(?P<name>\S+) +- \[.*?type = +(?P<stored>\w+),(?:.*\((?P<chosen>\w+)\))?")


@dataclass(frozen=True)
class MadeUpModel:
    """The keys that the quantizer asks for."""

    layers: int
    architecture: str = "llama"
    key_heads: int = HEADS
    experts: int = 0


def decoder_shapes(
    layers: int, *, hidden: int = 256, feed_forward: int = 256, tied: bool = False, experts: int = 0
) -> Shapes:
    """The tensors of a llama-like model. The quantizer does not care how many rows there are."""
    shapes: Shapes = {"token_embd.weight": (VOCABULARY, hidden)}
    stack = (experts,) if experts else ()
    suffix = "_exps" if experts else ""
    for block in range(layers):
        parts: Shapes = {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (2, hidden)),
            **{f"{name}{suffix}": (*stack, 2, hidden) for name in ("ffn_gate", "ffn_up")},
            f"ffn_down{suffix}": (*stack, 2, feed_forward),
        }
        if experts:
            parts["ffn_gate_inp"] = (experts, hidden)
            if block % 2:  # a shared expert in some of the blocks, so that ranks and blocks differ
                parts["ffn_down_shexp"] = (2, feed_forward)
        shapes |= {f"blk.{block}.{name}.weight": shape for name, shape in parts.items()}
        shapes[f"blk.{block}.attn_norm.weight"] = (hidden,)
        shapes[f"blk.{block}.attn_v.bias"] = (2,)
    shapes["output_norm.weight"] = (hidden,)
    return shapes if tied else {**shapes, "output.weight": (VOCABULARY, hidden)}


def write_model(path: Path, shapes: Shapes, model: MadeUpModel) -> Path:
    """A GGUF file of BF16 matrices and F32 vectors, all zero."""
    tensors, end = [], 0
    for name, shape in shapes.items():
        is_vector = len(shape) < 2 or "ffn_gate_inp" in name
        kind = TENSOR_TYPES["F32" if is_vector else "BF16"]
        tensors.append(TensorHeader(name, shape, kind, align(end, 32)))
        count = 1
        for size in shape[:-1]:
            count *= size
        end = tensors[-1].offset + count * kind.row_bytes(shape[-1])
    header = header_bytes(model_keys(model), tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(align(len(header) + end, 32))
    return path


def model_keys(model: MadeUpModel) -> list[MetadataEntry]:
    numbers = {
        "block_count": model.layers,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 256,
        "attention.head_count": HEADS,
        "attention.head_count_kv": model.key_heads,
        "vocab_size": VOCABULARY,
    }
    if model.experts:
        numbers |= {"expert_count": model.experts, "expert_used_count": 2}
    prefix = model.architecture
    return [
        MetadataEntry("general.architecture", ValueType.STRING, prefix),
        *(MetadataEntry(f"{prefix}.{name}", ValueType.UINT32, value) for name, value in numbers.items()),
        MetadataEntry(f"{prefix}.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
    ]


def llama_cpp_types(source: Path, wanted: FileQuantization) -> dict[str, str]:
    """The type of each tensor, read from the log of a trial run, which writes nothing."""
    assert wanted.is_trial
    with log.recorded() as lines:
        quantize_file(source, source.with_suffix(".none"), wanted, threads=1)
    found = re.finditer(_CHOICE, "".join(lines))
    names = {name.lower(): name for name in TENSOR_TYPES}
    return {choice["name"]: names[(choice["chosen"] or choice["stored"]).lower()] for choice in found}
