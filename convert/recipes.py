"""Quantization recipes as a table: the type of each kind of tensor, by its place in the model.

A recipe is a default type and a list of rules; the first rule that fits a tensor decides. The rules are llama.cpp's, so
that a file of ours holds the same bytes as one that llama_model_quantize makes. How a tensor finds its rule is for
`convert.tensor_types`.
Source: llama.cpp, src/llama-quant.cpp (llama_tensor_get_type_impl, llama_ftype_get_default_type).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edge.errors import EdgeError
from edge.gguf_format import FILE_TYPES, TENSOR_TYPES


class Role(StrEnum):
    """What a tensor does, as far as recipes care."""

    OUTPUT = "output"
    TOKEN_EMBEDDING = "token embedding"
    ATTENTION_VALUE = "attention value"
    ATTENTION_KEY = "attention key"
    ATTENTION_QUERY = "attention query"
    ATTENTION_OUTPUT = "attention output"
    FEED_FORWARD_DOWN = "feed-forward down"
    OTHER = "other"


@dataclass(frozen=True)
class ModelTraits:
    """What the rules ask of a model. `query_groups` is how many query heads share a key head, in the first block."""

    architecture: str
    blocks: int
    query_groups: int = 1
    experts: int = 0
    is_70b: bool = False


@dataclass(frozen=True)
class Place:
    """Where a tensor stands among the `count` of its role: by `rank`, and for a feed-forward part also by `block`."""

    rank: int
    block: int
    count: int
    model: ModelTraits
    has_matrix: bool

    @property
    def feed_forward_index(self) -> int:
        """Parts of experts are found by block, since a block has several of them."""
        return self.block if self.model.experts > 1 else self.rank


Condition = Callable[[Place], bool]


@dataclass(frozen=True)
class Rule:
    """A tensor of this role gets this type where all conditions hold."""

    role: Role
    type: str
    conditions: tuple[Condition, ...] = ()
    fallback: str | None = None
    """What it gives way to when the columns do not fill the type's blocks, if that is not the usual type."""


@dataclass(frozen=True)
class Recipe:
    name: str
    default: str
    rules: tuple[Rule, ...] = ()
    needs_matrix: bool = False
    """Whether its types are so small that they are made with an importance matrix only."""

    @property
    def file_type(self) -> int:
        """llama_ftype's number, stored as general.file_type."""
        return FILE_TYPES[self.name]

    @property
    def is_quantized(self) -> bool:
        return TENSOR_TYPES[self.default].is_quantized


# Conditions


def _gets_more_bits(index: int, count: int) -> bool:
    """The first and last eighth of the blocks, and every third between them."""
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def value_gets_more_bits(place: Place) -> bool:
    return _gets_more_bits(place.rank, place.count)


def down_gets_more_bits(place: Place) -> bool:
    return _gets_more_bits(place.feed_forward_index, place.count)


def is_in_first_eighth(place: Place) -> bool:
    return place.feed_forward_index < place.count // 8


def is_in_first_sixteenth(place: Place) -> bool:
    return place.feed_forward_index < place.count // 16


def ranks_in_first_eighth(place: Place) -> bool:
    return place.rank < place.count // 8


def is_among_first(number: int) -> Condition:
    return lambda place: place.rank < number


def has_grouped_queries(place: Place) -> bool:
    return place.model.query_groups >= 4


def has_eight_experts(place: Place) -> bool:
    return place.model.experts == 8


def has_four_experts_or_more(place: Place) -> bool:
    return place.model.experts >= 4


def is_70b(place: Place) -> bool:
    return place.model.is_70b


def has_matrix(place: Place) -> bool:
    return place.has_matrix


def has_no_matrix(place: Place) -> bool:
    return not place.has_matrix


# Rules that recipes share

VALUE, KEY, QUERY = Role.ATTENTION_VALUE, Role.ATTENTION_KEY, Role.ATTENTION_QUERY
MIX, DOWN = Role.ATTENTION_OUTPUT, Role.FEED_FORWARD_DOWN
OUTPUT, EMBEDDING = Role.OUTPUT, Role.TOKEN_EMBEDDING

# among experts, attention is so small a part that 8 bits cost next to nothing
EXPERTS = (Rule(VALUE, "Q8_0", (has_eight_experts,)), Rule(KEY, "Q8_0", (has_eight_experts,)))
EXPERTS_MIX = Rule(MIX, "Q5_K", (has_eight_experts,))
OUTPUT_6_BIT = Rule(OUTPUT, "Q6_K")
OUTPUT_5_BIT = Rule(OUTPUT, "Q5_K", fallback="Q8_0")
VALUE_70B = Rule(VALUE, "Q5_K", (is_70b,))
IQ4_RULES = (
    OUTPUT_6_BIT,
    *EXPERTS,
    EXPERTS_MIX,
    Rule(VALUE, "Q5_K", (has_grouped_queries,)),
    Rule(DOWN, "Q5_K", (is_in_first_eighth, has_no_matrix)),
)


