"""Quantization recipes: which type each tensor gets.

A recipe is a default type and a list of rules; the first rule that fits a tensor decides. The rules are llama.cpp's, so
that a file of ours holds the same bytes as one that llama_model_quantize makes.
Source: llama.cpp, src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_allows_quantization, tensor_type_fallback).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, TensorType


class Role(StrEnum):
    """What a tensor does, as far as recipes care."""

    OUTPUT = "output"
    TOKEN_EMBEDDING = "token embedding"
    ATTENTION_VALUE = "attention value"
    FEED_FORWARD_DOWN = "feed-forward down"
    OTHER = "other"


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: `index` counts those of its role from the first block on, `count` is how many blocks."""

    role: Role
    index: int
    count: int
    is_70b: bool


@dataclass(frozen=True)
class Rule:
    """A tensor of this role gets this type where the condition holds."""

    role: Role
    type: str
    condition: Callable[[Place], bool] = lambda place: True


@dataclass(frozen=True)
class Recipe:
    """`file_type` is llama_ftype's number, stored as general.file_type."""

    name: str
    file_type: int
    default: str
    rules: tuple[Rule, ...] = ()


def _gets_more_bits(place: Place) -> bool:
    """The first and last eighth of the blocks, and every third between them."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("F32", 0, "F32"),
        Recipe("F16", 1, "F16"),
        Recipe("BF16", 32, "BF16"),
        Recipe("Q8_0", 7, "Q8_0"),
        Recipe(
            "Q4_K_M",
            15,
            "Q4_K",
            (
                Rule(Role.OUTPUT, "Q6_K"),
                Rule(Role.ATTENTION_VALUE, "Q6_K", _gets_more_bits),
                Rule(Role.ATTENTION_VALUE, "Q5_K", lambda place: place.is_70b),
                Rule(Role.FEED_FORWARD_DOWN, "Q6_K", _gets_more_bits),
            ),
        ),
    )
}

# what a type gives way to when the columns do not fill its blocks of 256
FALLBACKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q5_K": "Q5_1"}

_BLOCK_NUMBER = re.compile(r"^blk\.(\d+)\.")


def find_recipe(name: str) -> Recipe:
    """The recipe of a name in any case. EdgeError that lists the known ones."""
    recipe = RECIPES.get(name.upper())
    if recipe is None:
        raise EdgeError(f"The quantization {name!r} is not known.", hint=f"Known are: {', '.join(RECIPES)}.")
    return recipe


def tensor_types(
    recipe: Recipe, shapes: Mapping[str, Sequence[int]], *, blocks: int, is_70b: bool = False
) -> dict[str, TensorType]:
    """The type of each tensor; `shapes` maps GGUF names to shapes, outermost dimension first."""
    has_output = "output.weight" in shapes
    ranks = _ranks(shapes)
    types = {}
    for name, shape in shapes.items():
        role = _role(name, has_output=has_output)
        counted = _count(ranks, role) if role is Role.ATTENTION_VALUE else blocks
        place = Place(role, ranks.get(name, 0), counted, is_70b)
        types[name] = _tensor_type(recipe, name, shape, place)
    return types


def _tensor_type(recipe: Recipe, name: str, shape: Sequence[int], place: Place) -> TensorType:
    if not _holds_weights(name, shape):
        return TENSOR_TYPES["F32"]
    chosen = next(
        (rule.type for rule in recipe.rules if rule.role is place.role and rule.condition(place)), recipe.default
    )
    columns = shape[-1]
    for candidate in (chosen, FALLBACKS.get(chosen, chosen)):
        if columns % TENSOR_TYPES[candidate].block_elements == 0:
            return TENSOR_TYPES[candidate]
    return TENSOR_TYPES["F16"]


def _holds_weights(name: str, shape: Sequence[int]) -> bool:
    """Matrices are encoded as the recipe says; vectors, norms and routers stay F32."""
    is_excluded = name.endswith("_norm.weight") or "ffn_gate_inp.weight" in name
    return len(shape) >= 2 and name.endswith("weight") and not is_excluded


def _role(name: str, *, has_output: bool) -> Role:
    if name == "output.weight" or (name == "token_embd.weight" and not has_output):
        return Role.OUTPUT
    if name == "token_embd.weight":
        return Role.TOKEN_EMBEDDING
    if "attn_v.weight" in name:
        return Role.ATTENTION_VALUE
    if "ffn_down.weight" in name:
        return Role.FEED_FORWARD_DOWN
    return Role.OTHER


def _ranks(names: Iterable[str]) -> dict[str, int]:
    """For each counted tensor, how many of its role stand in earlier blocks."""
    by_role: dict[Role, list[tuple[int, str]]] = {}
    for name in names:
        block = _BLOCK_NUMBER.match(name)
        if block:
            by_role.setdefault(_role(name, has_output=True), []).append((int(block[1]), name))
    return {name: rank for entries in by_role.values() for rank, (_, name) in enumerate(sorted(entries))}


def _count(ranks: Mapping[str, int], role: Role) -> int:
    return sum(1 for name in ranks if _role(name, has_output=True) is role)
