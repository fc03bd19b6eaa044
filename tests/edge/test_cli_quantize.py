"""What `edge convert` offers for quantizing: recipes, types, importance matrices, GGUF sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.imatrix import read_imatrix
from convert.recipes import RECIPES
from edge.gguf_file import read_gguf
from tests.edge.conftest import Command, error_lines
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint("qwen3", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "bees.txt"
    path.write_text("".join(f"Hive {number} holds {number * 31} bees. " for number in range(99)), encoding="utf-8")
    return path


def test_help_names_every_recipe(edge_command: Command) -> None:
    words = edge_command("convert", "--help").out.replace("│", " ").replace(",", " ").replace(";", " ").split()
    assert set(RECIPES) <= {word.strip(".") for word in words}


def test_calibration_is_one_command(edge_command: Command, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "bees.gguf"
    outcome = edge_command(
        *("convert", str(checkpoint), "--quant", "IQ3_M", "--calibrate", str(text), "--save-imatrix", str(matrix)),
        *("--threads", "1", "--no-verify", "--out", str(tmp_path / "model.gguf")),
    )
    assert outcome.code == 0, outcome.err
    assert "Converting to Q8_0, for the calibration only: " in outcome.err
    assert "Calibrating on bees.txt: 2.43 kB" in outcome.err
    assert len(read_imatrix(matrix).entries) == 14
    assert {path.name for path in tmp_path.iterdir()} == {"bees.gguf", "model.gguf"}
    again = edge_command(
        *("convert", str(checkpoint), "--quant", "IQ3_M", "--imatrix", str(matrix), "--threads", "1", "--no-verify"),
        *("--out", str(tmp_path / "again.gguf")),
    )
    assert again.code == 0, again.err
    one, other = (read_gguf(tmp_path / name) for name in ("model.gguf", "again.gguf"))
    assert one.path.read_bytes()[one.data_offset :] == other.path.read_bytes()[other.data_offset :]


def test_chosen_types_are_planned(edge_command: Command, checkpoint: Path) -> None:
    outcome = edge_command(
        *("convert", str(checkpoint), "--plan", "--json", "--quant", "Q4_0", "--embedding-type", "q8_0"),
        *("--tensor-type", r"blk\.1\.ffn=Q5_1", "--tensor-type", "attn_v=F16"),
    )
    (file,) = json.loads(outcome.out)["files"]
    assert file["tensor_types"] == {"F32": 9, "Q4_0": 9, "Q5_1": 3, "F16": 2, "Q8_0": 1}


def test_gguf_file_is_converted_and_verified_like_a_checkpoint(
    edge_command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    bfloat16, target = tmp_path / "tiny-BF16.gguf", tmp_path / "tiny-Q4_0.gguf"
    for source, quantization, out in ((checkpoint, "BF16", bfloat16), (bfloat16, "Q4_0", target)):
        arguments = (str(source), "--quant", quantization, "--out", str(out), "--threads", "1", "--no-verify")
        assert edge_command("convert", *arguments).code == 0
    outcome = edge_command("verify", str(target), "--against", str(bfloat16), "--threads", "1", "--json")
    assert outcome.code == 0, outcome.err
    proof = json.loads(outcome.out)
    assert proof["result"] == "passed"
    assert proof["checks"][0]["summary"].startswith("24 tensors match their source; ")
    assert read_gguf(target).tensors["blk.0.attn_q.weight"].type.name == "Q4_0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--quant", "IQ2_M"), "IQ2_M needs an importance matrix."),
        (("--plan", "--calibrate", "default"), "--plan runs nothing, so --calibrate cannot be planned."),
        (("--tensor-type", "nothing_like_it=Q8_0"), "no tensor that is quantized has a name like 'nothing_like_it'."),
        (("--output-type", "Q9_K"), "--output-type: the type 'Q9_K' is not known."),
        (("--save-imatrix", "m.gguf"), "--save-imatrix has nothing to save."),
        (("--imatrix", "none.gguf"), "none.gguf cannot be read: No such file or directory."),
        (("--calibrate", "none.txt"), "none.txt cannot be read: No such file or directory."),
    ],
)
def test_what_cannot_be_done_is_an_error(
    arguments: tuple[str, ...], message: str, edge_command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = edge_command("convert", str(checkpoint), "--out", str(tmp_path), *arguments)
    assert error_lines(outcome)[0].endswith(message)
    assert not list(tmp_path.iterdir())


def test_target_that_exists_is_refused_before_anything_is_measured(
    edge_command: Command, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.gguf"
    target.touch()
    outcome = edge_command("convert", str(checkpoint), "--calibrate", str(text), "--out", str(target))
    assert error_lines(outcome)[0].endswith(f"{target} exists already.")
