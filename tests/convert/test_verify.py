"""The proof: every sound file passes, and each kind of damage is found and named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert.gguf_header import TensorHeader, header_bytes
from convert.pipeline import write_checkpoint
from convert.pool import Progress
from convert.quantization_error import ERROR_BOUNDS
from convert.recipes import RECIPES
from convert.restore import half_order_rows
from convert.verify import verify_against, verify_file
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType, align
from tests.convert.conftest import TinyFolder
from tests.convert.edited import Weights, edited_json, edited_weights, floats, stored
from tests.tiny import TINY

QUERY = "blk.1.attn_q.weight"
QUANTIZATIONS = [recipe.name for recipe in RECIPES.values() if not recipe.needs_matrix]
ANOTHER = "The file was made from another checkpoint."
DAMAGED = "The file is damaged: convert it again."


@pytest.fixture
def llama2(tiny: TinyFolder, tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A fresh conversion of the tiny Llama 2, and its checkpoint."""

    def make(quantization: str) -> tuple[Path, Path]:
        (path,) = write_checkpoint(tiny("llama2"), [quantization], tmp_path / "model.gguf")
        return path, tiny("llama2")

    return make


Conversion = Callable[[str], tuple[Path, Path]]


def refusal(path: Path, source: Path | None = None) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        verify_against(path, source) if source else verify_file(path)
    return caught.value


def patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def patch_key(path: Path, key: str, value: int) -> None:
    """Give a UINT32 key another value."""
    content, head = path.read_bytes(), key.encode() + struct.pack("<I", ValueType.UINT32)
    assert content.count(head) == 1
    patch(path, content.index(head) + len(head), struct.pack("<I", value))


def rename(path: Path, name: str, other: str) -> None:
    content = path.read_bytes()
    assert content.count(name.encode()) == 1 and len(name) == len(other)
    patch(path, content.index(name.encode()), other.encode())


