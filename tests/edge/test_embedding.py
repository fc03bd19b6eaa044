"""A model makes vectors of texts, and tells how busy it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.engine import Engine
from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.local_engine import LocalEngine
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[Engine]:
    with Engine(tiny_gguf, ModelSettings(threads=1, parallel=2), isolate=False) as engine:
        yield engine


def test_vectors_are_of_length_one_and_of_their_text(engine: Engine) -> None:
    first, again, other = (np.array(engine.embed(tokens)) for tokens in ([5, 6, 7], [5, 6, 7], [7, 6, 5]))
    assert np.linalg.norm(first) == pytest.approx(1)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_vector_is_the_mean_over_all_tokens_of_a_text_longer_than_a_batch(engine: Engine) -> None:
    tokens = [5 + index % 90 for index in range(150)]
    whole = np.array(engine.embed(tokens))
    assert not np.allclose(whole, engine.embed(tokens[-22:]), atol=1e-3)  # what the last batch alone would give
    assert not np.allclose(whole, engine.embed(tokens[:128]), atol=1e-3)
    assert np.linalg.norm(whole) == pytest.approx(1)


def test_vectors_do_not_change_what_is_answered_meanwhile(engine: Engine) -> None:
    request = Request((5, 6, 7), sampling=SamplingSettings(temperature=0), max_tokens=8)
    alone = engine.submit(request).result().tokens
    stream = engine.submit(request)
    engine.embed([5, 6, 7, 8])
    assert stream.result().tokens == alone


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "The text to embed is empty."),
        ([5] * 513, "The text has 513 tokens; 512 can be embedded as one."),
        ([10**6], "The text has token ids outside of the vocabulary"),
    ],
)
def test_text_that_cannot_be_embedded_is_refused(engine: Engine, tokens: list[int], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        engine.embed(tokens)


def test_tokens_are_text_again(engine: Engine) -> None:
    tokens = engine.text_tokens("héllo \U0001f600")
    assert engine.tokens_text(tokens).strip() == "héllo \U0001f600"
    with pytest.raises(EdgeError, match="There is no token 1000000 in the vocabulary of"):
        engine.tokens_text([10**6])


def test_status_tells_what_is_running_and_held(engine: Engine) -> None:
    stream = engine.submit(Request((5, 6, 7), max_tokens=400, ignore_eos=True))
    next(iter(stream))
    stream.cancel()
    status = engine.status()
    assert status.held_tokens >= 3
    assert status.cache_tokens == engine.context_tokens
    engine.submit(Request((5,), max_tokens=1)).result()  # after a step, what was cancelled is out
    assert engine.status().running == 0


def test_process_of_its_own_gives_the_same(tiny_gguf: Path, engine: Engine) -> None:
    with Engine(tiny_gguf, ModelSettings(threads=1)) as isolated:
        assert isolated.embed([5, 6, 7]) == engine.embed([5, 6, 7])
        assert isolated.tokens_text([5, 6]) == engine.tokens_text([5, 6])
        assert isolated.status().running == 0
        with pytest.raises(EdgeError, match="The text to embed is empty"):
            isolated.embed([])


def test_embeddings_are_computed_by_the_thread_that_computes_answers(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, threads = Context.decode, set[str]()

    def noting(self: Context, batch: Batch) -> None:
        threads.add(threading.current_thread().name)
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", noting)
    with LocalEngine(tiny_gguf, ModelSettings(context_tokens=256, threads=1)) as engine:
        engine.embed([5] * 200)
        engine.submit(Request((1, 5), max_tokens=3)).result()
    assert threads == {"edge-engine"}
