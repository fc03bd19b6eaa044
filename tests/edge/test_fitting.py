"""Whether a model fits, how it is split, and how fast it would be: by arithmetic on published shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.device_profiles import Device, MemoryPool, find_device
from edge.fitting import GPU_EFFICIENCY, GUESSES, Fit, Shortfall, context_of, decode_speed, fit, gpu_shortfall
from edge.memory import Placement, predict_memory
from edge.settings import ModelSettings
from edge.step_filling import MAX_GUESSES
from tests.edge.published import EXPERTS, GEMMA, LLAMA, RECURRENT, candidate

RTX_3060 = find_device("rtx-3060-12gb")
PI = find_device("raspberry-pi-5-8gb")
GB = 1_000_000_000


def device_of(gpu_bytes: int, ram_bytes: int) -> Device:
    gpus = (MemoryPool(gpu_bytes, gpu_bytes, 360e9, 20e12),) if gpu_bytes else ()
    return Device("made", "made", MemoryPool(ram_bytes, ram_bytes, 40e9, 3e11), gpus)


def fitted(found: Fit | Shortfall) -> Fit:
    assert isinstance(found, Fit), found
    return found


def test_gemma_2_9b_in_q4_k_m_is_whole_on_a_card_of_12_gb() -> None:
    found = fitted(fit(candidate(GEMMA, "Q4_K_M"), context_of(8192), RTX_3060))
    assert found.is_whole_on_gpu and found.gpu_layers == 43
    assert found.candidate.model.weights_bytes == pytest.approx(5.76 * GB, rel=0.01)
    # 5.76 GB of weights and 1.65 GB of the cache up to the middle of the context
    assert found.tokens_per_second == pytest.approx(360e9 * GPU_EFFICIENCY / (5.76e9 + 1.38e9), rel=0.03)


def test_what_does_not_fit_on_the_card_is_left_in_main_memory() -> None:
    found = fitted(fit(candidate(GEMMA, "BF16"), context_of(8192), RTX_3060))
    assert 0 < found.gpu_layers < 43
    assert found.prediction.gpus[0].with_error <= RTX_3060.gpus[0].free_bytes
    assert found.prediction.ram.weights > 6 * GB
    assert found.tokens_per_second < 6


def test_shortfall_says_which_memory_and_how_much() -> None:
    found = fit(candidate(GEMMA, "BF16"), context_of(8192), PI)
    assert isinstance(found, Shortfall)
    assert found.memory == "main memory" and found.needed_bytes > 18 * GB and found.free_bytes == PI.ram.free_bytes


def test_smaller_steps_are_taken_before_a_layer_leaves_the_card() -> None:
    whole = 43
    chosen, context = candidate(GEMMA, "Q8_0"), context_of(8192)
    large, small = (
        predict_memory(chosen.model, replace(context, batch_tokens=tokens), Placement((whole,))).gpus[0].with_error
        for tokens in (512, 256)
    )
    found = fitted(fit(chosen, context, device_of((large + small) // 2, 16 * GB)))
    assert found.is_whole_on_gpu and found.context.batch_tokens == 256


def test_card_shortfall_is_none_without_a_card_or_where_it_fits() -> None:
    chosen = candidate(GEMMA, "Q4_K_M")
    assert gpu_shortfall(chosen, context_of(8192), PI) is None
    assert gpu_shortfall(chosen, context_of(8192), RTX_3060) is None
    assert gpu_shortfall(candidate(GEMMA, "BF16"), context_of(8192), RTX_3060) is not None


def test_experts_that_are_not_used_cost_no_time() -> None:
    dense, sparse = (
        decode_speed(candidate(name, "Q4_K_M").model, context_of(4096), PI, ()) for name in (GEMMA, EXPERTS)
    )
    assert sparse > 2 * dense


def test_several_answers_share_the_reading_of_weights() -> None:
    model = candidate(LLAMA, "Q4_K_M").model
    one = decode_speed(model, context_of(4096), RTX_3060, (29,))
    four = decode_speed(model, context_of(4 * 4096, sequences=4), RTX_3060, (29,))
    assert 2 * one < four < 4 * one


def test_arithmetic_bounds_many_answers_on_a_slow_processor() -> None:
    model = candidate(LLAMA, "Q4_K_M").model
    speeds = [decode_speed(model, context_of(512 * count, sequences=count), PI, ()) for count in (1, 8, 64)]
    assert speeds[2] < 1.1 * speeds[1] < 4 * speeds[0]


def test_the_engine_asks_for_as_many_logits_as_planned() -> None:
    assert GUESSES == MAX_GUESSES
    settings = ModelSettings(key_type="Q8_0", value_type="Q4_0", prefill_tokens=256, flash_attention="off")
    context = context_of(4096, sequences=3, settings=settings)
    assert (context.max_outputs, context.key_type, context.value_type) == (19, "Q8_0", "Q4_0")
    assert (context.batch_tokens, context.has_flash_attention) == (256, False)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from([GEMMA, LLAMA, EXPERTS, RECURRENT]),
    quantization=st.sampled_from(["BF16", "Q8_0", "Q4_K_M", "Q2_K"]),
    tokens=st.integers(256, 40_000),
    gpu_gigabytes=st.integers(0, 24),
    ram_gigabytes=st.integers(1, 64),
)
def test_what_fits_fits_with_its_margin_and_no_more_layers_would(
    name: str, quantization: str, tokens: int, gpu_gigabytes: int, ram_gigabytes: int
) -> None:
    device = device_of(gpu_gigabytes * GB, ram_gigabytes * GB)
    chosen = candidate(name, quantization)
    found = fit(chosen, context_of(tokens), device)
    if isinstance(found, Shortfall):
        assert found.needed_bytes > found.free_bytes
        return
    assert found.prediction.ram.with_error <= device.ram.free_bytes
    assert found.tokens_per_second > 0
    if not device.gpus:
        assert found.gpu_layers == 0
        return
    assert found.prediction.gpus[0].with_error <= device.gpus[0].free_bytes
    if not found.is_whole_on_gpu:
        more = predict_memory(chosen.model, found.context, Placement((found.gpu_layers + 1,))).gpus[0]
        assert more.with_error > device.gpus[0].free_bytes
