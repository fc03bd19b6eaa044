"""`edge plan`: what it prints, for people and for programs, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge.device_profiles import find_device
from edge.plan import Obstacle, PlannedSettings, make_plan
from edge.plan_report import command_lines, obstacle_text, options_text
from edge.plan_source import find_model
from tests.edge.conftest import Command, error_lines
from tests.edge.published import candidate
from tests.tiny import write_tiny_checkpoint

GEMMA = "google/gemma-2-9b-it"


def test_gemma_on_a_card_of_12_gb_is_printed_with_its_lines(edge_command: Command) -> None:
    shown = edge_command("plan", GEMMA, "--device", "rtx-3060-12gb")
    assert shown.code == 0 and not shown.err
    lines = [line.rstrip() for line in shown.out.splitlines()]
    assert "Device           rtx-3060-12gb: desktop with an NVIDIA GeForce RTX 3060, 12 GB" in lines
    assert any(line.startswith("best quality, longest context  Q8_0, 9.82 GB") for line in lines)
    assert any(line.startswith("fastest                        Q4_K_M, 5.76 GB") for line in lines)
    assert "Fetch            edge pull google/gemma-2-9b-it:Q8_0" in lines
    text = " ".join(shown.out.split())
    assert "Chat edge chat google/gemma-2-9b-it:Q8_0 --ctx 8192 --kv-type Q8_0 " in text
    assert "Serve edge serve google/gemma-2-9b-it:Q8_0 --ctx 8192 --kv-type Q8_0 --parallel 1 " in text
    assert "ModelSettings" not in text
    assert any(line.startswith("Not more         BF16 with 8,192 tokens of Q8_0: needs 19.7 GB") for line in lines)
    assert "All of this is predicted" in lines


def test_json_has_every_part_of_the_memory_and_its_margin(edge_command: Command) -> None:
    shown = json.loads(edge_command("plan", GEMMA, "--vram", "12GB", "--ram", "16GB", "--json").out)
    assert shown["predicted"] is True and shown["device"]["gpus"][0]["free_bytes"] == 12_000_000_000
    choice = shown["choices"][0]
    (gpu,) = choice["memory"]["gpus"]
    parts = ("weights", "cache", "compute", "adapters", "output", "host", "checkpoints")
    assert gpu["total"] == sum(gpu[part] for part in parts)
    assert 0 <= gpu["margin"] <= 12_000_000_000 - gpu["total"]
    assert choice["settings"]["quantization"] == "Q8_0" and choice["kl_divergence_nats"] == pytest.approx(0.001605)
    assert choice["commands"][0] == "edge pull google/gemma-2-9b-it:Q8_0"
    assert choice["next_bigger"]["shortfall"]["memory"] == "graphics memory"


def test_machine_without_a_card_has_no_graphics_memory_in_its_plan(edge_command: Command) -> None:
    shown = json.loads(edge_command("plan", "demo", "--ram", "8GB", "--bandwidth", "17GB/s", "--json").out)
    assert shown["device"]["gpus"] == []
    assert shown["choices"][0]["memory"]["gpus"] == []
    assert "edge pull" not in str(shown["choices"])


def test_this_machine_is_planned_for_by_default(edge_command: Command, demo_gguf: Path) -> None:
    shown = json.loads(edge_command("plan", demo_gguf, "--ctx", "2048", "--json").out)
    assert shown["device"]["name"] == "this"
    assert {choice["settings"]["quantization"] for choice in shown["choices"]} == {"Q4_1"}
    assert shown["choices"][0]["commands"][0] == f"edge chat {demo_gguf} --ctx 2048"


def test_checkpoint_gets_a_conversion_and_a_calibration_where_one_is_needed(tmp_path: Path) -> None:
    found = find_model(str(write_tiny_checkpoint("llama3", tmp_path)))
    needing = [each for each in found.candidates if each.quantization == "IQ2_M"]
    (choice, *_) = make_plan(needing, find_device("laptop-16gb")).choices
    lines = dict(command_lines(found, choice))
    folder = tmp_path / "llama3"
    assert lines["Convert"] == f"edge convert {folder} --quant IQ2_M --calibrate default --out llama3-IQ2_M.gguf"
    assert lines["Chat"].startswith("edge chat llama3-IQ2_M.gguf --ctx ")


def test_options_say_what_differs_from_the_defaults() -> None:
    (choice, *_) = make_plan([candidate(GEMMA, "BF16")], find_device("rtx-3060-12gb"), 4096).choices
    assert f"--ctx 4096 --gpu-layers {choice.fit.gpu_layers}" in options_text(choice.settings)
    planned = PlannedSettings("Q8_0", 2048, 1, -1, 128, "Q8_0", "Q4_0")
    assert options_text(planned) == "--ctx 2048 --kv-type Q8_0/Q4_0 --ubatch 128"
    assert options_text(replace(planned, repack_weights=False)).endswith(" --ubatch 128 --no-repack")


def test_obstacle_that_is_only_slow_says_so() -> None:
    assert obstacle_text(Obstacle("Q8_0", None, 3.21)) == "Q8_0 would give 3.2 tokens/s"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("--device", "rtx-9090"),
            "The device 'rtx-9090' is not known.",
            "Known are rtx-3060-12gb, rtx-4070-12gb, raspberry-pi-5-8gb, laptop-16gb and this;"
            " or describe it with --vram, --ram and --bandwidth.",
        ),
        (
            ("--device", "this", "--ram", "8GB"),
            "--device and --ram exclude each other.",
            "Name a device or describe one.",
        ),
        (
            ("--bandwidth", "17GB/s"),
            "--bandwidth describes no device.",
            "Give --ram or --vram with it, or --device NAME.",
        ),
        (
            ("--device", "rtx-3060-12gb", "--vram", "8GB"),
            "--device and --vram exclude each other.",
            "Name a device or describe one.",
        ),
        (
            ("--device", ""),
            "The device '' is not known.",
            "Known are rtx-3060-12gb, rtx-4070-12gb, raspberry-pi-5-8gb, laptop-16gb and this;"
            " or describe it with --vram, --ram and --bandwidth.",
        ),
        *(
            (
                (option, size),
                f"{option} is {size!r}, which is no size.",
                f"Write it with a unit, such as 12GB; without such memory, leave {option} out.",
            )
            for option, size in (("--ram", "much"), ("--ram", "-4GB"), ("--ram", "0"), ("--vram", "0GB"), ("--ram", ""))
        ),
        *(
            (
                ("--ram", "8GB", "--bandwidth", rate),
                f"{rate!r} is no bandwidth.",
                "Give bytes a second to --bandwidth, such as 360GB/s.",
            )
            for rate in ("0", "0GB/s", "-3GB", "fast", "")
        ),
        (("--ram", "8GB", "--ctx", "-5"), "A context of -5 tokens was asked for.", "Ask for at least 16 with --ctx."),
        (("--ram", "8GB", "--ctx", "3"), "A context of 3 tokens was asked for.", "Ask for at least 16 with --ctx."),
        (
            ("--ram", "64GB", "--ctx", "9000"),
            "A context of 9000 tokens was asked for; the model was trained on 8192.",
            "Ask for at most 8192 with --ctx.",
        ),
        (
            ("--ram", "2GB"),
            f"{GEMMA} fits nowhere on described: Q2_K with 512 tokens of context needs 4.31 GB of main memory,"
            " 2.31 GB more than is free.",
            "The largest known model that fits is stabilityai/stablelm-2-1_6b in Q4_K_M, a file of 1.03 GB.",
        ),
    ],
)
def test_bad_input_is_refused(edge_command: Command, arguments: tuple[str, ...], message: str, hint: str) -> None:
    shown, expected = error_lines(edge_command("plan", GEMMA, *arguments)), [message, hint]
    if "largest known model" in hint:
        assert shown[0] == message and shown[1].startswith("The largest known model that fits is ")
    else:
        assert shown == expected


@pytest.mark.parametrize("name", ["nosuch", "no/such/thing", "my model.gguf", "", "org/"])
def test_what_is_no_model_is_refused(edge_command: Command, name: str) -> None:
    assert error_lines(edge_command("plan", name, "--ram", "8GB")) == [
        f"There is no model {name!r}: no such file or directory, and no name on a hub.",
        "Give a .gguf file, a checkpoint directory, org/name[:QUANT] on the Hugging Face hub, or demo.",
    ]


def test_file_that_is_no_model_is_refused(edge_command: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("root of all evil\n" * 9, "utf-8")
    message, hint = error_lines(edge_command("plan", tmp_path / "notes.gguf", "--ram", "8GB"))
    assert message == f"{tmp_path / 'notes.gguf'} is no GGUF file: it starts with b'root' instead of b'GGUF'."
    assert hint.startswith("Give a .gguf model file")
