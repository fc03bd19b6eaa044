"""Log probabilities against float64 arithmetic on the same logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge.candidates import Logits
from edge.logprobs import token_logprobs


def exact(row: Logits) -> list[float]:
    wide = row.astype(np.float64)
    return (wide - wide.max() - math.log(math.fsum(np.exp(wide - wide.max())))).tolist()


@given(st.sampled_from([2, 40, 3000, 49_152, 100_003]), st.integers(0, 2**32), st.sampled_from([0.1, 3.0, 40.0, 1e4]))
@hypothesis_settings(deadline=None)
def test_log_probabilities_are_those_of_float64(size: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    row = (random.standard_normal(size) * scale).astype(np.float32)
    row[random.random(size) < 0.1] = -np.inf
    row[0] = 0
    expected, token = exact(row), int(random.integers(size))
    logprob, top = token_logprobs(row, token, 5)
    assert logprob == pytest.approx(expected[token], abs=1e-6)
    assert [each for each, _ in top] == np.argsort(-row, kind="stable")[:5].tolist()
    assert [value for _, value in top] == pytest.approx([expected[each] for each, _ in top], abs=1e-6)


def test_tokens_that_cannot_come_have_a_log_probability_of_minus_infinity() -> None:
    row = np.array([-np.inf, 2.0, -np.inf], np.float32)
    assert token_logprobs(row, 0, 3) == (-math.inf, [(1, 0.0), (0, -math.inf), (2, -math.inf)])


def test_no_top_tokens_are_given_unless_asked_for() -> None:
    row = np.zeros(4, np.float32)
    assert token_logprobs(row, 2, 0) == (pytest.approx(math.log(0.25)), [])


def test_logits_are_left_as_they_were() -> None:
    row = np.arange(100_000, dtype=np.float32)
    token_logprobs(row, 3, 20)
    assert (row == np.arange(100_000)).all()


def test_logits_that_allow_no_token_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="no token has a probability"):
        token_logprobs(np.full(4, -np.inf, np.float32), 0, 1)
