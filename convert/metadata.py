"""The key/value pairs of a GGUF file: what it is, where it came from, the model's shape, its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version

from convert.checkpoint import Checkpoint, MergedAdapter
from convert.config_values import LARGEST_INTEGER, is_number
from convert.families import Family
from convert.hyperparameters import Hyperparameters
from convert.proof_keys import proof_entries
from convert.recipes import Recipe
from convert.rope import rope_metadata
from convert.tokenizer import Vocabulary
from convert.weights_identity import weights_sha256
from edge.gguf_format import WEIGHTS_KEY, MetadataEntry, ValueType

_PHI3_TOKENS = frozenset({"<unk>", "<s>", "</s>", "<|endoftext|>"})
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION

# generation_config.json name -> GGUF key that llama.cpp's tools read, and its type
_SAMPLING_KEYS = {
    "temperature": ("general.sampling.temp", ValueType.FLOAT32),
    "top_k": ("general.sampling.top_k", ValueType.INT32),
    "top_p": ("general.sampling.top_p", ValueType.FLOAT32),
    "min_p": ("general.sampling.min_p", ValueType.FLOAT32),
    "repetition_penalty": ("general.sampling.penalty_repeat", ValueType.FLOAT32),
}


def model_metadata(
    checkpoint: Checkpoint, family: Family, shape: Hyperparameters, vocabulary: Vocabulary, parameter_count: int
) -> list[MetadataEntry]:
    """What every file made of a checkpoint has in common."""
    return [
        MetadataEntry("general.architecture", ValueType.STRING, family.gguf_name),
        MetadataEntry("general.type", ValueType.STRING, "model"),
        MetadataEntry("general.name", ValueType.STRING, safe_name(checkpoint.model_name, vocabulary.tokens)),
        MetadataEntry("general.size_label", ValueType.STRING, size_label(parameter_count)),
        *_provenance(checkpoint),
        *_sampling_defaults(checkpoint),
        *family_metadata(family, shape),
        *rope_metadata(shape.rope, family.gguf_name),
        *vocabulary.metadata(),
    ]


def safe_name(name: str, tokens: Collection[str]) -> str:
    """The name of a model, so that llama.cpp can load it.

    llama.cpp takes any model with "phi3" in its name for Microsoft's and fails where its tokens are missing.
    Source: llama.cpp, src/llama-vocab.cpp.
    """
    if _PHI3_TOKENS.issubset(tokens):
        return name
    return re.sub("(phi)-?3", r"\1 3", name, flags=re.IGNORECASE)


def file_metadata(recipe: Recipe) -> list[MetadataEntry]:
    """What differs from file to file."""
    return [
        MetadataEntry("general.file_type", ValueType.UINT32, recipe.file_type),
        MetadataEntry("general.quantization_version", ValueType.UINT32, QUANTIZATION_VERSION),
        *proof_entries(),
    ]


def size_label(parameter_count: int) -> str:
    """A parameter count as people say it: 135M, 1.2B, 9.2B."""
    for unit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if parameter_count >= unit:
            count = parameter_count / unit
            return f"{count:.0f}{letter}" if count >= 10 else f"{count:.1f}{letter}"
    return f"{parameter_count / 1000:.0f}K"


def converter_versions() -> tuple[str, str]:
    """The versions of this tool and of the llama.cpp binding whose encoders it calls."""
    return f"edge-llm {version('edge-llm')}", f"llama-cpp-python {version('llama-cpp-python')}"


def _provenance(checkpoint: Checkpoint) -> Iterator[MetadataEntry]:
    """Enough to tell later which bytes a file was made of: sha256 of the headers, configuration and tokenizer."""
    tool, library = converter_versions()
    hashes = {**checkpoint.header_sha256, **checkpoint.file_sha256}
    if checkpoint.repository:
        yield MetadataEntry(
            "general.source.repo_url", ValueType.STRING, f"https://huggingface.co/{checkpoint.repository}"
        )
    yield MetadataEntry("general.source.name", ValueType.STRING, checkpoint.repository or checkpoint.name)
    yield MetadataEntry("general.source.files", ValueType.ARRAY, list(hashes), ValueType.STRING)
    yield MetadataEntry("general.source.sha256", ValueType.ARRAY, list(hashes.values()), ValueType.STRING)
    yield MetadataEntry(WEIGHTS_KEY, ValueType.STRING, weights_sha256(checkpoint.tensors))
    yield from _merged(checkpoint.merged)
    yield MetadataEntry("general.converter", ValueType.STRING, tool)
    yield MetadataEntry("general.converter.library", ValueType.STRING, library)


def _merged(adapters: Sequence[MergedAdapter]) -> Iterator[MetadataEntry]:
    """Which LoRA adapters the weights contain, and how much of each."""
    columns: tuple[tuple[str, ValueType, list[str] | list[float]], ...] = (
        ("name", ValueType.STRING, [adapter.name for adapter in adapters]),
        ("sha256", ValueType.STRING, [adapter.sha256 for adapter in adapters]),
        ("scale", ValueType.FLOAT32, [adapter.scale for adapter in adapters]),
    )
    for column, kind, values in columns if adapters else ():
        yield MetadataEntry(f"edge.merged.{column}", ValueType.ARRAY, values, kind)


def _sampling_defaults(checkpoint: Checkpoint) -> Iterator[MetadataEntry]:
    if checkpoint.generation_config.get("do_sample") is False:
        yield MetadataEntry("general.sampling.temp", ValueType.FLOAT32, 0.0)
        return
    for name, (key, kind) in _SAMPLING_KEYS.items():
        value = checkpoint.generation_config.get(name)
        if is_number(value) and abs(value) <= LARGEST_INTEGER:
            yield MetadataEntry(key, kind, int(value) if kind is ValueType.INT32 else float(value))


def family_metadata(family: Family, shape: Hyperparameters) -> Iterator[MetadataEntry]:
    for rule in family.keys:
        value = rule.value(shape)
        key = f"{family.gguf_name}.{rule.key}"
        if isinstance(value, Sequence) and not isinstance(value, str):
            yield MetadataEntry(key, ValueType.ARRAY, list(value), rule.type)
        elif value is not None:
            yield MetadataEntry(key, rule.type, value)
