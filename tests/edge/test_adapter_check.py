"""Adapters that do not belong to a model are refused before native code sees them, with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edge.adapter_check import check_adapter, check_is_model
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import TENSOR_TYPES, ValueType, align
from tests.edge.gguf_bytes import Document, array, scalar, string, tensor

Shapes = Mapping[str, Sequence[int]]

QUERY = "blk.0.attn_q.weight"
EXPERTS = "blk.0.ffn_up_exps.weight"
MODEL: Shapes = {"token_embd.weight": (16, 40), "output.weight": (16, 40), QUERY: (16, 32), EXPERTS: (16, 24, 3)}
PAIR: Shapes = {f"{QUERY}.lora_a": (16, 4), f"{QUERY}.lora_b": (4, 32)}
KEYS = {
    "general.type": string("adapter"),
    "adapter.type": string("lora"),
    "adapter.lora.alpha": scalar(ValueType.FLOAT32, 8),
}


def write(
    path: Path, tensors: Shapes, keys: Mapping[str, bytes], kind: str = "F32", architecture: str = "llama"
) -> Path:
    """A GGUF file of zeros; shapes have the columns first, as in the file."""
    described, offset = [], 0
    for name, shape in tensors.items():
        described.append(tensor(name, shape, TENSOR_TYPES[kind].id, offset))
        rows = 1
        for size in shape[1:]:
            rows *= size
        offset = align(offset + rows * TENSOR_TYPES[kind].row_bytes(shape[0]), 32)
    entries = list(keys.items())
    path.write_bytes(Document(entries, described, bytes(offset), architecture=architecture).to_bytes())
    return path


def check(
    folder: Path,
    tensors: Shapes = PAIR,
    keys: Mapping[str, bytes] = KEYS,
    model: Shapes = MODEL,
    model_keys: Mapping[str, bytes] | None = None,
    kind: str = "F32",
    architecture: str = "llama",
) -> None:
    adapter = write(folder / "adapter.gguf", tensors, keys, kind, architecture)
    base = write(folder / "model.gguf", model, model_keys or {})
    check_adapter(read_gguf(adapter), read_gguf(base))


def test_adapter_of_another_tool_is_accepted_by_its_shapes(tmp_path: Path) -> None:
    check(tmp_path)


def test_adapter_of_experts_and_of_embeddings_is_accepted(tmp_path: Path) -> None:
    check(
        tmp_path,
        {
            f"{EXPERTS}.lora_a": (16, 4, 3),
            f"{EXPERTS}.lora_b": (4, 24, 3),
            "token_embd.weight.lora_a": (4, 40),
            "token_embd.weight.lora_b": (4, 16),
        },
    )


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_matrices_of_16_bits_are_accepted(kind: str, tmp_path: Path) -> None:
    check(tmp_path, kind=kind)


@pytest.mark.parametrize("digest", ["same", None])
def test_adapter_that_names_the_models_weights_or_a_model_that_names_none_is_accepted(
    digest: str | None, tmp_path: Path
) -> None:
    model_keys = {"edge.source.weights_sha256": string(digest)} if digest else {}
    check(tmp_path, keys={**KEYS, "edge.adapter.base_sha256": string("same")}, model_keys=model_keys)


def test_adapter_for_other_weights_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    keys = {
        **KEYS,
        "edge.adapter.base_sha256": string("these"),
        "general.base_model.0.name": string("org/model"),
    }
    with pytest.raises(EdgeError) as caught:
        check(tmp_path, keys=keys, model_keys={"edge.source.weights_sha256": string("those")})
    assert caught.value.message == (
        f"{tmp_path / 'adapter.gguf'} was made for other weights than those of {tmp_path / 'model.gguf'}."
    )
    assert caught.value.hint.startswith("Use it with org/model;")


def test_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        check(tmp_path, architecture="gemma2")
    assert f"is an adapter for gemma2; {tmp_path / 'model.gguf'} is llama." in caught.value.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.type": string("model")}, "is no LoRA adapter: general.type is 'model', adapter.type 'lora'."),
        ({"adapter.type": string("dora")}, "is no LoRA adapter: general.type is 'adapter', adapter.type 'dora'."),
        (
            {"adapter.lora.alpha": scalar(ValueType.UINT32, 8)},
            "has adapter.lora.alpha as UINT32 instead of FLOAT32.",
        ),
        (
            {"adapter.alora.invocation_tokens": array(ValueType.UINT32, [1])},
            "is an activated LoRA, which acts behind certain tokens only: that is not supported.",
        ),
    ],
)
def test_keys_that_llama_cpp_would_stumble_over_are_refused(
    change: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EdgeError, match=re.escape(reason)):
        check(tmp_path, keys={**KEYS, **change})


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({f"{QUERY}.lora_a": (16, 4)}, f"has only one side of a LoRA for {QUERY}."),
        ({**PAIR, "blk.0.attn_norm.weight": (16,)}, "has the tensor 'blk.0.attn_norm.weight', which is neither side"),
        (
            {"blk.9.attn_q.weight.lora_a": (16, 4), "blk.9.attn_q.weight.lora_b": (4, 32)},
            "changes the tensor 'blk.9.attn_q.weight', which",
        ),
        (
            {f"{QUERY}.lora_a": (20, 4), f"{QUERY}.lora_b": (4, 32)},
            f"has {QUERY}.lora_a [20, 4] and {QUERY}.lora_b [4, 32], which do not make the shape [16, 32] of {QUERY}",
        ),
        ({f"{QUERY}.lora_a": (16, 4), f"{QUERY}.lora_b": (4, 30)}, "which do not make the shape [16, 32]"),
        ({f"{QUERY}.lora_a": (16, 4), f"{QUERY}.lora_b": (8, 32)}, "which do not make the shape [16, 32]"),
        ({f"{QUERY}.lora_a": (16, 4, 2), f"{QUERY}.lora_b": (4, 32, 2)}, "which do not make the shape [16, 32]"),
        ({f"{EXPERTS}.lora_a": (16, 4, 2), f"{EXPERTS}.lora_b": (4, 24, 2)}, "which do not make the shape [16, 24, 3]"),
        (
            {"token_embd.weight.lora_a": (4, 40), "token_embd.weight.lora_b": (8, 16)},
            "which do not make the shape [16, 40] of token_embd.weight",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_refused_with_both_shapes(tensors: Shapes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=re.escape(reason)) as caught:
        check(tmp_path, tensors)
    assert "--base" in caught.value.hint


def test_matrices_of_a_type_that_cannot_be_multiplied_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"stores blk\.0\.attn_q\.weight\.lora_a as I32"):
        check(tmp_path, kind="I32")


def test_embeddings_that_are_also_the_output_cannot_be_adapted(tmp_path: Path) -> None:
    """llama.cpp would multiply the output by a matrix that stands the other way round, and end the process."""
    model = {name: shape for name, shape in MODEL.items() if name != "output.weight"}
    tensors = {"token_embd.weight.lora_a": (4, 40), "token_embd.weight.lora_b": (4, 16)}
    with pytest.raises(EdgeError, match=r"uses as output as well: llama\.cpp would abort"):
        check(tmp_path, tensors, model=model)


def test_adapter_given_as_the_model_is_refused_with_the_way_to_use_it(tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter.gguf", PAIR, KEYS)
    with pytest.raises(EdgeError) as caught:
        check_is_model(read_gguf(adapter))
    assert caught.value.message == f"{adapter} is an adapter, which changes a model and is none itself."
    assert "--lora" in caught.value.hint
