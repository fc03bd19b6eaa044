"""Tokens chosen from logits: greedily, by chance, with biases and penalties."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge.errors import EdgeError
from edge.llama.library import backend
from edge.llama.model import Model
from edge.llama.sampler import Sampler
from edge.llama.vocab import Vocab
from edge.settings import SamplingSettings

VOCABULARY_SIZE = 8
GREEDY = {"temperature": 0.0}
UNFILTERED = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def logits(**values: float) -> npt.NDArray[np.float32]:
    """Zero but for the tokens named: `t3=2.5`."""
    row = np.zeros(VOCABULARY_SIZE, np.float32)
    for name, value in values.items():
        row[int(name[1:])] = value
    return row


@dataclass(frozen=True, eq=False)
class Vocabulary:
    size: int = VOCABULARY_SIZE
    pointer: int = 0


@contextmanager
def sampler(*, prompt_tokens: Sequence[int] = (), **settings: object) -> Iterator[Sampler]:
    values = SamplingSettings(**settings)  # type: ignore[arg-type]
    with closing(Sampler(values, Vocabulary(), prompt_tokens=prompt_tokens, context_tokens=64)) as opened:
        yield opened


def draws(count: int, row: npt.NDArray[np.float32], **settings: object) -> list[int]:
    with sampler(**settings) as drawing:
        return [drawing.choose(row) for _ in range(count)]


def test_temperature_of_zero_takes_the_likeliest_token() -> None:
    assert draws(3, logits(t2=1.0, t5=1.5), **GREEDY) == [5, 5, 5]


def test_choosing_leaves_the_logits_alone() -> None:
    row = logits(t2=1.0, t5=1.5)
    draws(1, row, temperature=0.7, logit_bias=((1, 3.0),), seed=1)
    assert row.tolist() == logits(t2=1.0, t5=1.5).tolist()


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}],
    ids=str,
)
def test_narrowest_filter_leaves_only_the_likeliest_token(settings: dict[str, float]) -> None:
    assert set(draws(50, logits(t4=0.5), **{**UNFILTERED, **settings}, seed=7)) == {4}


def test_top_k_draws_among_the_likeliest() -> None:
    row = logits(t1=3.0, t4=2.9, t6=2.8)
    assert set(draws(200, row, **{**UNFILTERED, "top_k": 3}, seed=7)) == {1, 4, 6}


def test_draws_follow_the_softmax_of_the_logits() -> None:
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1, 1e-9, 1e-9, 1e-9, 1e-9], np.float32))
    counts = Counter(draws(4000, row, **UNFILTERED, seed=11))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)


def test_higher_temperature_spreads_the_draws() -> None:
    row = logits(t0=3.0)
    cold, hot = (draws(500, row, **{**UNFILTERED, "temperature": t}, seed=3).count(0) for t in (0.5, 2.0))
    assert cold > 450 > 300 > hot


def test_forbidden_tokens_are_never_drawn() -> None:
    row = np.full(VOCABULARY_SIZE, -np.inf, np.float32)
    row[[2, 6]] = (-30.0, -30.5)
    assert set(draws(200, row, temperature=5.0, seed=5)) == {2, 6}
    assert draws(1, row, **GREEDY) == [2]


def test_same_seed_draws_the_same_tokens() -> None:
    flat = logits()
    assert draws(40, flat, **UNFILTERED, seed=42) == draws(40, flat, **UNFILTERED, seed=42)
    assert draws(40, flat, **UNFILTERED, seed=42) != draws(40, flat, **UNFILTERED, seed=43)


def test_without_a_seed_each_sampler_has_its_own() -> None:
    with sampler() as one, sampler() as other:
        assert one.seed != other.seed


def test_seed_beyond_32_bits_is_taken() -> None:
    assert draws(5, logits(), seed=2**40 + 1) == draws(5, logits(), seed=2**40 + 1)


def test_bias_moves_a_token_up_and_out() -> None:
    assert draws(1, logits(t5=1.5), **GREEDY, logit_bias=((3, 2.0),)) == [3]
    assert draws(1, logits(t5=1.5, t2=1.0), **GREEDY, logit_bias=((5, float("-inf")),)) == [2]


def test_repeat_penalty_divides_the_logits_of_accepted_tokens() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, repeat_penalty=2.0) as penalized:
        assert penalized.choose(row) == 5
        penalized.accept(5)
        assert penalized.choose(row) == 2


def test_penalties_do_not_see_a_token_that_was_chosen_but_refused() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, presence_penalty=2.0) as penalized:
        assert [penalized.choose(row), penalized.choose(row)] == [5, 5]


def test_presence_counts_once_and_frequency_each_time() -> None:
    row = logits(t5=1.5, t2=1.0)
    for settings, expected in (({"presence_penalty": 0.3}, [5, 5, 5]), ({"frequency_penalty": 0.3}, [5, 5, 2])):
        with sampler(**GREEDY, **settings) as penalized:
            chosen = []
            for _ in range(3):
                chosen.append(penalized.choose(row))
                penalized.accept(5)
            assert chosen == expected


def test_repeat_penalty_forgets_what_is_long_past() -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, repeat_penalty=2.0, repeat_last_tokens=2) as penalized:
        penalized.accept(5)
        assert penalized.choose(row) == 2
        penalized.accept(0)
        penalized.accept(1)
        assert penalized.choose(row) == 5


def test_presence_penalty_forgets_nothing_of_the_completion() -> None:
    with sampler(**GREEDY, presence_penalty=2.0, repeat_last_tokens=2) as penalized:
        for token in (5, 0, 1, 0, 1):
            penalized.accept(token)
        assert penalized.choose(logits(t5=1.5, t2=1.0)) == 2


def test_repeat_penalty_looks_back_on_the_prompt() -> None:
    row = logits(t5=1.5, t2=1.0)
    for last_tokens, expected in ((3, 2), (2, 5)):
        settings = {**GREEDY, "repeat_penalty": 2.0, "repeat_last_tokens": last_tokens}
        with sampler(**settings, prompt_tokens=[5, 0, 1]) as penalized:
            assert penalized.choose(row) == expected


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_prompts_do_not_count_as_frequent_or_present(penalty: str) -> None:
    row = logits(t5=1.5, t2=1.0)
    with sampler(**GREEDY, **{penalty: 2.0}, prompt_tokens=[5, 5]) as penalized:
        assert penalized.choose(row) == 5
        penalized.accept(5)
        assert penalized.choose(row) == 2


def test_several_biases_of_a_token_add_up() -> None:
    assert draws(1, logits(t5=1.5), **GREEDY, logit_bias=((3, 1.0), (3, 1.0))) == [3]


def test_biases_of_unknown_tokens_are_refused() -> None:
    with pytest.raises(EdgeError, match="logit_bias names token 8, and the vocabulary has 8 tokens") as refused:
        draws(1, logits(), logit_bias=((8, 1.0),))
    assert refused.value.hint == "Token ids are 0 to 7."


@pytest.mark.parametrize("bias", ["nan", "inf", "1e+300"])
def test_biases_that_no_logit_bears_are_refused(bias: str) -> None:
    with pytest.raises(EdgeError, match=re.escape(f"logit_bias gives token 3 a bias of {bias}.")) as refused:
        draws(1, logits(), logit_bias=((3, float(bias)),))
    assert refused.value.hint == "A bias must be a number up to 1e+30; one of -inf rules the token out."


@pytest.mark.parametrize("settings", [GREEDY, {}, {"top_k": 0}, {**GREEDY, "presence_penalty": 1.0}], ids=str)
def test_biases_that_leave_no_token_are_an_error(settings: dict[str, float]) -> None:
    allowed = np.arange(VOCABULARY_SIZE) == 3
    with sampler(**settings, logit_bias=((3, float("-inf")),)) as forbidding:
        with pytest.raises(EdgeError, match="Biases and penalties rule out every token that may follow") as refused:
            forbidding.choose(logits(), allowed)
        assert refused.value.hint == "Give fewer tokens a logit_bias of -inf, or lower the penalties."
        assert forbidding.choose(logits(t5=9.0)) == 5


def test_bias_that_leaves_no_allowed_token_is_an_error() -> None:
    allowed = np.arange(VOCABULARY_SIZE) == 3
    with (
        sampler(**GREEDY, logit_bias=((3, float("-inf")),)) as forbidding,
        pytest.raises(EdgeError, match="Biases and penalties rule out every token"),
    ):
        forbidding.choose(logits(), allowed)


@pytest.mark.parametrize("size", [8, 5000])
@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "settings", [GREEDY, {}, {"top_k": 0, "top_p": 1.0}, {"mirostat_tau": 5.0}, {"repeat_penalty": 2.0}], ids=str
)
def test_logits_that_are_no_numbers_are_an_error(settings: dict[str, float], value: str, size: int) -> None:
    row = np.full(size, float(value), np.float32)
    values = SamplingSettings(**settings)  # type: ignore[arg-type]
    with closing(Sampler(values, Vocabulary(size), context_tokens=64)) as choosing:
        for allowed in (None, np.arange(size) > 3):
            with pytest.raises(EdgeError, match=f"The model computed {value} as a logit") as refused:
                choosing.choose(row, allowed)
        assert refused.value.hint == "Its file may be damaged: check it with edge verify."


@pytest.mark.parametrize("settings", [{}, {"mirostat_tau": 5.0}], ids=str)
def test_lowest_of_temperatures_takes_the_likeliest_token(settings: dict[str, float]) -> None:
    assert set(draws(50, logits(t2=40.0, t5=41.0), temperature=1e-38, **settings)) == {5}


@pytest.mark.parametrize("settings", [GREEDY, {}, {"mirostat_tau": 3.0}], ids=str)
def test_only_allowed_tokens_are_chosen(settings: dict[str, float]) -> None:
    allowed = np.isin(np.arange(VOCABULARY_SIZE), [1, 6])
    with sampler(**settings, seed=1) as constrained:
        assert {constrained.choose(logits(t5=9.0, t6=3.0), allowed) for _ in range(200)} <= {1, 6}


@pytest.mark.parametrize("settings", [GREEDY, {}], ids=str)
def test_no_allowed_token_at_all_is_a_mistake_of_ours(settings: dict[str, float]) -> None:
    with sampler(**settings) as constrained, pytest.raises(AssertionError):
        constrained.choose(logits(), np.zeros(VOCABULARY_SIZE, bool))


def test_lowest_id_is_taken_among_equals() -> None:
    row = logits(t2=1.5, t5=1.5, t6=1.5)
    allowed = np.arange(VOCABULARY_SIZE) > 2
    with sampler(**GREEDY) as greedy, sampler(**GREEDY, repeat_penalty=1.1) as penalized:
        for each in (greedy, penalized):
            assert (each.choose(row), each.choose(row, allowed)) == (2, 5)


def test_top_n_sigma_keeps_what_is_near_the_likeliest() -> None:
    row = logits(t1=9.0, t4=8.5)
    assert set(draws(200, row, **{**UNFILTERED, "top_n_sigma": 0.5, "temperature": 9.0}, seed=7)) == {1, 4}


def test_typical_leaves_out_a_token_that_is_too_certain() -> None:
    row = np.log(np.array([0.4, 0.2, 0.2, 0.2, 1e-9, 1e-9, 1e-9, 1e-9], np.float32))
    assert set(draws(200, row, **{**UNFILTERED, "typical_p": 0.5}, seed=7)) == {1, 2, 3}


def test_xtc_leaves_out_the_likeliest_but_for_the_last_above_its_threshold() -> None:
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1, 1e-9, 1e-9, 1e-9, 1e-9], np.float32))
    settings = {**UNFILTERED, "xtc_probability": 1.0, "xtc_threshold": 0.12}
    assert set(draws(200, row, **settings, seed=7)) == {2, 3}


def test_dynamic_temperature_rises_where_the_model_is_unsure() -> None:
    settings = {**UNFILTERED, "temperature": 1.0, "dynatemp_range": 1.0}
    sure, unsure = logits(t0=6.0), logits(t0=1.0)
    plain, dynamic = (
        [draws(800, row, **each, seed=3).count(0) for row in (sure, unsure)] for each in (UNFILTERED, settings)
    )
    assert dynamic[0] > plain[0]
    assert dynamic[1] < plain[1]


def test_mirostat_raises_the_surprise_to_what_was_asked_for() -> None:
    row = np.log(np.array([0.6, 0.2, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01], np.float32))
    low, high = (draws(400, row, temperature=1.0, mirostat_tau=tau, seed=3).count(0) for tau in (0.1, 3.0))
    assert low > 350
    assert 150 < high < 300


def test_a_seed_stands_for_the_same_tokens_whatever_else_is_drawn() -> None:
    alone = draws(40, logits(), **UNFILTERED, seed=5)
    with sampler(**UNFILTERED, seed=5) as one, sampler(**UNFILTERED, seed=6) as other:
        together = [(one.choose(logits()), other.choose(logits()))[0] for _ in range(40)]
    assert together == alone


def test_every_seed_stands_for_the_same_tokens_each_time() -> None:
    """llama.cpp takes this one as a wish for a seed of its own."""
    assert draws(20, logits(), **UNFILTERED, seed=2**32 - 1) == draws(20, logits(), **UNFILTERED, seed=2**32 - 1)


@pytest.mark.parametrize("settings", [GREEDY, {}, {"repeat_penalty": 1.5}, {"top_p": 0.5, "top_k": 0}], ids=str)
def test_choosing_from_all_tokens_gives_the_same(settings: dict[str, float]) -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((30, VOCABULARY_SIZE)).astype(np.float32)
    allowed = np.arange(VOCABULARY_SIZE) % 3 > 0
    with sampler(**settings, seed=8) as one, sampler(**settings, seed=8) as other:
        for row, mask in zip(rows, [None, allowed] * 15, strict=True):
            token = one.choose(row, mask)
            assert other.choose_from_all(row, mask) == token
            one.accept(token)
            other.accept(token)


# DRY, which needs a real vocabulary


@pytest.fixture(scope="module")
def vocab(tiny_gguf: Path) -> Iterator[Vocab]:
    with Model(tiny_gguf) as model:
        yield model.vocab


def greedy_after(
    vocab: Vocab, prompt: Sequence[int], completion: Sequence[int], *, context_tokens: int = 64, **settings: object
) -> int:
    """What follows where token 7 is the likeliest, token 8 the next."""
    values = SamplingSettings(temperature=0, dry_multiplier=2.0, **settings)  # type: ignore[arg-type]
    row = np.zeros(vocab.size, np.float32)
    row[[7, 8]] = 1.5, 1.0
    with closing(Sampler(values, vocab, prompt_tokens=prompt, context_tokens=context_tokens)) as dry:
        for token in completion:
            dry.accept(token)
        return dry.choose(row)


def test_dry_keeps_from_repeating_the_prompt_and_the_completion(vocab: Vocab) -> None:
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21]) == 8
    assert greedy_after(vocab, [], [20, 21, 7, 30, 20, 21]) == 8
    assert greedy_after(vocab, [20, 21, 7, 30], [22, 21]) == 7


def test_dry_frees_repetitions_of_the_allowed_length_and_behind_breakers(vocab: Vocab) -> None:
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], dry_allowed_length=3) == 7
    (breaker,) = vocab.tokenize(":")
    repeating = ([20, breaker, 7, 30], [20, breaker])
    assert greedy_after(vocab, *repeating) == 7
    assert greedy_after(vocab, *repeating, dry_sequence_breakers=("", "\n")) == 8


def test_dry_forgets_what_is_out_of_its_window(vocab: Vocab) -> None:
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], dry_penalty_last_n=5) == 7
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], dry_penalty_last_n=10**9) == 8


def test_numbers_beyond_all_contexts_are_taken(vocab: Vocab) -> None:
    huge = {"dry_penalty_last_n": 2**70, "repeat_penalty": 1.01, "repeat_last_tokens": 2**70, "top_k": 2**70}
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], **huge) == 8
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], dry_allowed_length=2**32 + 1) == 7
    assert draws(1, logits(t5=60.0), top_k=2**70) == [5]
    assert draws(1, logits(t5=1.5), **GREEDY, logit_bias=((5, -1e300),)) == [0]


def test_dry_is_off_without_a_window(vocab: Vocab) -> None:
    assert greedy_after(vocab, [20, 21, 7, 30], [20, 21], dry_penalty_last_n=0) == 7


def test_breakers_are_looked_up_once_for_all_streams(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = backend().llama_sampler_init_dry
    monkeypatch.setattr(backend(), "llama_sampler_init_dry", lambda *values: made.append(values) or make(*values))
    repeating = ([20, 21, 7, 30], [20, 21])
    contexts = (40, 50, 64)
    assert [greedy_after(vocab, *repeating, dry_base=1.25, context_tokens=each) for each in contexts] == [8, 8, 8]
    assert len(made) == 1
    for base in (1.5, 2.0, 2.5, 3.0, 1.25):
        assert greedy_after(vocab, *repeating, dry_base=base) == 8
    assert len(made) == 6


def test_closing_twice_frees_once(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[object] = []
    free = backend().llama_sampler_free
    monkeypatch.setattr(backend(), "llama_sampler_free", freed.append)
    with sampler() as opened:
        opened.close()
    free(freed[0])
    assert len(freed) == 1
