"""Tokens chosen from logits: greedily, by chance, with biases and penalties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from edge.llama.sampler import Sampler
from edge.settings import SamplingSettings

VOCABULARY_SIZE = 8
GREEDY = {"temperature": 0.0}
UNFILTERED = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def logits(**values: float) -> npt.NDArray[np.float32]:
    """Zero but for the tokens named: `t3=2.5`."""
    row = np.zeros(VOCABULARY_SIZE, np.float32)
    for name, value in values.items():
        row[int(name[1:])] = value
    return row


@contextmanager
def sampler(**settings: object) -> Iterator[Sampler]:
    with closing(Sampler(SamplingSettings(**settings), VOCABULARY_SIZE)) as opened:  # type: ignore[arg-type]
        yield opened


def draws(count: int, row: npt.NDArray[np.float32], **settings: object) -> list[int]:
    with sampler(**settings) as drawing:
        return [drawing.choose(row) for _ in range(count)]


def test_temperature_of_zero_takes_the_likeliest_token() -> None:
    assert draws(3, logits(t2=1.0, t5=1.5), **GREEDY) == [5, 5, 5]


def test_choosing_leaves_the_logits_alone() -> None:
    row = logits(t2=1.0, t5=1.5)
    draws(1, row, temperature=0.7, logit_bias=((1, 3.0),), seed=1)
    assert row.tolist() == logits(t2=1.0, t5=1.5).tolist()


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}],
    ids=str,
)
def test_narrowest_filter_leaves_only_the_likeliest_token(settings: dict[str, float]) -> None:
    assert set(draws(50, logits(t4=0.5), **{**UNFILTERED, **settings}, seed=7)) == {4}


def test_top_k_draws_among_the_likeliest() -> None:
    row = logits(t1=3.0, t4=2.9, t6=2.8)
    assert set(draws(200, row, **{**UNFILTERED, "top_k": 3}, seed=7)) == {1, 4, 6}


def test_draws_follow_the_softmax_of_the_logits() -> None:
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1, 1e-9, 1e-9, 1e-9, 1e-9], np.float32))
    counts = Counter(draws(4000, row, **UNFILTERED, seed=11))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)


def test_higher_temperature_spreads_the_draws() -> None:
    row = logits(t0=3.0)
    cold, hot = (draws(500, row, **{**UNFILTERED, "temperature": t}, seed=3).count(0) for t in (0.5, 2.0))
    assert cold > 450 > 300 > hot


def test_forbidden_tokens_are_never_drawn() -> None:
    row = np.full(VOCABULARY_SIZE, -np.inf, np.float32)
    row[[2, 6]] = (-30.0, -30.5)
    assert set(draws(200, row, temperature=5.0, seed=5)) == {2, 6}
    assert draws(1, row, **GREEDY) == [2]


def test_same_seed_draws_the_same_tokens() -> None:
    flat = logits()
    assert draws(40, flat, **UNFILTERED, seed=42) == draws(40, flat, **UNFILTERED, seed=42)
    assert draws(40, flat, **UNFILTERED, seed=42) != draws(40, flat, **UNFILTERED, seed=43)


def test_without_a_seed_each_sampler_has_its_own() -> None:
    with sampler() as one, sampler() as other:
        assert one.seed != other.seed


def test_seed_beyond_32_bits_is_taken() -> None:
    assert draws(5, logits(), seed=2**40 + 1) == draws(5, logits(), seed=2**40 + 1)


def test_bias_moves_a_token_up_and_out() -> None:
    assert draws(1, logits(t5=1.5), **GREEDY, logit_bias=((3, 2.0),)) == [3]
    assert draws(1, logits(t5=1.5, t2=1.0), **GREEDY, logit_bias=((5, float("-inf")),)) == [2]


def test_repeat_penalty_divides_the_logits_of_accepted_tokens() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, repeat_penalty=2.0) as penalized:
        assert penalized.choose(row) == 5
        penalized.accept(5)
        assert penalized.choose(row) == 2


def test_penalties_do_not_see_a_token_that_was_chosen_but_refused() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, presence_penalty=2.0) as penalized:
        assert [penalized.choose(row), penalized.choose(row)] == [5, 5]


def test_presence_counts_once_and_frequency_each_time() -> None:
    row = logits(t5=1.5, t2=1.0)
    for settings, expected in (({"presence_penalty": 0.3}, [5, 5, 5]), ({"frequency_penalty": 0.3}, [5, 5, 2])):
        with sampler(**GREEDY, **settings) as penalized:
            chosen = []
            for _ in range(3):
                chosen.append(penalized.choose(row))
                penalized.accept(5)
            assert chosen == expected


def test_penalties_forget_what_is_long_past() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, presence_penalty=2.0, repeat_last_tokens=2) as penalized:
        penalized.accept(5)
        assert penalized.choose(row) == 2
        penalized.accept(0)
        penalized.accept(1)
        assert penalized.choose(row) == 5


def test_closing_twice_is_no_harm() -> None:
    with sampler() as opened:
        opened.close()
