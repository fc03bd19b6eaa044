"""Settings refuse what no sampler can do, and say what they take."""

from __future__ import annotations

import pytest

from edge.errors import EdgeError
from edge.settings import SamplingSettings


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("temperature", -0.1, "at least 0"),
        ("top_k", -1, "at least 0 (0 switches it off)"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", -0.01, "between 0 and 1"),
        ("min_p", 1.01, "between 0 and 1"),
        ("repeat_penalty", 5e-324, "between 0.001 and 1000 (1 switches it off)"),
        ("repeat_penalty", 1e39, "between 0.001 and 1000 (1 switches it off)"),
        ("frequency_penalty", -1e39, "between -1000 and 1000"),
        ("presence_penalty", 1e39, "between -1000 and 1000"),
        ("repeat_last_tokens", -1, "at least 0"),
        ("temperature", float("nan"), "at least 0"),
    ],
)
def test_value_out_of_range_is_refused_with_the_range(name: str, value: float, rule: str) -> None:
    with pytest.raises(EdgeError) as caught:
        SamplingSettings(**{name: value})
    assert caught.value.message == f"{name} is {value}."
    assert caught.value.hint == f"{name} must be {rule}."


def test_values_at_the_ends_of_the_ranges_are_taken() -> None:
    SamplingSettings(temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=0.01, repeat_last_tokens=0)
    SamplingSettings(min_p=1)


def test_defaults_are_valid_and_draw_a_new_seed_each_time() -> None:
    assert SamplingSettings().seed is None
