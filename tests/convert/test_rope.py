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

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONGROPE: dict[str, Any] = {
    "type": "longrope",
    "long_factor": [2.0, 4.0, 8.0, 16.0],
    "short_factor": [1.0, 1.5, 2.0, 2.5],
}
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
    (found,) = frequency_factors(read(rope_theta=500000.0, rope_scaling={**LLAMA3, **settings})).values()
    assert found.dtype == np.float32
    return [float(value) for value in found]


def written(rope: RopeParameters) -> dict[str, Any]:
    """The keys of a scaling by what follows `rope.scaling.`."""
    prefix = "llama.rope.scaling."
    entries = rope_metadata(rope, "llama")
    return {entry.key.removeprefix(prefix): entry.value for entry in entries if entry.key.startswith(prefix)}


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
    assert list(frequency_factors(rope)) == ["rope_freqs.weight"]
    assert frequency_factors(read()) == {}
    assert frequency_factors(read(rope_scaling={"type": "linear", "factor": 2})) == {}


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


def test_original_context_beside_the_scaling_counts_more() -> None:
    """As transformers has it, for Phi-3."""
    inside = read(rope_scaling={**YARN, "original_max_position_embeddings": 512})
    assert read(rope_scaling=YARN, original_max_position_embeddings=512) == inside


def test_yarn_is_named_with_its_factor_and_original_context() -> None:
    """llama.cpp enlarges queries and keys by itself, as transformers does unless told otherwise."""
    expected = {"type": "yarn", "factor": 4.0, "original_context_length": 1024, "attn_factor": 1.0}
    assert written(read(rope_scaling=YARN)) == expected
    assert frequency_factors(read(rope_scaling=YARN)) == {}


def test_yarn_s_factor_is_that_of_the_contexts_unless_said() -> None:
    assert read(rope_scaling={**YARN, "factor": None}) == read(rope_scaling=YARN)


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (1 + 0.2 * math.log(4)) / (1 + 0.1 * math.log(4))),
        ({"mscale": 2.0}, 1 + 0.1 * math.log(4)),
        ({"mscale": 2.0, "mscale_all_dim": 0}, 1 + 0.1 * math.log(4)),
    ],
)
def test_yarn_s_attention_factor_is_what_llama_cpp_s_own_makes_of_it(
    settings: dict[str, float], attention: float
) -> None:
    assert written(read(rope_scaling={**YARN, **settings}))["attn_factor"] == pytest.approx(
        attention / (1 + 0.1 * math.log(4))
    )


def test_yarn_that_does_not_stretch_enlarges_nothing() -> None:
    assert written(read(rope_scaling={**YARN, "factor": 0.5}))["attn_factor"] == 1.0


def test_yarn_s_betas_are_written_where_they_are_not_the_usual_ones() -> None:
    found = written(read(rope_scaling={**YARN, "beta_fast": 16, "beta_slow": 2}))
    assert (found["yarn_beta_fast"], found["yarn_beta_slow"]) == (16.0, 2.0)
    assert read(rope_scaling={**YARN, "beta_fast": 32, "beta_slow": None}) == read(rope_scaling=YARN)


def test_yarn_s_betas_in_the_wrong_order_are_refused() -> None:
    error = refusal(rope_scaling={**YARN, "beta_fast": 1})
    assert error.message == "config.json gives rope_scaling.beta_fast as 1, not above beta_slow, which is 1."


def test_yarn_that_rounds_no_dimensions_is_refused() -> None:
    error = refusal(rope_scaling={**YARN, "truncate": False})
    assert error.message == "config.json gives rope_scaling.truncate as false."
    assert error.hint == "llama.cpp always rounds the dimensions between which yarn interpolates."


def longrope(**changes: Any) -> RopeParameters:
    config = {"original_max_position_embeddings": 1024, "rope_scaling": {**LONGROPE, **changes}}
    return read_rope_parameters(config, head_dim=8, context_tokens=4096)


