import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.convert_checkpoint import generate_checkpoint
from bench.convert_sides import Case, Converter, sides_of
from bench.convert_steps import compare, quantize
from bench.convert_steps import convert as convert_step
from convert.checkpoint import Checkpoint, read_checkpoint
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.bench.test_convert_checkpoint import TINY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("source") / "checkpoint"
    generate_checkpoint(directory, TINY)
    return read_checkpoint(directory)


def bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.convert", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)


def test_a_run_measures_both_sides_and_leaves_only_the_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = sorted(path.name for path in checkpoint.directory.iterdir())
    program = bench(
        *("--quant", "Q4_K_M,Q8_0", "--threads", "1", "--keep", str(checkpoint.directory), "--json"), folder=tmp_path
    )
    assert program.returncode == 0, program.stderr
    document = json.loads(program.stdout)
    ours, anchor = document["sides"]
    assert document["case"]["parameters"] == TINY.parameter_count
    assert [step["name"] for step in ours["steps"]] == ["convert"]
    assert [step["name"] for step in anchor["steps"]] == ["write BF16", "quantize Q4_K_M", "quantize Q8_0"]
    assert ours["temporary_bytes"] == 0
    assert anchor["temporary_bytes"] > 2 * TINY.parameter_count
    assert document["wall_ratio"] == {
        anchor["name"]: pytest.approx(ours["wall_seconds"] / anchor["wall_seconds"], 1e-2)
    }
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in checkpoint.directory.iterdir()) == before


def test_a_step_that_fails_ends_the_run_with_its_message_and_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    program = bench("--quant", "Q9_9", "--keep", str(checkpoint.directory), folder=tmp_path)
    assert program.returncode == 1
    assert "Q9_9" in program.stderr
    assert program.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_llama_cpp_converter_becomes_a_third_side(checkpoint: Checkpoint, tmp_path: Path) -> None:
    case = Case("small", ("Q8_0",), 3, Converter(Path("convert_hf_to_gguf.py"), Path("other/python")))
    *_, tools = sides_of(case, checkpoint, tmp_path)
    convert, quantize_step = tools.steps
    middle = str(tmp_path / "tools/BF16.gguf")
    assert convert.command == (
        *(str(Path("other/python")), "convert_hf_to_gguf.py", str(checkpoint.directory)),
        *("--outtype", "bf16", "--outfile", middle),
    )
    assert convert.environment == {"OMP_NUM_THREADS": "3"}
    assert quantize_step.command[-4:] == (middle, str(tmp_path / "tools/Q8_0.gguf"), "Q8_0", "3")


def test_comparing_finds_a_changed_byte_and_names_the_tensor(checkpoint: Checkpoint, tmp_path: Path) -> None:
    middle, ours, theirs = (tmp_path / name for name in ("BF16.gguf", "ours.gguf", "theirs.gguf"))
    convert_step(str(checkpoint.directory), str(middle), "BF16", "1")
    convert_step(str(checkpoint.directory), str(ours), "Q8_0", "1")
    quantize(str(middle), str(theirs), "Q8_0", "1")
    compare(str(ours), str(theirs))
    flip_last_bit(theirs, "blk.1.ffn_up.weight")
    with pytest.raises(EdgeError, match=r"differ in the bytes of tensor 'blk.1.ffn_up.weight'"):
        compare(str(ours), str(theirs))
    with pytest.raises(EdgeError, match=r"differ in tensor 'blk\.0\.attn_k\.weight'"):
        compare(str(ours), str(middle))


def test_comparing_tolerates_a_rounding_of_f32_and_nothing_more(checkpoint: Checkpoint, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    for path in (ours, theirs):
        convert_step(str(checkpoint.directory), str(path), "Q8_0", "1")
    flip_last_bit(theirs, "rope_freqs.weight")
    compare(str(ours), str(theirs))
    flip_last_bit(theirs, "rope_freqs.weight", byte=2)
    with pytest.raises(EdgeError, match=r"differ in the bytes of tensor 'rope_freqs.weight'"):
        compare(str(ours), str(theirs))


def flip_last_bit(path: Path, tensor: str, *, byte: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[read_gguf(path).tensors[tensor].offset + byte] ^= 1
    path.write_bytes(content)
