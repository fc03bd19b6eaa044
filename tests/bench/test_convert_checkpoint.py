from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from bench.convert_checkpoint import (
    NORM_SPREAD,
    SHAPES,
    SPECIAL_TOKENS,
    WEIGHT_SPREAD,
    CheckpointShape,
    byte_characters,
    generate_checkpoint,
    to_bfloat16,
)
from convert.checkpoint import ShardMaps, read_checkpoint
from convert.pipeline import plan_checkpoint

TINY = CheckpointShape(layers=2, hidden=64, feed_forward=96, heads=4, key_value_heads=2, head_dim=16, vocabulary=320)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    generate_checkpoint(directory, TINY)
    return directory


def test_the_large_shape_has_the_parameters_of_llama_3_2_1b() -> None:
    assert SHAPES["1.2B"].parameter_count == 1_235_814_400


def test_the_same_seed_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    generate_checkpoint(tmp_path / "again", TINY)
    generate_checkpoint(tmp_path / "other", TINY, seed=1)
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "other/model.safetensors").read_bytes() != (directory / "model.safetensors").read_bytes()


def test_the_checkpoint_can_be_converted(directory: Path, tmp_path: Path) -> None:
    plan = plan_checkpoint(directory, ["Q8_0"], tmp_path)
    assert plan.family == "llama"
    assert sum(tensor.element_count for tensor in plan.tensors if tensor.sources) == TINY.parameter_count
    assert "rope_freqs.weight" in [tensor.name for tensor in plan.tensors]


def test_weights_are_normal_and_norms_are_near_one(directory: Path) -> None:
    tensors = read_checkpoint(directory).tensors
    with ShardMaps() as maps:

        def values(name: str) -> np.ndarray:
            stored = maps.rows(tensors[name], 0, tensors[name].rows)
            return (stored.astype(np.uint32) << 16).view(np.float32)

        weights = values("model.layers.1.mlp.down_proj.weight")
        norms = values("model.norm.weight")
    assert weights.std() == pytest.approx(WEIGHT_SPREAD, rel=0.05)
    assert weights.mean() == pytest.approx(0, abs=WEIGHT_SPREAD / 20)
    assert norms.mean() == pytest.approx(1, abs=NORM_SPREAD)


def test_tensors_of_one_shape_differ(directory: Path) -> None:
    tensors = read_checkpoint(directory).tensors
    with ShardMaps() as maps:
        first, second = (
            maps.rows(tensors[f"model.layers.{layer}.mlp.up_proj.weight"], 0, 96).copy() for layer in range(2)
        )
    assert (first != second).mean() > 0.9


def test_bfloat16_rounds_to_nearest_even() -> None:
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32).view(np.float32)
    assert to_bfloat16(halfway).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


def test_the_tokenizer_has_one_token_for_each_byte_and_the_special_ones(directory: Path) -> None:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    text = "naïve 12345 🙂\n"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [256, 257, 258]


def test_every_byte_has_its_own_printable_character() -> None:
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert all(character.isprintable() for character in characters)
    assert (characters[ord("a")], characters[ord(" ")], characters[ord("\n")]) == ("a", "Ġ", "Ċ")


def test_the_sentencepiece_model_loads_and_stays_within_the_vocabulary(directory: Path) -> None:
    processor = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    assert 256 < processor.vocab_size() <= TINY.vocabulary
    assert processor.decode(processor.encode("to know é")) == "to know é"
