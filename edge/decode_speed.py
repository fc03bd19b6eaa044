"""How fast a model decodes on the processor, and what share that is of the speed its memory allows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edge.ceiling import Bandwidth, ceiling, weight_bytes_per_token
from edge.gguf_file import read_gguf
from edge.llama.context import Batch, Context
from edge.llama.model import Model

_CONTEXT_TOKENS = 256
_LEAST_TOKENS = 8
_MOST_TOKENS = 128
_SECONDS = 0.8


@dataclass(frozen=True)
class DecodeSpeed:
    model: str
    tokens_per_second: float
    allowed_tokens_per_second: float
    """That reading the weights at the measured bandwidth takes; keys and values hardly count in so short a text."""
    exceeds_cache: bool
    """If not, the weights may stay in the processor's cache, and decoding may be faster than memory."""

    @property
    def share(self) -> float:
        return self.tokens_per_second / self.allowed_tokens_per_second


def measure_decode(path: Path, threads: int, bandwidth: Bandwidth) -> DecodeSpeed:
    """Decode one stream for about a second after one token to warm up. EdgeError for a file that cannot be opened."""
    limit = ceiling(bandwidth, weight_bytes_per_token(read_gguf(path)), cache_bytes=0)
    with (
        Model(path, gpu_layers=0) as model,
        Context(model, context_tokens=_CONTEXT_TOKENS, threads=threads, batch_tokens=1) as context,
    ):
        batch, vocabulary_size = Batch(1, 1), model.vocab.size
        count, start = -1, 0.0
        while count < _LEAST_TOKENS or (count < _MOST_TOKENS and time.perf_counter() - start < _SECONDS):
            batch.clear()
            position = count + 1
            last = batch.add([7919 * (position + 1) % vocabulary_size], sequence=0, position=position, last_logits=True)
            context.decode(batch)
            context.logits(last)
            count += 1
            start = start or time.perf_counter()
        rate = count / (time.perf_counter() - start)
    return DecodeSpeed(path.name, rate, limit.tokens_per_second, limit.weights_exceed_cache)
