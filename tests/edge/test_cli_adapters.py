"""Adapters on the command line: converted, merged, verified and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.gguf_file import read_gguf
from tests.edge.conftest import Command, error_lines
from tests.tiny import write_tiny_checkpoint
from tests.tiny.adapters import write_tiny_adapter


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint llama3 and its adapter llama3-attention."""
    folder = tmp_path_factory.mktemp("sources")
    write_tiny_checkpoint("llama3", folder)
    write_tiny_adapter("llama3-attention", folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adapter_is_converted_for_its_base(edge_command: Command, sources: Path, here: Path) -> None:
    outcome = edge_command("convert", sources / "llama3-attention", "--base", sources / "llama3")
    assert outcome.code == 0
    assert "llama3-attention-F32.gguf" in outcome.out
    assert "16 tensors equal their source exactly" in outcome.out
    assert read_gguf(here / "llama3-attention-F32.gguf").metadata["adapter.type"] == "lora"


def test_plan_of_an_adapter_writes_nothing(edge_command: Command, sources: Path, here: Path) -> None:
    base = sources / "llama3"
    outcome = edge_command(
        "convert", sources / "llama3-attention", "--base", base, "--quant", "F16", "--plan", "--json"
    )
    assert json.loads(outcome.out)["files"][0]["tensor_types"] == {"F16": 16}
    assert not list(here.glob("*.gguf"))


def test_adapter_without_its_base_is_refused(edge_command: Command, sources: Path) -> None:
    assert error_lines(edge_command("convert", sources / "llama3-attention")) == [
        f"{sources / 'llama3-attention'} is an adapter, which is converted for its base. It was trained on"
        " edge-tests/llama3.",
        "Name the base, a checkpoint directory or its GGUF file, with --base.",
    ]


def test_base_of_what_is_no_adapter_is_refused(edge_command: Command, sources: Path) -> None:
    base = sources / "llama3"
    assert error_lines(edge_command("convert", base, "--base", base))[0] == f"--base is for adapters; {base} is none."


def test_merging_into_an_adapter_is_refused(edge_command: Command, sources: Path) -> None:
    adapter = sources / "llama3-attention"
    error = error_lines(edge_command("convert", adapter, "--merge-lora", adapter, "--base", sources / "llama3"))
    assert error[0] == f"{adapter} is an adapter: nothing is merged into it."


@pytest.mark.parametrize("command", ["convert", "run"])
def test_scale_that_is_not_a_number_is_refused(command: str, edge_command: Command, sources: Path) -> None:
    reference = f"{sources / 'llama3-attention'}:much"
    arguments = {"convert": ["--merge-lora", reference], "run": ["Hi", "--lora", reference, "--quant", "F32"]}
    error = error_lines_after_progress(edge_command(command, sources / "llama3", *arguments[command]).err)
    assert error == [
        f"The scale of the adapter in {reference!r} is 'much', which is not a number.",
        "Write it behind a colon, such as adapter.gguf:0.5, or leave it out.",
    ]


def error_lines_after_progress(stderr: str) -> list[str]:
    error, hint = stderr.splitlines()[-2:]
    return [error.removeprefix("error: "), hint.removeprefix("hint:  ")]


def test_merged_adapter_is_in_the_file_which_is_verified_with_it_only(
    edge_command: Command, sources: Path, here: Path
) -> None:
    merge = ["--merge-lora", f"{sources / 'llama3-attention'}:0.5"]
    edge_command("convert", sources / "llama3", *merge, "--quant", "F32", "--no-verify")
    merged = here / "llama3-llama3-attention-F32.gguf"
    assert list(read_gguf(merged).metadata["edge.merged.scale"]) == [0.5]  # type: ignore[arg-type]
    with_it = edge_command("verify", merged, "--against", sources / "llama3", *merge)
    assert with_it.code == 0
    assert "76 tensors equal their source exactly" in with_it.out
    without = edge_command("verify", merged, "--against", sources / "llama3")
    assert without.code == 1
    assert "is off by" in without.out


def test_merged_adapters_without_their_checkpoint_are_refused_by_verify(edge_command: Command, sources: Path) -> None:
    outcome = edge_command("verify", "model.gguf", "--merge-lora", sources / "llama3-attention")
    assert error_lines(outcome)[0] == "--merge-lora says what was merged into the checkpoint."


def test_adapter_alone_is_not_a_model_to_verify(edge_command: Command, sources: Path) -> None:
    edge_command("convert", sources / "llama3-attention", "--base", sources / "llama3", "--out", "adapter.gguf")
    error = error_lines(edge_command("verify", "adapter.gguf"))
    assert error[0] == "adapter.gguf is an adapter: it is checked whenever it is used with a model."


def test_run_answers_with_an_adapter_in_either_form(edge_command: Command, sources: Path, here: Path) -> None:
    edge_command("convert", sources / "llama3", "--quant", "F32", "--no-verify", "--out", "base.gguf")
    edge_command("convert", sources / "llama3-attention", "--base", "base.gguf", "--out", "adapter.gguf")

    def answer(*lora: str) -> str:
        outcome = edge_command(
            "run", "base.gguf", "Hi", *lora, "--temperature", "0", "--max-tokens", "6", "--threads", "1"
        )
        assert outcome.code == 0
        return outcome.out

    of_directory = answer("--lora", str(sources / "llama3-attention"))
    assert answer("--lora", "adapter.gguf") == of_directory
    assert answer("--lora", "adapter.gguf:0.5", "--lora", "adapter.gguf:0.5") == of_directory
    assert answer() != of_directory


def test_run_refuses_an_adapter_that_is_not_there(edge_command: Command, sources: Path) -> None:
    edge_command("convert", sources / "llama3", "--quant", "F32", "--no-verify", "--out", "base.gguf")
    error = error_lines(edge_command("run", "base.gguf", "Hi", "--lora", "nowhere.gguf"))
    assert error[0] == "There is no adapter 'nowhere.gguf': no such file or directory."
