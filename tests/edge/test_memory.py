"""The memory model against arithmetic by hand and its own promises; against llama.cpp, tests/bench/test_memory.py."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.model_outline import outline_model
from convert.recipes import find_recipe
from edge.compute_memory import compute_bytes, output_bytes
from edge.kv_cache_memory import ContextPlan, cache_bytes, cache_bytes_by_layer, window_cells
from edge.memory import Placement, decode_bytes, first_gpu_layer, predict_memory, weights_bytes, with_error
from edge.model_shape import StoredModel, StoredTensor, model_of
from edge.published_models import published_config, published_names

MEBIBYTE = 1 << 20
GEMMA = "google/gemma-2-9b-it"
QWEN_EXPERTS = "Qwen/Qwen3-30B-A3B"
SAMPLES = (GEMMA, "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3.5-4B", "LiquidAI/LFM2-1.2B", QWEN_EXPERTS)


@cache
def published(name: str, quantization: str = "Q4_K_M") -> StoredModel:
    config = published_config(name)
    assert config is not None
    outline = outline_model(config)
    types = outline.types(find_recipe(quantization))
    tensors = []
    for tensor, shape in outline.shapes.items():
        elements = 1
        for dimension in shape:
            elements *= dimension
        kind = types[tensor]
        tensors.append(StoredTensor(tensor, kind.name, elements, elements // kind.block_elements * kind.block_bytes))
    return model_of(outline.keys, tensors)


def test_gemma_2_9b_in_q4_k_m_by_hand() -> None:
    model = published(GEMMA)
    assert model.weights_bytes == pytest.approx(5.755e9, rel=1e-3)
    context = ContextPlan(8192)
    # a cell of a layer: keys and values of 8 heads of 256 numbers of 2 bytes
    cell = 2 * 8 * 256 * 2
    assert window_cells(model.shape, context) == 4096 + 512
    assert cache_bytes(model.shape, context) == 21 * 8192 * cell + 21 * 4608 * cell == 2100 * MEBIBYTE
    # embeddings of 512 tokens; gate, up and product; two more results and the gap of a query; a mask for each kind
    values = 3584 + 3 * 14336 + 2 * 3584 + 4096
    masks = 2 * 512 * (8192 + 4608)
    assert compute_bytes(model.shape, context) == 4 * 512 * values + masks
    assert output_bytes(model.shape, context) == 17 * 256_000 * 4


def test_few_logits_spare_most_of_a_large_vocabulary() -> None:
    shape = published(GEMMA).shape
    every_token = compute_bytes(shape, ContextPlan(8192, max_outputs=512))
    assert every_token - compute_bytes(shape, ContextPlan(8192, max_outputs=8)) > 350 * MEBIBYTE


def test_quantized_keys_and_values_take_as_many_bytes_as_their_blocks() -> None:
    shape = published("meta-llama/Llama-3.1-8B-Instruct").shape
    wide = cache_bytes(shape, ContextPlan(8192))
    assert cache_bytes(shape, ContextPlan(8192, key_type="Q8_0", value_type="Q8_0")) * 32 == wide * 17
    assert cache_bytes(shape, ContextPlan(8192, key_type="Q8_0")) * 64 == wide * 49


def test_block_that_is_not_full_takes_as_much_as_one_that_is() -> None:
    shape = published("meta-llama/Llama-3.1-8B-Instruct").shape
    odd = replace(shape, layers=(replace(shape.layers[0], key_value_heads=1, key_width=40, value_width=8),))
    assert cache_bytes(odd, ContextPlan(256, key_type="Q8_0", value_type="Q8_0")) == 256 * (2 * 34 + 34)


def test_cells_come_in_multiples_of_256() -> None:
    shape = published(GEMMA).shape
    assert cache_bytes(shape, ContextPlan(1000)) == cache_bytes(shape, ContextPlan(1024))


def test_states_grow_with_sequences_and_not_with_the_context() -> None:
    shape = published("LiquidAI/LFM2-1.2B").shape
    states = [
        size for size, layer in zip(cache_bytes_by_layer(shape, ContextPlan(512)), shape.layers, strict=True)
        if layer.has_state
    ]  # fmt: skip
    longer = cache_bytes_by_layer(shape, ContextPlan(65536, sequences=4))
    assert states == [2048 * 2 * 4] * 10
    assert [size for size in longer if size in {4 * state for state in states}] == [4 * 2048 * 2 * 4] * 10


def test_every_layer_on_the_card_leaves_embeddings_and_masks_to_main_memory() -> None:
    model, context = published(GEMMA), ContextPlan(8192)
    embedding = next(tensor for tensor in model.tensors if tensor.name == "token_embd.weight")
    split = predict_memory(model, context, Placement((43,)))
    assert split.gpus[0].weights == model.weights_bytes, "tied embeddings are the output on the card"
    assert split.ram.weights == embedding.n_bytes
    assert (split.gpus[0].cache, split.ram.cache) == (2100 * MEBIBYTE, 0)
    assert split.ram.compute == 2 * 512 * (8192 + 4608) + 2 * 4 * 512 * 3584
    assert split.gpus[0].compute == compute_bytes(model.shape, context) - 4 * 512 * 3584


def test_the_output_goes_to_the_card_first_and_the_last_block_next() -> None:
    model = published("meta-llama/Llama-3.1-8B-Instruct")
    output = next(tensor for tensor in model.tensors if tensor.name == "output.weight")
    on_card, _ = weights_bytes(model, Placement((1,)))
    assert on_card == output.n_bytes + sum(t.n_bytes for t in model.tensors if t.name.startswith(("output_n", "rope")))
    assert first_gpu_layer(model, 1) == 32 and first_gpu_layer(model, 2) == 31 and first_gpu_layer(model, 99) == 0


def test_layers_that_stay_behind_need_room_on_the_card_for_one_weight() -> None:
    model, context = published(GEMMA), ContextPlan(4096)
    part = predict_memory(model, context, Placement((20,))).gpus[0].compute
    largest = max(tensor.n_bytes for tensor in model.tensors if tensor.name.startswith("blk.0."))
    assert part >= predict_memory(model, context, Placement((43,))).gpus[0].compute + largest


def test_experts_are_read_as_far_as_they_are_used() -> None:
    model = published(QWEN_EXPERTS)
    read, _ = decode_bytes(model, ContextPlan(4096), Placement((49,)), filled_tokens=1)
    assert 1.5e9 < read < 2.5e9 < model.weights_bytes / 5


def test_decoding_reads_all_weights_but_the_embeddings() -> None:
    model = published("meta-llama/Llama-3.1-8B-Instruct")
    embedding = next(tensor for tensor in model.tensors if tensor.name == "token_embd.weight")
    (read,) = decode_bytes(model, ContextPlan(8192), Placement(), filled_tokens=4096)
    assert read == model.weights_bytes - embedding.n_bytes + cache_bytes(model.shape, ContextPlan(4096))


def test_adapters_and_checkpoints_are_counted_where_they_are() -> None:
    model, context = published(GEMMA), ContextPlan(4096)
    plain = predict_memory(model, context)
    assert predict_memory(model, context, adapter_bytes=10).ram.total == plain.ram.total + 10
    assert predict_memory(model, context, Placement((43,)), adapter_bytes=10).gpus[0].adapters == 10
    assert plain.ram.checkpoints == 256 * MEBIBYTE
    assert predict_memory(published("Qwen/Qwen3-8B"), context).ram.checkpoints == 0


def test_copies_in_another_order_count_in_the_peak_but_not_in_what_is_needed() -> None:
    model, context = published("Qwen/Qwen3-8B"), ContextPlan(4096)
    plain, repacked = (
        predict_memory(model, context, Placement(repacked_types=types)) for types in ((), ("Q4_K",))
    )  # fmt: skip
    copies = sum(t.n_bytes for t in model.tensors if t.type == "Q4_K" and t.name != "token_embd.weight")
    assert repacked.ram == plain.ram
    assert repacked.peak_resident_bytes == plain.peak_resident_bytes + copies


def test_a_prediction_is_taken_with_its_error() -> None:
    assert with_error(0) == 0
    assert with_error(MEBIBYTE) == 17 * MEBIBYTE
    assert with_error(10_000_000_000) == 10_300_000_000


contexts = st.builds(
    ContextPlan,
    context_tokens=st.integers(256, 200_000),
    sequences=st.integers(1, 64),
    batch_tokens=st.integers(16, 2048),
    max_outputs=st.integers(1, 80),
    key_type=st.sampled_from(["F16", "Q8_0", "Q4_0"]),
    value_type=st.sampled_from(["F16", "Q8_0", "Q4_0"]),
)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(SAMPLES), context=contexts, more=st.integers(1, 50_000), layers=st.integers(0, 50))
def test_a_longer_context_never_takes_less(name: str, context: ContextPlan, more: int, layers: int) -> None:
    longer = replace(context, context_tokens=context.context_tokens + more)
    placement = Placement((layers,))
    short, long = (predict_memory(published(name), each, placement) for each in (context, longer))
    assert long.gpus[0].total >= short.gpus[0].total and long.ram.total >= short.ram.total


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(SAMPLES), context=contexts, layers=st.integers(0, 50))
def test_a_layer_more_on_the_card_takes_weights_and_cache_from_main_memory(
    name: str, context: ContextPlan, layers: int
) -> None:
    here, there = (predict_memory(published(name), context, Placement((n,))) for n in (layers, layers + 1))
    assert there.ram.weights <= here.ram.weights and there.gpus[0].weights >= here.gpus[0].weights
    assert there.gpus[0].cache + there.ram.cache == here.gpus[0].cache + here.ram.cache


def test_every_published_model_has_a_shape() -> None:
    assert len(published_names()) >= 30
    for name in published_names():
        assert predict_memory(published(name), ContextPlan(2048)).total > 2e8, name


def test_published_models_are_found_in_any_case() -> None:
    assert published_config("Google/Gemma-2-9B-it") == published_config(GEMMA) is not None
    assert published_config("nobody/nothing") is None
