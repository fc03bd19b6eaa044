"""Opening a model file, and what can be asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.gguf_header import header_bytes
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType
from edge.llama.library import backend
from edge.llama.model import Model


def test_file_of_an_unknown_architecture_is_refused_with_the_reason_of_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header_bytes([MetadataEntry("general.architecture", ValueType.STRING, "mamba9")], []))
    with pytest.raises(EdgeError) as caught:
        Model(path)
    assert caught.value.message.startswith(f"llama.cpp cannot load {path}: ")
    assert "unknown model architecture: 'mamba9'" in caught.value.message
    assert caught.value.hint == f"See what is in the file with: edge inspect {path}"


def test_file_that_is_missing_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"llama\.cpp cannot load .*absent\.gguf: .*No such file"):
        Model(tmp_path / "absent.gguf")


def test_reason_given_is_of_this_load_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with pytest.raises(EdgeError) as caught:
            Model(tmp_path / f"{name}.gguf")
        assert f"{name}.gguf" in caught.value.message.partition(": ")[2]


def test_path_may_hold_any_character(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "modèle 日本.gguf"
    path.symlink_to(tiny_gguf)
    with Model(path, vocabulary_only=True) as model:
        assert model.vocab.size == 624


def test_model_tells_what_its_header_says(tiny_gguf: Path) -> None:
    with Model(tiny_gguf) as model:
        assert model.trained_context_tokens == 512
        assert model.sliding_window == 0
        assert model.parameter_count > 1_000_000
        assert model.chat_template is not None
        assert "<|start_header_id|>" in model.chat_template


def test_metadata_is_text_or_none(tiny_gguf: Path) -> None:
    with Model(tiny_gguf, vocabulary_only=True) as model:
        assert model.metadata("general.architecture") == "llama"
        assert model.metadata("llama.context_length") == "512"
        assert model.metadata("general.absent") is None


def test_metadata_value_longer_than_any_buffer_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    description = "long " * 10_000
    path.write_bytes(
        header_bytes(
            [
                MetadataEntry("general.architecture", ValueType.STRING, "llama"),
                MetadataEntry("general.description", ValueType.STRING, description),
                MetadataEntry("tokenizer.ggml.model", ValueType.STRING, "no_vocab"),
            ],
            [],
        )
    )
    with Model(path, vocabulary_only=True) as model:
        assert model.metadata("general.description") == description


def test_closing_twice_frees_once(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[object] = []
    free = backend().llama_model_free
    monkeypatch.setattr(backend(), "llama_model_free", freed.append)
    with Model(tiny_gguf, vocabulary_only=True) as model:
        pointer = model.pointer
        model.close()
    free(pointer)
    assert freed == [pointer]
