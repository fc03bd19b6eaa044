"""The tiny checkpoints are what the other tests take them for: repeatable, complete and matched by golden logits."""

from __future__ import annotations

import json
import math
import runpy
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from convert.checkpoint import read_checkpoint
from tests.golden.stored import FOLDER, read_golden
from tests.tiny import TINY, TOKENIZERS, tensor_shapes, weights_sha256, write_tiny_checkpoint
from tests.tokenizers.train import TOKENIZERS as TRAINED

CORPUS = (TOKENIZERS / "corpus.txt").read_text(encoding="utf-8")
TOKENIZER_NAMES = sorted({checkpoint.tokenizer for checkpoint in TINY.values()})

every_checkpoint = pytest.mark.parametrize("name", TINY)
every_tokenizer = pytest.mark.parametrize("name", TOKENIZER_NAMES)


def read_tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZERS / name / "tokenizer.json"))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@every_checkpoint
def test_weights_are_the_same_in_every_run_and_those_of_the_golden_logits(name: str, tmp_path: Path) -> None:
    first = weights_sha256(write_tiny_checkpoint(name, tmp_path / "first"))
    second = weights_sha256(write_tiny_checkpoint(name, tmp_path / "second"))
    assert first == second == read_golden(name).weights_sha256


@every_checkpoint
def test_checkpoint_has_each_tensor_once_in_bfloat16(name: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(name, tmp_path))
    assert {tensor.name: tensor.shape for tensor in checkpoint.tensors.values()} == tensor_shapes(TINY[name])
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"BF16"}
    assert len({tensor.file for tensor in checkpoint.tensors.values()}) == TINY[name].shards


def test_variant_is_part_of_the_name(tmp_path: Path) -> None:
    assert write_tiny_checkpoint("qwen3", tmp_path, variant="untied") == tmp_path / "qwen3-untied"
    assert "lm_head.weight" in tensor_shapes(TINY["qwen3-untied"])
    assert "lm_head.weight" not in tensor_shapes(TINY["qwen3"])


def test_index_tells_the_shard_of_each_tensor_and_the_whole_size(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint("llama3", tmp_path)
    index = read_json(folder / "model.safetensors.index.json")
    shapes = tensor_shapes(TINY["llama3"])
    assert set(index["weight_map"]) == set(shapes)
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    assert index["metadata"]["total_size"] == 2 * sum(map(math.prod, shapes.values()))


@every_checkpoint
def test_norms_and_biases_differ_from_ones_and_zeros(name: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(name, tmp_path))
    vectors = [tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 1]
    assert vectors
    for tensor in vectors:
        bits = np.fromfile(tensor.file, np.uint16, tensor.columns, offset=tensor.offset)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        assert np.isfinite(values).all()
        if len(values) > 1:
            assert values.std() > 0.1 * np.abs(values).mean(), tensor.name


@every_checkpoint
def test_config_names_the_special_tokens_of_its_tokenizer(name: str) -> None:
    config, tokenizer = TINY[name].text_config, read_tokenizer(TINY[name].tokenizer)
    named = read_json(TOKENIZERS / TINY[name].tokenizer / "tokenizer_config.json")
    ends = config["eos_token_id"]
    assert tokenizer.token_to_id(named["eos_token"]) in (ends if isinstance(ends, list) else [ends])
    if named["bos_token"] is not None:
        assert tokenizer.token_to_id(named["bos_token"]) == config["bos_token_id"]


@every_checkpoint
def test_every_token_has_a_row_and_some_have_more_rows(name: str) -> None:
    spare_rows = TINY[name].text_config["vocab_size"] - read_tokenizer(TINY[name].tokenizer).get_vocab_size()
    assert spare_rows == (16 if name == "qwen2" else TINY[name].padding_tokens)


@every_tokenizer
def test_tokenizer_gives_text_back(name: str) -> None:
    tokenizer = read_tokenizer(name)
    for text in (CORPUS, "two  spaces", "no special <|token|> here", "龍 🜁 ﷽ ẞ \u200d"):
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == unicodedata.normalize("NFC", text)


@every_tokenizer
def test_tokenizer_file_is_small_and_its_tokens_are_used(name: str) -> None:
    path = TOKENIZERS / name / "tokenizer.json"
    assert path.stat().st_size < 60_000
    tokenizer = read_tokenizer(name)
    used = set(tokenizer.encode(CORPUS).ids)
    assert len(used) > tokenizer.get_vocab_size() / 3


@every_tokenizer
def test_tokenizer_is_what_its_script_makes(name: str) -> None:
    made = json.loads(TRAINED[name]().to_str())
    assert made["model"] == read_json(TOKENIZERS / name / "tokenizer.json")["model"]


@every_tokenizer
def test_tokenizer_has_one_chat_template(name: str) -> None:
    inline = "chat_template" in read_json(TOKENIZERS / name / "tokenizer_config.json")
    assert inline != (TOKENIZERS / name / "chat_template.jinja").exists()


@every_checkpoint
def test_golden_logits_belong_to_tokens_of_the_vocabulary(name: str) -> None:
    golden, vocabulary = read_golden(name), TINY[name].vocabulary
    assert any(line.startswith("transformers 5") for line in golden.versions)
    assert len(golden.sequences) == 2
    for sequence in golden.sequences:
        assert sequence.tokens.min() >= 0
        assert sequence.tokens.max() < vocabulary
        assert sequence.positions[0] == 0
        assert sequence.positions[-1] == len(sequence.tokens) - 1
        assert sequence.logits.shape == (len(sequence.positions), vocabulary)
        assert np.isfinite(sequence.logits).all()


def test_golden_files_are_small_and_none_is_left_over() -> None:
    files = list(FOLDER.glob("*.npz"))
    assert {file.stem for file in files} == set(TINY)
    assert sum(file.stat().st_size for file in files) < 6_000_000


def test_tiny_files_are_written_by_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tests.tiny", str(tmp_path), "qwen2", "qwen2-rslora"])
    runpy.run_module("tests.tiny", run_name="__main__")
    assert capsys.readouterr().out.split() == [str(tmp_path / "qwen2"), str(tmp_path / "qwen2-rslora")]
    assert (tmp_path / "qwen2/config.json").is_file()
    assert (tmp_path / "qwen2-rslora/adapter_config.json").is_file()
    monkeypatch.setattr("sys.argv", ["tests.tiny", str(tmp_path), "nothing"])
    with pytest.raises(SystemExit, match=r"Checkpoints: llama2, .*\nAdapters: llama3-plain"):
        runpy.run_module("tests.tiny", run_name="__main__")
