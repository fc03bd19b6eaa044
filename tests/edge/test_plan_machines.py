"""From what a machine shows of itself to what is planned for it: files below /proc and /sys, and cards, are made up."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench.sparse_model import write_sparse_model
from edge.fitted_model import FittedModel, Wanted, fit_model
from edge.published_models import published_config
from tests.edge.conftest import Command, error_lines
from tests.edge.fake_machines import MIB, RASPBERRY_PI_5, FakeMachine, UseMachine, use_machine
from tests.edge.published import GEMMA

__all__ = ["use_machine"]

QWEN_14B = "Qwen/Qwen3-14B"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
RESERVED = 300_000_000  # that the compute driver takes for a process

DESKTOP = FakeMachine(memory_kb=32_000_000, available_kb=26_000_000)
RTX_3060, RTX_3070 = ("NVIDIA GeForce RTX 3060", 12288, 11264), ("NVIDIA GeForce RTX 3070", 8192, 7600)
CARD_OF_12_GB = replace(DESKTOP, cards=(RTX_3060,))
LAPTOP = FakeMachine(16_000_000, 11_000_000, cards=(("NVIDIA GeForce RTX 3050 Laptop GPU", 4096, 3720),))
TWO_CARDS = replace(DESKTOP, cards=(RTX_3060, RTX_3070))
CONTAINER = FakeMachine(
    memory_kb=24_000_000,
    available_kb=22_000_000,
    files={
        "proc/self/cgroup": "0::/docker/ab\n",
        "sys/fs/cgroup/memory.max": "2000000000\n",
        "sys/fs/cgroup/memory.current": "150000000\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 50000000\n",
    },
)
PI = FakeMachine(8_270_000, 7_000_000, swap_free_kb=2_000_000, cpuinfo=RASPBERRY_PI_5, bandwidth=9e9)


@dataclass(frozen=True)
class Planned:
    """What is expected of a plan: what is free, and the choice for best quality."""

    ram_free: int
    gpus_free: tuple[int, ...]
    quantization: str
    context_tokens: int
    cache_types: str
    gpu_layers: int
    gpu_split: tuple[int, ...] = ()


GRID = {
    # 11,264 of 12,288 MiB are free. Q8_0 takes 9.82 GB, its cache 1.17 GB in Q8_0: 11.2 of 11.5 GB. With a cache in
    # 16 bits of 2.20 GB it would be too much.
    "12 GB, one taken": (
        CARD_OF_12_GB,
        GEMMA,
        Planned(26_624_000_000, (11264 * MIB - RESERVED,), "Q8_0", 8192, "Q8_0/Q8_0", -1),
    ),
    # 3.6 GB hold no quantization of Gemma 2 9B. With 19 of 43 layers there and the rest in main memory, Q4_K_M is the
    # best one that answers 6 tokens a second: 3.3 GB, cache included, at 0.6 x 40 GB/s take 0.14 s, the card 0.02 s
    "4 GB in a laptop": (
        LAPTOP,
        GEMMA,
        Planned(11_264_000_000, (3720 * MIB - RESERVED,), "Q4_K_M", 8192, "Q8_0/Q8_0", 19),
    ),
    # Q8_0 of 15.7 GB fits neither card, and both together have 19.2 GB
    "two cards": (
        TWO_CARDS,
        QWEN_14B,
        Planned(
            26_624_000_000,
            (11264 * MIB - RESERVED, 7600 * MIB - RESERVED),
            "Q8_0",
            16384,
            "F16/F16",
            -1,
            gpu_split=(25, 16),
        ),
    ),
    # 9.8 GB of weights and half a cache in Q8_0 at 0.6 x 40 GB/s: 2.3 tokens a second
    "no card": (DESKTOP, GEMMA, Planned(26_624_000_000, (), "Q8_0", 8192, "Q8_0/Q8_0", 0)),
    # the limit, less 150 MB that are in use, 50 MB of which the system would give back; not the 24 GB of the machine
    "container of 2 GB": (CONTAINER, LLAMA_1B, Planned(1_900_000_000, (), "Q8_0", 8192, "F16/F16", 0)),
    # 7.17 GB are available: Q6_K of 7.6 GB would fit with the 2 GB of swap, and does not without
    "Pi with swap": (PI, GEMMA, Planned(7_168_000_000, (), "Q4_K_M", 8192, "Q8_0/Q4_0", 0)),
}


def plan_of(edge_command: Command, model: str, *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(edge_command("plan", model, *arguments, "--json").out)
    return document


def needed(memory: dict[str, int]) -> int:
    """The parts of one memory, added up; all but the weights may take 3 % or 16 MiB more."""
    parts = {name: memory[name] for name in ("cache", "compute", "adapters", "output", "host", "checkpoints")}
    rest = sum(parts.values())
    return memory["weights"] + rest + (max(16 * MIB, round(0.03 * rest)) if rest else 0)


@pytest.mark.parametrize("name", GRID)
def test_plan_is_made_for_what_is_free(edge_command: Command, use_machine: UseMachine, name: str) -> None:
    machine, model, expected = GRID[name]
    use_machine(machine)
    shown = plan_of(edge_command, model, "--device", "this")
    device, best = shown["device"], shown["choices"][0]
    settings = best["settings"]
    assert "best quality" in best["roles"]
    assert expected == Planned(
        ram_free=device["ram"]["free_bytes"],
        gpus_free=tuple(gpu["free_bytes"] for gpu in device["gpus"]),
        quantization=settings["quantization"],
        context_tokens=settings["context_tokens"],
        cache_types=f"{settings['key_type']}/{settings['value_type']}",
        gpu_layers=settings["gpu_layers"],
        gpu_split=tuple(settings["gpu_split"]),
    )
    for choice in shown["choices"]:
        memory = choice["memory"]
        pools = [(memory["ram"], device["ram"]), *zip(memory["gpus"], device["gpus"], strict=True)]
        for used, pool in pools:
            assert used["margin"] == pool["free_bytes"] - needed(used) >= 0


def fitted(tmp_path: Path, model: str, quantization: str) -> FittedModel:
    path = tmp_path / "model.gguf"
    write_sparse_model(path, published_config(model) or {}, quantization)
    return fit_model(path, Wanted())


@pytest.mark.parametrize(
    ("name", "model", "quantization", "line"),
    [
        ("12 GB, one taken", GEMMA, "Q8_0", ", keys and values in Q8_0/Q8_0: about 12.5 GB of memory."),
        ("4 GB in a laptop", GEMMA, "Q4_K_M", ", 17 of 43 layers on the graphics card: about 9.16 GB of memory."),
        ("two cards", QWEN_14B, "Q8_0", ", 41 of 41 layers on 2 graphics cards (26 + 15): about 17.7 GB of memory."),
        ("no card", GEMMA, "Q4_K_M", ": about 8.48 GB of memory."),
        ("container of 2 GB", LLAMA_1B, "Q8_0", ": about 1.77 GB of memory."),
        (
            "Pi with swap",
            GEMMA,
            "Q4_K_M",
            ", keys and values in Q8_0/Q4_0, weights not repacked: about 7.09 GB of memory.",
        ),
    ],
)
def test_file_is_loaded_as_it_fits(
    use_machine: UseMachine, tmp_path: Path, name: str, model: str, quantization: str, line: str
) -> None:
    use_machine(GRID[name][0])
    model_to_load = fitted(tmp_path, model, quantization)
    assert model_to_load.line == f"Using 8,192 tokens of context{line}"
    assert not model_to_load.may_not_fit
    assert model_to_load.settings.gpu_split == ((26, 15) if name == "two cards" else ())


def test_what_another_program_takes_is_not_planned_with(edge_command: Command, use_machine: UseMachine) -> None:
    use_machine(replace(DESKTOP, cards=(("NVIDIA GeForce RTX 3060", 12288, 8192),)))
    best = plan_of(edge_command, GEMMA)["choices"][0]
    assert best["settings"]["quantization"] == "Q5_K_M" and best["file_bytes"] < 8192 * MIB - RESERVED


def test_card_that_is_full_is_left_alone(use_machine: UseMachine, tmp_path: Path) -> None:
    """Without a word about layers llama.cpp would put all of them on it, and fail."""
    use_machine(replace(DESKTOP, cards=(("NVIDIA GeForce RTX 3060", 12288, 400),)))
    assert fitted(tmp_path, GEMMA, "Q4_K_M").settings.gpu_layers == 0


def test_card_without_a_driver_is_not_planned_with(edge_command: Command, use_machine: UseMachine) -> None:
    use_machine(replace(DESKTOP, files={"sys/class/drm/card0/device/vendor": "0x10de\n"}))
    shown = plan_of(edge_command, GEMMA)
    assert shown["device"]["gpus"] == [] and shown["device"]["idle_gpus"] == ["NVIDIA GPU"]
    text = " ".join(edge_command("plan", GEMMA).out.split())
    assert "Not used NVIDIA GPU: llama.cpp cannot compute there, and edge doctor says why Main memory" in text


def test_cards_side_by_side_are_listed_with_their_parts(edge_command: Command, use_machine: UseMachine) -> None:
    use_machine(TWO_CARDS)
    text = " ".join(edge_command("plan", QWEN_14B).out.split())
    # a layer has 351 MB of weights and, for 16,384 tokens, 16,384 x 4,096 bytes of keys and values
    assert "Graphics card 0 11.5 GB free of 12.9 GB, 360 GB/s Graphics card 1 7.67 GB free of 8.59 GB, 448 GB/s" in text
    assert (
        "Graphics card 0 25 of 41 layers: 10.7 GB (weights 8.77 GB, KV cache 1.68 GB, compute 247 MB), 754 MB left"
        in text
    )
    assert (
        "Graphics card 1 16 of 41 layers: 7.39 GB (weights 6.09 GB, KV cache 1.01 GB, compute 289 MB), 243 MB left"
        in text
    )


def test_container_refuses_what_the_machine_around_it_would_hold(
    edge_command: Command, use_machine: UseMachine
) -> None:
    use_machine(CONTAINER)
    message, hint = error_lines(edge_command("plan", GEMMA))
    assert message == (
        f"{GEMMA} fits nowhere on this: Q2_K with 512 tokens of context needs 4.31 GB of main memory,"
        " 2.41 GB more than is free."
    )
    assert hint.startswith("The largest known model that fits is ")


def test_older_control_groups_limit_a_container_likewise(edge_command: Command, use_machine: UseMachine) -> None:
    group = "sys/fs/cgroup/memory/docker/ab/memory"
    files = {
        "proc/self/cgroup": "5:memory:/docker/ab\n",
        f"{group}.limit_in_bytes": "2000000000\n",
        f"{group}.usage_in_bytes": "150000000\n",
        f"{group}.stat": "total_inactive_file 50000000\n",
    }
    use_machine(replace(CONTAINER, files=files))
    older = plan_of(edge_command, LLAMA_1B)
    use_machine(CONTAINER)
    assert older == plan_of(edge_command, LLAMA_1B)


def test_swap_is_shown_and_changes_no_plan(edge_command: Command, use_machine: UseMachine) -> None:
    use_machine(PI)
    shown = plan_of(edge_command, GEMMA)
    lines = edge_command("plan", GEMMA).out.splitlines()
    assert shown["device"]["swap_bytes"] == 2_048_000_000
    assert any(line.startswith("Swap         2.05 GB free, not counted: too slow to answer from") for line in lines)
    use_machine(replace(PI, swap_free_kb=0))
    assert plan_of(edge_command, GEMMA)["choices"] == shown["choices"]
    use_machine(replace(PI, available_kb=9_000_000))
    assert plan_of(edge_command, GEMMA)["choices"][0]["settings"]["quantization"] == "Q6_K"
