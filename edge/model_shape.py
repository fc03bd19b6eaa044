"""What of a model decides how much memory it takes: its layers and their caches, read from GGUF keys and tensor sizes.

Knows names of keys and what llama.cpp makes of them. The keys may come from a file or from the plan of one.
Source: llama.cpp, src/llama-hparams.cpp, src/models/*.cpp (load_arch_hparams), src/llama-model.cpp (create_memory).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge.errors import EdgeError
from edge.gguf_file import GGUFFile

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
"""Looked up row by row, by the CPU; the first may be the output as well."""
_MOST_LAYERS = 512  # LLAMA_MAX_LAYERS
_BLOCK = re.compile(r"^blk\.(\d+)\.")

# every how many layers one has full attention, where the file does not say it
_WINDOW_PATTERNS = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "exaone4": 4, "olmo2": 4, "gpt-oss": 2, "llama4": 4,
    "plamo3": 8, "mellum": 4, "afmoe": 4, "smallthinker": 4, "gemma4": 6, "mimo2": 4, "granite-swa": 4, "cohere2moe": 4,
    "exaone-moe": 4,
}  # fmt: skip
_FIRST_LAYER_IS_FULL = frozenset({"smallthinker"})
_DEFAULT_WINDOWS = {"gemma2": 4096, "exaone4": 4096, "llama4": 8192}
_LAYERS_OF_EXAONE4_WITH_WINDOWS = 64
_WITH_ATTENTION_AND_STATE = frozenset({"falcon-h1"})
_WITH_STATES_ONLY = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_LAYERS_WITH_CACHE_OF_GEMMA3N = 20


@dataclass(frozen=True)
class Layer:
    """One block. A layer may keep keys and values, or a state, or both, or neither."""

    heads: int
    key_value_heads: int
    key_width: int
    """Of one head."""
    value_width: int
    """0 where values are read from the keys (latent attention)."""
    feed_forward: int
    slides: bool
    """Whether it sees no further back than the sliding window."""
    has_cache: bool
    has_state: bool


@dataclass(frozen=True)
class ModelShape:
    architecture: str
    layers: tuple[Layer, ...]
    hidden: int
    vocabulary: int
    merges: int
    """Of its byte-pair encoding; 0 where tokens have scores instead."""
    context_tokens: int
    """What it was trained on."""
    sliding_window: int
    """Tokens that layers with a window see; 0 if there are none."""
    experts: int
    experts_used: int
    expert_feed_forward: int
    state_values: int
    """Numbers that each layer with a state keeps for each sequence, as float32."""
    state_inner: int
    """Width of what a layer with a state makes of a token."""
    mixed_width: int
    """Width of what its convolution mixes with the past."""
    is_gated: bool
    """Whether its feed-forward networks multiply two projections."""
    layer_embedding: int
    """Width of the embeddings that each layer gets of its own."""

    def __hash__(self) -> int:
        """Of what tells shapes apart, and not of every layer: a plan looks sizes up by them thousands of times."""
        return hash((self.architecture, len(self.layers), self.hidden, self.vocabulary))

    @property
    def query_width(self) -> int:
        """Of the widest layer."""
        return max(layer.heads * layer.key_width for layer in self.layers)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file holds it."""

    name: str
    type: str
    elements: int
    n_bytes: int

    @property
    def block(self) -> int | None:
        """The block that it belongs to; None for embeddings and the output."""
        found = _BLOCK.match(self.name)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class PlacedWeights:
    """Bytes by where llama.cpp places them: what belongs to each block, and what stands before and after them."""

    block_bytes: tuple[int, ...]
    read_bytes: tuple[int, ...]
    """Of each block, what one token has to read: of experts those that are used."""
    read_elements: tuple[int, ...]
    """Of each block, the weights that one token is multiplied with."""
    output_elements: int
    largest_bytes: tuple[int, ...]
    """The largest tensor of each block."""
    embedding_bytes: int
    output_bytes: int
    tied_bytes: int
    """The embeddings once more, where they are the output as well."""
    bytes_by_type: Mapping[str, tuple[int, ...]]
    """Of each tensor type, the bytes of each block and, last, of the output; embeddings are left out."""


