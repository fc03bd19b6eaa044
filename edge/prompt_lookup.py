"""Guesses at what comes next, out of what the text so far has said before.

Who edits, quotes or summarizes repeats long stretches of the prompt. The guess is what followed the longest earlier
match of the text's end. As long as the text goes on like that place, the place is followed without another search, and
where a copy was altered and then goes on, it is looked for behind the alteration first.

Source: the idea of drafts from the prompt is known as prompt lookup decoding.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_SHORTEST_MATCH = 2
_LONGEST_MATCH = 32
"""Matches are not told apart beyond this many tokens."""
_SEARCHED_PLACES = 64
"""The most recent places that begin like a match. What a text repeats more often than that says little."""
_COPIED_TOKENS = 8
"""So many tokens in a row are no coincidence: the text is a copy of that place."""
_ALTERED_TOKENS = 24
"""How far behind the place where a copy was left it is expected to go on."""

# The index is the number of tokens that a place was followed for, or matched; the last entry is for all above it.
_CLASS_OF_LENGTH = (0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5)
_FIRST_CHANCES = (0.25, 0.45, 0.6, 0.75, 0.85, 0.95)
_FIRST_WEIGHT = 4.0
_FADING = 0.96
"""What was learned fades with each further guess, so that about the last 25 of a class count."""
_SMALLEST_CHANCE = 0.1
"""A guess that is right less often than this is not made."""


class PromptLookup:
    """Drafts for one text. It learns how often a match of which length goes on as it did before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = array("i")
        self._latest: dict[int, int] = {}
        """By two tokens, where the last place that they lead to is: the position behind them."""
        self._earlier = array("i")
        """By such a position, the one before it that the same two tokens lead to; -1 if there is none."""
        self._followed = -1
        """The position whose token is thought to come next; -1 if none is."""
        self._matched_tokens = 0
        self._left_at = -1
        """The position where the last copy was left."""
        self._right = [chance * _FIRST_WEIGHT for chance in _FIRST_CHANCES]
        self._guessed = [_FIRST_WEIGHT] * len(_FIRST_CHANCES)
        self._chances: list[float] = []
        self._append(tokens)

    @property
    def chances(self) -> Sequence[float]:
        """For each token of the last draft, how likely it is right if all before it are."""
        return self._chances

    @property
    def is_behind(self) -> bool:
        """Never: the whole text is indexed at once."""
        return False

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what became part of the text."""
        for token in tokens:
            if self._followed >= 0:
                self._follow(token)
            self._append((token,))

    def draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next; fewer where they are unlikely."""
        if self._followed < 0:
            self._find()
        self._chances = []
        if self._followed < 0:
            return []
        chance_of_all = 1.0
        for ahead in range(limit):
            chance = self._chance(self._matched_tokens + ahead)
            chance_of_all *= chance
            if chance_of_all < _SMALLEST_CHANCE:
                break
            self._chances.append(chance)
        return self._continuation(len(self._chances))

    def _continuation(self, count: int) -> list[int]:
        """What followed the place; where it reaches the end of the text, the text is thought to repeat itself."""
        found = self._tokens[self._followed : self._followed + count].tolist()
        period = len(self._tokens) - self._followed
        while len(found) < count:
            found.append(found[-period])
        return found

    def _append(self, tokens: Sequence[int]) -> None:
        """Add tokens to the text and to the index."""
        text, latest, earlier = self._tokens, self._latest, self._earlier
        for token in tokens:
            position = len(text)
            if position >= _SHORTEST_MATCH:
                key = text[-2] << 32 | text[-1]
                earlier.append(latest.get(key, -1))
                latest[key] = position
            else:
                earlier.append(-1)
            text.append(token)

    def _follow(self, token: int) -> None:
        """Learn from the token that came where another, or the same, was thought to come."""
        kind = self._class(self._matched_tokens)
        is_right = self._tokens[self._followed] == token
        self._right[kind] = self._right[kind] * _FADING + is_right
        self._guessed[kind] = self._guessed[kind] * _FADING + 1
        if is_right:
            self._followed += 1
            self._matched_tokens += 1
            return
        if self._matched_tokens >= _COPIED_TOKENS:
            self._left_at = self._followed
        self._followed = -1

    def _find(self) -> None:
        """Look for the place to follow: the longest match, the most recent of several."""
        text, end = self._tokens, len(self._tokens)
        if end < _SHORTEST_MATCH:
            return
        self._matched_tokens = _SHORTEST_MATCH - 1
        if self._left_at >= 0:
            self._find_behind_alteration()
        position = self._latest.get(text[-2] << 32 | text[-1], -1)
        for _ in range(_SEARCHED_PLACES):
            if position < 0:
                return
            longer = self._matched_tokens + 1
            if position >= longer and text[position - longer] == text[end - longer]:
                self._consider(position, 0)
            position = self._earlier[position]

    def _find_behind_alteration(self) -> None:
        """Look behind the place where a copy was left first, near it before far from it."""
        for position in range(self._left_at + 1, min(self._left_at + _ALTERED_TOKENS + 1, len(self._tokens))):
            if self._match(position) >= _SHORTEST_MATCH:
                self._consider(position, _COPIED_TOKENS)

    def _consider(self, position: int, lead_tokens: int) -> None:
        """Follow a place if it matches more, with its lead, than the one that was found so far."""
        matched_tokens = self._match(position) + lead_tokens
        if matched_tokens > self._matched_tokens:
            self._followed, self._matched_tokens = position, matched_tokens

    def _match(self, position: int) -> int:
        """How many tokens before a position are those at the end of the text."""
        text, end = self._tokens, len(self._tokens)
        longest = min(position, _LONGEST_MATCH)
        count = 0
        while count < longest and text[position - 1 - count] == text[end - 1 - count]:
            count += 1
        return count

    def _chance(self, matched_tokens: int) -> float:
        kind = self._class(matched_tokens)
        return self._right[kind] / self._guessed[kind]

    @staticmethod
    def _class(matched_tokens: int) -> int:
        return _CLASS_OF_LENGTH[min(matched_tokens, len(_CLASS_OF_LENGTH) - 1)]
