"""Layers on several graphics cards: which go where, what each card takes, and that llama.cpp is told so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge.llama.model
from edge.device_profiles import Device, MemoryPool
from edge.errors import EdgeError
from edge.fitting import Fit, Shortfall, context_of, fit, gpu_shortfall
from edge.llama.model import Model
from edge.memory import Placement, predict_card, predict_memory
from edge.settings import ModelSettings
from edge.step_down import steps_down
from tests.edge.conftest import Command
from tests.edge.fake_machines import FakeMachine, UseMachine, use_machine
from tests.edge.published import EXPERTS, GEMMA, LLAMA, candidate

__all__ = ["use_machine"]

GB = 1_000_000_000
MIB = 1 << 20


def device_of(*cards: tuple[float, float], ram_gigabytes: float = 26) -> Device:
    """With cards of so many free GB and GB a second."""
    gpus = tuple(MemoryPool(int(free * GB), int(free * GB), rate * 1e9, 20e12) for free, rate in cards)
    return Device("made", "made", MemoryPool(int(ram_gigabytes * GB), int(ram_gigabytes * GB), 40e9, 3e11), gpus)


def fitted(name: str, quantization: str, device: Device, tokens: int = 8192) -> Fit:
    found = fit(candidate(name, quantization), context_of(tokens), device)
    assert isinstance(found, Fit), found
    return found


def test_one_card_is_enough_where_it_holds_the_model() -> None:
    assert fitted(GEMMA, "Q4_K_M", device_of((11.5, 360), (2, 448))).gpu_split == (43, 0)
    assert fitted(GEMMA, "Q4_K_M", device_of((2, 448), (11.5, 360))).gpu_split == (0, 43)


def test_of_two_that_hold_the_model_the_faster_one_is_taken_and_of_two_alike_the_emptier() -> None:
    assert fitted(GEMMA, "Q4_K_M", device_of((11.5, 360), (10, 448))).gpu_split == (0, 43)
    assert fitted(GEMMA, "Q4_K_M", device_of((11.5, 360), (11.6, 360))).gpu_split == (0, 43)


def test_model_that_no_card_holds_is_spread_so_that_all_are_filled_alike() -> None:
    found = fitted(GEMMA, "Q8_0", device_of((8, 360), (8, 360)))
    assert found.is_whole_on_gpu and found.gpu_split == (23, 20), "the output, of 975 MB, is on the second one"
    first, second = (used.with_error / (8 * GB) for used in found.prediction.gpus)
    assert first < 1 and second < 1 and abs(first - second) < 0.04


def test_part_of_a_model_fills_all_cards() -> None:
    found = fitted(GEMMA, "BF16", device_of((6, 360), (4, 360)))
    assert 0 < found.gpu_layers < 43 and all(found.gpu_split)
    one = fitted(GEMMA, "BF16", device_of((6, 360)))
    assert found.gpu_layers > one.gpu_layers and found.tokens_per_second > one.tokens_per_second


def test_speed_is_that_of_each_card_for_its_part() -> None:
    slow, fast = (fitted(GEMMA, "Q8_0", device_of((8, 360), (8, rate))).tokens_per_second for rate in (360, 720))
    assert 1.2 * slow < fast < 1.7 * slow


def test_embeddings_of_each_layer_keep_a_model_on_one_card() -> None:
    small = device_of((2.5, 360), (2.5, 360))
    shape = candidate(LLAMA, "Q8_0").model.shape
    plain = candidate(LLAMA, "Q8_0")
    odd = replace(plain, model=replace(plain.model, shape=replace(shape, layer_embedding=256)))
    spread, alone = (fit(each, context_of(2048), small) for each in (plain, odd))
    assert isinstance(spread, Fit) and isinstance(alone, Fit)
    assert all(spread.gpu_split) and not all(alone.gpu_split)


def test_a_plan_says_why_a_model_with_embeddings_of_each_layer_is_on_one_card(
    edge_command: Command, use_machine: UseMachine
) -> None:
    card = ("NVIDIA GeForce RTX 3050 Laptop GPU", 4096, 3720)
    use_machine(FakeMachine(memory_kb=32_000_000, available_kb=26_000_000, cards=(card, card)))
    reason = "One card only layers get embeddings of their own; what several cards need is not predicted"
    assert reason in " ".join(edge_command("plan", "google/gemma-4-E2B-it").out.split())
    assert json.loads(edge_command("plan", "google/gemma-4-E2B-it", "--json").out)["spreads_over_cards"] is False
    assert "One card only" not in edge_command("plan", GEMMA).out
    assert json.loads(edge_command("plan", GEMMA, "--json").out)["spreads_over_cards"] is True
    use_machine(FakeMachine(memory_kb=32_000_000, available_kb=26_000_000, cards=(card,)))
    assert "One card only" not in edge_command("plan", "google/gemma-4-E2B-it").out


def test_what_is_missing_for_a_model_on_one_card_is_said_of_that_card() -> None:
    small = device_of((1.5, 360), (1, 360))
    missing = gpu_shortfall(candidate("google/gemma-4-E2B-it", "Q8_0"), context_of(8192), small)
    assert missing is not None and missing.needed_bytes > 2.5 * GB and missing.free_bytes == 1.5 * GB


def test_what_one_card_holds_is_a_part_of_the_whole() -> None:
    model, context, placement = candidate(GEMMA, "Q8_0").model, context_of(8192), Placement((9, 0, 20))
    parts = [predict_card(model, context, placement, card, adapter_bytes=1 << 20) for card in range(3)]
    assert tuple(parts) == predict_memory(model, context, placement, adapter_bytes=1 << 20).gpus
    assert parts[1].total == 0 and sum(part.weights for part in parts) < model.weights_bytes


def test_what_is_missing_on_all_cards_is_said_of_all() -> None:
    missing = gpu_shortfall(candidate(GEMMA, "BF16"), context_of(8192), device_of((8, 360), (8, 360)))
    assert missing is not None and missing.free_bytes in (8 * GB, 16 * GB) and missing.needed_bytes > 16 * GB
    asked = fit(candidate(GEMMA, "BF16"), context_of(8192), device_of((8, 360), (8, 360)), gpu_layers=43)
    assert isinstance(asked, Shortfall) and asked.memory == "graphics memory"


# MiB of the buffers that llama.cpp reports for two devices (its RPC backend, `no_alloc`, flash attention): on the
# first, on the second and in main memory
REPORTED = [
    (GEMMA, (21, 22), 8192, 512, (184.07, 212.07, 85.08)),
    (GEMMA, (21, 22), 32768, 512, (280.07, 308.07, 181.08)),
    (GEMMA, (21, 22), 8192, 128, (45.77, 52.77, 21.02)),
    (LLAMA, (14, 15), 8192, 512, (122.04, 146.04, 62.05)),
    (LLAMA, (14, 15), 32768, 512, (218.04, 242.04, 158.05)),
    (EXPERTS, (24, 25), 8192, 512, (132.04, 148.04, 52.05)),
    (GEMMA, (43,), 8192, 512, (118.52, 26.52)),
    (LLAMA, (29,), 8192, 512, (74.01, 20.01)),
    (EXPERTS, (49,), 32768, 512, (116.01, 40.01)),
]


@pytest.mark.parametrize(("name", "split", "tokens", "step", "reported"), REPORTED)
def test_buffers_of_each_card_are_as_llama_cpp_reports_them(
    name: str, split: tuple[int, ...], tokens: int, step: int, reported: tuple[float, ...]
) -> None:
    context = replace(context_of(tokens), batch_tokens=step)
    predicted = predict_memory(candidate(name, "Q4_K_M").model, context, Placement(split))
    compute = [*(used.compute for used in predicted.gpus), predicted.ram.compute]
    assert [each / MIB for each in compute] == pytest.approx(reported, abs=0.6)


def test_weights_and_cache_of_each_card_are_as_llama_cpp_reports_them() -> None:
    first, second = predict_memory(candidate(LLAMA, "Q4_K_M").model, context_of(8192), Placement((10, 19))).gpus
    assert (first.weights / MIB, second.weights / MIB) == pytest.approx((575.04, 1343.31), abs=0.01)
    assert (first.cache, second.cache) == (320 * MIB, 576 * MIB)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([GEMMA, LLAMA, EXPERTS]),
    quantization=st.sampled_from(["BF16", "Q8_0", "Q4_K_M"]),
    tokens=st.integers(256, 40_000),
    free=st.lists(st.floats(0, 16), min_size=2, max_size=3),
)
def test_each_card_has_room_for_its_part(name: str, quantization: str, tokens: int, free: list[float]) -> None:
    device = device_of(*((size, 360) for size in free), ram_gigabytes=80)
    found = fitted(name, quantization, device, tokens)
    for used, gpu, layers in zip(found.prediction.gpus, device.gpus, found.gpu_split, strict=True):
        assert used.with_error <= gpu.free_bytes and (layers > 0) == (used.total > 0)
    whole = predict_memory(found.candidate.model, found.context, Placement(found.gpu_split))
    alone = predict_memory(found.candidate.model, found.context, Placement((found.gpu_layers,)))
    assert sum(used.weights for used in whole.gpus) == alone.gpus[0].weights
    assert sum(used.cache for used in whole.gpus) == alone.gpus[0].cache


class LoadedError(Exception):
    """The parameters that a model would have been loaded with."""

    def __init__(self, params: Any) -> None:
        self.params = params


@pytest.fixture
def loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path, params: Any) -> Any:
        raise LoadedError(params)

    monkeypatch.setattr(edge.llama.model, "load_model", load)


def loaded_with(gpu_split: tuple[int, ...]) -> SimpleNamespace:
    with pytest.raises(LoadedError) as caught:
        Model(Path("model.gguf"), gpu_layers=-1, gpu_split=gpu_split)
    params = caught.value.params
    split = [params.tensor_split[card] for card in range(4)] if params.tensor_split else None
    return SimpleNamespace(mode=params.split_mode, main_gpu=params.main_gpu, split=split, layers=params.n_gpu_layers)


NONE, LAYER = 0, 1


@pytest.mark.usefixtures("loads_nothing")
def test_llama_cpp_is_told_of_the_split() -> None:
    assert loaded_with((28, 15)) == SimpleNamespace(mode=LAYER, main_gpu=0, split=[28, 15, 0, 0], layers=-1)


@pytest.mark.usefixtures("loads_nothing")
def test_llama_cpp_is_told_of_the_one_card_that_is_used() -> None:
    assert loaded_with((0, 43)) == SimpleNamespace(mode=NONE, main_gpu=1, split=None, layers=-1)
    assert loaded_with(()) == SimpleNamespace(mode=LAYER, main_gpu=0, split=None, layers=-1)


def test_fewer_layers_stay_in_the_proportion_of_the_cards() -> None:
    wanted = ModelSettings(gpu_split=(28, 15), context_tokens=1024, prefill_tokens=128, flash_attention="off")
    (step,) = steps_down(wanted, layers=43, context_tokens=1024)
    assert (step.settings.gpu_layers, step.settings.gpu_split) == (33, (28, 15))


def test_split_into_less_than_nothing_is_refused() -> None:
    with pytest.raises(EdgeError, match="gpu_split"):
        ModelSettings(gpu_split=(-1, 4))


@pytest.mark.parametrize(
    ("layers", "tokens", "step", "reported"),
    [(18, 8192, 512, 176.50), (18, 32768, 256, 327.38), (21, 32768, 256, 330.38), (23, 32768, 256, 64.88)],
)
def test_keys_and_values_that_layers_on_a_card_share_have_room_there(
    layers: int, tokens: int, step: int, reported: float
) -> None:
    """Of Gemma 4 E2B's 35 blocks the last 20 share those of blocks 13 and 14; both come to the card with 23 layers."""
    model, context = candidate("google/gemma-4-E2B-it", "Q4_K_M").model, replace(context_of(tokens), batch_tokens=step)
    (gpu,) = predict_memory(model, context, Placement((layers,))).gpus
    moved = max(model.places.largest_bytes[: 36 - layers])
    assert reported - 2 <= (gpu.compute - moved) / MIB <= reported + 8
