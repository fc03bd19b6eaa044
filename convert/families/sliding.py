"""Which layers of a model have a sliding window, as config.json says and as a GGUF file says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from convert.config_values import positive_integer
from convert.families.record import KeyRule
from convert.hyperparameters import Hyperparameters
from edge.errors import EdgeError
from edge.gguf_format import ValueType

_WINDOW = 4096
SLIDING, FULL = "sliding_attention", "full_attention"
_Value = TypeVar("_Value")


def has_window(shape: Hyperparameters) -> bool:
    """Whether there is a sliding window: unless config.json says null, where transformers takes one of 4096 tokens."""
    return shape.config.get("sliding_window", _WINDOW) is not None


def sliding_layers(shape: Hyperparameters, *, full_every: int) -> list[bool]:
    """Whether each layer has a sliding window; without layer_types, all but every so many of them."""
    layer_types = shape.config.get("layer_types")
    if layer_types is None:
        pattern = positive_integer(shape.config, "sliding_window_pattern", default=full_every)
        return [(block + 1) % pattern != 0 for block in range(shape.layers)]
    if not isinstance(layer_types, list) or len(layer_types) != shape.layers or set(layer_types) - {SLIDING, FULL}:
        raise EdgeError(
            f"config.json gives layer_types as {layer_types!r}.",
            hint=f"It must name one of {SLIDING} and {FULL} for each of {shape.layers} layers.",
        )
    return [kind == SLIDING for kind in layer_types]


def sliding_keys(layers: Callable[[Hyperparameters], list[bool]]) -> tuple[KeyRule, KeyRule]:
    """The window and the layers that have it; nothing where there are none."""

    def if_any_slides(value: Callable[[Hyperparameters], _Value], shape: Hyperparameters) -> _Value | None:
        return value(shape) if any(layers(shape)) else None

    def window(shape: Hyperparameters) -> int:
        return positive_integer(shape.config, "sliding_window", default=_WINDOW)

    return (
        KeyRule("attention.sliding_window", ValueType.UINT32, partial(if_any_slides, window)),
        KeyRule("attention.sliding_window_pattern", ValueType.BOOL, partial(if_any_slides, layers)),
    )