@dataclass(frozen=True)
class StoredModel:
    """A model as a file holds it, or would hold it."""

    shape: ModelShape
    tensors: tuple[StoredTensor, ...]

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @cached_property
    def places(self) -> PlacedWeights:
        count, is_tied = len(self.shape.layers), all(tensor.name != "output.weight" for tensor in self.tensors)
        block_bytes, read_bytes, read_elements, largest_bytes = ([0] * count for _ in range(4))
        embedding_bytes = output_bytes = tied_bytes = 0
        for tensor in self.tensors:
            block = tensor.block
            if block is not None and block < count:
                block_bytes[block] += tensor.n_bytes
                read_bytes[block] += self._used(tensor, tensor.n_bytes)
                read_elements[block] += self._used(tensor, tensor.elements)
                largest_bytes[block] = max(largest_bytes[block], tensor.n_bytes)
            elif tensor.name in EMBEDDINGS:
                embedding_bytes += tensor.n_bytes
                tied_bytes += tensor.n_bytes if tensor.name == EMBEDDINGS[0] and is_tied else 0
            else:
                output_bytes += tensor.n_bytes
        return PlacedWeights(
            block_bytes=tuple(block_bytes),
            read_bytes=tuple(read_bytes),
            read_elements=tuple(read_elements),
            output_elements=self.shape.hidden * self.shape.vocabulary,
            largest_bytes=tuple(largest_bytes),
            embedding_bytes=embedding_bytes,
            output_bytes=output_bytes,
            tied_bytes=tied_bytes,
            bytes_by_type=self._bytes_by_type(),
        )

    def _bytes_by_type(self) -> dict[str, tuple[int, ...]]:
        count = len(self.shape.layers)
        found: dict[str, list[int]] = {}
        for tensor in self.tensors:
            if tensor.name not in EMBEDDINGS:
                place = count if tensor.block is None else min(tensor.block, count)
                found.setdefault(tensor.type, [0] * (count + 1))[place] += tensor.n_bytes
        return {kind: tuple(sizes) for kind, sizes in found.items()}

    def _used(self, tensor: StoredTensor, size: int) -> int:
        """What one token needs of a tensor of that size: of experts those that are used."""
        if "_exps." not in tensor.name or not self.shape.experts:
            return size
        return size * self.shape.experts_used // self.shape.experts


def stored_model(file: GGUFFile) -> StoredModel:
    """What a GGUF file holds."""
    tensors = [StoredTensor(each.name, each.type.name, each.n_elements, each.n_bytes) for each in file.tensors.values()]
    return model_of(file.metadata, tensors)


def model_of(metadata: Mapping[str, Any], tensors: Iterable[StoredTensor]) -> StoredModel:
    """A model of GGUF keys and tensors. EdgeError if the keys leave out what every model has."""
    by_name = {tensor.name: tensor for tensor in tensors}
    keys = _Keys(metadata)
    embedding = by_name.get("token_embd.weight")
    vocabulary = embedding.elements // keys.count("embedding_length") if embedding else keys.count("vocab_size")
    shape = _read_shape(keys, vocabulary, is_gated=_is_gated(keys, by_name))
    return StoredModel(shape, tuple(by_name.values()))


def _is_gated(keys: _Keys, tensors: Mapping[str, StoredTensor]) -> bool:
    """A gate is a tensor of its own, or the other half of one that is twice as wide."""
    up = next((tensor for name, tensor in tensors.items() if name.endswith(".ffn_up.weight")), None)
    has_gate = any(".ffn_gate" in name for name in tensors)
    return has_gate or up is None or up.elements > keys.count("embedding_length") * keys.count("feed_forward_length")


def _read_shape(keys: _Keys, vocabulary: int, *, is_gated: bool) -> ModelShape:
    count = keys.count("block_count") - keys.count("nextn_predict_layers", 0)
    if not 1 <= count <= _MOST_LAYERS:
        raise EdgeError(
            f"The model has {count} blocks by its {keys.architecture}.block_count.",
            hint=f"llama.cpp runs models of 1 to {_MOST_LAYERS}: the file is damaged.",
        )
    window, slides = _window(keys, count)
    return ModelShape(
        architecture=keys.architecture,
        layers=tuple(_layers(keys, count, slides)),
        hidden=keys.count("embedding_length"),
        vocabulary=vocabulary,
        merges=keys.merges(vocabulary),
        context_tokens=keys.count("context_length"),
        sliding_window=window,
        experts=keys.count("expert_count", 0),
        experts_used=max(keys.per_layer("expert_used_count", count, 0)),
        expert_feed_forward=keys.count("expert_feed_forward_length", 0),
        state_values=_state_values(keys),
        state_inner=keys.count("ssm.inner_size", 0),
        mixed_width=_mixed_width(keys),
        is_gated=is_gated,
        layer_embedding=keys.count("embedding_length_per_layer_input", 0),
    )


