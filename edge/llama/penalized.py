"""Which tokens the penalties of a stream may bear on at the moment, so that the chain is shown them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge.llama.sampler_chain import has_count_penalties, has_dry, has_repeat_penalty
from edge.settings import SamplingSettings

_NONE = np.empty(0, np.intp)


class PenalizedTokens:
    """Follows a stream's text as the penalties do. It may name more tokens than are penalized, never fewer."""

    def __init__(self, settings: SamplingSettings, prompt_tokens: Sequence[int], context_tokens: int) -> None:
        self._has_counts = has_count_penalties(settings)
        self._has_dry = has_dry(settings)
        self.can_be_any = has_repeat_penalty(settings) or self._has_counts or self._has_dry
        """Whether a penalty is on at all."""
        window = min(settings.repeat_last_tokens, context_tokens) if has_repeat_penalty(settings) else 0
        self._recent: deque[int] = deque(maxlen=window)
        self._completion: set[int] = set()
        self._successors: defaultdict[int, set[int]] = defaultdict(set)
        self._last_token: int | None = None
        for token in prompt_tokens if self.can_be_any else ():
            self._append(token)

    def accept(self, token: int) -> None:
        """A token became part of the completion."""
        self._append(token)
        if self._has_counts:
            self._completion.add(token)

    def _append(self, token: int) -> None:
        self._recent.append(token)
        if self._has_dry:
            if self._last_token is not None:
                self._successors[self._last_token].add(token)
            self._last_token = token

    def tokens(self) -> npt.NDArray[np.intp]:
        """Ids, ascending."""
        if not self.can_be_any:
            return _NONE
        # what DRY penalizes once continued a sequence that ended in the last token
        continued = self._successors.get(self._last_token, ()) if self._last_token is not None else ()
        together = self._completion.union(self._recent, continued)
        return np.sort(np.fromiter(together, np.intp, len(together)))
