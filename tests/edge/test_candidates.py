"""The highest of many logits, against a sort of them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge.candidates import Logits, likely_tokens, top_tokens

SIZES = st.integers(1, 300) | st.sampled_from([4096, 10_007, 49_152])


@st.composite
def rows(draw: st.DrawFn) -> Logits:
    """Random ones; some with many equals, some mostly of -inf, some with all high ones in one place."""
    size = draw(SIZES)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = random.standard_normal(size).astype(np.float32)
    if draw(st.booleans()):
        row = np.round(row * 2)
    row[random.random(size) < draw(st.sampled_from([0.0, 0.5, 0.999, 1.0]))] = -np.inf
    start = draw(st.integers(0, size - 1))
    row[start : start + draw(st.sampled_from([0, 100]))] += 50
    return row


@given(rows(), st.integers(1, 400))
@hypothesis_settings(deadline=None)
def test_top_tokens_are_those_that_a_stable_sort_puts_first(row: Logits, count: int) -> None:
    assert top_tokens(row, count).tolist() == np.argsort(-row, kind="stable")[:count].tolist()


@given(rows(), st.integers(1, 400))
@hypothesis_settings(deadline=None)
def test_likely_tokens_ascend_and_hold_all_that_are_as_high(row: Logits, count: int) -> None:
    tokens = likely_tokens(row, count)
    assert (np.diff(tokens) > 0).all()
    assert len(tokens) >= min(count, len(row))
    lowest = np.sort(row)[::-1][:count][-1]
    if lowest > -np.inf:
        assert set(np.flatnonzero(row >= lowest)) <= set(tokens)


@pytest.mark.parametrize("size", [49_152, 131_072, 262_147])
def test_few_tokens_of_a_large_vocabulary_are_likely(size: int) -> None:
    row = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    assert len(likely_tokens(row, 40)) < 800
    row[100:] = -np.inf
    assert len(likely_tokens(row, 40)) <= 140
