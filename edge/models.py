"""A model reference to a GGUF file on this disk: a path, a checkpoint directory, a name on the hub, or `demo`.

Knows where models come from, and nothing of what is in them. What has been resolved once is found again without
importing numpy, huggingface_hub or the converter.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edge.conversion_cache import ConversionCache, Converter, convert_in_process
from edge.conversion_record import record_conversion
from edge.demo import DEMO_NAME, build_demo_checkpoint, find_demo_gguf
from edge.errors import EdgeError
from edge.hub import Hub, HuggingFaceHub
from edge.model_file import DEMO, is_file
from edge.pull import DEFAULT_QUANTIZATION, Chooser, Puller, find_current
from edge.store import Store
from edge.store_record import Record, Source
from edge.terminal import byte_progress

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

DEMO_QUANTIZATION = "F16"  # so small a model loses its way when it is quantized further

_HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?::(?P<quantization>\w+))?")


def resolve(
    reference: str,
    *,
    quantization: str | None = None,
    progress: ProgressCallback | None = None,
    hub: Hub | None = None,
    converter: Converter = convert_in_process,
    choose: Chooser | None = None,
) -> Path:
    """The GGUF file that `reference` means, converted or downloaded when it is not on this disk yet.

    A path wins over a name on the hub; `demo` is always the demo model (a directory of that name is `./demo`). A name
    on the hub that was resolved once keeps its file, without another look at the hub. Where no quantization is asked
    for and none is there, `choose` says which. EdgeError when nothing fits.
    """
    if is_file(reference):
        return _file(Path(reference).expanduser(), quantization)
    record = obtain(
        reference, quantization=quantization, progress=progress, hub=hub, converter=converter, choose=choose
    )
    store = Store(cache_directory())
    store.mark_used(record)
    return store.paths(record)[0]


def obtain(
    reference: str,
    *,
    quantization: str | None = None,
    progress: ProgressCallback | None = None,
    hub: Hub | None = None,
    converter: Converter = convert_in_process,
    choose: Chooser | None = None,
) -> Record:
    """The model that `reference` means, in the store: as `resolve`, for what is not a file of a person's own."""
    cache = ConversionCache(cache_directory(), converter, progress)
    store = Store(cache.folder)
    place = os.path.expanduser(reference)  # noqa: PTH111 - these two never raise, whatever a person types
    if demo := DEMO.fullmatch(reference):
        return _demo(store, cache, _one_quantization(quantization, demo["quantization"]))
    if os.path.isdir(place):  # noqa: PTH112
        directory = Path(place).resolve()
        wanted = _one_quantization(quantization) or _quantization_of(store, directory, choose)
        gguf = cache.gguf(directory, name=directory.name, origin=str(directory), quantization=wanted)
        name = f"{directory.name.replace(':', '-')}:{wanted}"
        return record_conversion(store, gguf, directory, name, str(directory), byte_progress)
    name_on_hub = _match_hub_name(reference)
    if name_on_hub is None:
        return _in_store(store, reference, quantization) or _refuse_unknown(reference)
    repository = name_on_hub["repository"]
    wanted_or_none = _one_quantization(quantization, name_on_hub["quantization"])
    known = find_current(store, f"{repository}:{wanted_or_none}" if wanted_or_none else repository)
    return known or puller(hub, converter).pull(repository, wanted_or_none, choose)


def _quantization_of(store: Store, directory: Path, choose: Chooser | None) -> str:
    """The quantization of a checkpoint where none is asked for: what it was converted to last, or the one to choose."""
    if choose is None:
        return DEFAULT_QUANTIZATION
    made = [
        record
        for record in store.records()
        if record.origin == str(directory) and find_current(store, record.name) is not None
    ]
    if made:
        return max(made, key=store.last_used).name.rpartition(":")[2]
    return choose(str(directory), {}) or DEFAULT_QUANTIZATION


def puller(hub: Hub | None = None, converter: Converter = convert_in_process) -> Puller:
    """What pulls models of the hub into the store of this machine."""
    folder = cache_directory()
    return Puller(Store(folder), ConversionCache(folder, converter), hub or HuggingFaceHub(), byte_progress)


def hub_name(reference: str, quantization: str | None) -> str | None:
    """The name on the hub that a reference stands for, with its quantization if it has one; None if it is none."""
    is_path = os.path.exists(os.path.expanduser(reference))  # noqa: PTH110, PTH111
    match = None if is_path or DEMO.fullmatch(reference) else _match_hub_name(reference)
    if match is None:
        return None
    wanted = _one_quantization(quantization, match["quantization"])
    return f"{match['repository']}:{wanted}" if wanted else match["repository"]


def _match_hub_name(reference: str) -> re.Match[str] | None:
    return None if reference.lower().endswith(".gguf") else _HUB_NAME.fullmatch(reference)


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


def _demo(store: Store, cache: ConversionCache, quantization: str | None) -> Record:
    """The demo model, converted here, or out of a bundle where that has been taken in."""
    name = f"demo:{quantization or DEMO_QUANTIZATION}"
    bundled = store.find(name) or (None if quantization or find_demo_gguf() else store.find("demo"))
    if bundled and bundled.source is Source.BUNDLE:
        return bundled
    directory = cache.folder / "demo" / DEMO_NAME
    if directory.is_dir():
        checkpoint = build_demo_checkpoint(directory)
    else:
        with store.held("the demo model"):
            checkpoint = build_demo_checkpoint(directory)
    gguf = cache.gguf(checkpoint, name=DEMO_NAME, origin="demo", quantization=quantization or DEMO_QUANTIZATION)
    return record_conversion(store, gguf, checkpoint, name, "demo", byte_progress)


def _in_store(store: Store, reference: str, quantization: str | None) -> Record | None:
    """A model that has no other name than the one it has in the store: one out of a bundle, or a conversion."""
    name, colon, asked = reference.rpartition(":")
    wanted = _one_quantization(quantization, asked if colon else None)
    model = name if colon else reference
    return find_current(store, f"{model}:{wanted}" if wanted else model)


def _refuse_unknown(reference: str) -> NoReturn:
    raise EdgeError(
        f"There is no model {reference!r}: no such file or directory, and no name on a hub.",
        hint="Give a .gguf file, a checkpoint directory, org/name[:QUANT] on the Hugging Face hub, or demo.",
    )
