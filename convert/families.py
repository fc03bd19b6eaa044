"""The table of model families: what their tensors are called, their shapes, and what a GGUF file says about them.

A family is a record here, a tiny checkpoint in the tests, and nothing else. Tensors are described from the checkpoint's
side, so that one that is missing, left over or of the wrong shape is known before a weight is read.
Sources: transformers' modeling files for names and shapes, llama.cpp's src/models for what it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from convert.config_values import flag, positive_integer, positive_number
from convert.hyperparameters import Hyperparameters
from convert.transforms import ADD_ONE, ROPE_PAIRS, Transform
from edge.errors import EdgeError
from edge.gguf_format import ValueType

Presence = Literal["required", "optional", "untied"]
IGNORED = (r"\.rotary_emb\.inv_freq$",)


@dataclass(frozen=True)
class TensorRule:
    """One kind of tensor. `source` holds `{block}` where there is one per layer; `shape` names its dimensions."""

    target: MODEL_TENSOR
    source: str
    shape: tuple[str, ...]
    transform: Transform | None = None
    presence: Presence = "required"

    @property
    def is_per_block(self) -> bool:
        return "{block}" in self.source

    def source_name(self, block: int) -> str:
        return self.source.format(block=block)

    def target_name(self, block: int) -> str:
        suffix = self.source.rpartition(".")[2]
        return f"{TENSOR_NAMES[self.target].format(bid=block)}.{suffix}"


@dataclass(frozen=True)
class KeyRule:
    """A metadata key, without the architecture's prefix. A value of None leaves the key out."""

    key: str
    type: ValueType
    value: Callable[[Hyperparameters], int | float | str | bool | None]


@dataclass(frozen=True)
class Family:
    name: str
    architecture: MODEL_ARCH
    hf_architectures: tuple[str, ...]
    activations: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    keys: tuple[KeyRule, ...]
    tied_by_default: bool = False
    rope_scalings: tuple[str, ...] = ("default", "linear")
    ignored: tuple[str, ...] = IGNORED
    """Patterns of source tensors that carry nothing the model needs."""
    objection: Callable[[Hyperparameters], str | None] = lambda shape: None
    """Why llama.cpp could not reproduce a checkpoint of this family, if so."""
    is_70b: Callable[[Hyperparameters], bool] = lambda shape: False
    """Whether llama.cpp counts a checkpoint among the 70B models, for which some recipes differ."""

    @property
    def gguf_name(self) -> str:
        name: str = MODEL_ARCH_NAMES[self.architecture]
        return name


def _per_block(target: MODEL_TENSOR, name: str, *shape: str, **rest: Any) -> TensorRule:
    return TensorRule(target, f"model.layers.{{block}}.{name}", shape, **rest)


def _attention(transform: Transform | None) -> tuple[TensorRule, ...]:
    return (
        _per_block(MODEL_TENSOR.ATTN_Q, "self_attn.q_proj.weight", "query", "hidden", transform=transform),
        _per_block(MODEL_TENSOR.ATTN_K, "self_attn.k_proj.weight", "key_value", "hidden", transform=transform),
        _per_block(MODEL_TENSOR.ATTN_V, "self_attn.v_proj.weight", "key_value", "hidden"),
        _per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.weight", "hidden", "query"),
    )


def _attention_biases(transform: Transform | None, presence: Presence) -> tuple[TensorRule, ...]:
    rest: dict[str, Any] = {"presence": presence}
    return (
        _per_block(MODEL_TENSOR.ATTN_Q, "self_attn.q_proj.bias", "query", transform=transform, **rest),
        _per_block(MODEL_TENSOR.ATTN_K, "self_attn.k_proj.bias", "key_value", transform=transform, **rest),
        _per_block(MODEL_TENSOR.ATTN_V, "self_attn.v_proj.bias", "key_value", **rest),
    )


