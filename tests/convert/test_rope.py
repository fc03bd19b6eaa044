"""Rotary position embedding: both spellings of config.json, GGUF keys, frequency factors, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.rope import RopeParameters, frequency_factors, read_rope_parameters, rope_metadata
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType

LLAMA3: dict[str, Any] = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def read(**config: Any) -> RopeParameters:
    return read_rope_parameters(config, head_dim=64, context_tokens=4096)


def refusal(**config: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        read(**config)
    return caught.value


def factors(**settings: Any) -> list[float]:
    found = frequency_factors(read(rope_theta=500000.0, rope_scaling={**LLAMA3, **settings}))
    assert found is not None
    assert found.dtype == np.float32
    return [float(value) for value in found]


def test_both_spellings_of_transformers_mean_the_same() -> None:
    assert read(rope_theta=1e6) == read(rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    before = read(rope_theta=1e4, rope_scaling={"type": "linear", "factor": 4.0})
    assert before == read(rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": 4})
    assert read(rope_theta=5e5, rope_scaling=LLAMA3) == read(rope_parameters={**LLAMA3, "rope_theta": 5e5})


@pytest.mark.parametrize("config", [{}, {"rope_scaling": None}, {"rope_theta": None, "rope_parameters": {}}])
def test_config_that_says_nothing_means_the_base_of_10000(config: dict[str, Any]) -> None:
    assert read(**config) == RopeParameters(10000.0, "default", {}, 64)


def test_unscaled_rope_is_two_keys() -> None:
    assert rope_metadata(read(rope_theta=1e6), "qwen3") == [
        MetadataEntry("qwen3.rope.dimension_count", ValueType.UINT32, 64),
        MetadataEntry("qwen3.rope.freq_base", ValueType.FLOAT32, 1e6),
    ]


def test_linear_scaling_is_named_with_its_factor() -> None:
    entries = rope_metadata(read(rope_scaling={"type": "linear", "factor": 2}), "llama")
    assert entries[2:] == [
        MetadataEntry("llama.rope.scaling.type", ValueType.STRING, "linear"),
        MetadataEntry("llama.rope.scaling.factor", ValueType.FLOAT32, 2.0),
    ]


def test_llama3_scaling_is_a_tensor_and_no_key() -> None:
    rope = read(rope_scaling=LLAMA3)
    assert len(rope_metadata(rope, "llama")) == 2
    assert frequency_factors(rope) is not None
    assert frequency_factors(read()) is None
    assert frequency_factors(read(rope_scaling={"type": "linear", "factor": 2})) is None


def test_llama_3_2_leaves_fast_frequencies_and_stretches_slow_ones() -> None:
    """The values of Llama 3.2 1B: 64 dimensions, base 500000."""
    found = factors()
    assert len(found) == 32
    assert found[:15] == [1.0] * 15
    assert found[18:] == [32.0] * 14
    assert found == sorted(found)


@settings(deadline=None)
@given(
    factor=st.floats(1, 64),
    low=st.floats(0.1, 4),
    span=st.floats(0.1, 8),
    original=st.integers(64, 100_000),
)
def test_factors_follow_the_wavelength(factor: float, low: float, span: float, original: int) -> None:
    """Written as transformers has it: three cases by wavelength, where ours is one expression."""
    high = low + span
    expected = []
    for dimension in range(0, 64, 2):
        wavelength = 2 * math.pi * 500000.0 ** (dimension / 64)
        if wavelength > original / low:
            expected.append(factor)
        elif wavelength < original / high:
            expected.append(1.0)
        else:
            smooth = (original / wavelength - low) / (high - low)
            expected.append(1 / ((1 - smooth) / factor + smooth))
    found = factors(
        factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_position_embeddings=original
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_original_context_is_the_model_s_unless_said() -> None:
    settings = {name: value for name, value in LLAMA3.items() if name != "original_max_position_embeddings"}
    said = read(rope_scaling={**LLAMA3, "original_max_position_embeddings": 4096})
    assert read(rope_scaling=settings) == said


@pytest.mark.parametrize("spelling", ["type", "rope_type"])
@pytest.mark.parametrize("scaling", ["yarn", "dynamic", "longrope", 3])
def test_scaling_that_is_not_reproduced_is_refused(spelling: str, scaling: Any) -> None:
    error = refusal(rope_scaling={spelling: scaling, "factor": 4.0})
    assert error.message == f"RoPE scaling {scaling!r} is not supported."
    assert error.hint == "Supported are: default, linear, llama3."


@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor"])
def test_scaling_without_one_of_its_numbers_is_refused(name: str) -> None:
    settings = {**LLAMA3}
    del settings[name]
    assert refusal(rope_scaling=settings).message == f"config.json does not say rope_scaling.{name}."
    assert refusal(rope_parameters=settings).message == f"config.json does not say rope_parameters.{name}."


@pytest.mark.parametrize("value", [0, -2.0, "8", True, float("nan"), 1e39])
def test_number_that_is_none_is_refused(value: Any) -> None:
    error = refusal(rope_scaling={"type": "linear", "factor": value})
    assert error.message == f"config.json gives rope_scaling.factor as {value!r}."
    assert error.hint == "A number above zero is needed."
    assert refusal(rope_theta=value).message == f"config.json gives rope_theta as {value!r}."
    assert refusal(rope_parameters={"rope_theta": value}).message == f"config.json gives rope_theta as {value!r}."


def test_bounds_in_the_wrong_order_are_refused() -> None:
    error = refusal(rope_scaling={**LLAMA3, "low_freq_factor": 4.0})
    assert error.message == (
        "config.json gives rope_scaling.high_freq_factor as 4, not above low_freq_factor, which is 4."
    )
    assert error.hint == "Correct one of them: frequencies between the two are interpolated."


def test_rope_that_turns_only_some_dimensions_is_refused() -> None:
    error = refusal(partial_rotary_factor=0.5)
    assert error.message == "partial_rotary_factor 0.5 is not supported for this family."
    assert error.hint == "It must be 1.0."
    assert refusal(rope_parameters={"partial_rotary_factor": 0.25}).message.startswith("partial_rotary_factor 0.25")


def test_rope_for_each_kind_of_layer_is_refused() -> None:
    """transformers 5 writes it so for Gemma 3; taking the defaults instead would be silently wrong."""
    kinds = {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}}
    error = refusal(rope_parameters=kinds)
    assert error.message == "config.json gives rope_parameters for sliding_attention and full_attention separately."
    assert error.hint == "A RoPE that differs from layer to layer is not supported for this family."


def test_settings_that_are_no_object_are_refused() -> None:
    error = refusal(rope_scaling="linear")
    assert error.message == "config.json gives rope_scaling as 'linear'."
    assert error.hint == "An object is needed."
