"""A PEFT LoRA directory: its settings and pairs of matrices, validated before a weight is read.

Knows the adapter only. Whether it fits a base is for `convert.adapter_fit`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from convert.adapter_config import CONFIG_FILE, AdapterConfig, read_adapter_config
from convert.checkpoint import PICKLE_SUFFIXES
from convert.safetensors_file import SafetensorsFile, SourceTensor, read_safetensors_header
from edge.errors import EdgeError

WEIGHTS_FILE = "adapter_model.safetensors"
READABLE_DTYPES = ("F32", "F16", "BF16")

_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.default)?(?P<weight>\.weight)?"
)
_EMBEDDINGS_OF_BASE = ".base_layer.weight"  # PEFT saves a copy of embeddings that it adapts


@dataclass(frozen=True)
class AdapterPair:
    """What a LoRA adds to one module: `scale * b @ a`, transposed for embeddings.

    `a` is [rank, inputs], `b` [outputs, rank]; for embeddings [rank, tokens] and [hidden, rank].
    """

    module: str
    a: SourceTensor
    b: SourceTensor
    scale: float
    is_embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Of the weight it changes."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.is_embedding else (outputs, inputs)


@dataclass(frozen=True)
class Adapter:
    """A LoRA as its directory holds it; `sha256` is of the file with the weights."""

    directory: Path
    config: AdapterConfig
    pairs: Mapping[str, AdapterPair]
    copied_embeddings: Mapping[str, SourceTensor]
    """Weights of the base that the adapter's file repeats, by module."""
    sha256: str

    @property
    def name(self) -> str:
        return self.directory.absolute().resolve().name


def is_adapter_directory(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() and not (path / "config.json").is_file()


def read_adapter(directory: Path) -> Adapter:
    """Everything but the weights. EdgeError when it is no LoRA that can be added to weights, or not complete."""
    config = read_adapter_config(directory)
    file = _read_weights_file(directory)
    sides: dict[tuple[str, str, bool], SourceTensor] = {}
    copies: dict[str, SourceTensor] = {}
    for name, tensor in file.tensors.items():
        if name.endswith(_EMBEDDINGS_OF_BASE):
            copies[name.removeprefix("base_model.model.").removesuffix(_EMBEDDINGS_OF_BASE)] = tensor
            continue
        key = _parse_name(file, name)
        if key in sides:
            raise EdgeError(
                f"{file.path} has two tensors for the same matrix: {sides[key].name} and {name}.",
                hint="Save the adapter again.",
            )
        sides[key] = tensor
    pairs = {}
    for module, _, is_embedding in sides:
        if module not in pairs:
            pairs[module] = _pair(file, config, module, is_embedding, sides)
    if not pairs:
        raise EdgeError(f"{file.path} holds no LoRA matrices.", hint="Save or download the adapter again.")
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Adapter(directory, config, pairs, copies, digest)


def _read_weights_file(directory: Path) -> SafetensorsFile:
    path = directory / WEIGHTS_FILE
    if path.is_file():
        return read_safetensors_header(path)
    pickles = sorted(entry.name for entry in directory.iterdir() if entry.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise EdgeError(
            f"{directory} has its weights only as a Python pickle ({pickles[0]}), which can run any code when it is"
            " read.",
            hint=f"Ask its author for {WEIGHTS_FILE}, which PEFT has written by default since 2023.",
        )
    raise EdgeError(f"{directory} has no {WEIGHTS_FILE}.", hint="Save or download the adapter again.")


def _parse_name(file: SafetensorsFile, name: str) -> tuple[str, str, bool]:
    """The module a tensor belongs to, "A" or "B", and whether it is one of embeddings."""
    match = _NAME.fullmatch(name)
    if match is None or bool(match["weight"]) == bool(match["embedding"]):
        _refuse_tensor(file, name)
    return match["module"], match["side"], bool(match["embedding"])


def _refuse_tensor(file: SafetensorsFile, name: str) -> NoReturn:
    if "lora_magnitude_vector" in name:
        reason = "DoRA scales each row by a learned magnitude"
    elif name.endswith(".weight") and ".lora_" not in name:
        reason = "a whole weight would replace that of the base, and an adapter file only holds what is added"
    else:
        reason = "it is neither side of a LoRA"
    raise EdgeError(
        f"{file.path} has the tensor {name!r}, which is not supported: {reason}.",
        hint="Merge it into its base with PEFT (`merge_and_unload()`, then `save_pretrained`) and convert the result.",
    )


def _pair(
    file: SafetensorsFile,
    config: AdapterConfig,
    module: str,
    is_embedding: bool,
    sides: Mapping[tuple[str, str, bool], SourceTensor],
) -> AdapterPair:
    a, b = (sides.get((module, side, is_embedding)) for side in "AB")
    if a is None or b is None:
        side, other = ("A", b) if a is None else ("B", a)
        assert other is not None
        raise EdgeError(
            f"{file.path} has no lora_{side} for {module}, only {other.name}.",
            hint="The file is incomplete: save or download the adapter again.",
        )
    for tensor in (a, b):
        if len(tensor.shape) != 2 or 0 in tensor.shape or tensor.dtype not in READABLE_DTYPES:
            raise EdgeError(
                f"{file.path}: the tensor {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}.",
                hint=f"A matrix of {', '.join(READABLE_DTYPES)} is needed.",
            )
    rank = config.rank_of(module)
    if (a.shape[0], b.shape[1]) != (rank, rank):
        raise EdgeError(
            f"{file.path}: the matrices of {module} are {list(a.shape)} and {list(b.shape)};"
            f" {CONFIG_FILE} makes their rank {rank}.",
            hint="Settings and weights belong to different adapters.",
        )
    return AdapterPair(module, a, b, config.scale_of(module), is_embedding)
