"""Our BF16 files hold the keys and bytes that llama.cpp's own converter writes, but for the differences named here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from convert.pipeline import plan_checkpoint
from convert.write import write_files
from edge.gguf_file import read_gguf
from tests.golden.headers import FOLDER, Header, read_header, stored_value
from tests.tiny import TINY, write_tiny_checkpoint

NOT_CONVERTED_BY_LLAMA_CPP = {"ministral"}  # MinistralForCausalLM, which it does not know
COMPARED = [name for name in TINY if name not in NOT_CONVERTED_BY_LLAMA_CPP]

GEMMA4 = ("gemma4", "gemma4-dense")
WITHOUT_PIECES = ("gemma", "gemma2", "ernie4_5", *GEMMA4)
GEMMA3 = ("gemma3", "gemma3-multimodal")
LLAMA2_TOKENIZER = ("llama2", "llama-linear", "llama-uneven", "mistral", "mixtral")
PHI3 = ("phi3", "phi3-longrope", "phi3-longrope-short")
QWEN3_5 = ("qwen3_5", "qwen3_5-multimodal")

_NO_TOKENIZER_MODEL = "it knows the vocabulary of this family by tokenizer.model only, which the checkpoint has not"
_DIGITS = "computed in double precision here, and rounded once"


@dataclass(frozen=True)
class Difference:
    """A key (without the architecture in front) or a tensor that is not the same, of which checkpoints, and why.

    `name` may be a pattern.
    """

    name: str
    reason: str
    checkpoints: tuple[str, ...] = tuple(COMPARED)


OURS_ALONE = (
    Difference("general.source.name", "provenance"),
    Difference("general.source.files", "provenance"),
    Difference("general.source.sha256", "provenance"),
    Difference("general.converter", "provenance"),
    Difference("general.converter.library", "provenance"),
    Difference("edge.source.weights_sha256", "by which adapters know their base"),
    Difference("general.proof.*", "what was proven of the file"),
    Difference("edge.tokenizer.prefix_space", "what llama.cpp does not do, and edge does before it"),
    Difference("edge.tokenizer.normalization", "what llama.cpp does not do, and edge does before it"),
    Difference("tokenizer.ggml.eot_token_id", "llama.cpp would guess it by the token's text"),
    Difference("tokenizer.ggml.add_bos_token", "said also where it is llama.cpp's default for the kind of vocabulary"),
    Difference("tokenizer.ggml.add_eos_token", "said also where it is llama.cpp's default for the kind of vocabulary"),
    Difference("tokenizer.ggml.add_space_prefix", "said also where it is llama.cpp's default"),
    Difference("vocab_size", "said also where it is the number of tokens"),
    Difference("attention.key_length", "said also where it is the hidden size shared by heads"),
    Difference("attention.value_length", "said also where it is the hidden size shared by heads"),
    Difference("rope.dimension_count", "said also where it is the whole head"),
    Difference("rope.freq_base", "said also where it is llama.cpp's default", ("gemma", "gemma2", "stablelm")),
    Difference(
        "attention.sliding_window_pattern", "llama.cpp takes every sixth layer for a full one unless told", GEMMA3
    ),
    Difference("attention.sliding_window_pattern", "llama.cpp takes every fourth layer for a full one", ("cohere2",)),
    Difference("rope.scaling.type", "it has the factors as tensors and leaves the kind to be guessed", PHI3[1:]),
    Difference("rope.scaling.original_context_length", "it drops longrope of llama", ("llama-longrope",)),
    Difference("rope.scaling.attn_factor", "llama.cpp overwrites the yarn_attn_factor that it writes itself"),
    Difference("rope_factors_long.weight", "it drops longrope of llama", ("llama-longrope",)),
    Difference("rope_factors_short.weight", "it drops longrope of llama", ("llama-longrope",)),
    Difference("tokenizer.chat_template", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.bos_token_id", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.eos_token_id", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.mask_token_id", _NO_TOKENIZER_MODEL, ("gemma", "gemma2")),
    Difference("tokenizer.ggml.padding_token_id", _NO_TOKENIZER_MODEL, ("gemma", "gemma2", "ernie4_5", *GEMMA4)),
    Difference(
        "tokenizer.ggml.merges",
        _NO_TOKENIZER_MODEL,
        (
            "ernie4_5",
            *GEMMA4,
        ),
    ),
    Difference("tokenizer.ggml.unknown_token_id", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.pre", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.token_type", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.tokens", _NO_TOKENIZER_MODEL, WITHOUT_PIECES),
    Difference("tokenizer.ggml.scores", _NO_TOKENIZER_MODEL, ("gemma", "gemma2", *GEMMA3)),
)
THEIRS_ALONE = (
    Difference("full_attention_interval", "attention.recurrent_layers says which layers have attention", QWEN3_5),
    Difference("tokenizer.ggml.add_sep_token", "false, which is llama.cpp's default"),
    Difference("tokenizer.ggml.merges", "it takes the vocabulary for a byte-level one", GEMMA3),
    Difference("attention.sliding_window", "llama.cpp switches Phi 3's off", PHI3),
    Difference("rope.scaling.original_context_length", "read for longrope only, which it has not", ("phi3",)),
    Difference("rope.scaling.yarn_attn_factor", "llama.cpp overwrites it", ("llama-yarn",)),
    Difference("rope.freq_base_swa", "read, but never used: sliding layers take the base of full ones", ("olmo3",)),
    Difference("rope.scaling.type", "none, which is what it is taken for without a factor", ("cohere2",)),
    Difference("use_parallel_residual", "llama.cpp tells it by the norms that there are", ("stablelm",)),
    Difference("rope.scaling.yarn_log_multiplier", "part of our attn_factor", ("ministral3", "mistral3")),
)
VALUES = (
    Difference("per_layer_model_proj.weight", "F32, as in every quantization", ("gemma4",)),
    Difference("blk.*.ssm_a", "numpy and torch round the exponential differently in the last bit", QWEN3_5),
    Difference("general.name", "the name as it is, not in title case"),
    Difference(
        "general.size_label", "all weights, not those of one expert", ("mixtral", "qwen3_moe", "qwen3_moe-fused")
    ),
    Difference("tokenizer.ggml.eot_token_id", "it takes <|user|> for GLM, whatever the template ends with", ("glm4",)),
    Difference("tokenizer.ggml.pre", "it knows pre-tokenizers of published vocabularies only"),
    Difference("tokenizer.ggml.scores", "by the rank of merges; its own are all the same", LLAMA2_TOKENIZER),
    Difference("tokenizer.ggml.token_type", "<unk> is of the type unknown", ("llama-linear", "mistral")),
    Difference("tokenizer.ggml.token_type", "it takes the vocabulary for a byte-level one", GEMMA3),
    Difference("tokenizer.ggml.tokens", "it takes the vocabulary for a byte-level one", GEMMA3),
    Difference("tokenizer.ggml.model", "it takes the vocabulary for a byte-level one", (*WITHOUT_PIECES, *GEMMA3)),
    Difference("rope_freqs.weight", _DIGITS, ("llama3", "llama3-published")),
    Difference("token_embd.weight", "rows beyond the last token are left out", ("gemma3-multimodal",)),
)


@cache
def differences(name: str, folder: Path) -> dict[str, str]:
    """Keys and tensors that are not the same for a checkpoint: "ours", "theirs" or "values" by name."""
    ours, theirs = our_header(name, folder), read_header(name)
    found = {}
    for mine, other in ((ours.keys, theirs.keys), (ours.tensors, theirs.tensors)):
        for key in mine.keys() | other.keys():
            if key not in other:
                found[key] = "ours"
            elif key not in mine:
                found[key] = "theirs"
            elif mine[key] != other[key]:
                found[key] = "values"
    architecture = f"{theirs.keys['general.architecture']}."
    return {key.removeprefix(architecture): kind for key, kind in found.items()}


def our_header(name: str, folder: Path) -> Header:
    (path,) = write_files(plan_checkpoint(write_tiny_checkpoint(name, folder), ["BF16"], folder), threads=1)
    file, content = read_gguf(path), path.read_bytes()
    keys = {
        key: stored_value(value if isinstance(value, str | int | float) else list(value))
        for key, value in file.metadata.items()
    }
    tensors = {
        tensor.name: (
            tensor.type.name,
            tuple(tensor.shape),
            hashlib.sha256(content[tensor.offset : tensor.offset + tensor.n_bytes]).hexdigest(),
        )
        for tensor in file.tensors.values()
    }
    return Header(keys, tensors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.mark.parametrize("name", COMPARED)
def test_every_difference_has_a_reason(name: str, folder: Path) -> None:
    tables = {"ours": OURS_ALONE, "theirs": THEIRS_ALONE, "values": VALUES}
    unexplained = {
        found: kind
        for found, kind in differences(name, folder).items()
        if not any(fnmatch(found, known.name) and name in known.checkpoints for known in tables[kind])
    }
    assert not unexplained


@pytest.mark.parametrize(("kind", "table"), [("ours", OURS_ALONE), ("theirs", THEIRS_ALONE), ("values", VALUES)])
def test_no_difference_is_named_that_is_none(kind: str, table: tuple[Difference, ...], folder: Path) -> None:
    for difference in table:
        of_all = difference.checkpoints == tuple(COMPARED)
        found = [
            name
            for name in difference.checkpoints
            if any(fnmatch(key, difference.name) for key, value in differences(name, folder).items() if value == kind)
        ]
        assert found if of_all else found == list(difference.checkpoints), difference


def test_every_checkpoint_that_llama_cpp_converts_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(COMPARED)
