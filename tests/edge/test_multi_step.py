"""Several decode steps in one native call: they choose what single steps choose, and end where they must."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.candidates import CANDIDATE, maxima_of
from edge.llama import multi_step
from edge.llama.binding import llama
from edge.llama.context import Batch, Context
from edge.local_engine import LocalEngine
from edge.request import Completion, Request
from edge.settings import ModelSettings, SamplingSettings

VOCABULARY_SIZE = 256
TEXT = "The bees danced, and the beekeeper wrote it down in her book."
SETTINGS = ModelSettings(context_tokens=512, threads=1)
WARM = SamplingSettings(temperature=1.0, top_k=40, seed=11)


class FakeLlama:
    """Stands for llama.cpp's functions. The likeliest token after each is the next number; `fed` is what was decoded.

    `rows` are other logits for some steps; step `failing` fails.
    """

    def __init__(self, *, rows: dict[int, Sequence[float]] | None = None, failing: int = -1) -> None:
        self.fed: list[tuple[int, int]] = []
        self.before_step: Callable[[int], None] = lambda step: None
        self._rows = rows or {}
        self._failing = failing
        self._row = np.zeros(VOCABULARY_SIZE, np.float32)
        decode = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, llama.llama_batch)(self._decode)
        logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(self._logits)
        array = ctypes.POINTER(llama.llama_token_data_array)
        apply = ctypes.CFUNCTYPE(None, ctypes.c_void_p, array)(self._apply)
        self.functions = (decode, logits, apply)

    def _decode(self, context: int, batch: Any) -> int:
        step = len(self.fed)
        self.before_step(step)
        if step == self._failing:
            return 1
        self.fed.append((batch.token[0], batch.pos[0]))
        self._row[:] = 0.0
        self._row[batch.token[0] + 1] = 1.0
        self._row[: len(self._rows.get(step, []))] = self._rows.get(step, [])
        return 0

    def _logits(self, context: int, index: int) -> int:
        assert index == 0
        return self._row.ctypes.data

    def _apply(self, chain: int, candidates: Any) -> None:
        array = candidates.contents
        array.selected = max(range(array.size), key=lambda index: float(array.data[index].logit))


def run(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeLlama,
    *,
    steps: int = 5,
    ends: frozenset[int] = frozenset(),
    interruption: bytearray | None = None,
    tokens: Sequence[int] = (7,),
) -> tuple[int, list[int]]:
    addresses = tuple(ctypes.cast(function, ctypes.c_void_p).value for function in fake.functions)
    monkeypatch.setattr(multi_step, "_functions", lambda: addresses)
    batch = Batch(4, 1)
    batch.add(tokens, sequence=0, position=3, last_logits=True)
    choice = (0, np.zeros(64, CANDIDATE), maxima_of(VOCABULARY_SIZE), 1)
    return multi_step.run_steps(
        0,
        batch.native,
        choice,
        vocabulary_size=VOCABULARY_SIZE,
        steps=steps,
        end_tokens=ends,
        interruption=bytearray(1) if interruption is None else interruption,
    )


def test_the_c_module_is_there_and_knows_the_binding() -> None:
    assert multi_step.is_available()


def test_another_layout_of_the_binding_means_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Batch(ctypes.Structure):
        _fields_ = (("n_tokens", ctypes.c_int32), ("added", ctypes.c_int32), *llama.llama_batch._fields_[1:])

    monkeypatch.setattr(llama, "llama_batch", Batch)
    assert not multi_step.is_available.__wrapped__()
    monkeypatch.setattr(multi_step, "_multi_step", None)
    assert not multi_step.is_available.__wrapped__()


def test_each_token_is_decoded_one_position_behind_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLlama()
    assert run(monkeypatch, fake) == (5, [8, 9, 10, 11, 12])
    assert fake.fed == [(7, 3), (8, 4), (9, 5), (10, 6), (11, 7)]


def test_an_end_is_the_last_token_and_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLlama()
    assert run(monkeypatch, fake, ends=frozenset({200, 9})) == (2, [8, 9])
    assert fake.fed == [(7, 3), (8, 4)]


def test_an_interruption_ends_them_behind_the_step_that_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, interruption = FakeLlama(), bytearray(1)

    def interrupt(step: int) -> None:
        interruption[0] = step == 2

    fake.before_step = interrupt
    assert run(monkeypatch, fake, interruption=interruption) == (3, [8, 9, 10])


def test_a_step_that_fails_is_as_if_it_had_not_been_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, FakeLlama(failing=2)) == (2, [8, 9])
    assert run(monkeypatch, FakeLlama(failing=0)) == (0, [])


@pytest.mark.parametrize("row", [[math.nan] * VOCABULARY_SIZE, [math.inf], [-math.inf] * VOCABULARY_SIZE])
def test_logits_that_leave_no_choice_are_left_to_the_caller(
    monkeypatch: pytest.MonkeyPatch, row: Sequence[float]
) -> None:
    assert run(monkeypatch, FakeLlama(rows={1: row})) == (2, [8])


def test_more_tokens_than_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a batch of one token"):
        run(monkeypatch, FakeLlama(), tokens=(7, 8))


class Calls(list[tuple[int, int]]):
    """Of each call of an engine, the steps that it asked for, and those that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    decode_several = Context.decode_several

    def noting(self: Context, batch: Batch, choice: Any, *, steps: int, **more: Any) -> tuple[int, list[int]]:
        calls.has_begun.set()
        made, tokens = decode_several(self, batch, choice, steps=steps, **more)
        calls.append((steps, made))
        return made, tokens

    monkeypatch.setattr(Context, "decode_several", noting)
    return calls


