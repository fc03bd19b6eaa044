"""Several decode steps of one sequence in one native call, a token chosen after each.

Between two steps Python's own work takes the longer the sooner a model has driven it out of the processor's caches: of
a small model, two hundredths of the time. Nothing of it is needed to choose a token that no rule is about.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.llama.library import backend
from edge.llama.sampler import PlainChoice

try:
    from edge.native import _multi_step
except ImportError:  # no compiler when edge was installed: step by step, then
    _multi_step = None  # type: ignore[assignment]


def run_steps(
    context: int,
    batch: ctypes.Structure,
    choice: PlainChoice,
    *,
    vocabulary_size: int,
    steps: int,
    end_tokens: frozenset[int],
    interruption: bytearray,
) -> tuple[int, list[int]]:
    """Decode a batch of one token, then choose what follows and decode that, and so on: at most so many `steps`.

    They end early behind one of `end_tokens`, and once the first byte of `interruption` is not 0, which any thread may
    set. Gives how many steps were made, and the tokens chosen: as many, or one less where the logits of the last step
    leave no plain choice. A step that fails is as if it had not been tried.
    """
    chosen = np.empty(steps, np.int32)
    made, held = _multi_step.run(
        _functions(),
        context,
        ctypes.addressof(batch),
        choice,
        vocabulary_size,
        _array_of(end_tokens),
        chosen,
        interruption,
    )
    return made, chosen[:held].tolist()


@cache
def is_available() -> bool:
    """Whether the C module is there, and lays out what it hands to llama.cpp as the binding does."""
    if _multi_step is None:
        return False
    llama = backend()
    structures = (llama.llama_batch, llama.llama_token_data_array, llama.llama_token_data)
    return tuple(map(_layout, structures)) == _multi_step.LAYOUT


def _layout(structure: Any) -> tuple[int, ...]:
    """The size of a structure and where its fields are."""
    return (ctypes.sizeof(structure), *(getattr(structure, name).offset for name, _ in structure._fields_))


@cache
def _functions() -> tuple[int, int, int]:
    """The addresses of what is called: decode, the logits of a token, and applying a sampler chain."""
    library = backend()._lib
    names = ("llama_decode", "llama_get_logits_ith", "llama_sampler_apply")
    decode, logits, apply = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
    return decode, logits, apply


@lru_cache
def _array_of(tokens: frozenset[int]) -> npt.NDArray[np.int32]:
    return np.fromiter(tokens, np.int32, len(tokens))
