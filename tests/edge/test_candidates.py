"""The highest of many logits, against a sort of them all: by the C module, and by numpy where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge import candidates
from edge.candidates import CANDIDATE, Logits, likely_tokens, top_tokens
from edge.native import _candidates

BOTH = pytest.mark.parametrize("module", [_candidates, None], ids=["native", "numpy"], indirect=True)
SIZES = st.integers(1, 300) | st.sampled_from([4096, 10_007, 49_152])


@pytest.fixture(scope="module")
def module(request: pytest.FixtureRequest) -> Iterator[None]:
    usual, candidates._candidates = candidates._candidates, request.param
    yield
    candidates._candidates = usual


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


@BOTH
@pytest.mark.usefixtures("module")
@given(rows(), st.integers(1, 400))
@hypothesis_settings(deadline=None)
def test_top_tokens_are_those_that_a_stable_sort_puts_first(row: Logits, count: int) -> None:
    assert top_tokens(row, count).tolist() == np.argsort(-row, kind="stable")[:count].tolist()


@BOTH
@pytest.mark.usefixtures("module")
@given(rows(), st.integers(1, 400))
@hypothesis_settings(deadline=None)
def test_likely_tokens_ascend_and_hold_all_that_are_as_high(row: Logits, count: int) -> None:
    tokens = likely_tokens(row, count)
    assert (np.diff(tokens) > 0).all()
    assert len(tokens) >= min(count, len(row))
    lowest = np.sort(row)[::-1][:count][-1]
    if lowest > -np.inf:
        assert set(np.flatnonzero(row >= lowest)) <= set(tokens)


@BOTH
@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("size", [49_152, 131_072, 262_147])
def test_few_tokens_of_a_large_vocabulary_are_likely(size: int) -> None:
    row = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    assert len(likely_tokens(row, 40)) < 800
    row[100:] = -np.inf
    assert len(likely_tokens(row, 40)) <= 140


def test_module_says_where_numpy_has_to_look() -> None:
    row = np.full(6400, -np.inf, np.float32)
    maxima, found = np.empty(100, np.float32), np.empty(64, CANDIDATE)
    row[[7, 4000]] = 1
    assert _candidates.likely_candidates(row, 2, maxima, found) == 2
    assert found[:2].tolist() == [(7, 1.0, 0.0), (4000, 1.0, 0.0)]
    assert _candidates.likely_candidates(row, 3, maxima, found) == -1  # fewer groups have a number
    row[:] = 1
    assert _candidates.likely_candidates(row, 2, maxima, found) == -1  # more are alike than there is room for
    row[:] = np.nan
    assert _candidates.likely_candidates(row, 1, maxima, found) == -1


def test_module_refuses_too_little_room_for_maxima() -> None:
    with pytest.raises(ValueError, match="room for the maximum of each group"):
        _candidates.likely_candidates(np.zeros(6400, np.float32), 1, np.empty(99, np.float32), np.empty(64, CANDIDATE))