class _Keys:
    """The keys of one architecture."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.architecture = str(metadata.get("general.architecture", ""))
        self._metadata = metadata

    def has(self, name: str) -> bool:
        return f"{self.architecture}.{name}" in self._metadata

    def value(self, name: str) -> Any:
        return self._metadata.get(f"{self.architecture}.{name}")

    def count(self, name: str, default: int | None = None) -> int:
        """A number that holds for the whole model; of a list, the largest."""
        value = self.value(name)
        if _is_list(value):
            return max((int(each) for each in value), default=default or 0)
        if isinstance(value, int):
            return int(value)
        if default is None:
            raise EdgeError(
                f"The model does not say its {self.architecture}.{name}.",
                hint="It is no language model that llama.cpp runs: see what it has with edge inspect.",
            )
        return default

    def merges(self, vocabulary: int) -> int:
        """Merges of the tokenizer; where no tokenizer is told, as many as tokens, but for Gemma's, which has none."""
        if "tokenizer.ggml.tokens" in self._metadata:
            return len(self._metadata.get("tokenizer.ggml.merges", ()))
        return 0 if self.architecture.startswith("gemma") else vocabulary

    def per_layer(self, name: str, layers: int, default: int) -> list[int]:
        value = self.value(name)
        if _is_list(value):
            listed = [int(each) for each in value][:layers]
            return listed + [default] * (layers - len(listed))
        return [int(value) if isinstance(value, int) else default] * layers


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _layers(keys: _Keys, count: int, slides: Sequence[bool]) -> Iterator[Layer]:
    heads = keys.per_layer("attention.head_count", count, 0)
    key_value_heads = keys.per_layer("attention.head_count_kv", count, max(heads))
    feed_forward = keys.per_layer("feed_forward_length", count, 0)
    width = keys.count("embedding_length") // max(*heads, 1)
    key_width = keys.count("attention.key_length", width)
    value_width = keys.count("attention.value_length", width)
    has_state = list(_has_state(keys, key_value_heads, count))
    with_cache = count - keys.count("attention.shared_kv_layers", 0)
    if keys.architecture == "gemma3n":
        with_cache = _LAYERS_WITH_CACHE_OF_GEMMA3N
    for number in range(count):
        is_narrow = slides[number] and keys.has("attention.key_length_swa")
        yield Layer(
            heads=heads[number],
            key_value_heads=key_value_heads[number],
            key_width=keys.count("attention.key_length_swa") if is_narrow else key_width,
            value_width=_value_width(keys, value_width, is_narrow),
            feed_forward=feed_forward[number],
            slides=slides[number],
            has_cache=number < with_cache and (not has_state[number] or keys.architecture in _WITH_ATTENTION_AND_STATE),
            has_state=has_state[number],
        )


def _value_width(keys: _Keys, usual: int, is_narrow: bool) -> int:
    if keys.has("attention.kv_lora_rank") and keys.has("attention.key_length_mla"):
        return 0
    return keys.count("attention.value_length_swa", usual) if is_narrow else usual


def _has_state(keys: _Keys, key_value_heads: Sequence[int], count: int) -> Iterable[bool]:
    if keys.architecture in _WITH_STATES_ONLY | _WITH_ATTENTION_AND_STATE:
        return [True] * count
    if keys.has("attention.recurrent_layers"):
        return [bool(each) for each in keys.per_layer("attention.recurrent_layers", count, 0)]
    if keys.has("full_attention_interval"):
        interval = keys.count("full_attention_interval")
        return [(number + 1) % interval != 0 for number in range(count)]
    if keys.has("shortconv.l_cache") or keys.has("ssm.conv_kernel"):
        return [heads == 0 for heads in key_value_heads]
    return [False] * count


def _window(keys: _Keys, count: int) -> tuple[int, list[bool]]:
    """The sliding window, and whether each layer has it."""
    full = [False] * count
    pattern = keys.value("attention.sliding_window_pattern")
    every = _WINDOW_PATTERNS.get(keys.architecture)
    window = keys.count("attention.sliding_window", _DEFAULT_WINDOWS.get(keys.architecture, 0))
    if keys.architecture == "exaone4" and count != _LAYERS_OF_EXAONE4_WITH_WINDOWS:
        return 0, full
    if not window or (every is None and pattern is None):
        return 0, full  # as with Phi-3 and Mistral, whose windows llama.cpp does not use
    if _is_list(pattern):
        return window, [bool(each) for each in pattern][:count] + full[len(pattern) :]
    every = int(pattern) if isinstance(pattern, int) else every or 1
    if keys.architecture in _FIRST_LAYER_IS_FULL:
        return window, [number % every != 0 for number in range(count)]
    return window, [every == 0 or number % every < every - 1 for number in range(count)]


def _state_values(keys: _Keys) -> int:
    """Numbers that a layer keeps for a sequence: what a convolution still needs of the past, and the state itself."""
    hidden = keys.count("embedding_length")
    if keys.has("wkv.head_size"):
        return hidden * (keys.count("token_shift_count", 2) + keys.count("wkv.head_size"))
    if keys.has("shortconv.l_cache"):
        return hidden * (keys.count("shortconv.l_cache") - 1)
    states = keys.count("ssm.inner_size", 0) * keys.count("ssm.state_size", 0)
    return max(keys.count("ssm.conv_kernel", 0) - 1, 0) * _mixed_width(keys) + states


def _mixed_width(keys: _Keys) -> int:
    if keys.has("shortconv.l_cache"):
        return keys.count("embedding_length")
    groups = keys.count("ssm.group_count", 0)
    return keys.count("ssm.inner_size", 0) + 2 * groups * keys.count("ssm.state_size", 0)
