"""How long a decode step takes by its number of tokens, learned from the steps that were made.

Knows nothing of what the tokens are for. A small batch is bound by memory and a large one by arithmetic, with a bend or
a jump in between that differs from machine to machine; so the curve is measured, point by point, and not assumed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import chain

_LARGEST_TOKENS = (1, 2, 3, *chain.from_iterable((1 << power, 3 << (power - 1)) for power in range(2, 21)))
"""Steps of similar numbers of tokens are one point of the curve: the largest number of each."""
_KEPT_STEPS = 11
"""The median of so few follows growing contexts and throttling, and leaves out a step that was interrupted."""
_OLD_STEPS = 100
"""What was measured so many steps ago says little about now."""
_FIRST_TOKENS = 16
"""Tokens that are added to a step when it is not known what they cost."""
_PATIENCE, _MOST_PATIENCE = 4, 32
"""How often a point keeps larger steps from being made until it is measured again: at first, and after some times."""


class _Point:
    """The last steps of about the same number of tokens."""

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self._steps: deque[tuple[int, float]] = deque(maxlen=_KEPT_STEPS)
        self._last_step = 0
        self._times_in_the_way = 0
        self._patience = _PATIENCE

    def add(self, tokens: int, seconds: float, step: int) -> None:
        if step - self._last_step > _OLD_STEPS:
            self._distrust()
        self._last_step = step
        self._times_in_the_way = 0
        self._steps.append((tokens, seconds))

    @property
    def tokens(self) -> float:
        return sum(tokens for tokens, _ in self._steps) / len(self._steps)

    @property
    def seconds(self) -> float:
        """The median; of two, the shorter: what disturbs a step makes it longer."""
        return sorted(seconds for _, seconds in self._steps)[(len(self._steps) - 1) // 2]

    def is_to_be_measured_again(self) -> bool:
        """Counts how often the point was in the way; True when that was often enough to doubt it."""
        self._times_in_the_way += 1
        if self._times_in_the_way < self._patience:
            return False
        self._times_in_the_way = 0
        self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._distrust()
        return True

    def _distrust(self) -> None:
        """Let one or two new steps outweigh all that were made."""
        if self._steps:
            self._steps = deque([(round(self.tokens), self.seconds)], maxlen=_KEPT_STEPS)


class StepTimes:
    """The time of a decode step as a function of its tokens: medians of recent steps, never falling, linear between.

    Beyond the largest step that was seen, time grows in proportion to the tokens. No step takes longer than that, as a
    rule, so that what is tried next is on the safe side and still a good deal larger.
    """

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}
        self._recorded_steps = 0
        self._tokens: list[float] = []
        self._seconds: list[float] = []
        self._is_outdated = False

    @property
    def largest_tokens(self) -> int:
        """The largest step of which something is known; 0 at first."""
        return round(self._curve()[0][-1]) if self._points else 0

    def record(self, tokens: int, seconds: float) -> None:
        """Learn from a step that was made."""
        if tokens < 1 or not seconds > 0:
            return
        self._recorded_steps += 1
        bucket = bisect_left(_LARGEST_TOKENS, tokens)
        if bucket not in self._points:
            self._points[bucket] = _Point(bucket)
        self._points[bucket].add(tokens, seconds, self._recorded_steps)
        self._is_outdated = True

    def predict(self, tokens: int) -> float | None:
        """Seconds that a step of so many tokens will take; None as long as nothing is known."""
        if not self._points:
            return None
        known_tokens, known_seconds = self._curve()
        upper = bisect_left(known_tokens, tokens)
        if upper == 0:
            return known_seconds[0]
        if upper == len(known_tokens):
            return known_seconds[-1] * tokens / known_tokens[-1]
        lower_tokens, lower_seconds = known_tokens[upper - 1], known_seconds[upper - 1]
        share = (tokens - lower_tokens) / (known_tokens[upper] - lower_tokens)
        return lower_seconds + share * (known_seconds[upper] - lower_seconds)

    def largest_within(self, base_tokens: int, factor: float, limit: int) -> int:
        """How many tokens may be added to a step so that it takes at most `factor` times as long as without them.

        At least 1 and at most `limit`, so that whoever waits for them gets on. `limit`, if there is no step to add to.
        """
        if base_tokens < 1 or limit < 1:
            return max(limit, 0)
        return min(max(self._largest_step(base_tokens, factor, limit) - base_tokens, 1), limit)

    def _largest_step(self, base_tokens: int, factor: float, limit: int) -> int:
        """The number of tokens of the largest step that is thought to be short enough, or worth a try."""
        base_seconds = self.predict(base_tokens)
        base_bucket = bisect_left(_LARGEST_TOKENS, base_tokens)
        if base_seconds is None or min(self._points) > base_bucket:
            return base_tokens + _FIRST_TOKENS
        if max(self._points) <= base_bucket:
            return max(base_tokens + _FIRST_TOKENS, int(base_tokens * factor))
        known_tokens, known_seconds = self._curve()
        allowed_seconds = factor * base_seconds
        upper = bisect_right(known_seconds, allowed_seconds)
        if upper == 0:
            return base_tokens
        if upper == len(known_tokens):
            return int(known_tokens[-1] * allowed_seconds / known_seconds[-1])
        lower_tokens, lower_seconds = known_tokens[upper - 1], known_seconds[upper - 1]
        share = (allowed_seconds - lower_seconds) / (known_seconds[upper] - lower_seconds)
        largest = int(lower_tokens + share * (known_tokens[upper] - lower_tokens))
        return self._doubt(upper, largest, base_tokens + limit)

    def _doubt(self, upper: int, largest: int, wanted: int) -> int:
        """The same number, or now and then a larger one, so that a point that was measured badly is measured again."""
        point = self._points[sorted(self._points)[upper]]
        is_in_the_way = largest < wanted and bisect_left(_LARGEST_TOKENS, largest) < point.bucket
        if is_in_the_way and point.is_to_be_measured_again():
            return min(int(point.tokens), largest * 3 // 2 + 1)
        return largest

    def _curve(self) -> tuple[list[float], list[float]]:
        """The points by tokens, their seconds made to never fall: what falls is replaced by its mean."""
        if not self._is_outdated:
            return self._tokens, self._seconds
        points = [self._points[bucket] for bucket in sorted(self._points)]
        levels: list[tuple[float, int]] = []
        for point in points:
            seconds, count = point.seconds, 1
            while levels and levels[-1][0] > seconds:
                lower_seconds, lower_count = levels.pop()
                seconds = (lower_seconds * lower_count + seconds * count) / (lower_count + count)
                count += lower_count
            levels.append((seconds, count))
        self._tokens = [point.tokens for point in points]
        self._seconds = [seconds for seconds, count in levels for _ in range(count)]
        self._is_outdated = False
        return self._tokens, self._seconds
