"""Qwen 3.5: most layers have a gated delta net, which remembers a state, instead of attention over all tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag, positive_integer
from convert.families.parts import (
    DECODER_KEYS,
    EMBEDDING,
    FEED_FORWARD,
    OUTPUT,
    OUTPUT_NORM,
    QUERY_KEY_NORMS,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Family, KeyRule, LeftOut, TensorRule
from convert.hyperparameters import Hyperparameters
from convert.transforms import ADD_ONE, NEGATIVE_EXPONENTIAL, Floats, Transform
from edge.errors import EdgeError
from edge.gguf_format import ValueType

_LINEAR, _FULL = "linear_attention", "full_attention"

# Source: transformers, Qwen3_5TextConfig
_DEFAULTS = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "partial_rotary_factor": 0.25,
}
_ROPE_SECTIONS = [11, 11, 10]


def _size(name: str) -> Callable[[Hyperparameters], int]:
    return lambda shape: positive_integer(shape.config, name)


_KEY_HEADS, _VALUE_HEADS = _size("linear_num_key_heads"), _size("linear_num_value_heads")
_KEY_DIM, _VALUE_DIM = _size("linear_key_head_dim"), _size("linear_value_head_dim")


def _keys(shape: Hyperparameters) -> int:
    return _KEY_HEADS(shape) * _KEY_DIM(shape)


def _values(shape: Hyperparameters) -> int:
    return _VALUE_HEADS(shape) * _VALUE_DIM(shape)


def _mixed(shape: Hyperparameters) -> int:
    return 2 * _keys(shape) + _values(shape)


def is_recurrent(shape: Hyperparameters) -> list[bool]:
    """Whether each layer has a state instead of attention."""
    layer_types = shape.config.get("layer_types")
    if layer_types is None:
        interval = positive_integer(shape.config, "full_attention_interval", default=4)
        return [(block + 1) % interval != 0 for block in range(shape.layers)]
    if not isinstance(layer_types, list) or len(layer_types) != shape.layers or set(layer_types) - {_LINEAR, _FULL}:
        raise EdgeError(
            f"config.json gives layer_types as {layer_types!r}.",
            hint=f"It must name one of {_LINEAR} and {_FULL} for each of {shape.layers} layers.",
        )
    return [kind == _LINEAR for kind in layer_types]


def _heads_in_turn(shape: Hyperparameters) -> Iterator[int]:
    """Value heads as llama.cpp has them: the first of each key head, the second of each, and so on.

    transformers has those of a key head side by side. Source: llama.cpp, conversion/qwen.py, _reorder_v_heads.
    """
    heads, each = _KEY_HEADS(shape), _VALUE_HEADS(shape) // _KEY_HEADS(shape)
    return (key * each + value for value in range(each) for key in range(heads))


def _value_rows(rows_per_head: Callable[[Hyperparameters], int], kept: Callable[[Hyperparameters], int]) -> Any:
    """The order of rows of which those behind the first `kept` belong to value heads."""

    def order(shape: Hyperparameters) -> Sequence[tuple[int, int]]:
        first, rows = kept(shape), rows_per_head(shape)
        runs = [(first + head * rows, first + (head + 1) * rows) for head in _heads_in_turn(shape)]
        return [(0, first), *runs] if first else runs

    return order


def _reorder_value_columns(slab: Floats, shape: Hyperparameters) -> Floats:
    heads = slab.reshape(len(slab), _VALUE_HEADS(shape), _VALUE_DIM(shape))
    return np.ascontiguousarray(heads[:, list(_heads_in_turn(shape))]).reshape(slab.shape)


_VALUE_COLUMNS = Transform("value head columns", _reorder_value_columns, lambda shape: 1)


def _in_recurrent_layers(shape: Hyperparameters, block: int) -> bool:
    return is_recurrent(shape)[block]


def _in_attention_layers(shape: Hyperparameters, block: int) -> bool:
    return not is_recurrent(shape)[block]


def _linear(target: MODEL_TENSOR, name: str, *shape: str, **rest: Any) -> TensorRule:
    return per_block(target, f"linear_attn.{name}", *shape, is_in_layer=_in_recurrent_layers, **rest)


def _full(target: MODEL_TENSOR, name: str, *shape: str) -> TensorRule:
    return per_block(target, f"self_attn.{name}", *shape, is_in_layer=_in_attention_layers)


_MIXED_ROWS = _value_rows(_VALUE_DIM, lambda shape: 2 * _keys(shape))
_VALUE_ROWS = _value_rows(_VALUE_DIM, lambda shape: 0)
_HEAD_ROWS = _value_rows(lambda shape: 1, lambda shape: 0)
_TENSORS = (
    EMBEDDING,
    per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight", "hidden", transform=ADD_ONE),
    _full(MODEL_TENSOR.ATTN_Q, "q_proj.weight", "query_and_gate", "hidden"),
    _full(MODEL_TENSOR.ATTN_K, "k_proj.weight", "key_value", "hidden"),
    _full(MODEL_TENSOR.ATTN_V, "v_proj.weight", "key_value", "hidden"),
    _full(MODEL_TENSOR.ATTN_OUT, "o_proj.weight", "hidden", "query"),
    *(replace(rule, transform=ADD_ONE, is_in_layer=_in_attention_layers) for rule in QUERY_KEY_NORMS),
    _linear(MODEL_TENSOR.ATTN_QKV, "in_proj_qkv.weight", "mixed", "hidden", row_order=_MIXED_ROWS),
    _linear(MODEL_TENSOR.ATTN_GATE, "in_proj_z.weight", "values", "hidden", row_order=_VALUE_ROWS),
    _linear(MODEL_TENSOR.SSM_CONV1D, "conv1d.weight", "mixed", "1", "kernel", row_order=_MIXED_ROWS),
    _linear(MODEL_TENSOR.SSM_DT, "dt_bias", "value_heads", row_order=_HEAD_ROWS, suffix="bias"),
    _linear(
        MODEL_TENSOR.SSM_A, "A_log", "value_heads", row_order=_HEAD_ROWS, transform=NEGATIVE_EXPONENTIAL, suffix=""
    ),
    _linear(MODEL_TENSOR.SSM_BETA, "in_proj_b.weight", "value_heads", "hidden", row_order=_HEAD_ROWS),
    _linear(MODEL_TENSOR.SSM_ALPHA, "in_proj_a.weight", "value_heads", "hidden", row_order=_HEAD_ROWS),
    _linear(MODEL_TENSOR.SSM_NORM, "norm.weight", "value_dim"),
    _linear(MODEL_TENSOR.SSM_OUT, "out_proj.weight", "hidden", "values", transform=_VALUE_COLUMNS),
    per_block(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight", "hidden", transform=ADD_ONE),
    *FEED_FORWARD,
    replace(OUTPUT_NORM, transform=ADD_ONE),
    OUTPUT,
)


def _rope_sections(shape: Hyperparameters) -> list[int]:
    """How many pairs of dimensions turn with time, height and width, which are the same within a text."""
    rope = shape.config.get("rope_parameters") or shape.config.get("rope_scaling") or {}
    return [*rope.get("mrope_section", _ROPE_SECTIONS), 0]


def _objection(shape: Hyperparameters) -> str | None:
    if _KEY_DIM(shape) != _VALUE_DIM(shape):
        return (
            f"linear_key_head_dim is {_KEY_DIM(shape)} and linear_value_head_dim {_VALUE_DIM(shape)},"
            " llama.cpp has one for both"
        )
    if _VALUE_HEADS(shape) % _KEY_HEADS(shape):
        return f"{_VALUE_HEADS(shape)} linear value heads cannot be shared by {_KEY_HEADS(shape)} key heads"
    if sum(_rope_sections(shape)) != shape.rope.dimensions // 2:
        return f"mrope_section {_rope_sections(shape)[:3]} does not cover {shape.rope.dimensions // 2} frequencies"
    if not flag(shape.config, "attn_output_gate", default=True):
        return "attn_output_gate is false, llama.cpp always has a gate"
    return None


QWEN3_5 = Family(
    name="qwen3_5",
    architecture=MODEL_ARCH.QWEN35,
    hf_architectures=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("qwen3_5", "qwen3_5-multimodal"),
    activations=("silu",),
    tensors=_TENSORS,
    keys=(
        *DECODER_KEYS,
        KeyRule("rope.dimension_sections", ValueType.INT32, _rope_sections),
        KeyRule("attention.recurrent_layers", ValueType.BOOL, is_recurrent),
        KeyRule("ssm.conv_kernel", ValueType.UINT32, _size("linear_conv_kernel_dim")),
        KeyRule("ssm.state_size", ValueType.UINT32, _KEY_DIM),
        KeyRule("ssm.group_count", ValueType.UINT32, _KEY_HEADS),
        KeyRule("ssm.time_step_rank", ValueType.UINT32, _VALUE_HEADS),
        KeyRule("ssm.inner_size", ValueType.UINT32, _values),
    ),
    rope_scalings=("default",),
    turns_some_dimensions=True,
    left_out=(
        LeftOut(r"^(model\.)?visual\.", "the vision tower"),
        LeftOut(r"^mtp\.", "the layers that predict several tokens at once"),
    ),
    prefixes={"model.language_model.": "model."},
    config_defaults=_DEFAULTS,
    sizes={
        "query_and_gate": lambda shape: 2 * shape.query,
        "mixed": _mixed,
        "values": _values,
        "value_heads": _VALUE_HEADS,
        "value_dim": _VALUE_DIM,
        "kernel": _size("linear_conv_kernel_dim"),
    },
    objection=_objection,
)
