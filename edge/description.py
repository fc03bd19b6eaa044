"""What a GGUF file holds, as plain values: the model's shape, its types, tokenizer, template and origin.

Knows the header only: no weight is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from edge.gguf_array import FixedArray, StringArray, Value
from edge.gguf_file import GGUFFile, TensorInfo
from edge.gguf_format import FILE_TYPES, MetadataEntry, ValueType

PerLayer: TypeAlias = int | tuple[int, ...]
"""A number that holds for every layer, or one for each."""

_FILE_TYPE_NAMES = {number: name for name, number in FILE_TYPES.items()}
_KV_ELEMENT_BYTES = 2  # f16
_SHOWN_ELEMENTS = 3
_SHOWN_CHARACTERS = 16


@dataclass(frozen=True)
class TypeShare:
    """How much of a file is stored in one tensor type."""

    type: str
    tensors: int
    n_bytes: int
    share: float


@dataclass(frozen=True)
class Shape:
    """The model's dimensions; None where the file does not say or the architecture has no such thing."""

    layers: int | None
    hidden: int | None
    heads: PerLayer | None
    kv_heads: PerLayer | None
    head_dim: int | None
    feed_forward: PerLayer | None
    experts: int | None
    experts_used: PerLayer | None
    vocabulary: int | None
    context_tokens: int | None
    sliding_window: int | None
    rope_base: float | None
    rope_scaling: str | None
    kv_cache_bytes_per_token: int | None
    """At f16 over all layers; a sliding-window layer stops growing at its window."""


@dataclass(frozen=True)
class SpecialToken:
    role: str
    id: int
    text: str | None
    """None when the vocabulary has no such token."""


@dataclass(frozen=True)
class Tokenizer:
    model: str
    pre: str | None
    tokens: int
    special: tuple[SpecialToken, ...]
    adds_bos: bool | None
    adds_eos: bool | None


@dataclass(frozen=True)
class Key:
    name: str
    type: str
    value: str


@dataclass(frozen=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class Description:
    path: str
    name: str | None
    architecture: str
    quantization: str | None
    gguf_version: int
    file_bytes: int
    parameters: int
    bits_per_weight: float | None
    shape: Shape
    tensor_types: tuple[TypeShare, ...]
    tokenizer: Tokenizer | None
    chat_template: str | None
    keys: tuple[Key, ...]
    tensors: tuple[Tensor, ...]

    @property
    def provenance(self) -> tuple[Key, ...]:
        """Where the file comes from: what its maker wrote into general.* and edge.*"""
        return tuple(key for key in self.keys if key.name.startswith(("general.", "edge.")))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe(file: GGUFFile) -> Description:
    parameters = sum(tensor.n_elements for tensor in file.tensors.values())
    weight_bytes = sum(tensor.n_bytes for tensor in file.tensors.values())
    file_type = file.metadata.get("general.file_type")
    return Description(
        path=str(file.path),
        name=_text(file.metadata, "general.name"),
        architecture=file.architecture,
        quantization=_FILE_TYPE_NAMES.get(file_type) if isinstance(file_type, int) else None,
        gguf_version=file.version,
        file_bytes=file.file_bytes,
        parameters=parameters,
        bits_per_weight=8 * weight_bytes / parameters if parameters else None,
        shape=_shape(file),
        tensor_types=_type_shares(file.tensors.values()),
        tokenizer=_tokenizer(file.metadata),
        chat_template=_text(file.metadata, "tokenizer.chat_template"),
        keys=tuple(_key(entry) for entry in file.entries),
        tensors=tuple(
            Tensor(tensor.name, tensor.type.name, tensor.shape, tensor.n_bytes) for tensor in file.tensors.values()
        ),
    )


def _shape(file: GGUFFile) -> Shape:
    metadata, prefix = file.metadata, file.architecture
    heads = _per_layer(metadata, f"{prefix}.attention.head_count")
    kv_heads = _per_layer(metadata, f"{prefix}.attention.head_count_kv") or heads
    hidden = _integer(metadata, f"{prefix}.embedding_length")
    head_dim = _integer(metadata, f"{prefix}.attention.key_length")
    if head_dim is None and hidden and isinstance(heads, int) and heads > 0:
        head_dim = hidden // heads
    layers = _integer(metadata, f"{prefix}.block_count")
    value_dim = _integer(metadata, f"{prefix}.attention.value_length") or head_dim
    is_compressed = f"{prefix}.attention.kv_lora_rank" in metadata  # latent attention keeps no keys and values
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=_per_layer(metadata, f"{prefix}.feed_forward_length"),
        experts=_integer(metadata, f"{prefix}.expert_count"),
        experts_used=_per_layer(metadata, f"{prefix}.expert_used_count"),
        vocabulary=_vocabulary_size(metadata),
        context_tokens=_integer(metadata, f"{prefix}.context_length"),
        sliding_window=_integer(metadata, f"{prefix}.attention.sliding_window"),
        rope_base=_number(metadata, f"{prefix}.rope.freq_base"),
        rope_scaling=_rope_scaling(file),
        kv_cache_bytes_per_token=None if is_compressed else kv_cache_bytes(layers, kv_heads, head_dim, value_dim),
    )


