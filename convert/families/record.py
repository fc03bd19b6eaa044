"""What a family is made of: rules for tensors and for metadata keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from convert.config_values import flag
from convert.hyperparameters import Hyperparameters, read_hyperparameters
from convert.rope import YARN_BETAS, yarn_betas
from convert.transforms import Transform
from edge.errors import EdgeError
from edge.gguf_format import ValueType

Config = Mapping[str, Any]
BYTE_LEVEL = "byte-level BPE"
BYTE_FALLBACK = "BPE with byte fallback"
Presence = Literal["required", "optional", "untied"]
IGNORED = (r"\.rotary_emb\.inv_freq$",)


def in_every_layer(shape: Hyperparameters, block: int) -> bool:
    return True


@dataclass(frozen=True)
class FusedExperts:
    """A source that holds a block's experts in one tensor, [experts, parts * rows, columns], and one of the parts."""

    source: str
    part: int = 0
    parts: int = 1

    def source_name(self, block: int) -> str:
        return self.source.format(block=block)


@dataclass(frozen=True)
class TensorRule:
    """One kind of tensor. `source` holds `{block}` where there is one per layer, `{expert}` where one per expert.

    `shape` names the dimensions of one source; those of size "1" are dropped. Experts are stacked: the file's tensor is
    [experts, *shape].
    """

    target: MODEL_TENSOR
    source: str
    shape: tuple[str, ...]
    transform: Transform | None = None
    presence: Presence = "required"
    fused: FusedExperts | None = None
    """Where some checkpoints have the experts instead of in a tensor for each."""
    row_order: Callable[[Hyperparameters], Sequence[tuple[int, int]]] | None = None
    """Which rows follow each other in the file, as the first and the one behind the last of each run of them."""
    is_in_layer: Callable[[Hyperparameters, int], bool] = in_every_layer
    suffix: str | None = None
    """The end of its name in the file, if it is not that of the source; it may be empty."""

    @property
    def is_per_block(self) -> bool:
        return "{block}" in self.source

    @property
    def is_per_expert(self) -> bool:
        return "{expert}" in self.source

    @property
    def target_shape(self) -> tuple[str, ...]:
        """The names of the dimensions in the file."""
        shape = tuple(name for name in self.shape if name != "1")
        return ("experts", *shape) if self.is_per_expert else shape

    def source_name(self, block: int, expert: int = 0) -> str:
        return self.source.format(block=block, expert=expert)

    def target_name(self, block: int) -> str:
        suffix = self.source.rpartition(".")[2] if self.suffix is None else self.suffix
        name: str = TENSOR_NAMES[self.target].format(bid=block)
        return f"{name}.{suffix}" if suffix else name


@dataclass(frozen=True)
class KeyRule:
    """A metadata key, without the architecture's prefix. A value of None leaves the key out, a list makes an array."""

    key: str
    type: ValueType
    value: Callable[[Hyperparameters], int | float | str | bool | Sequence[int | bool] | None]


@dataclass(frozen=True)
class LeftOut:
    """Tensors of a checkpoint that no GGUF file of its language model holds, by a pattern, and what they are."""

    pattern: str
    what: str


@dataclass(frozen=True)
class Family:
    name: str
    architecture: MODEL_ARCH
    hf_architectures: tuple[str, ...]
    tokenizers: tuple[str, ...]
    """Kinds that its checkpoints are published with."""
    proven_by: tuple[str, ...]
    """The checkpoints of the tests whose logits are those of transformers."""
    activations: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    keys: tuple[KeyRule, ...]
    rope_scalings: tuple[str, ...] = ("default", "linear")
    reads_yarn_betas: bool = False
    """Whether yarn may have other betas than `YARN_BETAS`."""
    turns_some_dimensions: bool = False
    """Whether RoPE may leave the rest of a head as it is; llama.cpp aborts over it elsewhere."""
    ignored: tuple[str, ...] = IGNORED
    """Patterns of source tensors that carry nothing the model needs."""
    left_out: tuple[LeftOut, ...] = ()
    """What the checkpoint does beyond the language model, which a person is told of."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """How names of tensors may begin, and how the rules' names begin instead. The first that fits counts."""
    config_names: Mapping[str, str] = field(default_factory=dict)
    """The family's names for keys of config.json, by those that most families have."""
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes for keys that config.json leaves out or gives as null."""
    sizes: Mapping[str, Callable[[Hyperparameters], int]] = field(default_factory=dict)
    """Dimensions that no other family has, by the names that its rules use."""
    prepare: Callable[[Config], Config] = lambda config: config
    """Brings a config.json into the form that most families have."""
    computed: Callable[[Hyperparameters], Mapping[str, npt.NDArray[np.float32]]] = lambda shape: {}
    """Tensors of the file, by name, that follow from the configuration."""
    trims_vocabulary: bool = False
    """Whether embeddings have rows beyond the tokenizer's last token that are left out of the file."""
    objection: Callable[[Hyperparameters], str | None] = lambda shape: None
    """Why llama.cpp could not reproduce a checkpoint of this family, if so."""

    @property
    def gguf_name(self) -> str:
        name: str = MODEL_ARCH_NAMES[self.architecture]
        return name

    @property
    def has_experts(self) -> bool:
        return any(rule.is_per_expert for rule in self.tensors)

    def rule_name(self, source: str) -> str:
        """The name by which rules know a tensor of a checkpoint."""
        for prefix, ours in self.prefixes.items():
            if source.startswith(prefix):
                return ours + source.removeprefix(prefix)
        return source

    def read_shape(self, config: Config) -> Hyperparameters:
        """The hyperparameters of a checkpoint's language model. EdgeError when config.json does not make one."""
        text = _language_model(config)
        unsaid = {name: value for name, value in self.config_defaults.items() if text.get(name) is None}
        shape = read_hyperparameters(
            self.prepare({**text, **unsaid}), names=self.config_names, has_experts=self.has_experts
        )
        return replace(shape, sizes={name: size(shape) for name, size in self.sizes.items()})


def _language_model(config: Config) -> Config:
    """The part of a multimodal checkpoint's configuration that describes its language model, else all of it."""
    if "text_config" not in config:
        return config
    text = config["text_config"]
    if not isinstance(text, Mapping):
        raise EdgeError(f"config.json gives text_config as {text!r}.", hint="An object is needed.")
    if config.get("tie_word_embeddings") is None:
        return text
    return {**text, "tie_word_embeddings": flag(config, "tie_word_embeddings", default=True)}


def check_reproducible(family: Family, shape: Hyperparameters) -> None:
    """EdgeError if llama.cpp's implementation of the family computes something else than this checkpoint."""
    config = shape.config
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
    objection = _rope_objection(family, shape) or family.objection(shape)
    if objection:
        raise EdgeError(
            f"This {family.name} checkpoint cannot be reproduced: {objection}.",
            hint="llama.cpp has these values built in; a file would load and answer wrongly.",
        )


def _rope_objection(family: Family, shape: Hyperparameters) -> str | None:
    fast, slow = yarn_betas(shape.rope)
    if (fast, slow) != YARN_BETAS and not family.reads_yarn_betas:
        expected = " and ".join(f"{beta:g}" for beta in YARN_BETAS)
        return f"yarn's beta_fast and beta_slow are {fast:g} and {slow:g}, llama.cpp assumes {expected}"
    if shape.rope.dimensions != shape.head_dim and not family.turns_some_dimensions:
        return f"RoPE turns {shape.rope.dimensions} of {shape.head_dim} dimensions of a head, llama.cpp turns all"
    return None
