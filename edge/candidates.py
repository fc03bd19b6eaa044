"""Finds the highest of a great many logits, without sorting or copying them.

Knows nothing of sampling: logits go in, token ids come out. The C module of native/candidates.c reads the logits once;
numpy does the work where it could not be compiled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

try:
    from edge.native import _candidates
except ImportError:  # no compiler when edge was installed: numpy takes twice as long
    _candidates = None  # type: ignore[assignment]

Logits = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.intp]

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data"""

_GROUP_TOKENS = 64
"""Tokens that share one maximum, at most."""
_GROUPS_PER_TOKEN = 4
"""Groups for each token that is asked for, at least: with fewer, most groups would have to be looked into."""
_SAMPLED_TOKENS = 2048
"""Logits that a first guess at the bar is made of."""
_LARGEST_SAMPLED = 1 << 17
"""Of larger vocabularies, to compare each logit with a bar takes longer than the maxima of groups."""
_MANY_TOKENS = 4096
_NATIVE_GROUP_TOKENS = 64


def likely_tokens(logits: Logits, count: int) -> TokenIds:
    """Ids, ascending, of the `count` highest of `logits` [vocabulary], of all their equals, and maybe of hundreds more.

    If fewer than `count` logits are above -inf, as many of the others are among them as it takes to make up the number.
    """
    found = _found_natively(logits, count)
    if found is not None:
        return found
    sampled = _above_sample(logits, count) if len(logits) <= _LARGEST_SAMPLED else None
    return _above_groups(logits, count) if sampled is None else sampled


def _found_natively(logits: Logits, count: int) -> TokenIds | None:
    found = np.empty(_MANY_TOKENS, CANDIDATE)
    written = find_candidates(logits, count, maxima_of(len(logits)), found)
    return found["id"][:written].astype(np.intp) if written >= 0 else None


def maxima_of(vocabulary_size: int) -> npt.NDArray[np.float32]:
    """Room for `find_candidates` to work in."""
    return np.empty(vocabulary_size // _NATIVE_GROUP_TOKENS, np.float32)


def find_candidates(logits: Logits, count: int, maxima: npt.NDArray[np.float32], found: npt.NDArray[np.void]) -> int:
    """As `likely_tokens`, with what is found written to `found`, an array of CANDIDATE; gives the number of them.

    -1 without the C module, if there are not enough numbers, or too many equals for `found`.
    """
    if _candidates is None or not 1 <= count <= len(logits) or not logits.flags.c_contiguous:
        return -1
    return _candidates.likely_candidates(logits, count, maxima, found)


def _above_sample(logits: Logits, count: int) -> TokenIds | None:
    """The tokens above a bar that a sample suggests: few steps, which between two decodes all run from cold caches.

    None if they turn out to be fewer than are wanted, or a great many.
    """
    stride = max(1, len(logits) // _SAMPLED_TOKENS)
    sample = logits[::stride]
    place = len(sample) - (4 + 3 * count // stride)  # about three times as many as are wanted, and some more
    if place <= 0:
        return None
    bar = np.partition(sample, place)[place]
    found: TokenIds = np.flatnonzero(logits >= bar)
    return found if count <= len(found) <= _MANY_TOKENS and bar > -np.inf else None


def _above_groups(logits: Logits, count: int) -> TokenIds:
    """The tokens above a bar that no more than a few can be above: as many as are wanted, and their equals."""
    group_tokens = min(_GROUP_TOKENS, len(logits) // (_GROUPS_PER_TOKEN * max(count, 1)))
    if group_tokens < 2:
        return np.arange(len(logits))
    groups = len(logits) // group_tokens
    # Tokens of a group lie `groups` apart: maxima of whole rows take a fifteenth of the time of maxima within rows
    grid = logits[: groups * group_tokens].reshape(group_tokens, groups)
    maxima = grid.max(axis=0)
    # `count` groups have a token that is at least as high, so the `count` highest tokens all are
    bar = np.partition(maxima, groups - count)[groups - count]
    if bar == -np.inf:
        return np.union1d(np.flatnonzero(logits > -np.inf), np.arange(count))
    columns = np.flatnonzero(maxima >= bar)
    rows, places = np.nonzero(grid.take(columns, axis=1) >= bar)
    rest = groups * group_tokens + np.flatnonzero(logits[groups * group_tokens :] >= bar)
    found: TokenIds = np.concatenate([rows * groups + columns[places], rest])
    return found


def top_tokens(logits: Logits, count: int) -> TokenIds:
    """Ids of the `count` highest of `logits` [vocabulary], best first; among equal ones the lowest id is first."""
    tokens = likely_tokens(logits, count)
    best_first: TokenIds = tokens[np.argsort(-logits[tokens], kind="stable")[:count]]
    return best_first
