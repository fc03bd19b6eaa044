"""A GGUF file as the source of a conversion: what is kept, what is replaced, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from convert.pipeline import plan_checkpoint, prove_file, write_checkpoint
from convert.plan import open_source
from convert.verify import verify_against
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder

REPLACED = {
    "general.file_type",
    "general.quantization_version",
    "general.converter",
    "general.converter.library",
    "general.source.gguf.file",
    "general.source.gguf.header_sha256",
}


def is_kept(key: str) -> bool:
    return key not in REPLACED and not key.startswith("general.proof.")


@pytest.fixture(scope="session")
def bfloat16(tiny: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (path,) = write_checkpoint(tiny("llama3"), ["BF16"], folder)
    return path


def test_file_made_by_way_of_a_gguf_file_is_the_one_made_directly(
    bfloat16: Path, tiny: TinyFolder, tmp_path: Path
) -> None:
    (direct,) = write_checkpoint(tiny("llama3"), ["Q4_K_M"], tmp_path / "direct.gguf")
    (again,) = write_checkpoint(bfloat16, ["Q4_K_M"], tmp_path / "again.gguf")
    one, other = read_gguf(direct), read_gguf(again)
    assert list(one.tensors) == list(other.tensors)
    assert direct.read_bytes()[one.data_offset :] == again.read_bytes()[other.data_offset :]


def test_keys_are_kept_and_the_source_is_named(bfloat16: Path, tmp_path: Path) -> None:
    (path,) = write_checkpoint(bfloat16, ["Q4_K_M"], tmp_path)
    before, after = read_gguf(bfloat16), read_gguf(path)
    kept = {entry.key: (entry.type, entry.element_type) for entry in before.entries if is_kept(entry.key)}
    assert kept == {entry.key: (entry.type, entry.element_type) for entry in after.entries if is_kept(entry.key)}
    for key in kept:
        assert _plain(after.metadata[key]) == _plain(before.metadata[key]), key
    assert after.metadata["general.file_type"] == 15
    assert after.metadata["general.source.gguf.file"] == bfloat16.name
    header = bfloat16.read_bytes()[: before.data_offset]
    assert after.metadata["general.source.gguf.header_sha256"] == hashlib.sha256(header).hexdigest()


def _plain(value: object) -> object:
    return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


def test_file_that_is_converted_twice_names_its_nearest_source_once(bfloat16: Path, tmp_path: Path) -> None:
    (middle,) = write_checkpoint(bfloat16, ["Q8_0"], tmp_path / "middle.gguf")
    (last,) = write_checkpoint(middle, ["Q4_0"], tmp_path / "last.gguf")
    keys = [entry.key for entry in read_gguf(last).entries]
    assert len(set(keys)) == len(keys)
    assert read_gguf(last).metadata["general.source.gguf.file"] == "middle.gguf"


def test_blocks_of_8_bits_are_copied_and_not_rounded_again(bfloat16: Path, tmp_path: Path) -> None:
    """Blocks whose largest weight is not 127 steps, as other tools may write them."""
    (source,) = write_checkpoint(bfloat16, ["Q8_0"], tmp_path / "source.gguf")
    tensor = read_gguf(source).tensors["blk.0.attn_q.weight"]
    content = np.memmap(source, np.int8, "r+", tensor.offset, (tensor.n_bytes // 34, 34))
    content[:, 2:] //= 3
    content.flush()
    (copy,) = write_checkpoint(source, ["Q8_0"], tmp_path / "copy.gguf")
    copied = read_gguf(copy).tensors["blk.0.attn_q.weight"]
    assert copy.read_bytes()[copied.offset :][: copied.n_bytes] == content.tobytes()


def test_plan_of_a_gguf_file_is_exact_and_written_nowhere(bfloat16: Path, tmp_path: Path) -> None:
    plan = plan_checkpoint(bfloat16, ["Q4_K_M", "Q8_0"], tmp_path)
    assert [file.path.name for file in plan.files] == ["llama3-Q4_K_M.gguf", "llama3-Q8_0.gguf"]
    assert not list(tmp_path.iterdir())
    paths = write_checkpoint(bfloat16, ["Q4_K_M", "Q8_0"], tmp_path)
    assert [file.file_bytes for file in plan.files] == [path.stat().st_size for path in paths]
    assert (plan.family, plan.architecture) == ("llama", "llama")


def test_file_is_verified_against_the_file_it_was_made_of(bfloat16: Path, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(bfloat16, ["Q4_K_M"], tmp_path)
    assert verify_against(path, bfloat16).errors == verify_against(path, tiny("llama3")).errors
    assert prove_file(path, bfloat16).source == bfloat16
    (other,) = write_checkpoint(tiny("llama3-published"), ["BF16"], tmp_path)
    with pytest.raises(EdgeError, match=r"The file was made from another checkpoint\."):
        verify_against(path, other)


def test_quantized_file_is_refused(bfloat16: Path, tmp_path: Path) -> None:
    (quantized,) = write_checkpoint(bfloat16, ["Q6_K"], tmp_path)
    with pytest.raises(EdgeError) as caught:
        open_source(quantized)
    assert caught.value.message == f"{quantized} is quantized already: its tensor 'token_embd.weight' is Q6_K."
    assert caught.value.hint == (
        "Quantizing it again would lose more than once: start from a file of F32, F16, BF16, Q8_0, or from the"
        " checkpoint."
    )


def test_weights_that_are_not_finite_are_named(bfloat16: Path, tmp_path: Path) -> None:
    source = tmp_path / "damaged.gguf"
    source.write_bytes(bfloat16.read_bytes())
    tensor = read_gguf(source).tensors["blk.3.ffn_up.weight"]
    content = np.memmap(source, np.uint16, "r+", tensor.offset, tensor.shape[::-1])
    content[7, 3] = 0x7FC0
    content.flush()
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(source, ["Q4_K_M"], tmp_path / "out.gguf")
    assert caught.value.message == "The tensor 'blk.3.ffn_up.weight' holds NaN or infinity in row 7."
