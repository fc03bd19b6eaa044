"""Rotary position embedding: what config.json says, and how a GGUF file says the same.

llama.cpp knows the scalings by keys, except for "llama3" and the factors of "longrope", which are tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.config_values import positive_integer, positive_number
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType

SCALINGS = ("default", "linear", "llama3", "yarn", "longrope")
YARN_BETAS = (32.0, 1.0)
"""Turns within the original context above which yarn leaves a frequency, and below which it stretches it."""

_SYNONYMS = {"su": "longrope"}  # the name under which Phi-3 was published


@dataclass(frozen=True)
class RopeParameters:
    """Base frequency and its scaling; `settings` are the scaling's own numbers."""

    theta: float
    scaling: str
    settings: Mapping[str, float]
    dimensions: int
    """How many of a head's dimensions, from the first on, are turned."""
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What "longrope" divides each frequency by: "short" within the original context, "long" beyond it."""


def read_rope_parameters(config: Mapping[str, Any], head_dim: int, context_tokens: int) -> RopeParameters:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    EdgeError for a scaling that llama.cpp would not reproduce.
    """
    place = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    settings = config.get(place) or {}
    if not isinstance(settings, Mapping):
        raise EdgeError(f"config.json gives {place} as {settings!r}.", hint="An object is needed.")
    if any(isinstance(value, Mapping) for value in settings.values()):
        raise EdgeError(
            f"config.json gives {place} for {' and '.join(settings)} separately.",
            hint="A RoPE that differs from layer to layer is not supported for this family.",
        )
    theta = positive_number({"rope_theta": config.get("rope_theta"), **settings}, "rope_theta", default=10000.0)
    scaling = _scaling(settings)
    reader = _Settings(place, settings, _original_context(config, settings), context_tokens)
    dimensions = _rotated_dimensions(config, settings, head_dim)
    factors = reader.longrope_factors(dimensions // 2) if scaling == "longrope" else {}
    return RopeParameters(theta, scaling, _READERS[scaling](reader), dimensions, factors)


def _scaling(settings: Mapping[str, Any]) -> str:
    scaling = settings.get("rope_type") or settings.get("type") or "default"
    known = f"Supported are: {', '.join(SCALINGS)}."
    if scaling == "dynamic":
        raise EdgeError(
            "RoPE scaling 'dynamic' is not supported.",
            hint=f"Its frequencies change while a text grows, those of llama.cpp stay. {known}",
        )
    name = _SYNONYMS.get(str(scaling), scaling)
    if name not in SCALINGS:
        raise EdgeError(f"RoPE scaling {scaling!r} is not supported.", hint=known)
    return str(name)


def _rotated_dimensions(config: Mapping[str, Any], settings: Mapping[str, Any], head_dim: int) -> int:
    part = settings.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    dimensions = int(head_dim * positive_number({"partial_rotary_factor": part}, "partial_rotary_factor", default=1.0))
    if not 0 < dimensions <= head_dim or dimensions % 2:
        raise EdgeError(
            f"config.json makes partial_rotary_factor {part}: {dimensions} of the {head_dim} dimensions of a head.",
            hint="RoPE turns pairs of dimensions: it must be an even number of those there are.",
        )
    return dimensions


def _original_context(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Phi-3 has it beside the scaling; there it counts more. Source: transformers, standardize_rope_params."""
    name = "original_max_position_embeddings"
    return config[name] if config.get(name) is not None else settings.get(name)


@dataclass(frozen=True)
class _Settings:
    """Reads the numbers of a scaling; errors name `place`, the object in config.json."""

    place: str
    settings: Mapping[str, Any]
    original_context: Any
    context_tokens: int

    def number(self, name: str, default: float | None = None) -> float:
        return positive_number(self._named(name, self.settings.get(name)), f"{self.place}.{name}", default=default)

    def original(self, default: int | None = None) -> int:
        name = "original_max_position_embeddings"
        return positive_integer(self._named(name, self.original_context), f"{self.place}.{name}", default=default)

    def linear(self) -> dict[str, float]:
        return {"factor": self.number("factor")}

    def llama3(self) -> dict[str, float]:
        low, high = self.number("low_freq_factor"), self.number("high_freq_factor")
        self._check_order("high_freq_factor", high, "low_freq_factor", low)
        return {
            "factor": self.number("factor"),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": self.original(self.context_tokens),
        }

    def yarn(self) -> dict[str, float]:
        """Source: transformers, modeling_rope_utils._compute_yarn_parameters."""
        original = self.original(self.context_tokens)
        factor = self.number("factor", self.context_tokens / original)
        fast, slow = (
            self.number(name, beta) for name, beta in zip(("beta_fast", "beta_slow"), YARN_BETAS, strict=True)
        )
        self._check_order("beta_fast", fast, "beta_slow", slow)
        if self.settings.get("truncate") is False:
            raise EdgeError(
                f"config.json gives {self.place}.truncate as false.",
                hint="llama.cpp always rounds the dimensions between which yarn interpolates.",
            )
        return {
            "factor": factor,
            "attention_factor": self.number("attention_factor", self._yarn_attention_factor(factor)),
            "beta_fast": fast,
            "beta_slow": slow,
            "original_max_position_embeddings": original,
        }

    def longrope(self) -> dict[str, float]:
        """Source: transformers, modeling_rope_utils._compute_longrope_parameters."""
        original = self.original()
        factor = self.number("factor", self.context_tokens / original)
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        return {
            "attention_factor": self.number("attention_factor", attention),
            "original_max_position_embeddings": original,
        }

    def longrope_factors(self, count: int) -> dict[str, tuple[float, ...]]:
        return {kind: self._numbers(f"{kind}_factor", count) for kind in ("short", "long")}

    def _yarn_attention_factor(self, factor: float) -> float:
        scales = [self.settings.get(name) for name in ("mscale", "mscale_all_dim")]
        if not all(scales):
            return yarn_magnitude(factor)
        numerator, denominator = (yarn_magnitude(factor, self.number(name)) for name in ("mscale", "mscale_all_dim"))
        return numerator / denominator

    def _numbers(self, name: str, count: int) -> tuple[float, ...]:
        values = self.settings.get(name)
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} values" if isinstance(values, list) else repr(values)
            raise EdgeError(
                f"config.json gives {self.place}.{name} as {found}.",
                hint=f"A list of {count} numbers is needed, one for each pair of dimensions.",
            )
        return tuple(positive_number({name: value}, name) for value in values)

    def _check_order(self, upper_name: str, upper: float, lower_name: str, lower: float) -> None:
        if upper <= lower:
            raise EdgeError(
                f"config.json gives {self.place}.{upper_name} as {upper:g}, "
                f"not above {lower_name}, which is {lower:g}.",
                hint="Correct one of them: frequencies between the two are interpolated.",
            )

    def _named(self, name: str, value: Any) -> dict[str, Any]:
        return {f"{self.place}.{name}": value}


_READERS: Mapping[str, Callable[[_Settings], dict[str, float]]] = {
    "default": lambda reader: {},
    "linear": _Settings.linear,
    "llama3": _Settings.llama3,
    "yarn": _Settings.yarn,
    "longrope": _Settings.longrope,
}


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """By how much yarn enlarges queries and keys. Source: transformers, _compute_yarn_parameters.get_mscale."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_metadata(rope: RopeParameters, architecture: str) -> list[MetadataEntry]:
    """The GGUF keys for a rope. The "llama3" scaling needs none: it is a tensor of `frequency_factors`."""
    values: dict[str, tuple[ValueType, int | float | str]] = {
        "dimension_count": (ValueType.UINT32, rope.dimensions),
        "freq_base": (ValueType.FLOAT32, rope.theta),
    }
    if rope.scaling in ("linear", "yarn", "longrope"):
        values["scaling.type"] = ValueType.STRING, rope.scaling
    if rope.scaling in ("linear", "yarn"):
        values["scaling.factor"] = ValueType.FLOAT32, rope.settings["factor"]
    if rope.scaling in ("yarn", "longrope"):
        original = int(rope.settings["original_max_position_embeddings"])
        values["scaling.original_context_length"] = ValueType.UINT32, original
        values["scaling.attn_factor"] = ValueType.FLOAT32, _attention_factor(rope)
    if rope.scaling == "yarn" and yarn_betas(rope) != YARN_BETAS:
        values["scaling.yarn_beta_fast"], values["scaling.yarn_beta_slow"] = (
            (ValueType.FLOAT32, beta) for beta in yarn_betas(rope)
        )
    return [MetadataEntry(f"{architecture}.rope.{key}", kind, value) for key, (kind, value) in values.items()]


def yarn_betas(rope: RopeParameters) -> tuple[float, float]:
    """The betas of a yarn scaling, `YARN_BETAS` for any other."""
    if rope.scaling != "yarn":
        return YARN_BETAS
    return rope.settings["beta_fast"], rope.settings["beta_slow"]


def _attention_factor(rope: RopeParameters) -> float:
    """What llama.cpp multiplies queries and keys with, besides the magnitude that it always gives to yarn.

    Its own converter writes `yarn_attn_factor`, which llama.cpp overwrites when a context is made.
    """
    attention = rope.settings["attention_factor"]
    return attention / yarn_magnitude(rope.settings["factor"]) if rope.scaling == "yarn" else attention


def frequency_factors(rope: RopeParameters) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors, by name, of what each frequency is divided by, [dimensions / 2], for "llama3" and "longrope"."""
    if rope.scaling == "llama3":
        return {"rope_freqs.weight": _llama3_factors(rope)}
    return {f"rope_factors_{kind}.weight": np.array(values, np.float32) for kind, values in rope.factors.items()}


def _llama3_factors(rope: RopeParameters) -> npt.NDArray[np.float32]:
    """Source: transformers, modeling_rope_utils._compute_llama3_parameters."""
    factor = rope.settings["factor"]
    low, high = rope.settings["low_freq_factor"], rope.settings["high_freq_factor"]
    original = rope.settings["original_max_position_embeddings"]
    frequencies = rope.theta ** -(np.arange(0, rope.dimensions, 2, dtype=np.float64) / rope.dimensions)
    turns = original * frequencies / (2 * math.pi)  # full rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
