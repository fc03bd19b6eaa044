"""What the store keeps of a conversion: its hash from its proof, and the licence of what it was made of."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.content import measure
from edge.conversion_cache import CONVERTER_VERSION
from edge.hub_choice import licence_names
from edge.store import Store
from edge.store_record import Record, Source
from edge.stored_files import StoredFile

if TYPE_CHECKING:
    from edge.stored_files import Display

_LICENCE = re.compile(r"\A---\r?\n(?:.*\r?\n)*?license:[ \t]*([\w.+-]+)[ \t]*\r?$", re.MULTILINE)
_CARD_BYTES = 64 * 1024  # of a model card that are looked at


def record_conversion(store: Store, path: Path, directory: Path, name: str, origin: str, display: Display) -> Record:
    """The record of a conversion of a directory on this machine, which is made when the model is new.

    `name` has the quantization behind its colon; where another directory has taken it, some letters are put to it.
    """
    known = store.find(name)
    if known and known.origin != origin:
        model, _, quantization = name.rpartition(":")
        name = f"{model}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}:{quantization}"
        known = store.find(name)
    if known and known.converter_version == CONVERTER_VERSION and store.paths(known) == [path]:
        return known
    licences = [directory / file for file in licence_names([entry.name for entry in directory.iterdir()])]
    copy_licences(licences, path.parent)
    record = Record(
        name=name,
        source=Source.CONVERSION,
        folder=path.parent.relative_to(store.folder).as_posix(),
        files=(converted_file(path, display),),
        licence=_licence_in_card(directory / "README.md"),
        licence_files=tuple(measure(path.parent / file.name, file.name, display) for file in licences),
        origin=origin,
        converter_version=CONVERTER_VERSION,
    )
    store.add(record)
    return record


def copy_licences(licences: Sequence[Path], folder: Path) -> None:
    """Put the licence beside what it speaks of."""
    for licence in licences:
        shutil.copyfile(licence, folder / licence.name)


def converted_file(path: Path, display: Display) -> StoredFile:
    """What a conversion is; its hash is known from its proof, if that lies beside it."""
    proof = path.with_name(path.name.replace(".gguf", "") + ".proof.json")
    try:
        (file,) = json.loads(proof.read_text(encoding="utf-8"))["files"]
        if file["name"] == path.name and file["bytes"] == path.stat().st_size:
            return StoredFile(path.name, file["bytes"], str(file["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return measure(path, path.name, display)


def _licence_in_card(card: Path) -> str | None:
    """What the head of a model card calls the licence."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_CARD_BYTES)
    except OSError:
        return None
    end = head.find("\n---", 3)
    found = _LICENCE.search(head[: max(end, 0)])
    return found[1] if found else None
