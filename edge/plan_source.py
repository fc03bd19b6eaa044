"""A model reference to the files that it can have, as a plan needs them: keys, tensors and types, and no weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge.best_fit import best_that_fits
from edge.device_profiles import Device
from edge.errors import EdgeError
from edge.fitting import Candidate
from edge.gguf_file import read_gguf
from edge.gguf_format import FILE_TYPES
from edge.hub_headers import HeaderSource, HubHeaders
from edge.model_file import is_file
from edge.model_shape import ModelShape, StoredTensor, model_of, stored_model
from edge.models import hub_name
from edge.published_models import published_config, published_names
from edge.quantities import size_text

if TYPE_CHECKING:
    from convert.model_outline import ModelOutline
    from convert.safetensors_file import SourceTensor

DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PLANNED_TYPES = (
    "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
_TYPES_OF_DIRECTORY = (*_PLANNED_TYPES, "IQ3_M", "IQ3_XXS", "IQ2_M")
"""These need a calibration, which only `edge convert` makes."""
_FILE_TYPE_NAMES = {number: name for name, number in FILE_TYPES.items()}


@dataclass(frozen=True)
class ModelToPlan:
    """What a reference stands for."""

    reference: str
    """Without the quantization."""
    candidates: tuple[Candidate, ...]
    origin: str
    """Where its shape was read, for a person."""
    place: Literal["file", "directory", "name"] = "name"
    """A GGUF file cannot have another quantization; what has only a name is fetched and converted by it."""


def find_model(reference: str, headers: HeaderSource | None = None) -> ModelToPlan:
    """The files that a reference can have; of `org/name:QUANT` and of a GGUF file that one.

    EdgeError for what no model is, or one of a family that cannot be converted.
    """
    if is_file(reference):
        return _of_file(Path(reference).expanduser())
    name, colon, quantization = reference.partition(":")
    if name == "demo":  # whatever directory has this name
        return _of_config(name, published_config(DEMO) or {}, "the demo's configuration", quantization)
    place = os.path.expanduser(reference)  # noqa: PTH111 - never raises, whatever a person types
    if os.path.isdir(place):  # noqa: PTH112
        return _of_directory(Path(place))
    if hub_name(reference, None) is None:
        raise EdgeError(
            f"There is no model {reference!r}: no such file or directory, and no name on a hub.",
            hint="Give a .gguf file, a checkpoint directory, org/name[:QUANT] on the Hugging Face hub, or demo.",
        )
    if config := published_config(name):
        return _of_config(name, config, f"the published configuration of {name}", quantization)
    found = (headers or HubHeaders()).read(name)
    tensors = {key: _source_tensor(key, each.dtype, each.shape) for key, each in found.tensors.items()}
    return _of_config(name, found.config, f"config.json and headers of {name}", quantization if colon else "", tensors)


def _of_file(path: Path) -> ModelToPlan:
    file = read_gguf(path)
    number = file.metadata.get("general.file_type")
    name = _FILE_TYPE_NAMES.get(number, "") if isinstance(number, int) else ""
    candidate = Candidate(name or "as it is", stored_model(file))
    return ModelToPlan(str(path), (candidate,), f"the header of {path.name}", place="file")


def _of_directory(path: Path) -> ModelToPlan:
    from convert.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    origin = f"config.json and headers in {path}"
    found = _of_config(str(path), checkpoint.config, origin, "", checkpoint.tensors, types=_TYPES_OF_DIRECTORY)
    return replace(found, place="directory")


def _of_config(
    reference: str,
    config: Mapping[str, Any],
    origin: str,
    quantization: str,
    tensors: Mapping[str, SourceTensor] | None = None,
    *,
    types: tuple[str, ...] = _PLANNED_TYPES,
) -> ModelToPlan:
    from convert.model_outline import outline_model
    from convert.recipes import find_recipe

    names = (find_recipe(quantization).name,) if quantization else types
    outline = outline_model(config, tensors)
    return ModelToPlan(reference, tuple(candidates_of(outline, names)), origin)


def best_quantization(reference: str, device: Device | None = None, headers: HeaderSource | None = None) -> str | None:
    """The quantization of the best quality that fits, for what has yet to be converted; None for a GGUF file.

    EdgeError if none fits.
    """
    found = find_model(reference, headers)
    plain = [each for each in found.candidates if not each.needs_matrix]
    return None if found.place == "file" else best_that_fits(plain, device).quantization


def candidates_of(outline: ModelOutline, quantizations: tuple[str, ...]) -> Iterator[Candidate]:
    """The files that conversions would make."""
    from convert.recipes import find_recipe

    common: ModelShape | None = None
    for name in quantizations:
        recipe = find_recipe(name)
        types = outline.types(recipe)
        tensors = []
        for tensor, shape in outline.shapes.items():
            elements, kind = math.prod(shape), types[tensor]
            n_bytes = elements // kind.block_elements * kind.block_bytes
            tensors.append(StoredTensor(tensor, kind.name, elements, n_bytes))
        model = model_of(outline.keys, tensors)
        common = common or model.shape  # the same for all of them, and compared sooner when it is one
        yield Candidate(name, replace(model, shape=common), recipe.needs_matrix)


def _source_tensor(name: str, dtype: str, shape: tuple[int, ...]) -> SourceTensor:
    from convert.safetensors_file import SourceTensor

    return SourceTensor(name, dtype, shape, Path(), 0, 0)


def smaller_model_hint(free_bytes: int) -> str:
    """The largest published model whose Q4_K_M fits into so many bytes with room for a context, as a hint."""
    fitting = [(size, name) for name, size in _published_sizes() if size * 5 // 4 + 200_000_000 <= free_bytes]
    if not fitting:
        return "No model that edge knows fits into so little memory."
    size, name = max(fitting)
    return f"The largest known model that fits is {name} in Q4_K_M, a file of {size_text(size)}."


@cache
def _published_sizes() -> tuple[tuple[str, int], ...]:
    """Bytes of the weights of well-known models in Q4_K_M."""
    found = ((name, _of_config(name, published_config(name) or {}, "", "Q4_K_M")) for name in published_names())
    return tuple((name, model.candidates[0].model.weights_bytes) for name, model in found)
