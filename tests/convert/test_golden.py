"""llama.cpp on our F32 conversion computes what transformers computes on the checkpoint itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from convert.pipeline import convert_checkpoint
from edge.gguf_file import read_gguf
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from tests.tiny import CONTEXT_TOKENS, TINY, write_tiny_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
LARGEST_DIVERGENCE = {"gemma2": 1e-6}  # ggml reads GELU from a float16 table
LARGEST_DIVERGENCE_OF_OTHERS = 1e-8


def all_logits(model: Model, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Logits [tokens, vocabulary], with nothing stored in less than float32: no flash attention, KV cache in F32."""
    batch = Batch(len(tokens), 1)
    batch.add(tokens.tolist(), sequence=0, position=0, last_logits=True)
    batch.want_all_logits()
    with Context(
        model,
        context_tokens=CONTEXT_TOKENS,
        max_outputs=len(tokens),
        kv_type="F32",
        flash_attention="off",
    ) as context:
        context.decode(batch)
        return np.stack([context.logits(index) for index in range(len(tokens))])


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergences(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence from the reference at each position, in nats."""
    p, q = log_softmax(reference), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


@pytest.mark.parametrize("name", TINY)
def test_f32_conversion_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    (converted,) = convert_checkpoint(write_tiny_checkpoint(name, tmp_path), ["F32"], tmp_path / "converted.gguf")
    golden = np.load(GOLDEN / f"{name}.npz")
    with Model(converted) as model:
        assert model.vocab.size == TINY[name].config["vocab_size"]
        found = [
            divergences(golden[f"logits_{number}"], all_logits(model, golden[f"tokens_{number}"])[positions])
            for number, positions in ((0, golden["positions_0"]), (1, golden["positions_1"]))
        ]
    assert np.concatenate(found).mean() <= LARGEST_DIVERGENCE.get(name, LARGEST_DIVERGENCE_OF_OTHERS)


def test_query_rows_in_another_order_are_noticed(tmp_path: Path) -> None:
    """The bounds above are no empty promise: what a wrong RoPE permutation does is far beyond them."""
    (converted,) = convert_checkpoint(write_tiny_checkpoint("llama2", tmp_path), ["F32"], tmp_path / "wrong.gguf")
    query = read_gguf(converted).tensors["blk.0.attn_q.weight"]
    weights = np.memmap(converted, np.float32, "r+", offset=query.offset, shape=query.shape[::-1])
    weights[:] = weights[::-1].copy()
    weights.flush()
    golden = np.load(GOLDEN / "llama2.npz")
    with Model(converted) as model:
        logits = all_logits(model, golden["tokens_0"])[golden["positions_0"]]
    assert divergences(golden["logits_0"], logits).mean() > 1e-2
