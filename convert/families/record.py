"""What a family is made of: rules for tensors and for metadata keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from convert.hyperparameters import Hyperparameters
from convert.transforms import Transform
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