def longrope_refusal(**changes: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        longrope(**changes)
    return caught.value


def test_longrope_is_two_tensors_and_the_context_between_them() -> None:
    found = frequency_factors(longrope())
    assert {name: values.tolist() for name, values in found.items()} == {
        "rope_factors_short.weight": LONGROPE["short_factor"],
        "rope_factors_long.weight": LONGROPE["long_factor"],
    }
    attention = math.sqrt(1 + math.log(4) / math.log(1024))
    expected = {"type": "longrope", "original_context_length": 1024, "attn_factor": attention}
    assert written(longrope()) == pytest.approx(expected)


def test_longrope_s_attention_factor_follows_its_factor_or_is_said() -> None:
    assert written(longrope(factor=16.0))["attn_factor"] == pytest.approx(math.sqrt(1 + math.log(16) / math.log(1024)))
    assert written(longrope(factor=1.0))["attn_factor"] == 1.0
    assert written(longrope(attention_factor=1.25))["attn_factor"] == 1.25


def test_longrope_has_an_older_name() -> None:
    assert longrope(type="su") == longrope()


def test_longrope_without_its_original_context_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        read_rope_parameters({"rope_scaling": LONGROPE}, head_dim=8, context_tokens=4096)
    assert caught.value.message == "config.json does not say rope_scaling.original_max_position_embeddings."


@pytest.mark.parametrize(("value", "found"), [([1.0] * 3, "3 values"), (None, "None"), (2.0, "2.0")])
def test_longrope_factors_that_do_not_fit_the_head_are_refused(value: Any, found: str) -> None:
    error = longrope_refusal(long_factor=value)
    assert error.message == f"config.json gives rope_scaling.long_factor as {found}."
    assert error.hint == "A list of 4 numbers is needed, one for each pair of dimensions."


def test_longrope_factor_that_is_no_number_is_refused() -> None:
    assert longrope_refusal(short_factor=[1.0, 1.0, 1.0, "2"]).message == "config.json gives short_factor as '2'."


@pytest.mark.parametrize("spelling", ["type", "rope_type"])
def test_scaling_that_changes_with_the_text_is_refused(spelling: str) -> None:
    error = refusal(rope_scaling={spelling: "dynamic", "factor": 4.0})
    assert error.message == "RoPE scaling 'dynamic' is not supported."
    assert error.hint == (
        "Its frequencies change while a text grows, those of llama.cpp stay."
        " Supported are: default, linear, llama3, yarn, longrope."
    )


@pytest.mark.parametrize("scaling", ["proportional", 3])
def test_scaling_that_is_not_known_is_refused(scaling: Any) -> None:
    error = refusal(rope_scaling={"type": scaling})
    assert error.message == f"RoPE scaling {scaling!r} is not supported."
    assert error.hint == "Supported are: default, linear, llama3, yarn, longrope."


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


def test_rope_may_turn_some_dimensions_only() -> None:
    assert read(partial_rotary_factor=0.5).dimensions == 32
    assert read(rope_parameters={"partial_rotary_factor": 0.25}).dimensions == 16
    assert rope_metadata(read(partial_rotary_factor=0.5), "phi3")[0].value == 32


@pytest.mark.parametrize(("part", "head_dim", "dimensions"), [(0.01, 64, 0), (2.0, 64, 128), (0.25, 28, 7)])
def test_part_of_a_head_that_holds_no_pairs_is_refused(part: float, head_dim: int, dimensions: int) -> None:
    with pytest.raises(EdgeError) as caught:
        read_rope_parameters({"partial_rotary_factor": part}, head_dim=head_dim, context_tokens=4096)
    assert caught.value.message == (
        f"config.json makes partial_rotary_factor {part}: {dimensions} of the {head_dim} dimensions of a head."
    )
    assert caught.value.hint == "RoPE turns pairs of dimensions: it must be an even number of those there are."


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
