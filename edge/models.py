"""A model reference to a GGUF file on this disk: a path, a checkpoint directory, a name on the hub, or `demo`.

Knows where models come from, and nothing of what is in them. What has been resolved once is found again without
importing numpy, huggingface_hub or the converter.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edge.conversion_cache import CONVERTER_VERSION, ConversionCache, Converter, convert_in_process
from edge.demo import DEMO_NAME, build_demo_checkpoint
from edge.errors import EdgeError
from edge.hub import Hub, HuggingFaceHub, RepositoryFiles, checkpoint_names, choose_gguf, gguf_by_quantization

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

DEFAULT_QUANTIZATION = "Q4_K_M"
DEMO_QUANTIZATION = "F16"  # so small a model loses its way when it is quantized further

_DEMO = re.compile(r"demo(?::(?P<quantization>\w+))?")
_HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?::(?P<quantization>\w+))?")


def resolve(
    reference: str,
    *,
    quantization: str | None = None,
    progress: ProgressCallback | None = None,
    hub: Hub | None = None,
    converter: Converter = convert_in_process,
) -> Path:
    """The GGUF file that `reference` means, converted or downloaded when it is not on this disk yet.

    A path wins over a name on the hub; `demo` is always the demo model (a directory of that name is `./demo`). A name
    on the hub that was resolved once keeps its file, without another look at the hub. EdgeError when nothing fits.
    """
    cache = ConversionCache(cache_directory(), converter, progress)
    place = os.path.expanduser(reference)  # noqa: PTH111 - these three never raise, whatever a person types
    if demo := _DEMO.fullmatch(reference):
        wanted = _one_quantization(quantization, demo["quantization"]) or DEMO_QUANTIZATION
        checkpoint = build_demo_checkpoint(cache.folder / "demo" / DEMO_NAME)
        return cache.gguf(checkpoint, name=DEMO_NAME, origin="demo", quantization=wanted)
    if os.path.isdir(place):  # noqa: PTH112
        directory = Path(place).resolve()
        wanted = _one_quantization(quantization) or DEFAULT_QUANTIZATION
        return cache.gguf(directory, name=directory.name, origin=str(directory), quantization=wanted)
    if os.path.isfile(place):  # noqa: PTH113
        return _file(Path(place), quantization)
    name = _HUB_NAME.fullmatch(reference)
    if name is None or reference.lower().endswith(".gguf"):
        _refuse_unknown(reference)
    wanted_or_none = _one_quantization(quantization, name["quantization"])
    return _from_hub(name["repository"], wanted_or_none, hub or HuggingFaceHub(), cache)


def cache_directory() -> Path:
    """Where converted models are kept: the folder named by EDGE_CACHE, or the system's place for caches."""
    if folder := os.environ.get("EDGE_CACHE"):
        return Path(folder).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("edge", appauthor=False)


def _one_quantization(*asked: str | None) -> str | None:
    """The quantization in capitals; EdgeError when two places ask for different ones."""
    names = sorted({name.upper() for name in asked if name})
    if len(names) > 1:
        raise EdgeError(f"Two quantizations are asked for: {' and '.join(names)}.", hint="Give one, in one place.")
    return names[0] if names else None


def _file(path: Path, quantization: str | None) -> Path:
    if quantization is not None:
        raise EdgeError(
            f"{path} is a file whose quantization is settled; it cannot become {quantization}.",
            hint="Give the checkpoint directory that it was made of.",
        )
    return path


def _refuse_unknown(reference: str) -> NoReturn:
    raise EdgeError(
        f"There is no model {reference!r}: no such file or directory, and no name on a hub.",
        hint="Give a .gguf file, a checkpoint directory, org/name[:QUANT] on the Hugging Face hub, or demo.",
    )


# Names on the hub


def _from_hub(repository: str, quantization: str | None, hub: Hub, cache: ConversionCache) -> Path:
    record = cache.folder / "hub" / f"{repository.replace('/', '--')}-{quantization or 'default'}.json"
    if known := _recorded(record):
        return known
    files = hub.files(repository)
    if gguf := choose_gguf(repository, files.names, quantization):
        found = hub.download(repository, gguf) / gguf[0]
    else:
        found = _converted_from_hub(repository, files, quantization, hub, cache)
    _write_record(record, found)
    return found


def _converted_from_hub(
    repository: str, files: RepositoryFiles, quantization: str | None, hub: Hub, cache: ConversionCache
) -> Path:
    wanted = checkpoint_names(files.names)
    if not wanted:
        _refuse_repository(repository, files, quantization)
    quantization = quantization or DEFAULT_QUANTIZATION
    _check_convertible(hub.download(repository, ["config.json"]), quantization)
    checkpoint = hub.download(repository, wanted)
    return cache.gguf(
        checkpoint, name=repository.rpartition("/")[2], origin=f"hub:{repository}", quantization=quantization
    )


def _check_convertible(directory: Path, quantization: str) -> None:
    """EdgeError when config.json alone tells that the conversion must fail: before gigabytes are downloaded."""
    from convert.checkpoint import read_config
    from convert.families import find_family
    from convert.recipes import check_without_matrix, find_recipe

    check_without_matrix(find_recipe(quantization))
    find_family(read_config(directory)["architectures"][0])


def _refuse_repository(repository: str, files: RepositoryFiles, quantization: str | None) -> NoReturn:
    names = files.names
    available = ", ".join(f"{repository}:{label}" for label in gguf_by_quantization(names) if label)
    place = f"What is on this machine of {repository}" if files.is_local_copy else repository
    if available:
        raise EdgeError(
            f"{place} has no GGUF file of {quantization or 'a usual quantization'}, and nothing to convert.",
            hint=f"It has: {available}.",
        )
    if files.is_local_copy:
        raise EdgeError(
            f"{place} is no whole model, and the hub cannot be reached to download the rest.",
            hint="Run once with a network connection and without HF_HUB_OFFLINE.",
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise EdgeError(
            f"{repository} has its weights only as Python pickles, which can run any code when they are read.",
            hint="Have safetensors made of it at https://huggingface.co/spaces/safetensors/convert .",
        )
    raise EdgeError(
        f"{repository} holds no model that edge can use: neither GGUF files nor a safetensors checkpoint.",
        hint="Of an adapter, download the files and give them with --lora, and its base as the model.",
    )


def _recorded(record: Path) -> Path | None:
    """The file that a name was resolved to before, if it is still there and would come out the same."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        path = Path(content["file"])
        return path if content["converter_version"] == CONVERTER_VERSION and path.is_file() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_record(record: Path, path: Path) -> None:
    text = json.dumps({"file": str(path), "converter_version": CONVERTER_VERSION})
    part = record.with_name(f"{record.name}.{os.getpid()}.part")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(record)
    except OSError as error:
        raise EdgeError(
            f"The cache folder {record.parent} cannot be written: {error.strerror or error}.",
            hint="Name another folder in the environment variable EDGE_CACHE.",
        ) from error