def answer(path: Path, sampling: SamplingSettings, *, delivery_seconds: float, **wishes: Any) -> Completion:
    with LocalEngine(path, SETTINGS, delivery_seconds=delivery_seconds) as engine:
        prompt = tuple(engine.vocab.tokenize(TEXT))
        return engine.submit(Request(prompt, sampling=sampling, max_tokens=60, **wishes)).result()


@pytest.mark.parametrize("sampling", [WARM, SamplingSettings(temperature=0), SamplingSettings(top_p=0.7, seed=5)])
@pytest.mark.parametrize("wishes", [{}, {"min_tokens": 50}, {"ignore_eos": True}])
def test_answers_are_those_of_single_steps(
    demo_gguf: Path, calls: Calls, sampling: SamplingSettings, wishes: dict[str, Any]
) -> None:
    single = answer(demo_gguf, sampling, delivery_seconds=0, **wishes)
    assert not calls
    several = answer(demo_gguf, sampling, delivery_seconds=1.0, **wishes)
    assert any(made > 1 for _, made in calls)
    assert (several.tokens, several.text, several.finish_reason) == (single.tokens, single.text, single.finish_reason)


@pytest.mark.parametrize(
    ("sampling", "wishes"),
    [
        (SamplingSettings(temperature=1.0, repeat_penalty=1.1), {}),
        (SamplingSettings(temperature=1.0, logit_bias=((5, 1.0),)), {}),
        (WARM, {"stop": ("never said",)}),
        (WARM, {"logprobs": 2}),
    ],
)
def test_tokens_that_have_to_be_looked_at_one_by_one_are(
    tiny_gguf: Path, calls: Calls, sampling: SamplingSettings, wishes: dict[str, Any]
) -> None:
    assert answer(tiny_gguf, sampling, delivery_seconds=1.0, ignore_eos=True, **wishes).tokens
    assert not calls


def test_a_request_that_comes_meanwhile_is_begun_at_the_next_step(demo_gguf: Path, calls: Calls) -> None:
    settings = ModelSettings(context_tokens=1024, parallel=2, threads=1)
    with LocalEngine(demo_gguf, settings, delivery_seconds=3600) as engine:
        prompt = tuple(engine.vocab.tokenize(TEXT))
        long = engine.submit(Request(prompt, sampling=WARM, max_tokens=400, ignore_eos=True))
        assert calls.has_begun.wait(30)
        short = engine.submit(Request(prompt, sampling=WARM, max_tokens=3, ignore_eos=True)).result()
        assert len(short.tokens) == 3
        assert not long.is_complete
        long.cancel()
        assert len(long.result().tokens) < 400
    assert calls[0][1] < calls[0][0]
