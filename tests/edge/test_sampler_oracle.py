"""The choice among a few candidates is held to that of llama.cpp's chain over all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.llama.model import Model
from edge.llama.sampler import Sampler
from edge.settings import SamplingSettings
from tests.edge.sampling_oracle import SamplingOracle

CONTEXT_TOKENS = 256
STEPS = 5


@dataclass(frozen=True, eq=False)
class Vocabulary:
    size: int
    pointer: int


@pytest.fixture(scope="module")
def tiny(tiny_gguf: Path) -> Iterator[Vocabulary]:
    with Model(tiny_gguf) as model:
        yield model.vocab


@dataclass(frozen=True)
class Scene:
    """What a stream meets: its prompt, and for each step logits and maybe a mask."""

    prompt: list[int]
    logits: list[npt.NDArray[np.float32]]
    masks: list[npt.NDArray[np.bool_] | None]


def off_or(off: float, values: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    return st.just(off) | values


def sampling_settings(size: int, *, with_dry: bool) -> st.SearchStrategy[SamplingSettings]:
    biases = st.tuples(st.integers(0, size - 1), st.sampled_from([-np.inf, -3.0, 0.5, 4.0]))
    return st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.0, 0.2, 0.7, 1.0, 1.8]),
        dynatemp_range=off_or(0, st.floats(0.05, 1)),
        dynatemp_exponent=st.sampled_from([1.0, 0.5, 2.0]),
        top_k=st.sampled_from([0, 1, 5, 40, 200]),
        top_p=off_or(1, st.floats(0.05, 0.999)),
        min_p=off_or(0, st.floats(0.001, 1)),
        typical_p=off_or(1, st.floats(0.05, 0.999)),
        top_n_sigma=off_or(0, st.floats(0.2, 3)),
        xtc_probability=off_or(0, st.floats(0.2, 1)),
        xtc_threshold=st.sampled_from([0.05, 0.1, 0.3]),
        dry_multiplier=off_or(0, st.floats(0.3, 3)) if with_dry else st.just(0.0),
        dry_allowed_length=st.integers(1, 3),
        dry_penalty_last_n=st.sampled_from([-1, 0, 8, 64]),
        repeat_penalty=off_or(1, st.floats(0.8, 2)),
        repeat_last_tokens=st.sampled_from([0, 1, 8, 64]),
        frequency_penalty=off_or(0, st.floats(-1, 2)),
        presence_penalty=off_or(0, st.floats(-1, 2)),
        mirostat_tau=off_or(0, st.floats(1, 8)),
        logit_bias=st.just(()) | st.lists(biases, max_size=30, unique_by=lambda entry: entry[0]).map(tuple),
        seed=st.integers(0, 2**32 - 2),
    )


@st.composite
def scenes(draw: st.DrawFn, size: int) -> Scene:
    """Logits are random, rounded to make equal ones, or lack most tokens; prompts repeat themselves."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    phrase = random.integers(0, size, draw(st.integers(1, 12))).tolist()
    prompt = (phrase * 12)[: draw(st.integers(0, 80))]
    step = draw(st.sampled_from([0.0, 0.0, 0.25, 2.0]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.5, 0.99]))
    share = draw(st.sampled_from([None, None, 0.01, 0.5, 0.95]))
    logits, masks = [], []
    for _ in range(STEPS):
        row = (random.standard_normal(size) * draw(st.sampled_from([0.5, 3.0, 9.0]))).astype(np.float32)
        if step:
            row = np.round(row / np.float32(step)) * np.float32(step)
        row[random.random(size) < missing] = -np.inf
        mask = None if share is None else random.random(size) < share
        always = random.integers(0, size, 2)
        row[always] = random.standard_normal(2)
        if mask is not None:
            mask[np.argsort(-row)[: draw(st.sampled_from([0, 0, 10, 300]))]] = False
            mask[always] = True
        logits.append(row)
        masks.append(mask)
    return Scene(prompt, logits, masks)


def hold_to_oracle(settings: SamplingSettings, vocabulary: Vocabulary, scene: Scene) -> None:
    arguments = {"prompt_tokens": scene.prompt, "context_tokens": CONTEXT_TOKENS}
    with (
        closing(Sampler(settings, vocabulary, **arguments)) as sampler,
        closing(SamplingOracle(settings, vocabulary.size, vocabulary.pointer, **arguments)) as oracle,
    ):
        for logits, mask in zip(scene.logits, scene.masks, strict=True):
            expected, adjusted = oracle.choose(logits, mask)
            before = logits.copy()
            if adjusted[expected] == -np.inf:  # all tokens are ruled out
                with pytest.raises(EdgeError):
                    sampler.choose(logits, mask)
                return
            token = sampler.choose(logits, mask)
            assert (logits == before).all()
            if settings.temperature == 0 or (adjusted == adjusted[expected]).sum() == 1:
                assert token == expected
            assert adjusted[token] == adjusted[expected]
            assert mask is None or mask[token]
            sampler.accept(token)
            oracle.accept(token)


@given(st.data())
@hypothesis_settings(max_examples=150, deadline=None)
def test_choice_is_that_of_the_chain_over_all_tokens(tiny: Vocabulary, data: st.DataObject) -> None:
    settings = data.draw(sampling_settings(tiny.size, with_dry=True))
    hold_to_oracle(settings, tiny, data.draw(scenes(tiny.size)))


@given(st.data())
@hypothesis_settings(max_examples=150, deadline=None)
def test_choice_is_that_of_the_chain_over_any_number_of_tokens(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([2, 7, 64, 1000, 4099, 12345]))
    settings = data.draw(sampling_settings(size, with_dry=False))
    hold_to_oracle(settings, Vocabulary(size, 0), data.draw(scenes(size)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.0}, {"top_k": 0, "top_p": 1.0}, {"repeat_penalty": 1.3, "frequency_penalty": 0.4}],
    ids=str,
)
def test_choice_over_a_large_vocabulary_is_that_of_the_chain_over_all_tokens(settings: dict[str, float]) -> None:
    random = np.random.default_rng(9)
    size = 262_144 + 5
    logits = [(random.standard_normal(size) * 3).astype(np.float32) for _ in range(12)]
    masks = [None, random.random(size) < 0.9, random.random(size) < 0.001] * 4
    scene = Scene(random.integers(0, size, 100).tolist(), logits, masks)
    hold_to_oracle(SamplingSettings(**settings, seed=4), Vocabulary(size, 0), scene)  # type: ignore[arg-type]
