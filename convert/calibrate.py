"""Measures an importance matrix: runs a model over a text in chunks and sums the squares of what its weights see.

Source: llama.cpp, tools/imatrix/imatrix.cpp (compute_imatrix): chunks of 512 tokens, each from an empty cache, the
first token replaced by the one that begins texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convert.calibration_text import CalibrationText
from convert.imatrix import ImportanceMatrix, TensorImportance, check_values
from convert.pool import Progress, ProgressCallback
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.activations import ActivationRecorder, ActivationSums
from edge.llama.context import Batch, Context
from edge.llama.model import Model

CHUNK_TOKENS = 512
FEWEST_CHUNKS = 2
_LOGITS_BYTES = 256 << 20
_SMALLEST_BATCH = 64


def measure_importance(
    model_path: Path,
    text: CalibrationText,
    *,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> ImportanceMatrix:
    """The importance of each column of a GGUF model's weights on a text.

    EdgeError for a text of less than two chunks, and for a model that computes NaN or infinity.
    """
    read_gguf(model_path)
    with Model(model_path) as model:
        chunk_tokens = min(CHUNK_TOKENS, model.trained_context_tokens)
        chunks = _chunks(text, model, chunk_tokens)
        recorder = ActivationRecorder()
        batch_tokens = _batch_tokens(chunk_tokens, model.vocab.size)
        with Context(
            model,
            context_tokens=chunk_tokens,
            batch_tokens=batch_tokens,
            max_outputs=batch_tokens,
            threads=threads or physical_cores(),
            recorder=recorder,
        ) as context:
            for number, chunk in enumerate(chunks):
                if progress:
                    progress(Progress(text.n_bytes * number // len(chunks), text.n_bytes))
                _run_chunk(context, chunk, batch_tokens)
        if progress:
            progress(Progress(text.n_bytes, text.n_bytes))
    return ImportanceMatrix(
        text.name, _entries(text.name, recorder.sums), (text.name,), chunk_count=len(chunks), chunk_tokens=chunk_tokens
    )


def _chunks(text: CalibrationText, model: Model, chunk_tokens: int) -> list[list[int]]:
    """Whole chunks; a rest is left out."""
    tokens = text.tokens(model.vocab, model.chat_template)
    if len(tokens) < FEWEST_CHUNKS * chunk_tokens:
        raise EdgeError(
            f"The calibration text {text.name} has {len(tokens)} tokens;"
            f" {FEWEST_CHUNKS * chunk_tokens} are the least that can be measured.",
            hint="Give a longer text, of the kinds and languages that the model is for.",
        )
    chunks = [tokens[first : first + chunk_tokens] for first in range(0, len(tokens) - chunk_tokens + 1, chunk_tokens)]
    if model.vocab.add_bos and model.vocab.bos_token is not None:
        for chunk in chunks:
            chunk[0] = model.vocab.bos_token
    return chunks


def _batch_tokens(chunk_tokens: int, vocabulary: int) -> int:
    """As many as logits are no burden for; a chunk's end must not be too small a batch to be counted."""
    count = chunk_tokens
    while count % 2 == 0 and count > _SMALLEST_BATCH and count * vocabulary * 4 > _LOGITS_BYTES:
        count //= 2
    return count


def _run_chunk(context: Context, chunk: Sequence[int], batch_tokens: int) -> None:
    """Every token asks for logits: the last block leaves out the others."""
    context.remove(0, 0)
    batch = Batch(batch_tokens, 1)
    for first in range(0, len(chunk), batch_tokens):
        batch.clear()
        batch.add(chunk[first : first + batch_tokens], sequence=0, position=first, last_logits=True)
        batch.want_all_logits()
        context.decode(batch)


def _entries(name: str, sums: Mapping[str, ActivationSums]) -> dict[str, TensorImportance]:
    entries = {}
    for tensor, sum_ in sums.items():
        entries[tensor] = TensorImportance(sum_.squares.astype(np.float32), sum_.counts)
        check_values(f"The run over {name}", tensor, entries[tensor])
    return entries
