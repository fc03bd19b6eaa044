"""The planner: choices that fit, next bigger ones that do not, and errors that say what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.device_profiles import Device, MemoryPool, device_names, find_device
from edge.errors import EdgeError
from edge.fitting import Candidate, Fit, context_of, fit
from edge.plan import (
    ACCEPTABLE_COST,
    LONG_CONTEXT_COST,
    NOTICEABLE_COST,
    Choice,
    Plan,
    PlannedSettings,
    context_ladder,
    make_plan,
    planned_settings,
)
from edge.quantization_quality import cache_cost, total_cost, weights_cost
from edge.settings import ModelSettings
from tests.edge.published import EXPERTS, GEMMA, LLAMA, RECURRENT, candidate, candidates

GB = 1_000_000_000
NAMED = [name for name in device_names() if name != "this"]


def device_of(gpu_gigabytes: float, ram_gigabytes: float) -> Device:
    gpu = MemoryPool(int(gpu_gigabytes * GB), int(gpu_gigabytes * GB), 360e9, 20e12)
    ram = MemoryPool(int(ram_gigabytes * GB), int(ram_gigabytes * GB), 40e9, 3e11)
    return Device("made", "made", ram, (gpu,) if gpu_gigabytes else ())


def plan_or_none(files: Sequence[Candidate], device: Device) -> Plan | None:
    try:
        return make_plan(files, device)
    except EdgeError:
        return None


def choice_for(plan: Plan, role: str) -> Choice:
    return next(choice for choice in plan.choices if role in choice.roles)


def test_gemma_2_9b_on_a_card_of_12_gb() -> None:
    plan = make_plan(candidates(GEMMA), find_device("rtx-3060-12gb"))
    best, fastest = choice_for(plan, "best quality"), choice_for(plan, "fastest")
    assert best.settings == PlannedSettings("Q8_0", 8192, 1, -1, 512, "Q8_0", "Q8_0")
    assert best.next_bigger is not None and best.next_bigger.what == "BF16 with 8,192 tokens of Q8_0"
    assert best.next_bigger.shortfall is not None and best.next_bigger.shortfall.memory == "graphics memory"
    assert fastest.settings.quantization == "Q4_K_M" and fastest.settings.gpu_layers == -1
    assert fastest.fit.candidate.model.weights_bytes == pytest.approx(5.76 * GB, rel=0.01)
    assert fastest.fit.tokens_per_second > 1.4 * best.fit.tokens_per_second
    assert choice_for(plan, "longest context").settings.context_tokens == 8192, "it was trained on no more"


def test_each_choice_is_the_best_of_its_kind() -> None:
    for name in (GEMMA, LLAMA):
        for device in map(find_device, NAMED):
            plan = make_plan(candidates(name), device)
            best = choice_for(plan, "best quality").quality_cost or 0.0
            longest = choice_for(plan, "longest context").settings.context_tokens
            assert longest == max(
                choice.settings.context_tokens for choice in plan.choices if choice.settings.parallel == 1
            )
            fastest = choice_for(plan, "fastest")
            assert fastest.quality_cost is not None and fastest.quality_cost <= max(ACCEPTABLE_COST, best)
            assert best <= fastest.quality_cost + NOTICEABLE_COST
            alone = [choice for choice in plan.choices if choice.settings.parallel == 1]
            usual = [choice for choice in alone if choice.settings.context_tokens == fastest.settings.context_tokens]
            assert fastest.fit.tokens_per_second == max(choice.fit.tokens_per_second for choice in usual)


def test_quality_is_not_thrown_away_for_speed_on_a_slow_device() -> None:
    plan = make_plan(candidates(GEMMA), find_device("raspberry-pi-5-8gb"))
    best = choice_for(plan, "best quality")
    assert best.fit.tokens_per_second < 6
    assert best.quality_cost is not None and best.quality_cost <= LONG_CONTEXT_COST


def test_asked_context_is_the_only_one_planned() -> None:
    plan = make_plan(candidates(LLAMA), find_device("laptop-16gb"), context_tokens=3000)
    assert {choice.settings.context_tokens for choice in plan.choices if choice.settings.parallel == 1} == {3000}


def test_answers_at_once_have_a_context_each() -> None:
    many = choice_for(make_plan(candidates(LLAMA), find_device("rtx-4070-12gb")), "most at once")
    assert many.settings.parallel >= 4
    assert many.settings.context_tokens == many.settings.parallel * 4096


def test_file_whose_quantization_is_unknown_is_planned_without_a_cost() -> None:
    unnamed = [type(each)("as it is", each.model) for each in (candidate(LLAMA, "Q4_K_M"),)]
    plan = make_plan(unnamed, find_device("laptop-16gb"))
    assert {choice.quality_cost for choice in plan.choices} == {None}


def test_model_that_fits_nowhere_is_refused_with_what_is_missing() -> None:
    with pytest.raises(EdgeError) as caught:
        make_plan(candidates(GEMMA), device_of(0, 2))
    needed = "Q2_K with 512 tokens of context needs 4.31 GB of main memory, 2.31 GB more than is free."
    assert caught.value.message == needed
    assert caught.value.hint == "Choose a smaller model, or a device with more memory."


def test_context_beyond_what_the_model_was_trained_on_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        make_plan(candidates(GEMMA), device_of(0, 64), context_tokens=9000)
    assert caught.value.message == "A context of 9000 tokens was asked for; the model was trained on 8192."
    assert caught.value.hint == "Ask for at most 8192 with --ctx."


def test_planned_settings_become_settings_of_a_model() -> None:
    planned = PlannedSettings("Q4_K_M", 4096, 2, 20, 256, "Q8_0", "Q4_0")
    made = planned.model_settings(ModelSettings(threads=3))
    assert (made.context_tokens, made.parallel, made.gpu_layers, made.prefill_tokens) == (4096, 2, 20, 256)
    assert (made.key_type, made.value_type, made.threads) == ("Q8_0", "Q4_0", 3)


def test_ladder_ends_with_what_the_model_was_trained_on() -> None:
    assert context_ladder(5000) == [512, 1024, 2048, 4096, 5000]
    assert context_ladder(4096) == [512, 1024, 2048, 4096]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([GEMMA, LLAMA, EXPERTS, RECURRENT]),
    gpu_gigabytes=st.sampled_from([0, 2, 4, 6, 8, 11.7, 24]),
    ram_gigabytes=st.floats(1, 64),
)
def test_every_printed_plan_fits_and_the_next_bigger_one_does_not(
    name: str, gpu_gigabytes: float, ram_gigabytes: float
) -> None:
    device = device_of(gpu_gigabytes, ram_gigabytes)
    smallest = min(candidates(name), key=lambda each: each.model.weights_bytes)
    plan = plan_or_none(candidates(name), device)
    if plan is None:
        assert smallest.model.weights_bytes + 1 * GB > ram_gigabytes * GB, "there was room for it"
        return
    assert 1 <= len(plan.choices) <= 4
    best, fastest = (choice_for(plan, role).quality_cost or 0.0 for role in ("best quality", "fastest"))
    assert best <= fastest + NOTICEABLE_COST, "the best quality comes first"
    for choice in plan.choices:
        found = choice.fit
        assert found.prediction.ram.with_error <= device.ram.free_bytes
        for used, gpu in zip(found.prediction.gpus, device.gpus, strict=True):
            assert used.with_error <= gpu.free_bytes
        again = fit(found.candidate, found.context, device)
        assert isinstance(again, Fit) and planned_settings(again) == choice.settings
        if bigger := choice.next_bigger:
            is_slower = bigger.tokens_per_second is not None and bigger.tokens_per_second < found.tokens_per_second
            does_not_fit = bigger.shortfall is not None and bigger.shortfall.needed_bytes > bigger.shortfall.free_bytes
            assert does_not_fit or is_slower


def test_costs_grow_as_bits_shrink() -> None:
    order = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
    costs = [weights_cost(name) for name in order]
    assert costs == sorted(costs) and None not in costs  # type: ignore[type-var]
    assert weights_cost("q8_0") == weights_cost("Q8_0")


def test_cost_of_what_was_never_measured_is_unknown() -> None:
    assert weights_cost("MXFP4") is None
    assert cache_cost("F16", "Q4_0") is None
    assert total_cost("Q8_0", "F16", "Q4_0") is None
    assert total_cost("Q8_0", "Q8_0", "Q8_0") == pytest.approx(0.001605)


def test_context_of_a_plan_is_that_of_the_engine() -> None:
    assert context_of(4096).max_outputs == 17
