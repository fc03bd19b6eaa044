"""What the recorder sums up, against activations computed in numpy from the weights themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.activations import ActivationRecorder, ActivationSums
from edge.llama.context import Batch, Context
from edge.llama.model import Model

TOKENS = list(range(3, 99))


def weights(path: Path, name: str) -> npt.NDArray[np.float32]:
    tensor = read_gguf(path).tensors[name]
    return np.memmap(path, np.float32, "r", tensor.offset, tensor.shape[::-1])


def recorded(path: Path, *, batch_tokens: int = 96) -> dict[str, ActivationSums]:
    recorder = ActivationRecorder()
    with (
        Model(path) as model,
        Context(
            model,
            context_tokens=128,
            batch_tokens=batch_tokens,
            max_outputs=batch_tokens,
            key_type="F32",
            value_type="F32",
            flash_attention="off",
            recorder=recorder,
        ) as context,
    ):
        batch = Batch(batch_tokens, 1)
        for first in range(0, len(TOKENS), batch_tokens):
            batch.clear()
            batch.add(TOKENS[first : first + batch_tokens], sequence=0, position=first, last_logits=True)
            batch.want_all_logits()
            context.decode(batch)
    return dict(recorder.sums)


def test_input_of_the_first_projections_is_the_normalized_embedding(tiny_gguf: Path) -> None:
    rows = weights(tiny_gguf, "token_embd.weight")[TOKENS].astype(np.float64)
    normal = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    expected = ((normal * weights(tiny_gguf, "blk.0.attn_norm.weight")) ** 2).sum(axis=0)
    found = recorded(tiny_gguf)
    for name in ("attn_q", "attn_k", "attn_v"):
        sums = found[f"blk.0.{name}.weight"]
        assert sums.counts.tolist() == [len(TOKENS)]
        np.testing.assert_allclose(sums.squares[0], expected, rtol=1e-5)


def test_every_weight_matrix_of_the_blocks_is_recorded_and_nothing_else(tiny_gguf: Path) -> None:
    expected = {
        name: tensor.shape[0]
        for name, tensor in read_gguf(tiny_gguf).tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    }
    assert {name: sums.squares.shape[1] for name, sums in recorded(tiny_gguf).items()} == expected


def test_sums_do_not_depend_on_how_the_text_is_cut_into_batches(tiny_gguf: Path) -> None:
    whole, cut = recorded(tiny_gguf), recorded(tiny_gguf, batch_tokens=32)
    for name, sums in whole.items():
        assert cut[name].counts.tolist() == sums.counts.tolist()
        np.testing.assert_allclose(cut[name].squares, sums.squares, rtol=1e-4)


def test_batches_of_single_tokens_are_passed_over(tiny_gguf: Path) -> None:
    assert recorded(tiny_gguf, batch_tokens=8) == {}


def test_error_inside_the_callback_ends_the_decoding(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, node: object) -> None:
        raise EdgeError("It broke.")

    monkeypatch.setattr(ActivationRecorder, "_collect", fail)
    with pytest.raises(EdgeError, match=r"It broke\."):
        recorded(tiny_gguf)
