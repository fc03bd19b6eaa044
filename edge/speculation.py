"""Decides how many guessed tokens are computed ahead, so that guessing pays or is left alone.

A guess that is right saves a step; one that is wrong made a step longer for nothing. What a step of how many tokens
takes is known from the steps that were made, how likely a guess is right from the drafter and from what became of its
guesses. Knows nothing of where guesses come from, nor of how they are checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edge.step_times import StepTimes

_LONGEST_DRAFT = 32
_MARGIN = 1.03
"""A draft has to promise this much more tokens per second than none: predictions are not exact."""
_UNKNOWN_COST = 0.1
"""What a further token is thought to cost, as a share of the step, where no larger step was seen yet."""
_FADING = 0.9
"""The last ten drafts or so say how far a drafter is to be trusted, and whether asking it pays."""
_FIRST_WEIGHT = 4.0
_MOST_TRUST = 1.5
_TOLERATED_LOSS = 0.1
"""Steps lost to a drafter, on the average, before it is left alone for a while."""
_CHEAP_SHARE = 0.02
"""A drafter that takes this share of a step at most may be asked for as much as one likes."""
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512
_TRIED_TOKENS, _TRIED_CHANCE = 4, 0.5


class Drafter(Protocol):
    """Guesses what comes next in one text."""

    @property
    def chances(self) -> Sequence[float]:
        """For each token of the last draft, how likely it is right if all before it are."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether it has to be asked some more before there are any drafts."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what became part of the text."""
        ...

    def draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next."""
        ...


class Speculation:
    """The drafts of one request. `draft` before a step, `learn` after it, `extend` with all that becomes text.

    No draft takes a step beyond `exact_tokens` that would not be larger without it, so that drafts change no answer.
    """

    def __init__(
        self,
        drafter: Drafter,
        step_times: StepTimes,
        *,
        exact_tokens: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._drafter = drafter
        self._step_times = step_times
        self._exact_tokens = exact_tokens
        self._clock = clock
        self._right = self._expected = _FIRST_WEIGHT
        self._gain = 0.0
        """Steps saved by asking the drafter once, on the average of the last times."""
        self._pause = _FIRST_PAUSE
        self._paused_steps = 0
        """Steps for which the drafter is not asked."""
        self._patience = _FIRST_PAUSE
        self._declined_drafts = 0
        """Drafts that looked good but were thought not to pay. Now and then one is tried, for that may be wrong."""
        self._asked_tokens = _TRIED_TOKENS
        self._base_tokens = 0
        self._spent_seconds = 0.0
        self._chances: Sequence[float] = ()

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what became part of the text."""
        self._drafter.extend(tokens)

    def draft(self, limit: int, running_tokens: int) -> list[int]:
        """Tokens to compute ahead, behind the request's own in a step that has `running_tokens` already."""
        limit = min(limit, _LONGEST_DRAFT)
        if self._exact_tokens is not None and running_tokens <= self._exact_tokens:
            limit = min(limit, self._exact_tokens - running_tokens)
        step_seconds = self._step_times.predict(running_tokens)
        if limit < 1 or step_seconds is None:
            return []
        if self._paused_steps:
            self._paused_steps -= 1
            return []
        self._base_tokens = running_tokens
        tokens = self._ask(limit, step_seconds)
        if self._drafter.is_behind:
            return []
        count = (self._best_count(step_seconds) or self._tried_count()) if tokens else 0
        if not count:
            self._account(-self._spent_seconds / step_seconds)
        return tokens[:count]

    def pass_by(self, steps: int) -> int:
        """How many steps, of at most so many, may be made without a `draft` before each, which then are."""
        if self._gain > 0:
            return 0
        if not self._paused_steps:
            return steps
        passed = min(steps, self._paused_steps)
        self._paused_steps -= passed
        return passed

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of the last draft: tokens of it that were computed, and those that were right."""
        if drafted < 1:
            return
        checked = self._chances[: min(accepted + 1, drafted)]
        self._right = _FADING * self._right + accepted
        self._expected = _FADING * self._expected + sum(checked)
        self._asked_tokens = min(2 * accepted + _TRIED_TOKENS, _LONGEST_DRAFT)
        step_seconds = self._step_times.predict(self._base_tokens)
        if step_seconds is None:
            return
        longer_seconds = self._seconds(self._base_tokens + drafted, step_seconds) - step_seconds
        gain = accepted / self._base_tokens - (longer_seconds + self._spent_seconds) / step_seconds
        if gain > 0:
            self._patience = _FIRST_PAUSE
        self._account(gain)

    def _ask(self, limit: int, step_seconds: float) -> list[int]:
        """A draft; a short one where making it takes time and the last was not right for long."""
        is_cheap = self._spent_seconds <= _CHEAP_SHARE * step_seconds
        started = self._clock()
        tokens = self._drafter.draft(limit if is_cheap else min(limit, self._asked_tokens))
        self._spent_seconds = self._clock() - started
        self._chances = tuple(self._drafter.chances)
        return tokens

    def _best_count(self, step_seconds: float) -> int:
        """How much of the draft gives the most tokens per second, over all requests of the step; 0 for none of it."""
        base_tokens, spent_seconds = self._base_tokens, self._spent_seconds
        trust = min(self._right / self._expected, _MOST_TRUST) if self._expected > 0 else 1.0
        best_count, best_rate = 0, _MARGIN * base_tokens / (step_seconds + spent_seconds)
        chance_of_all, right_tokens = 1.0, 0.0
        for count, chance in enumerate(self._chances, 1):
            chance_of_all *= min(chance * trust, 0.99)
            right_tokens += chance_of_all
            seconds = self._seconds(base_tokens + count, step_seconds) + spent_seconds
            rate = (base_tokens + right_tokens) / seconds
            if rate > best_rate:
                best_count, best_rate = count, rate
        return best_count

    def _tried_count(self) -> int:
        """A few tokens, if many a draft was declined that its drafter thinks well of; the next time after many more."""
        if not self._chances or self._chances[0] < _TRIED_CHANCE:
            return 0
        self._declined_drafts += 1
        if self._declined_drafts < self._patience:
            return 0
        self._declined_drafts = 0
        self._patience = min(2 * self._patience, _LONGEST_PAUSE)
        return min(len(self._chances), _TRIED_TOKENS)

    def _account(self, gain: float) -> None:
        """Note steps saved or lost. When too many are lost, the drafter is left alone, for longer each time."""
        self._gain = _FADING * self._gain + (1 - _FADING) * gain
        if self._gain > _TOLERATED_LOSS:
            self._pause = _FIRST_PAUSE
        if self._gain < -_TOLERATED_LOSS:
            self._gain = 0.0
            self._paused_steps = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _seconds(self, tokens: int, step_seconds: float) -> float:
        """What a step takes. Beyond the largest that was seen it is thought to go on as before, so that it is tried."""
        largest = self._step_times.largest_tokens
        known = self._step_times.predict(min(tokens, largest)) or step_seconds
        if tokens <= largest:
            return known
        if largest <= self._base_tokens:
            return step_seconds * (1 + _UNKNOWN_COST * (tokens - self._base_tokens))
        slope = (known - step_seconds) / (largest - self._base_tokens)
        return known + slope * (tokens - largest)
