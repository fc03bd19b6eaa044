"""Drafts from the text itself, held to a search through all of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.prompt_lookup import PromptLookup


def match_length(text: Sequence[int], position: int) -> int:
    count = 0
    while count < min(position, 32) and text[position - 1 - count] == text[len(text) - 1 - count]:
        count += 1
    return count


def searched(text: Sequence[int], limit: int) -> list[int]:
    """What followed the longest earlier match of the text's end, the most recent of several."""
    best, length = -1, 1
    for position in range(len(text) - 1, 1, -1):
        if match_length(text, position) > length:
            best, length = position, match_length(text, position)
    following = list(text)
    if best >= 0:
        for ahead in range(limit):
            following.append(following[best + ahead])
    return following[len(text) :]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20))
def test_draft_is_what_followed_the_longest_match(text: list[int], limit: int) -> None:
    draft = PromptLookup(text).draft(limit)
    assert draft == searched(text, limit)[: len(draft)]
    assert bool(draft) == bool(searched(text, limit))


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=12))
def test_index_grows_with_the_text(pieces: list[list[int]]) -> None:
    lookup, text = PromptLookup([]), list[int]()
    for piece in pieces:
        lookup.extend(piece)
        text += piece
    fresh = PromptLookup(text)
    draft = lookup.draft(8)
    assert draft == fresh.draft(8)[: len(draft)]


@given(st.lists(st.integers(0, 2), max_size=50))
def test_followed_place_stays_the_longest_match(text: list[int]) -> None:
    """Without a new search; up to where a copy is left, which changes where is looked next."""
    lookup = PromptLookup([])
    run = 0
    for position, token in enumerate(text):
        draft = lookup.draft(1)
        assert draft in ([], searched(text[:position], 1))
        run = run + 1 if draft == [token] else 0
        if run >= 6:
            return
        lookup.extend([token])


def test_copy_is_followed_to_its_end() -> None:
    prompt = random.Random(1).sample(range(1000), 100)
    lookup = PromptLookup([*prompt, 5000])
    lookup.extend(prompt[:3])
    copied = 3
    while copied < len(prompt):
        draft = lookup.draft(16)
        assert draft[: len(prompt) - copied] == prompt[copied : copied + len(draft)]
        copied += len(draft)
        lookup.extend(draft)


def test_longest_match_wins_over_a_more_recent_one() -> None:
    assert PromptLookup([1, 2, 3, 4, 50, 9, 3, 4, 60, 1, 2, 3, 4]).draft(1) == [50]


def test_most_recent_of_equal_matches_wins() -> None:
    assert PromptLookup([1, 2, 50, 7, 1, 2, 60, 8, 1, 2]).draft(1) == [60]


def test_altered_copy_goes_on_behind_the_alteration_and_not_at_a_more_recent_place() -> None:
    source = [*range(100, 120), 1, 2, 77, *range(120, 130)]
    elsewhere = [3, 1, 2, 88, 4]
    lookup = PromptLookup([*source, *elsewhere, 900])
    for token in range(100, 119):
        lookup.draft(1)
        lookup.extend([token])
    assert lookup.draft(1) == [119]
    lookup.extend([901])  # something else than 119
    lookup.extend([1, 2])
    assert lookup.draft(1) == [77]


def test_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    lookup = PromptLookup([1, 2, 3] * 12)
    assert lookup.draft(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_nothing_is_drafted_from_a_text_without_repetition() -> None:
    lookup = PromptLookup(range(1000))
    assert lookup.draft(8) == []
    assert PromptLookup([]).draft(8) == []
    assert PromptLookup([1]).draft(8) == []


def test_drafts_stop_where_repetitions_turn_out_to_be_chance() -> None:
    """Tokens drawn from few: short matches abound and say nothing."""
    generator = random.Random(2)
    lookup = PromptLookup([generator.randrange(40) for _ in range(2000)])
    drafted = []
    for _ in range(600):
        drafted.append(len(lookup.draft(16)))
        lookup.extend([generator.randrange(40)])
    assert sum(drafted[:50]) > 0
    assert sum(drafted[300:]) <= 15


def test_drafts_grow_with_the_match() -> None:
    text = random.Random(3).choices(range(50_000), k=400)
    lookup = PromptLookup([*text, 7, *text[:2]])
    lengths = []
    for position in range(2, 60):
        lengths.append(len(lookup.draft(32)))
        lookup.extend([text[position]])
    assert lengths[0] < 8
    assert lengths[-1] == 32


def test_chances_belong_to_the_tokens_of_the_draft() -> None:
    lookup = PromptLookup([1, 2, 3] * 12)
    draft = lookup.draft(8)
    assert len(lookup.chances) == len(draft)
    assert all(0 < chance <= 1 for chance in lookup.chances)
    assert list(lookup.chances) == sorted(lookup.chances)  # the longer the match, the surer


@pytest.mark.parametrize("token", [0, 2**18, 2**31 - 1])
def test_any_token_id_can_be_indexed(token: int) -> None:
    assert PromptLookup([token, token, 5, token, token]).draft(1) == [5]


def test_what_is_repeated_thousands_of_times_is_searched_only_in_part() -> None:
    """The longest match lies too far back to be found; the draft is still one that followed a match."""
    text = [1, 2, 3, 4, 5] + [9, 4, 5, 6] * 1000 + [1, 2, 3, 4, 5]
    assert PromptLookup(text).draft(1) == [6]
