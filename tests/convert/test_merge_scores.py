"""Scores stand for ranked merges only where llama.cpp, which merges by score, would do the same."""

from __future__ import annotations

import pytest

from convert.merge_scores import scores_of_merges
from edge.errors import EdgeError


def test_token_that_is_merged_earlier_has_the_better_score() -> None:
    merges = [("a", "b"), ("ab", "c"), ("d", "e")]
    scores = scores_of_merges(merges, {"a", "b", "c", "d", "e", "ab", "abc", "de"})
    assert scores == {"ab": 0.0, "abc": -1.0, "de": -2.0}


def test_ways_to_make_one_token_share_the_score_of_the_first() -> None:
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("d", "e")]
    scores = scores_of_merges(merges, {"ab", "bc", "abc", "de"})
    assert (scores["abc"], scores["de"]) == (-2.0, -4.0)


@pytest.mark.parametrize(
    ("merges", "texts", "pair"),
    [
        ([("a", "b"), ("b", "c"), ("ab", "c")], ["ab", "bc", "abc"], "'a' and 'bc'"),
        ([("a", "b"), ("c", "d")], ["ab", "cd", "abcd"], "'ab' and 'cd'"),
        ([], ["ab"], "'a' and 'b'"),  # single characters are symbols even if they are no tokens
        ([("a", "b")], ["ab", "abc"], "'ab' and 'c'"),
    ],
)
def test_pair_that_llama_cpp_would_merge_and_the_tokenizer_would_not_is_refused(
    merges: list[tuple[str, str]], texts: list[str], pair: str
) -> None:
    with pytest.raises(EdgeError, match=f"it joins {pair}, which"):
        scores_of_merges(merges, set(texts))


def test_tokens_ranked_in_turns_are_refused_if_they_can_compete() -> None:
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("b", "cd"), ("c", "d"), ("a", "bc"), ("bc", "d")]
    texts = ["ab", "bc", "cd", "abc", "bcd"]
    with pytest.raises(EdgeError, match="'abc' and 'bcd' are ranked in turns"):
        scores_of_merges(merges, set(texts))


def test_tokens_ranked_in_turns_are_no_trouble_if_they_share_no_character() -> None:
    merges = [("a", "b"), ("b", "c"), ("x", "y"), ("y", "z"), ("ab", "c"), ("xy", "z"), ("a", "bc"), ("x", "yz")]
    scores = scores_of_merges(merges, {"ab", "bc", "xy", "yz", "abc", "xyz"})
    assert (scores["abc"], scores["xyz"]) == (-4.0, -5.0)


def run(left: int, right: int) -> tuple[str, str]:
    return "_" * left, "_" * right


HALF = [run(4, 1), run(3, 2), run(3, 1), run(2, 3), run(2, 2)]
RUNS = ["_" * length for length in range(2, 6)]


def test_runs_that_grow_from_the_left_may_be_ranked_in_turns() -> None:
    merges = [
        run(4, 1),
        run(3, 2),
        run(3, 1),
        run(2, 3),
        run(2, 2),
        run(2, 1),
        run(1, 4),
        run(1, 3),
        run(1, 2),
        run(1, 1),
    ]
    scores = scores_of_merges(merges, set(RUNS))
    assert sorted(scores, key=lambda text: scores[text], reverse=True) == ["_" * 5, "_" * 4, "_" * 3, "_" * 2]


def test_runs_that_begin_anew_before_they_grow_are_refused() -> None:
    merges = [
        run(4, 1),
        run(3, 2),
        run(3, 1),
        run(2, 3),
        run(2, 2),
        run(1, 1),
        run(2, 1),
        run(1, 4),
        run(1, 3),
        run(1, 2),
    ]
    with pytest.raises(EdgeError, match="are ranked in turns"):
        scores_of_merges(merges, set(RUNS))
