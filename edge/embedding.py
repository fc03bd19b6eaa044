"""What a model makes of a text as one vector: the mean of its last layer over the text's tokens, of length 1.

A context of its own, made when it is first needed, so that answers and embeddings do not take each other's cache. But
what computes it is the thread that computes the answers, for the reason told in `edge.compute_thread`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError, EngineGoneError
from edge.llama.context import Batch, Context
from edge.llama.model import Model

_CONTEXT_TOKENS = 2048
_BATCH_TOKENS = 64  # llama.cpp keeps logits for each of them too, which are megabytes with a large vocabulary


class Embedder:
    """Embeds one text at a time, whichever thread asks. `compute` runs a function in the engine's thread."""

    def __init__(self, model: Model, threads: int, compute: Callable[[Callable[[], None]], None]) -> None:
        self._compute = compute
        self._model = model
        self._threads = threads
        self._lock = threading.Lock()
        self._context: Context | None = None
        self._is_closed = False
        self.context_tokens = min(model.trained_context_tokens, _CONTEXT_TOKENS)
        """Of the longest text."""

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """The vector [hidden] of a text. EdgeError if it is empty, too long or has tokens that there are not."""
        if not tokens:
            raise EdgeError("The text to embed is empty.", hint="Give at least one token.")
        if len(tokens) > self.context_tokens:
            raise EdgeError(
                f"The text has {len(tokens)} tokens; {self.context_tokens} can be embedded as one.",
                hint="Embed its parts.",
            )
        if not all(0 <= token < self._model.vocab.size for token in tokens):
            raise EdgeError(
                f"The text has token ids outside of the vocabulary of {self._model.vocab.size} tokens.",
                hint="Make the tokens with the vocabulary of the same model.",
            )
        with self._lock:
            mean = self._sum(tokens, self._opened()) / len(tokens)
        length = float(np.linalg.norm(mean))
        vector: list[float] = (mean / length if length > 0 else mean).tolist()
        return vector

    def close(self) -> None:
        """Waits for the text that is being embedded."""
        with self._lock:
            self._is_closed = True
            if self._context:
                self._context.close()
                self._context = None

    def _opened(self) -> Context:
        if self._is_closed:
            raise EngineGoneError("The engine is closed.", hint="Open the model again.")
        if self._context is None:
            self._context = Context(
                self._model,
                context_tokens=self.context_tokens,
                threads=self._threads,
                batch_tokens=_BATCH_TOKENS,
                max_outputs=_BATCH_TOKENS,
                gives="embeddings",
            )
        return self._context

    def _sum(self, tokens: Sequence[int], context: Context) -> npt.NDArray[np.float64]:
        """The sum of what comes out at each token."""
        context.remove(0, 0)
        batch = Batch(context.batch_tokens, 1)
        total = np.zeros(self._model.hidden_size, np.float64)
        for start in range(0, len(tokens), batch.capacity):
            part = tokens[start : start + batch.capacity]
            batch.clear()
            batch.add_all_wanted(part, sequence=0, position=start)
            self._compute(partial(context.decode, batch))  # a part at a time: answers go on in between
            for index in range(len(part)):
                total += context.embedding(index)
        return total
