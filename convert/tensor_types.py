"""The type of each tensor of a model under a recipe, and what a person chose otherwise.

Source: llama.cpp, src/llama-quant.cpp (tensor_allows_quantization, tensor_get_category, llama_tensor_get_type,
tensor_type_fallback, tensor_requires_imatrix).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert.recipes import ModelTraits, Place, Recipe, Role, Rule
from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, TensorType

CHOOSABLE_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q5_1", "Q4_K", "Q4_0", "Q4_1", "Q3_K", "Q2_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S",
)  # fmt: skip
TYPES_THAT_NEED_A_MATRIX = ("IQ3_XXS", "IQ2_S")

# what a type gives way to when the columns do not fill its blocks of 256
FALLBACKS = {
    "Q6_K": "Q8_0",
    "Q5_K": "Q5_1",
    "Q4_K": "Q5_0",
    "Q3_K": "Q4_0",
    "Q2_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
}

# parts of names, the first that fits decides; fused projections count as values
ROLES = {
    "attn_qkv.weight": Role.ATTENTION_VALUE,
    "attn_kv_b.weight": Role.ATTENTION_VALUE,
    "attn_v.weight": Role.ATTENTION_VALUE,
    "attn_k.weight": Role.ATTENTION_KEY,
    "attn_q.weight": Role.ATTENTION_QUERY,
    "attn_output.weight": Role.ATTENTION_OUTPUT,
    "ffn_up": Role.OTHER,
    "ffn_gate": Role.OTHER,
    "ffn_down": Role.FEED_FORWARD_DOWN,
}
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

# parts of names of tensors that keep their type: routers, norms, tables and convolutions
UNQUANTIZED = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight",
    "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight",
    "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
UNQUANTIZED_NAMES = ("position_embd.weight", "token_types.weight")

# GGUF architectures whose models of that many blocks llama.cpp counts among the 70B ones
BLOCKS_OF_70B = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}

_BLOCK_NUMBER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class TypeOverride:
    """Tensors whose name holds a match of `pattern` get `type`; of several overrides the first decides."""

    pattern: str
    type: str

    def fits(self, name: str) -> bool:
        return re.search(self.pattern, name) is not None


@dataclass(frozen=True)
class TypeChoices:
    """Types that a person chose. `output` is the output tensor's, be it tied to the embeddings or not."""

    overrides: tuple[TypeOverride, ...] = ()
    output: str | None = None
    embedding: str | None = None


NO_CHOICES = TypeChoices()


def read_choices(
    overrides: Sequence[str] = (), *, output: str | None = None, embedding: str | None = None
) -> TypeChoices:
    """Choices as the command line has them, overrides as REGEX=TYPE. EdgeError for a bad expression or type."""
    return TypeChoices(
        tuple(_read_override(text) for text in overrides),
        output and _read_type(output, "--output-type"),
        embedding and _read_type(embedding, "--embedding-type"),
    )


def _read_override(text: str) -> TypeOverride:
    pattern, separator, kind = text.rpartition("=")
    if not separator or not pattern:
        raise EdgeError(f"--tensor-type {text!r} is not of the form REGEX=TYPE.", hint="For example: ffn_down=Q6_K")
    try:
        re.compile(pattern)
    except re.error as error:
        raise EdgeError(
            f"--tensor-type {text!r}: {pattern!r} is no regular expression: {error}.", hint="For example: ffn_down=Q6_K"
        ) from error
    return TypeOverride(pattern, _read_type(kind, "--tensor-type"))


def _read_type(name: str, option: str) -> str:
    if name.upper() not in CHOOSABLE_TYPES:
        raise EdgeError(f"{option}: the type {name!r} is not known.", hint=f"Known are: {', '.join(CHOOSABLE_TYPES)}.")
    return name.upper()


def read_traits(keys: Mapping[str, Any]) -> ModelTraits:
    """What a model's GGUF keys say of it, as llama.cpp's quantizer reads them."""
    architecture = str(keys["general.architecture"])

    def number(name: str, default: int = 0) -> int:
        value = keys.get(f"{architecture}.{name}", default)
        return int(value if isinstance(value, int) else value[0])  # a list has one number for each block

    blocks, heads = number("block_count"), number("attention.head_count")
    key_heads = number("attention.head_count_kv", heads)
    has_all_key_heads = architecture == "llama" and heads == key_heads  # as the first 65B model
    return ModelTraits(
        architecture,
        blocks,
        query_groups=heads // key_heads if key_heads else 0,
        experts=number("expert_count"),
        is_70b=blocks == BLOCKS_OF_70B.get(architecture) and not has_all_key_heads,
    )