_EMBEDDING = TensorRule(MODEL_TENSOR.TOKEN_EMBD, "model.embed_tokens.weight", ("vocabulary", "hidden"))
_OUTPUT = TensorRule(MODEL_TENSOR.OUTPUT, "lm_head.weight", ("vocabulary", "hidden"), presence="untied")
_OUTPUT_NORM = TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.weight", ("hidden",))
_ATTENTION_NORM = _per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight", "hidden")
_FEED_FORWARD_NORM = _per_block(MODEL_TENSOR.FFN_NORM, "post_attention_layernorm.weight", "hidden")
_FEED_FORWARD = (
    _per_block(MODEL_TENSOR.FFN_GATE, "mlp.gate_proj.weight", "feed_forward", "hidden"),
    _per_block(MODEL_TENSOR.FFN_UP, "mlp.up_proj.weight", "feed_forward", "hidden"),
    _per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.weight", "hidden", "feed_forward"),
)
_FEED_FORWARD_BIASES = (
    _per_block(MODEL_TENSOR.FFN_GATE, "mlp.gate_proj.bias", "feed_forward", presence="optional"),
    _per_block(MODEL_TENSOR.FFN_UP, "mlp.up_proj.bias", "feed_forward", presence="optional"),
    _per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.bias", "hidden", presence="optional"),
)


def _decoder(*block: TensorRule) -> tuple[TensorRule, ...]:
    """A pre-norm decoder's tensors around those that differ between families."""
    return (_EMBEDDING, _ATTENTION_NORM, *block, *_FEED_FORWARD, _FEED_FORWARD_NORM, _OUTPUT_NORM, _OUTPUT)


def _usable_context(shape: Hyperparameters) -> int:
    """Context up to which full attention equals the checkpoint's sliding window, for architectures without one."""
    if not shape.config.get("sliding_window") or not flag(shape.config, "use_sliding_window", default=True):
        return shape.context_tokens
    return min(shape.context_tokens, positive_integer(shape.config, "sliding_window"))


_DECODER_KEYS = (
    KeyRule("block_count", ValueType.UINT32, lambda shape: shape.layers),
    KeyRule("context_length", ValueType.UINT32, _usable_context),
    KeyRule("embedding_length", ValueType.UINT32, lambda shape: shape.hidden),
    KeyRule("feed_forward_length", ValueType.UINT32, lambda shape: shape.feed_forward),
    KeyRule("attention.head_count", ValueType.UINT32, lambda shape: shape.heads),
    KeyRule("attention.head_count_kv", ValueType.UINT32, lambda shape: shape.key_value_heads),
    KeyRule("attention.key_length", ValueType.UINT32, lambda shape: shape.head_dim),
    KeyRule("attention.value_length", ValueType.UINT32, lambda shape: shape.head_dim),
    KeyRule("attention.layer_norm_rms_epsilon", ValueType.FLOAT32, lambda shape: shape.norm_epsilon),
    KeyRule("vocab_size", ValueType.UINT32, lambda shape: shape.vocabulary),
)

LLAMA = Family(
    name="llama",
    architecture=MODEL_ARCH.LLAMA,
    hf_architectures=("LlamaForCausalLM", "MistralForCausalLM"),
    activations=("silu",),
    tensors=_decoder(
        *_attention(ROPE_PAIRS),
        *_attention_biases(ROPE_PAIRS, "optional"),
        _per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.bias", "hidden", presence="optional"),
        *_FEED_FORWARD_BIASES,
    ),
    keys=_DECODER_KEYS,
    rope_scalings=("default", "linear", "llama3"),
    is_70b=lambda shape: shape.layers == 80 and shape.heads != shape.key_value_heads,
)


def _qwen2_objection(shape: Hyperparameters) -> str | None:
    if shape.query != shape.hidden:
        return (
            f"{shape.heads} heads of {shape.head_dim} are not hidden_size {shape.hidden}, llama.cpp takes them for it"
        )
    return None


QWEN2 = Family(
    name="qwen2",
    architecture=MODEL_ARCH.QWEN2,
    hf_architectures=("Qwen2ForCausalLM",),
    activations=("silu",),
    tensors=_decoder(*_attention(None), *_attention_biases(None, "required")),
    keys=_DECODER_KEYS,
    objection=_qwen2_objection,
    is_70b=lambda shape: shape.layers == 80,
)

QWEN3 = Family(
    name="qwen3",
    architecture=MODEL_ARCH.QWEN3,
    hf_architectures=("Qwen3ForCausalLM",),
    activations=("silu",),
    tensors=_decoder(
        *_attention(None),
        _per_block(MODEL_TENSOR.ATTN_Q_NORM, "self_attn.q_norm.weight", "head_dim"),
        _per_block(MODEL_TENSOR.ATTN_K_NORM, "self_attn.k_norm.weight", "head_dim"),
    ),
    keys=_DECODER_KEYS,
)


