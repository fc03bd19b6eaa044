"""A GGUF file as the source of others: its tensors as they are, its keys but for what the new files say themselves.

Only files of 16 bits and more and Q8_0 are taken: what was rounded coarser would be rounded twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from convert.families import FAMILIES
from convert.metadata import converter_versions
from convert.safetensors_file import SourceTensor
from convert.source import Source
from convert.tensor_plan import SourceRows, TensorPlan
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, TensorInfo
from edge.gguf_format import MetadataEntry, ValueType

READABLE_TYPES = ("F32", "F16", "BF16", "Q8_0")

# keys that are about the file and not about the model
_FILE_KEYS = ("general.file_type", "general.quantization_version", "general.alignment")
_FILE_PREFIXES = ("split.", "quantize.imatrix.", "general.converter", "general.proof.", "general.source.gguf.")


def gguf_source(file: GGUFFile) -> Source:
    """A GGUF model as a source. EdgeError if it is no model, or quantized already."""
    if file.metadata.get("general.type", "model") != "model":
        raise EdgeError(f"{file.path} is no model, but of the type {file.metadata['general.type']!r}.")
    for tensor in file.tensors.values():
        _refuse_unreadable(file.path, tensor)
    family = next((family.name for family in FAMILIES if family.gguf_name == file.architecture), file.architecture)
    return Source(
        name=_name(file),
        path=file.path,
        family=family,
        architecture=file.architecture,
        tensors=tuple(map(_plan_tensor, file.tensors.values())),
        metadata=(*_kept_entries(file), *_provenance(file)),
        kept_types={name: tensor.type for name, tensor in file.tensors.items()},
    )


def _refuse_unreadable(path: Path, tensor: TensorInfo) -> None:
    if tensor.type.name not in READABLE_TYPES:
        raise EdgeError(
            f"{path} is quantized already: its tensor {tensor.name!r} is {tensor.type.name}.",
            hint=f"Quantizing it again would lose more than once: start from a file of {', '.join(READABLE_TYPES)},"
            " or from the checkpoint.",
        )


def _plan_tensor(tensor: TensorInfo) -> TensorPlan:
    shape = tuple(reversed(tensor.shape))
    source = SourceTensor(tensor.name, tensor.type.name, shape, tensor.path, tensor.offset, tensor.n_bytes)
    rows = source.rows if len(shape) > 1 else shape[0]
    return TensorPlan(tensor.name, shape, (SourceRows(source, 0, rows),))


def _name(file: GGUFFile) -> str:
    """The model's name as the file has it, if a file can be named so; or else the file's own, without its type."""
    name = file.metadata.get("general.name")
    if isinstance(name, str) and name and not set(name) & set('/\\:*?"<>|\0 '):
        return name
    stem = file.path.name.removesuffix(".gguf")
    return next((stem.removesuffix(f"-{kind}") for kind in READABLE_TYPES if stem.endswith(f"-{kind}")), stem)


def _kept_entries(file: GGUFFile) -> Iterator[MetadataEntry]:
    for entry in file.entries:
        if entry.key not in _FILE_KEYS and not entry.key.startswith(_FILE_PREFIXES):
            yield entry


def _provenance(file: GGUFFile) -> Iterator[MetadataEntry]:
    """What was read, beside what the file itself says of its own source."""
    tool, library = converter_versions()
    yield MetadataEntry("general.source.gguf.file", ValueType.STRING, file.path.name)
    yield MetadataEntry("general.source.gguf.header_sha256", ValueType.STRING, _header_sha256(file))
    yield MetadataEntry("general.converter", ValueType.STRING, tool)
    yield MetadataEntry("general.converter.library", ValueType.STRING, library)


def _header_sha256(file: GGUFFile) -> str:
    with file.path.open("rb") as opened:
        return hashlib.sha256(opened.read(file.data_offset)).hexdigest()