def kv_cache_bytes(
    layers: int | None, kv_heads: PerLayer | None, key_dim: int | None, value_dim: int | None
) -> int | None:
    """Bytes that one token takes in the KV cache of all layers at f16; None when a part is not known."""
    if layers is None or kv_heads is None or key_dim is None or value_dim is None:
        return None
    heads_of_all_layers = kv_heads * layers if isinstance(kv_heads, int) else sum(kv_heads)
    return heads_of_all_layers * (key_dim + value_dim) * _KV_ELEMENT_BYTES


def _vocabulary_size(metadata: Mapping[str, Value]) -> int | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, StringArray) else None


def _rope_scaling(file: GGUFFile) -> str | None:
    prefix = f"{file.architecture}.rope.scaling"
    kind, factor = _text(file.metadata, f"{prefix}.type"), _number(file.metadata, f"{prefix}.factor")
    if "rope_freqs.weight" in file.tensors:
        return "by frequency (tensor rope_freqs.weight)"
    if kind and kind != "none":
        return f"{kind} × {factor:g}" if factor else kind
    return None


def _type_shares(tensors: Iterable[TensorInfo]) -> tuple[TypeShare, ...]:
    """The types of a file, the one with the most bytes first."""
    tensors = list(tensors)
    total = sum(tensor.n_bytes for tensor in tensors)
    shares = []
    for name in {tensor.type.name for tensor in tensors}:
        sizes = [tensor.n_bytes for tensor in tensors if tensor.type.name == name]
        shares.append(TypeShare(name, len(sizes), sum(sizes), sum(sizes) / total))
    return tuple(sorted(shares, key=lambda share: (-share.n_bytes, share.type)))


def _tokenizer(metadata: Mapping[str, Value]) -> Tokenizer | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray):
        return None
    special = []
    for key, value in metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and isinstance(value, int):
            text = tokens.bytes_at(value).decode("utf-8", "replace") if 0 <= value < len(tokens) else None
            special.append(SpecialToken(key.removeprefix("tokenizer.ggml.").removesuffix("_token_id"), value, text))
    return Tokenizer(
        model=_text(metadata, "tokenizer.ggml.model") or "unknown",
        pre=_text(metadata, "tokenizer.ggml.pre"),
        tokens=len(tokens),
        special=tuple(special),
        adds_bos=_boolean(metadata, "tokenizer.ggml.add_bos_token"),
        adds_eos=_boolean(metadata, "tokenizer.ggml.add_eos_token"),
    )


def _key(entry: MetadataEntry) -> Key:
    if isinstance(entry.value, FixedArray | StringArray):
        return Key(entry.key, f"{entry.value.element_type.name.lower()}[]", abbreviated(entry.value))
    return Key(entry.key, entry.type.name.lower(), _value_text(entry.value, entry.type))


def abbreviated(values: FixedArray | StringArray) -> str:
    """The first elements of an array, and how many there are if these are not all."""
    shown = ", ".join(
        repr(value if len(value) <= _SHOWN_CHARACTERS else value[: _SHOWN_CHARACTERS - 1] + "…")
        if isinstance(value, str)
        else _value_text(value, values.element_type)
        for value in values[:_SHOWN_ELEMENTS]
    )
    return f"[{shown}]" if len(values) <= _SHOWN_ELEMENTS else f"[{shown}, … {len(values):,} in all]"


def _value_text(value: object, kind: ValueType) -> str:
    """A value with the digits that its type has."""
    return f"{value:.7g}" if kind is ValueType.FLOAT32 else str(value)


def _integer(metadata: Mapping[str, Value], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(metadata: Mapping[str, Value], key: str) -> float | None:
    value = metadata.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(metadata: Mapping[str, Value], key: str) -> bool | None:
    value = metadata.get(key)
    return value if isinstance(value, bool) else None


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _per_layer(metadata: Mapping[str, Value], key: str) -> PerLayer | None:
    value = metadata.get(key)
    if isinstance(value, FixedArray) and all(isinstance(element, int) for element in value):
        return tuple(int(element) for element in value)
    return _integer(metadata, key)
