"""Every figure of `edge plan google/gemma-2-9b-it --device rtx-3060-12gb`, worked out once more.

From the shape of the model and the bytes of a block, as docs/memory.md explains; nothing of edge computes here.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.edge.conftest import Command

COMMAND = ("plan", "google/gemma-2-9b-it", "--device", "rtx-3060-12gb")
MIB = 1 << 20

# Gemma 2 9B
LAYERS, HIDDEN, VOCABULARY, FEED_FORWARD = 42, 3584, 256_000, 14_336
QUERY, KEYS = 16 * 256, 8 * 256
WINDOW = 4096  # of every second layer

# the device: 12 and 16 GiB, less 1.2 and 3 GB
CARD_BYTES, RAM_BYTES = 12_880_000_000 - 1_200_000_000, 17_180_000_000 - 3_000_000_000
CARD_RATE, RAM_RATE = 0.65 * 360e9, 0.60 * 40e9

# bytes for a number: BF16, Q8_0 (34 bytes for 32), Q6_K (210 for 256), Q4_K (144 for 256), F32
BF16, Q8_0, Q6_K, Q4_K, F32 = 2, 34 / 32, 210 / 256, 144 / 256, 4

EMBEDDINGS = VOCABULARY * HIDDEN
MATRIX = HIDDEN * FEED_FORWARD  # gate, up and down
NORMS = 4 * HIDDEN * F32
OUTPUT_NORM = HIDDEN * F32
MORE_BITS = [*range(5), *range(7, 36, 3), *range(36, 42)]
"""Layers whose values and `down` Q4_K_M keeps in Q6_K: the first and last eighth, and every third between them."""


def layer_bytes(number: float, values: float | None = None, down: float | None = None) -> int:
    query_and_output, keys = 2 * HIDDEN * QUERY * number, HIDDEN * KEYS * number
    feed_forward = 2 * MATRIX * number + MATRIX * (down or number)
    return round(query_and_output + keys + HIDDEN * KEYS * (values or number) + feed_forward + NORMS)


Q8_0_BYTES = round(EMBEDDINGS * Q8_0) + OUTPUT_NORM + LAYERS * layer_bytes(Q8_0)
BF16_LAYER = layer_bytes(BF16)
BF16_BYTES = EMBEDDINGS * BF16 + OUTPUT_NORM + LAYERS * BF16_LAYER
Q4_K_M_BYTES = round(EMBEDDINGS * Q6_K) + OUTPUT_NORM + 21 * layer_bytes(Q4_K) + 21 * layer_bytes(Q4_K, Q6_K, Q6_K)

CELL = round(2 * KEYS * Q8_0)  # keys and values of a token in a layer


def cache_bytes(tokens: int, step: int, streams: int = 1) -> int:
    """21 layers hold all tokens, 21 a window of each answer and a step, in multiples of 256."""
    in_window = min(tokens, -(-(streams * WINDOW + step) // 256) * 256)
    return 21 * (tokens + in_window) * CELL


def masks(tokens: int, step: int, streams: int = 1) -> int:
    return 2 * step * (cache_bytes(tokens, step, streams) // CELL // 21)


def compute_bytes(tokens: int, step: int, streams: int = 1) -> int:
    """Gate, up and their product, two more results, and what a query left; masks; matrices that turn keys and values.

    The embeddings of the step are in main memory.
    """
    numbers = 3 * FEED_FORWARD + 2 * HIDDEN + QUERY
    return 4 * step * numbers + masks(tokens, step, streams) + 2 * 4 * 256 * 256


def with_error(rest: int) -> int:
    return rest + max(16 * MIB, round(0.03 * rest))


def seconds(weights: int, filled_tokens: int) -> float:
    """For a token of one answer; up to 4,096 tokens, all layers hold all of them."""
    return (weights + LAYERS * filled_tokens * CELL) / CARD_RATE


@pytest.fixture
def choices(edge_command: Command, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """As the command gives them without a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("a plan of a well-known model needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found: list[dict[str, Any]] = json.loads(edge_command(*COMMAND, "--json").out)["choices"]
    return found


def test_weights_by_hand() -> None:
    assert sorted(set(MORE_BITS)) == MORE_BITS and len(MORE_BITS) == 21
    assert (Q8_0_BYTES, Q4_K_M_BYTES, BF16_BYTES) == (9_821_091_840, 5_755_000_832, 18_484_623_360)


@pytest.mark.parametrize(
    ("place", "weights", "embeddings", "tokens", "streams"),
    [
        (0, Q8_0_BYTES, EMBEDDINGS * Q8_0, 8192, 1),
        (1, Q4_K_M_BYTES, EMBEDDINGS * Q6_K, 8192, 1),
        (2, Q4_K_M_BYTES, EMBEDDINGS * Q6_K, 16384, 4),
    ],
)
def test_memory_by_hand(
    choices: list[dict[str, Any]], place: int, weights: int, embeddings: float, tokens: int, streams: int
) -> None:
    step, choice = 512, choices[place]
    (gpu,), ram = choice["memory"]["gpus"], choice["memory"]["ram"]
    settings = choice["settings"]
    assert (settings["context_tokens"], settings["parallel"], settings["prefill_tokens"]) == (tokens, streams, step)
    assert (settings["key_type"], settings["value_type"], settings["gpu_layers"]) == ("Q8_0", "Q8_0", -1)
    embeddings_of_step = 4 * step * HIDDEN
    # on the card: all weights, the output being the embeddings
    compute, cache = compute_bytes(tokens, step, streams), cache_bytes(tokens, step, streams)
    assert (gpu["weights"], gpu["cache"], gpu["compute"]) == (weights, cache, compute)
    assert gpu["total"] == weights + cache + compute
    assert gpu["margin"] == CARD_BYTES - weights - with_error(cache + compute)
    # in main memory: embeddings to look up; those of a step, twice, and masks; logits; the process; checkpoints
    inputs, logits = 2 * embeddings_of_step + masks(tokens, step, streams), (streams + 16) * VOCABULARY * 4
    process = 45 * MIB + 205 * VOCABULARY + round(1.2 * step * FEED_FORWARD)
    rest = inputs + logits + process + 256 * MIB
    assert (ram["weights"], ram["compute"], ram["output"]) == (embeddings, inputs, logits)
    assert (ram["host"], ram["checkpoints"], ram["cache"]) == (process, 256 * MIB, 0)
    assert ram["margin"] == RAM_BYTES - embeddings - with_error(rest)


def test_speed_by_hand(choices: list[dict[str, Any]]) -> None:
    """The context is half full. Four answers read the weights once between them."""
    alone = [1 / seconds(weights, 4096) for weights in (Q8_0_BYTES, Q4_K_M_BYTES)]
    assert [choice["tokens_per_second"] for choice in choices[:2]] == pytest.approx(alone, abs=0.01)
    four = 4 / seconds(Q4_K_M_BYTES, 4 * 2048)
    assert choices[2]["tokens_per_second"] == pytest.approx(four, rel=0.03)  # it counts the first 256 cells once


def test_quality_by_hand(choices: list[dict[str, Any]]) -> None:
    """KL divergences of weights (llama.cpp's table for Llama 3 8B) and of a cache in Q8_0, added."""
    costs = [choice["kl_divergence_nats"] for choice in choices]
    assert costs == pytest.approx([0.001355 + 0.00025, 0.031273 + 0.00025, 0.031273 + 0.00025])


def test_what_is_next_does_not_fit_by_hand(choices: list[dict[str, Any]]) -> None:
    """In the smallest step, of 128 tokens."""
    rest = cache_bytes(8192, 128) + compute_bytes(8192, 128)
    assert choices[0]["next_bigger"]["shortfall"]["needed_bytes"] == BF16_BYTES + with_error(rest) > CARD_BYTES
    rest = cache_bytes(32768, 128, 8) + compute_bytes(32768, 128, 8)
    assert choices[2]["next_bigger"]["shortfall"]["needed_bytes"] == Q4_K_M_BYTES + with_error(rest) > CARD_BYTES


def test_speed_of_what_is_next_by_hand(choices: list[dict[str, Any]]) -> None:
    """Of BF16, as many layers are on the card as fit, with room for one of the weights that stay behind.

    The embeddings go first, as the output; then layers of 396 MB with their share of the cache, from the last one on.
    A layer with a window is read like one without while there are no more than 4,096 tokens.
    """
    free = CARD_BYTES - round(EMBEDDINGS * BF16) - OUTPUT_NORM
    on_card = []
    for step in (512, 256, 128):
        cells = [8192 if layer % 2 else min(8192, WINDOW + step + 255 & ~255) for layer in range(LAYERS)]
        compute, count = compute_bytes(8192, step) + 4 * step * HIDDEN + MATRIX * BF16, 0
        while BF16_LAYER * (count + 1) + with_error(CELL * sum(cells[LAYERS - count - 1 :]) + compute) <= free:
            count += 1
        on_card.append(count)
    assert on_card == [22, 22, 22]
    left, layer = LAYERS - on_card[0], BF16_LAYER + 4096 * CELL
    time = (EMBEDDINGS * BF16 + OUTPUT_NORM + on_card[0] * layer) / CARD_RATE + left * layer / RAM_RATE
    assert choices[0]["next_bigger"]["tokens_per_second"] == pytest.approx(1 / time, rel=1e-6)


def test_printed_figures_are_these(edge_command: Command) -> None:
    text = " ".join(edge_command(*COMMAND).out.split())
    for printed in (
        "11.7 GB free of 12.9 GB, 360 GB/s",
        "all layers: 11.1 GB (weights 9.82 GB, KV cache 1.17 GB, compute 125 MB), 525 MB left",
        "Main memory 1.40 GB (weights 975 MB, compute 45.2 MB, process 108 MB, checkpoints 268 MB), 12.8 GB left",
        "all layers: 7.05 GB (weights 5.76 GB, KV cache 1.17 GB, compute 125 MB), 4.59 GB left",
        "Main memory 1.17 GB (weights 753 MB, compute 45.2 MB, process 108 MB, checkpoints 268 MB), 13.0 GB left",
        "all layers: 8.89 GB (weights 5.76 GB, KV cache 2.99 GB, compute 145 MB), 2.69 GB left",
        "needs 19.7 GB of graphics memory, where 11.7 GB are free; with layers in main memory it would give 2.6 tokens",
        "8 answers at once: needs 12.0 GB of graphics memory, where 11.7 GB are free",
    ):
        assert printed in text
