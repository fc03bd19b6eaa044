"""Which tokens a sampler chain has to be shown, so that it chooses as it would among all."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt

from edge.candidates import Logits, TokenIds, likely_tokens
from edge.settings import SamplingSettings

Mask = npt.NDArray[np.bool_]

_FEW_SHARE = 1 / 32
_HANDFUL_TOKENS = 512  # the chain is done with so many before they are narrowed down
_FAR = np.float32(1e30)
_ROUNDING = 1e-3  # of the chain's own bound in float32; what is shown it beyond that bound does no harm


class Preselection:
    """The rule that the settings allow: so many of the highest logits, or those near the highest one, or all."""

    def __init__(self, settings: SamplingSettings) -> None:
        self.count = _needed_tokens(settings)
        """How many of the highest logits are enough, if their number is."""
        self._distance = _needed_distance(settings)
        self._masked = np.empty(0, np.float32)

    def tokens(self, logits: Logits, allowed: Mask | None, penalized: TokenIds) -> TokenIds:
        """Ids, ascending. `penalized` are tokens that the chain may change the logit of.

        `logits` [vocabulary] are changed meanwhile if there are penalized tokens.
        """
        among = self._highest if allowed is None else partial(self._among, allowed=allowed)
        if allowed is not None:
            penalized = penalized[allowed[penalized]]
        if not len(penalized):
            return among(logits)
        # As many of the others as are needed by themselves: the penalized ones may all fall behind them
        kept = logits[penalized]
        logits[penalized] = -np.inf
        tokens = np.union1d(among(logits), penalized)
        logits[penalized] = kept
        if self.count is not None and len(tokens) < self.count:
            return _all_tokens(logits, allowed)
        return tokens

    def _among(self, logits: Logits, allowed: Mask) -> TokenIds:
        """The allowed ones of those that are needed. To list all allowed tokens is dear, unless they are few."""
        found = None
        narrows = self.count is not None or self._distance is not None
        if narrows and np.count_nonzero(allowed) > _FEW_SHARE * len(allowed):
            found = self._permitted(logits, allowed)
            if found is None:
                found = self._permitted(self._without_forbidden(logits, allowed), allowed)
        if found is None:
            tokens = np.flatnonzero(allowed)
            found = tokens if len(tokens) <= _HANDFUL_TOKENS else tokens[self._highest(logits[tokens])]
        return found

    def _permitted(self, logits: Logits, allowed: Mask) -> TokenIds | None:
        """The allowed ones among the likely tokens, if they are enough."""
        tokens = likely_tokens(logits, 4 * (self.count or 1) + 32)
        tokens = tokens[allowed[tokens]]
        if self.count is not None:
            return tokens if len(tokens) >= self.count else None
        if not len(tokens):
            return None
        tokens = self._near(logits, logits[tokens].max())
        permitted: TokenIds = tokens[allowed[tokens]]
        return permitted

    def _without_forbidden(self, logits: Logits, allowed: Mask) -> Logits:
        """A copy with what is forbidden far below all else. Arithmetic takes a third of the time of a selection."""
        if len(self._masked) != len(logits):
            self._masked = np.empty(len(logits), np.float32)
        masked = self._masked
        np.copyto(masked, allowed, casting="unsafe")
        masked -= 1
        masked *= _FAR
        masked += logits
        return masked

    def _highest(self, logits: Logits) -> TokenIds:
        if self.count is not None:
            return likely_tokens(logits, self.count)
        if self._distance is not None:
            return self._near(logits, logits.max())
        return np.arange(len(logits))

    def _near(self, logits: Logits, highest: np.float32) -> TokenIds:
        assert self._distance is not None
        return np.flatnonzero(logits >= highest - np.float32(self._distance))


def _all_tokens(logits: Logits, allowed: Mask | None) -> TokenIds:
    return np.arange(len(logits)) if allowed is None else np.flatnonzero(allowed)


def _needed_tokens(settings: SamplingSettings) -> int | None:
    """How many of the highest logits are enough."""
    if settings.temperature == 0:
        return 1
    sees_all = settings.mirostat_tau > 0 or settings.top_n_sigma > 0
    return None if sees_all or settings.top_k == 0 else settings.top_k


def _needed_distance(settings: SamplingSettings) -> float | None:
    """How far below the highest logit is far enough, where nothing but min_p decides it."""
    sees_all = settings.mirostat_tau > 0 or settings.top_n_sigma > 0 or settings.typical_p < 1 or settings.top_p < 1
    return None if sees_all or settings.min_p == 0 else _ROUNDING - math.log(settings.min_p)