def _down_with_matrix(kind: str) -> Rule:
    """The first blocks' sums go astray in types without a minimum, even with a matrix."""
    return Rule(DOWN, kind, (is_in_first_eighth, has_matrix))


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("F32", "F32"),
        Recipe("F16", "F16"),
        Recipe("BF16", "BF16"),
        Recipe("Q8_0", "Q8_0"),
        Recipe("Q6_K", "Q6_K", EXPERTS),
        Recipe(
            "Q5_K_M",
            "Q5_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                Rule(VALUE, "Q6_K", (value_gets_more_bits,)),
                Rule(DOWN, "Q6_K", (down_gets_more_bits,)),
            ),
        ),
        Recipe("Q5_K_S", "Q5_K", (OUTPUT_6_BIT, *EXPERTS)),
        Recipe("Q5_0", "Q5_0", (OUTPUT_6_BIT, *EXPERTS, _down_with_matrix("Q5_1"))),
        Recipe("Q5_1", "Q5_1", (OUTPUT_6_BIT, *EXPERTS)),
        Recipe(
            "Q4_K_M",
            "Q4_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                EXPERTS_MIX,
                Rule(VALUE, "Q6_K", (value_gets_more_bits,)),
                VALUE_70B,
                Rule(DOWN, "Q6_K", (down_gets_more_bits,)),
            ),
        ),
        Recipe(
            "Q4_K_S",
            "Q4_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                EXPERTS_MIX,
                Rule(VALUE, "Q5_K", (is_among_first(4),)),
                VALUE_70B,
                Rule(DOWN, "Q5_K", (is_in_first_eighth,)),
            ),
        ),
        Recipe("Q4_0", "Q4_0", (OUTPUT_6_BIT, *EXPERTS, _down_with_matrix("Q4_1"))),
        Recipe("Q4_1", "Q4_1", (OUTPUT_6_BIT, *EXPERTS)),
        Recipe(
            "Q3_K_L",
            "Q3_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                Rule(MIX, "Q3_K", (has_eight_experts,)),
                Rule(MIX, "Q5_K"),
                Rule(VALUE, "Q5_K"),
                Rule(DOWN, "Q5_K"),
            ),
        ),
        Recipe(
            "Q3_K_M",
            "Q3_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                EXPERTS_MIX,
                Rule(MIX, "Q4_K"),
                Rule(VALUE, "Q5_K", (is_among_first(2),)),
                VALUE_70B,
                Rule(VALUE, "Q4_K"),
                Rule(DOWN, "Q5_K", (is_in_first_sixteenth,)),
                Rule(DOWN, "Q4_K"),
            ),
        ),
        Recipe("Q3_K_S", "Q3_K", (OUTPUT_6_BIT, *EXPERTS, EXPERTS_MIX, VALUE_70B)),
        Recipe(
            "Q2_K",
            "Q2_K",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                EXPERTS_MIX,
                Rule(MIX, "Q3_K"),
                VALUE_70B,
                Rule(VALUE, "Q4_K", (has_grouped_queries,)),
                Rule(VALUE, "Q3_K"),
                Rule(DOWN, "Q3_K"),
            ),
        ),
        Recipe("IQ4_NL", "IQ4_NL", IQ4_RULES),
        Recipe("IQ4_XS", "IQ4_XS", IQ4_RULES),
        Recipe(
            "IQ3_M",
            "IQ3_S",
            (
                OUTPUT_6_BIT,
                *EXPERTS,
                EXPERTS_MIX,
                Rule(MIX, "Q4_K"),
                VALUE_70B,
                Rule(VALUE, "Q4_K"),
                Rule(DOWN, "Q4_K", (is_in_first_eighth,)),
                Rule(DOWN, "Q4_K", (has_eight_experts, down_gets_more_bits)),
            ),
            needs_matrix=True,
        ),
        Recipe(
            "IQ3_XXS",
            "IQ3_XXS",
            (
                OUTPUT_5_BIT,
                Rule(EMBEDDING, "IQ3_S"),
                *EXPERTS,
                EXPERTS_MIX,
                Rule(MIX, "IQ3_S"),
                Rule(VALUE, "Q5_K", (is_70b, has_grouped_queries)),
                Rule(VALUE, "Q4_K", (has_grouped_queries,)),
                Rule(VALUE, "IQ3_S", (has_no_matrix,)),
                Rule(KEY, "IQ2_S"),
                Rule(QUERY, "IQ2_S"),
                Rule(DOWN, "Q4_K", (has_no_matrix, is_in_first_eighth)),
                Rule(DOWN, "Q3_K", (has_no_matrix,)),
            ),
            needs_matrix=True,
        ),
        Recipe(
            "IQ2_M",
            "IQ2_S",
            (
                OUTPUT_5_BIT,
                Rule(EMBEDDING, "IQ3_S"),
                Rule(VALUE, "Q4_K", (has_grouped_queries,)),
                Rule(VALUE, "Q4_K", (has_four_experts_or_more,)),
                Rule(VALUE, "IQ3_S"),
                Rule(KEY, "Q4_K", (has_eight_experts,)),
                Rule(DOWN, "IQ3_S", (ranks_in_first_eighth,)),
                Rule(MIX, "Q5_K", (has_eight_experts,)),
                Rule(MIX, "IQ3_S"),
            ),
            needs_matrix=True,
        ),
    )
}


def check_without_matrix(recipe: Recipe) -> None:
    """EdgeError if a recipe is made with an importance matrix only."""
    if recipe.needs_matrix:
        raise EdgeError(
            f"{recipe.name} needs an importance matrix.",
            hint="Have edge convert measure one with --calibrate default, or name one with --imatrix FILE.",
        )


def recipes_text() -> str:
    """The names of all recipes in a line for a person."""
    plain = ", ".join(name for name, recipe in RECIPES.items() if not recipe.needs_matrix)
    return f"{plain}; with an importance matrix {', '.join(name for name in RECIPES if RECIPES[name].needs_matrix)}"


def find_recipe(name: str) -> Recipe:
    """The recipe of a name in any case. EdgeError that lists the known ones."""
    recipe = RECIPES.get(name.upper())
    if recipe is None:
        raise EdgeError(f"The quantization {name!r} is not known.", hint=f"Known are: {', '.join(RECIPES)}.")
    return recipe