def tensor_types(
    recipe: Recipe,
    shapes: Mapping[str, Sequence[int]],
    model: ModelTraits,
    *,
    choices: TypeChoices = NO_CHOICES,
    has_matrix: bool = False,
    kept: Mapping[str, TensorType] | None = None,
) -> dict[str, TensorType]:
    """The type of each tensor; `shapes` maps GGUF names to shapes, outermost dimension first.

    Tensors that are never quantized have the type that `kept` gives them, or F32. EdgeError for a choice that fits no
    tensor or not the columns of one.
    """
    weights = [name for name, shape in shapes.items() if _holds_weights(name, shape)]
    _refuse_idle_overrides(recipe, choices, weights)
    chosen = _chosen_types(recipe, weights, choices, is_tied="output.weight" not in shapes)
    places = _places(weights, chosen, model, has_matrix=has_matrix, is_tied="output.weight" not in shapes)
    types = {name: (kept or {}).get(name, TENSOR_TYPES["F32"]) for name in shapes}
    for name in weights:
        columns = shapes[name][-1]
        if name in chosen:
            types[name] = _fitting(name, chosen[name], columns)
        else:
            types[name] = _by_rule(recipe, *places[name], columns)
    return types


def tensor_without_matrix(types: Mapping[str, TensorType], entries: Iterable[str]) -> str | None:
    """The first tensor whose type needs importance while a matrix of these entries has none for it."""
    known = {*entries, *EMBEDDINGS, "output.weight"}
    return next(
        (name for name, kind in types.items() if kind.name in TYPES_THAT_NEED_A_MATRIX and name not in known), None
    )


def _holds_weights(name: str, shape: Sequence[int]) -> bool:
    """Matrices are encoded as the recipe says; vectors, norms and routers are not."""
    if len(shape) < 2 or math.prod(shape[:-1]) < 2 or not name.endswith("weight") or name in UNQUANTIZED_NAMES:
        return False
    return not any(part in name for part in UNQUANTIZED)


def _refuse_idle_overrides(recipe: Recipe, choices: TypeChoices, weights: Sequence[str]) -> None:
    if choices.overrides and not recipe.is_quantized:
        raise EdgeError(
            f"--tensor-type changes nothing in {recipe.name}, which is not quantized.",
            hint="Choose another --quant, or leave --tensor-type out.",
        )
    for override in choices.overrides:
        if not any(override.fits(name) for name in weights):
            raise EdgeError(
                f"--tensor-type {override.pattern}={override.type}: no tensor that is quantized has a name like"
                f" {override.pattern!r}.",
                hint="List the names with: edge inspect --all FILE.gguf",
            )


def _chosen_types(recipe: Recipe, weights: Sequence[str], choices: TypeChoices, *, is_tied: bool) -> dict[str, str]:
    """The types that a person chose, of the tensors they apply to."""
    chosen = {}
    for name in weights:
        named = next((override.type for override in choices.overrides if override.fits(name)), None)
        if name in EMBEDDINGS and choices.embedding and not (name != "token_embd.weight" and named):
            chosen[name] = choices.embedding
        elif name == "output.weight" and choices.output:
            chosen[name] = choices.output
        elif named:
            chosen[name] = named
        elif is_tied and name in EMBEDDINGS and choices.output and recipe.is_quantized:
            chosen[name] = choices.output
    return chosen


def _fitting(name: str, kind: str, columns: int) -> TensorType:
    found = TENSOR_TYPES[kind]
    if columns % found.block_elements:
        raise EdgeError(
            f"The tensor {name!r} cannot be {kind}: its {columns} columns do not fill blocks of"
            f" {found.block_elements}.",
            hint="Choose a type of smaller blocks for it, such as Q8_0 or F16.",
        )
    return found


def _by_rule(recipe: Recipe, role: Role, place: Place, columns: int) -> TensorType:
    rule = next(
        (rule for rule in recipe.rules if rule.role is role and all(holds(place) for holds in rule.conditions)),
        Rule(role, recipe.default),
    )
    for candidate in (rule.type, rule.fallback or FALLBACKS.get(rule.type, rule.type)):
        if columns % TENSOR_TYPES[candidate].block_elements == 0:
            return TENSOR_TYPES[candidate]
    return TENSOR_TYPES["F16"]


def _places(
    weights: Sequence[str], chosen: Mapping[str, str], model: ModelTraits, *, has_matrix: bool, is_tied: bool
) -> dict[str, tuple[Role, Place]]:
    """The role and place of each tensor. Ranks pass over tensors whose type was chosen, counts do not."""
    value_count = sum(1 for name in weights if _role(name, is_tied=is_tied) is Role.ATTENTION_VALUE)
    ranks: dict[Role, int] = {}
    places = {}
    for name in sorted(weights, key=lambda name: (_block(name), name)):
        role = _role(name, is_tied=is_tied)
        count = value_count if role is Role.ATTENTION_VALUE else model.blocks
        places[name] = role, Place(ranks.get(role, 0), _block(name), count, model, has_matrix)
        if name not in chosen:
            ranks[role] = ranks.get(role, 0) + 1
    return places


def _role(name: str, *, is_tied: bool) -> Role:
    if name == "output.weight":
        return Role.OUTPUT
    if name in EMBEDDINGS:
        return Role.OUTPUT if is_tied else Role.TOKEN_EMBEDDING
    return next((role for part, role in ROLES.items() if part in name), Role.OTHER)


def _block(name: str) -> int:
    """The number of a tensor's block; -1 outside of the blocks."""
    block = _BLOCK_NUMBER.match(name)
    return int(block[1]) if block else -1