_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # Source: transformers, Gemma2Config


def _gemma2_objection(shape: Hyperparameters) -> str | None:
    """llama.cpp fixes the attention scale by layer count and lets every second layer slide, from the first on."""
    expected = shape.hidden // shape.heads if shape.layers == 46 else shape.head_dim
    scalar = positive_number(shape.config, "query_pre_attn_scalar", default=256)
    if scalar != expected:
        return f"query_pre_attn_scalar is {scalar:g}, llama.cpp assumes {expected}"
    for name, default in _GEMMA2_CAPS.items():
        if not shape.config.get(name, default):
            return f"{name} is {shape.config[name]}, llama.cpp always caps"
    if not shape.tied_embeddings:
        return "tie_word_embeddings is false, llama.cpp always uses the embeddings as output"
    layer_types = shape.config.get("layer_types")
    alternating = [("sliding_attention", "full_attention")[block % 2] for block in range(shape.layers)]
    if layer_types is not None and layer_types != alternating:
        return "layer_types do not alternate between sliding and full attention"
    return None


def _sliding_window(shape: Hyperparameters) -> int:
    return positive_integer(shape.config, "sliding_window", default=4096)


def _gemma2_cap(name: str, shape: Hyperparameters) -> float:
    return positive_number(shape.config, name, default=_GEMMA2_CAPS[name])


def _gemma_norm(target: MODEL_TENSOR, name: str) -> TensorRule:
    return _per_block(target, name, "hidden", transform=ADD_ONE)


GEMMA2 = Family(
    name="gemma2",
    architecture=MODEL_ARCH.GEMMA2,
    hf_architectures=("Gemma2ForCausalLM",),
    activations=("gelu_pytorch_tanh",),
    tied_by_default=True,
    tensors=(
        _EMBEDDING,
        _gemma_norm(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight"),
        *_attention(None),
        _gemma_norm(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight"),
        _gemma_norm(MODEL_TENSOR.FFN_PRE_NORM, "pre_feedforward_layernorm.weight"),
        *_FEED_FORWARD,
        _gemma_norm(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight"),
        TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.weight", ("hidden",), transform=ADD_ONE),
    ),
    keys=(
        *(rule for rule in _DECODER_KEYS if rule.key != "context_length"),
        KeyRule("context_length", ValueType.UINT32, lambda shape: shape.context_tokens),
        KeyRule("attention.sliding_window", ValueType.UINT32, _sliding_window),
        *(KeyRule(name, ValueType.FLOAT32, partial(_gemma2_cap, name)) for name in _GEMMA2_CAPS),
    ),
    ignored=(*IGNORED, r"^lm_head\.weight$"),  # always tied: a copy of the embeddings, which transformers ignores too
    objection=_gemma2_objection,
)

FAMILIES: tuple[Family, ...] = (LLAMA, GEMMA2, QWEN2, QWEN3)


def find_family(hf_architecture: str) -> Family:
    """The family of a config.json's `architectures` entry. EdgeError that lists the known ones if there is none."""
    for family in FAMILIES:
        if hf_architecture in family.hf_architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.hf_architectures)
    raise EdgeError(f"The architecture {hf_architecture!r} is not supported.", hint=f"Known are: {known}.")


def check_reproducible(family: Family, shape: Hyperparameters) -> None:
    """EdgeError if llama.cpp's implementation of the family computes something else than this checkpoint."""
    config: Mapping[str, Any] = shape.config
    activation = config.get("hidden_activation") or config.get("hidden_act") or family.activations[0]
    if activation not in family.activations:
        raise EdgeError(
            f"The activation {activation!r} is not what llama.cpp computes for {family.name}.",
            hint=f"It must be one of: {', '.join(family.activations)}.",
        )
    if shape.rope.scaling not in family.rope_scalings:
        raise EdgeError(
            f"llama.cpp has no RoPE scaling {shape.rope.scaling!r} for {family.name}.",
            hint=f"It must be one of: {', '.join(family.rope_scalings)}.",
        )
    objection = family.objection(shape)
    if objection:
        raise EdgeError(
            f"This {family.name} checkpoint cannot be reproduced: {objection}.",
            hint="llama.cpp has these values built in; a file would load and answer wrongly.",
        )
