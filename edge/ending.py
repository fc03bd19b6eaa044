"""The end of a reply that comes near its token limit: closes what is open, so that the whole is a match.

A search over forks of the reply's matcher finds short endings, without knowing what the constraint is: it follows what
is forced, and tries first what closes most. It need not find the shortest one, but what it finds is an ending.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from edge.closing_tokens import Tokens
from edge.errors import EdgeError
from edge.matcher import Matcher

_MAX_VISITS = 400  # of one search; each costs about 0.1 ms
_VISITS_AFTER_TOO_LONG = 40  # for a shorter way, once one was found that does not fit
_MAX_CLOSERS, _MAX_LITERALS, _MAX_FILLERS, _MAX_OPENERS = 4, 4, 3, 2  # tried in one place
_NARROW_SLACK_TOKENS = 128  # from here on every token is checked
_PATIENCE = 48  # choices that force nothing, after which a search looks at others beside those it prefers
_MAX_HINT_START = 12  # tokens of a known ending that may lie behind
_FIRST_LOOK = 512  # of the fillers; the rest is looked at if none of them fits


class Ending:
    """Sees to the end of one reply.

    As long as the shortest ending that is known fits into what remains, it goes on to fit: a token after which none
    would is not taken, and the ending is written instead. Far from the limit this is looked at now and then, so that a
    single token that opens very much can still spoil it.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._known: list[int] | None = None
        self._next_check_tokens: float = float("inf")  # remaining tokens at which to look again

    def closing_instead_of(self, token: int, remaining_tokens: int) -> list[int] | None:
        """The tokens that end the reply now, or None where the given, allowed token can be taken.

        `remaining_tokens` are those that the reply may still have, the given one included. None as well where no ending
        was found that fits: the reply will be cut off.
        """
        if remaining_tokens > self._next_check_tokens or token in self._matcher.vocabulary.end_tokens:
            return None
        after = self._matcher.fork()
        try:
            taken = [token, *_follow(after, [token], remaining_tokens)]
        except EdgeError:  # the constraint cannot be followed there, which whoever takes the token is told
            return None
        ending = self._ending_of(after, taken, remaining_tokens - len(taken))
        if ending is not None:
            self._known = ending
            self._plan_next_check(remaining_tokens, len(taken) + len(ending))
            return None
        known = self._known
        if known is None or len(known) > remaining_tokens or not self._matcher.matches(known):
            known = find_ending(self._matcher, remaining_tokens)
        if known is None:
            self._next_check_tokens = remaining_tokens - 1 - remaining_tokens // 4
        return known

    def _ending_of(self, after: Matcher, taken: list[int], limit_tokens: int) -> list[int] | None:
        """An ending behind the tokens that would be taken."""
        if limit_tokens < 0:
            return None
        if self._known is not None:
            is_begun = self._known[: len(taken)] == taken
            known = self._known[len(taken) :] if is_begun else self._known
            if len(known) <= limit_tokens and after.matches(known):
                return known
        return _Search(after, limit_tokens, self._known or [], _VISITS_AFTER_TOO_LONG).run()

    def _plan_next_check(self, remaining_tokens: int, ending_tokens: int) -> None:
        slack = remaining_tokens - ending_tokens
        self._next_check_tokens = remaining_tokens - (slack // 4 if slack > _NARROW_SLACK_TOKENS else 1)


def find_ending(matcher: Matcher, limit_tokens: int) -> list[int] | None:
    """At most so many tokens that make the reply a whole match, few rather than many; None if none were found."""
    return _Search(matcher, limit_tokens, [], _MAX_VISITS).run()


class _Search:
    """Goes to the likeliest place first, and back to others when that leads too far."""

    def __init__(self, start: Matcher, limit_tokens: int, hint: list[int], visits_after_too_long: int) -> None:
        """`hint` is an ending from another place, which may fit further on as well."""
        self._start = start
        self._limit_tokens = limit_tokens
        self._hint = hint
        self._order = count()
        self._visits_left = _MAX_VISITS
        self._visits_after_too_long = visits_after_too_long
        self._ways: list[tuple[float, int, _Way]] = [(0.0, next(self._order), _Way(start, [], None, 0, 0, []))]

    def run(self) -> list[int] | None:
        while self._ways and self._visits_left:
            self._visits_left -= 1
            try:
                ending = self._visit(heapq.heappop(self._ways)[2])
            except EdgeError:  # nothing follows there, or too much
                continue
            if ending is not None:
                return ending
        return None

    def _visit(self, way: _Way) -> list[int] | None:
        """The ending if this is one; else the ways on from there wait for their turn."""
        place = way.origin.fork()
        chosen = [] if way.choice is None else [way.choice]
        tokens = [*way.tokens, *chosen, *_follow(place, chosen, self._longest)]
        if place.is_accepting:
            return self._fitting(tokens)
        if len(tokens) >= self._longest:
            self._note_too_long()
            return None
        rest = self._known_rest(place)
        if rest is not None and (ending := self._fitting(tokens + rest)) is not None:
            return ending
        has_forced = len(tokens) > len(way.tokens) + len(chosen)
        idle_choices = way.idle_choices // 2 if has_forced else way.idle_choices + 1
        lately = [] if has_forced else [*way.lately, *chosen]
        for rank, choice in enumerate(_choices(place, lately)):
            detours = way.detours + (1 + rank / 8 if rank else 0)
            following = _Way(place, tokens, choice, detours, idle_choices, lately)
            heapq.heappush(self._ways, (detours + idle_choices / _PATIENCE, next(self._order), following))
        return None

    def _known_rest(self, place: Matcher) -> list[int] | None:
        """What is left of the hint where that is an ending."""
        hint = self._hint
        rests = (hint[start:] for start in range(min(len(hint), _MAX_HINT_START) - 1, -1, -1))
        return next((rest for rest in rests if place.matches(rest)), None)

    @property
    def _longest(self) -> int:
        """Tokens up to which a way is followed: those found may be spelt with fewer."""
        return self._limit_tokens + self._limit_tokens // 2

    def _fitting(self, tokens: list[int]) -> list[int] | None:
        """The ending, in fewer tokens if it can be, if it is short enough."""
        fewer = self._start.respelt(tokens)
        best = fewer if len(fewer) < len(tokens) and self._start.matches(fewer) else tokens
        if len(best) <= self._limit_tokens:
            return best
        self._note_too_long()
        return None

    def _note_too_long(self) -> None:
        self._visits_left = min(self._visits_left, self._visits_after_too_long)


@dataclass(frozen=True)
class _Way:
    """A token that may follow other tokens of an ending.

    `detours` says how far this is from what seemed best, `idle_choices` how many tokens forced no others, and `lately`
    which of them since some last did.
    """

    origin: Matcher
    tokens: list[int]
    choice: int | None
    detours: float
    idle_choices: int
    lately: list[int]


def _follow(place: Matcher, chosen: Sequence[int], limit_tokens: int) -> list[int]:
    """Accept tokens, and those that they force, which are returned; not many more than the limit."""
    for token in chosen:
        place.accept(token)
    followed: list[int] = []
    while len(followed) <= limit_tokens and (forced := place.forced_tokens()):
        for token in forced:
            place.accept(token)
        followed += forced
    return followed


def _choices(place: Matcher, lately: list[int]) -> list[int]:
    """Tokens to try there, best first."""
    allowed = place.allowed_tokens()
    tokens = place.vocabulary.closing_tokens
    closers = [int(token) for token in tokens.in_order(allowed)[:_MAX_CLOSERS]]
    fillers = _first_allowed(tokens.fillers[:_FIRST_LOOK], allowed, _MAX_FILLERS)
    fillers = fillers or _first_allowed(tokens.fillers, allowed, _MAX_FILLERS)
    openers = _first_allowed(tokens.openers, allowed, _MAX_OPENERS)
    literals = [token for token in place.literals if allowed[token]]
    last = next((token for token in literals if place.matches([token])), None)
    if last is not None:
        return [last]
    unused = [token for token in literals if token not in lately][:_MAX_LITERALS]
    # in JSON, what is punctuation elsewhere may stand in any text
    likely = [*closers, *fillers] if place.is_json and tokens.is_text(allowed) else [*unused, *closers]
    choices = dict.fromkeys([*likely, *fillers, *openers, *literals[:_MAX_LITERALS]])
    return list(choices) or [int(token) for token in np.flatnonzero(allowed)[:_MAX_CLOSERS]]


def _first_allowed(tokens: Tokens, allowed: NDArray[np.bool_], at_most: int) -> list[int]:
    return [int(token) for token in tokens[allowed[tokens]][:at_most]]
