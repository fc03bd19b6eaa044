"""Log probabilities of tokens, as the model gives them before any sampling setting."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge.candidates import top_tokens

_CHUNK_TOKENS = 1 << 15  # what the exponentials are held in stays in the processor's cache


def token_logprobs(logits: npt.NDArray[np.float32], token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log probability of `token`, and the `top` likeliest tokens with theirs, best first.

    `logits` [vocabulary] are only read. Those of -inf have a log probability of -inf; not all may be.
    """
    normalizer = _log_sum_exp(logits)
    likeliest = top_tokens(logits, top) if top else ()
    return float(logits[token]) - normalizer, [(int(each), float(logits[each]) - normalizer) for each in likeliest]


def _log_sum_exp(logits: npt.NDArray[np.float32]) -> float:
    """The logarithm of the sum of exponentials.

    They are taken in float32, for which numpy has vector code, and added up in float64: their errors do not add up.
    """
    highest = logits.max()
    assert highest > -np.inf, "no token has a probability"
    room = np.empty(min(_CHUNK_TOKENS, len(logits)), np.float32)
    total = 0.0
    for start in range(0, len(logits), _CHUNK_TOKENS):
        chunk = logits[start : start + _CHUNK_TOKENS]
        exponentials = room[: len(chunk)]
        np.subtract(chunk, highest, out=exponentials)
        np.exp(exponentials, out=exponentials)
        total += float(exponentials.sum(dtype=np.float64))
    return float(highest) + math.log(total)