@pytest.mark.parametrize("name", TINY)
def test_sound_files_pass_with_room_to_their_bounds(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    for path in write_checkpoint(tiny(name), QUANTIZATIONS, tmp_path):
        alone, against = verify_file(path), verify_against(path, tiny(name))
        tensors = read_gguf(path).tensors
        assert alone.path == against.path == path
        assert alone.tensor_count == against.tensor_count == len(tensors) == len(against.errors)
        assert alone.file_bytes == against.file_bytes == path.stat().st_size
        assert alone.errors == ()
        assert {error.name: error.type for error in against.errors} == {
            tensor.name: tensor.type.name for tensor in tensors.values()
        }
        assert against.errors[0].share_of_bound < 0.6
        assert list(against.errors) == sorted(against.errors, key=lambda error: (-error.share_of_bound, error.name))


def test_bfloat16_of_a_bfloat16_checkpoint_is_exact(llama2: Conversion) -> None:
    assert {error.relative_error for error in verify_against(*llama2("BF16")).errors} == {0.0}


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_ends_at_all_that_is_read(threads: int, llama2: Conversion) -> None:
    path, source = llama2("Q8_0")
    reports: list[Progress] = []
    verify_file(path, threads=threads, progress=reports.append)
    weights_bytes = sum(tensor.n_bytes for tensor in read_gguf(path).tensors.values())
    assert reports[-1] == Progress(weights_bytes, weights_bytes)
    verify_against(path, source, threads=threads, progress=reports.append)
    assert reports[-1].done_bytes == reports[-1].total_bytes == 3_305_984


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_K_M"])
def test_scale_of_a_single_block_that_is_off_is_found(quantization: str, llama2: Conversion) -> None:
    path, source = llama2(quantization)
    tensor = read_gguf(path).tensors[QUERY]
    row_bytes = tensor.type.row_bytes(256)
    exponent = tensor.offset + 77 * row_bytes + 1
    patch(path, exponent, bytes([path.read_bytes()[exponent] ^ 0x04]))
    error = refusal(path, source)
    assert error.message == f"{path}: the tensor '{QUERY}' is off by more than {tensor.type.name} rounds, in row 77."
    assert error.hint == DAMAGED
    verify_file(path)  # which cannot know


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"])
def test_value_or_scale_that_is_no_number_is_found_without_the_source(quantization: str, llama2: Conversion) -> None:
    path, source = llama2(quantization)
    tensor = read_gguf(path).tensors[QUERY]
    patch(path, tensor.offset, b"\xff" * 4)
    for error in (refusal(path), refusal(path, source)):
        assert error.message == f"The tensor '{QUERY}' holds NaN or infinity at or after row 0."
        assert error.hint == "The file is damaged: convert or download it again."


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_K_M"])
def test_two_tensors_in_each_other_s_place_are_found(quantization: str, llama2: Conversion) -> None:
    path, source = llama2(quantization)
    tensors, content = read_gguf(path).tensors, path.read_bytes()
    names = ("blk.0.ffn_up.weight", "blk.1.ffn_up.weight")
    first, second = (content[tensors[name].offset :][: tensors[name].n_bytes] for name in names)
    patch(path, tensors[names[0]].offset, second)
    patch(path, tensors[names[1]].offset, first)
    error = refusal(path, source)
    assert ".ffn_up.weight' (" in error.message
    assert " is off by 1." in error.message
    assert error.hint == "The file was not made from this checkpoint or is damaged: convert it again."


def test_rows_that_were_not_put_into_pairs_are_found(llama2: Conversion) -> None:
    path, source = llama2("F32")
    tensor = read_gguf(path).tensors["blk.0.attn_k.weight"]
    rows = np.fromfile(path, np.float32, tensor.n_elements, offset=tensor.offset).reshape(256, 256)
    patch(path, tensor.offset, half_order_rows(rows, heads=4).tobytes())
    error = refusal(path, source)
    assert error.message.startswith(f"{path}: the tensor 'blk.0.attn_k.weight' (F32) is off by 1.")
    assert error.message.endswith(" of its size; 0 is the limit.")


def test_norms_without_their_one_are_found(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("gemma2"), ["Q8_0"], tmp_path)
    tensor = read_gguf(path).tensors["blk.2.ffn_norm.weight"]
    values = np.fromfile(path, np.float32, 256, offset=tensor.offset)
    patch(path, tensor.offset, (values - 1).tobytes())
    assert "'blk.2.ffn_norm.weight' (F32) is off by " in refusal(path, tiny("gemma2")).message


def test_missing_tensor_is_found_with_and_without_the_source(llama2: Conversion) -> None:
    path, source = llama2("Q8_0")
    rename(path, "blk.1.ffn_up.weight", "blk.9.ffn_up.weight")
    error = refusal(path)
    assert error.message == f"{path}: the tensor 'blk.1.ffn_up.weight' is missing."
    assert error.hint == "Convert or download the file again."
    error = refusal(path, source)
    assert error.message == (
        f"{path}: the tensor 'blk.1.ffn_up.weight' has shape none (absent); the checkpoint makes it [256, 512]."
    )
    assert error.hint == ANOTHER


def test_frequency_factors_that_a_checkpoint_does_not_have_are_found(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("llama3"), ["Q8_0"], tmp_path)
    plain = edited_json(tiny("llama3"), tmp_path / "plain", rope_parameters=None)
    assert refusal(path, plain).message == (
        f"{path}: the tensor 'rope_freqs.weight' has shape [32]; the checkpoint makes it none (absent)."
    )


def test_tensor_of_another_shape_than_the_keys_say_is_found(llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    patch_key(path, "llama.feed_forward_length", 1024)
    error = refusal(path)
    assert error.message == (
        f"{path}: the tensor 'blk.0.ffn_gate.weight' has shape [256, 512]; the file's keys make it [256, 1024]."
    )
    assert error.hint == "Convert or download the file again."


def test_layer_that_the_keys_promise_is_missed(llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    patch_key(path, "llama.block_count", 3)
    assert refusal(path).message == f"{path}: the tensor 'blk.2.attn_norm.weight' is missing."


def test_file_without_heads_is_refused(llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    rename(path, "llama.attention.head_count\x04", "llama.attention.had_counts\x04")
    error = refusal(path)
    assert error.message == f"{path} has no usable key llama.attention.head_count."
    assert error.hint == "Convert or download the file again."


def test_file_with_zero_heads_is_refused(llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    patch_key(path, "llama.attention.head_count", 0)
    assert refusal(path).message == (
        f"{path}: the tensor 'blk.0.attn_q.weight' has shape [256, 256]; the file's keys make it [256, 0]."
    )


def test_file_of_other_weights_is_found(llama2: Conversion, tmp_path: Path) -> None:
    path, source = llama2("Q4_K_M")

    def change(weights: dict[str, Weights]) -> None:
        values = floats(weights["model.layers.0.mlp.down_proj.weight"])
        weights["model.layers.0.mlp.down_proj.weight"] = stored(values[::-1])

    error = refusal(path, edited_weights(source, tmp_path / "finetuned", change))
    assert error.message.startswith(f"{path}: the tensor 'blk.0.ffn_down.weight' (Q")
    assert " is off by 1." in error.message


def test_file_of_another_shape_is_found(tiny: TinyFolder, llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    error = refusal(path, tiny("llama3"))
    assert error.message == (
        f"{path}: the tensor 'blk.0.attn_k.weight' has shape [256, 256]; the checkpoint makes it [256, 128]."
    )
    assert error.hint == ANOTHER


def test_file_of_another_architecture_is_found(tiny: TinyFolder, llama2: Conversion) -> None:
    path, _ = llama2("Q8_0")
    error = refusal(path, tiny("qwen3"))
    assert error.message == f"{path} is of the architecture 'llama'; the checkpoint makes 'qwen3'."
    assert error.hint == ANOTHER


def test_truncated_file_is_found(llama2: Conversion) -> None:
    path, source = llama2("Q8_0")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 4096)
    for error in (refusal(path), refusal(path, source)):
        assert error.message.startswith(f"{path} is cut off: tensor ")
        assert error.message.endswith(f" of {size - 4096}.")


def test_source_that_holds_nan_is_not_taken_for_proof(llama2: Conversion, tmp_path: Path) -> None:
    path, source = llama2("Q8_0")

    def spoil(weights: dict[str, Weights]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"].values[3, 5] = 0x7FC0

    error = refusal(path, edited_weights(source, tmp_path / "spoiled", spoil))
    assert error.message == "The tensor 'model.layers.1.mlp.up_proj.weight' holds NaN or infinity in row 3."


def write_file(path: Path, architecture: str, tensor: TensorHeader) -> Path:
    keys = [MetadataEntry("general.architecture", ValueType.STRING, architecture)]
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    path.write_bytes(header_bytes(keys, [tensor]) + bytes(rows * tensor.type.row_bytes(tensor.shape[-1])))
    return path


def test_architecture_without_a_family_is_only_checked_for_numbers(tmp_path: Path) -> None:
    path = write_file(tmp_path / "bert.gguf", "bert", TensorHeader("a", (4, 256), TENSOR_TYPES["IQ4_XS"], 0))
    proof = verify_file(path)
    assert (proof.family, proof.tensor_count, proof.errors) == (None, 1, ())
    patch(path, read_gguf(path).tensors["a"].offset, b"\xff\xff")
    assert refusal(path).message == "The tensor 'a' holds NaN or infinity at or after row 0."


def test_type_whose_rounding_is_not_known_is_refused(llama2: Conversion) -> None:
    path, source = llama2("Q8_0")
    file, tensors, end = read_gguf(path), [], 0
    for tensor in file.tensors.values():
        kind = TENSOR_TYPES["TQ2_0"] if tensor.type.is_quantized else tensor.type
        tensors.append(TensorHeader(tensor.name, tensor.shape[::-1], kind, end))
        end = align(end + tensor.n_elements // kind.block_elements * kind.block_bytes, 32)
    path.write_bytes(header_bytes(file.entries, tensors) + bytes(end))
    verify_file(path)
    error = refusal(path, source)
    assert error.message == f"{path}: the tensor 'blk.0.attn_k.weight' is of type TQ2_0, whose rounding is not known."
    assert error.hint == f"Known are: {', '.join(ERROR_BOUNDS)}."


def test_not_a_gguf_file_is_refused(tmp_path: Path, tiny: TinyFolder) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    for error in (refusal(path), refusal(path, tiny("llama2"))):
        assert "is no GGUF file" in error.message
