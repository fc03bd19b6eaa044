"""llama.cpp on our F32 conversion computes what transformers computes on the checkpoint itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from convert.pipeline import write_checkpoint
from edge.gguf_file import read_gguf
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from tests.golden.stored import read_golden
from tests.tiny import CONTEXT_TOKENS, TINY, write_tiny_checkpoint

LARGEST_DIVERGENCE = 1e-8
LARGEST_DIVERGENCE_WITH_GELU = 1e-5  # ggml reads GELU from a float16 table
LEAST_POSITIONS = 128
CHUNK_TOKENS = 40  # less than a sequence, so that the KV cache is read across the border of two decodes


def all_logits(model: Model, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Logits [tokens, vocabulary], with nothing stored in less than float32: no flash attention, KV cache in F32."""
    with Context(
        model,
        context_tokens=CONTEXT_TOKENS,
        max_outputs=CHUNK_TOKENS,
        key_type="F32",
        value_type="F32",
        flash_attention="off",
    ) as context:
        return np.concatenate(
            [
                chunk_logits(context, tokens[first : first + CHUNK_TOKENS].tolist(), first)
                for first in range(0, len(tokens), CHUNK_TOKENS)
            ]
        )


def chunk_logits(context: Context, tokens: list[int], position: int) -> npt.NDArray[np.float32]:
    batch = Batch(len(tokens), 1)
    batch.add(tokens, sequence=0, position=position, last_logits=True)
    batch.want_all_logits()
    context.decode(batch)
    return np.stack([context.logits(index) for index in range(len(tokens))])


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergences(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence from the reference at each position, in nats."""
    p, q = log_softmax(reference), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def largest_divergence(name: str) -> float:
    activation = TINY[name].text_config.get("hidden_activation") or TINY[name].text_config["hidden_act"]
    return LARGEST_DIVERGENCE_WITH_GELU if "gelu" in activation else LARGEST_DIVERGENCE


@pytest.mark.parametrize("name", TINY)
def test_f32_conversion_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    (converted,) = write_checkpoint(write_tiny_checkpoint(name, tmp_path), ["F32"], tmp_path / "converted.gguf")
    golden = read_golden(name)
    with Model(converted) as model:
        assert model.vocab.size == TINY[name].vocabulary
        found = [all_logits(model, sequence.tokens)[sequence.positions] for sequence in golden.sequences]
    wanted = np.concatenate([sequence.logits for sequence in golden.sequences])
    ours = np.concatenate(found)
    assert len(wanted) >= LEAST_POSITIONS
    assert divergences(wanted, ours).mean() <= largest_divergence(name)
    assert (wanted.argmax(axis=-1) == ours.argmax(axis=-1)).all()


def test_query_rows_in_another_order_are_noticed(tmp_path: Path) -> None:
    """The bounds above are no empty promise: what a wrong RoPE permutation does is far beyond them."""
    (converted,) = write_checkpoint(write_tiny_checkpoint("llama2", tmp_path), ["F32"], tmp_path / "wrong.gguf")
    query = read_gguf(converted).tensors["blk.0.attn_q.weight"]
    weights = np.memmap(converted, np.float32, "r+", offset=query.offset, shape=query.shape[::-1])
    weights[:] = weights[::-1].copy()
    weights.flush()
    golden = read_golden("llama2").sequences[0]
    with Model(converted) as model:
        logits = all_logits(model, golden.tokens)[golden.positions]
    assert divergences(golden.logits, logits).mean() > 1e-2
