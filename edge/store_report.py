"""What the commands of the model store print: as plain values and as tables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.quantities import counted, size_text
from edge.store import Removal, Store
from edge.store_record import Record, Source, files_to_json
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_SOURCES = {Source.HUB: "hub", Source.CONVERSION: "converted", Source.BUNDLE: "bundle"}


def record_document(store: Store, record: Record) -> dict[str, Any]:
    """A model in the store as plain values."""
    used = datetime.datetime.fromtimestamp(store.last_used(record), datetime.UTC)
    return {
        "name": record.name,
        "quantization": record.quantization,
        "bytes": record.size_bytes,
        "source": str(record.source),
        "is_whole": store.is_whole(record),
        "repository": record.repository,
        "revision": record.revision,
        "licence": record.licence,
        "last_used": used.isoformat(timespec="seconds"),
        "path": str(store.paths(record)[0]),
        "files": files_to_json(record.files),
    }


def list_document(store: Store) -> dict[str, Any]:
    """The whole store as plain values."""
    return {
        "folder": str(store.folder),
        "models": [record_document(store, record) for record in store.records()],
        "unfinished_downloads": [{"path": str(path), "bytes": path.stat().st_size} for path in store.unfinished()],
    }


def render_list(store: Store) -> list[Table | Text]:
    """The store as a table, the model that was used last on top."""
    records = sorted(store.records(), key=store.last_used, reverse=True)
    unfinished = store.unfinished()
    shown: list[Table | Text] = []
    if records:
        rows = table(
            "", ("Name", "left"), ("Quantization", "left"), ("Size", "right"), ("Source", "left"),
            ("Last used", "left"), ("Licence", "left"),
        )  # fmt: skip
        for record in records:
            model, _, quantization = record.name.rpartition(":")
            used = datetime.datetime.fromtimestamp(store.last_used(record)).strftime("%Y-%m-%d %H:%M")
            source = _SOURCES[record.source] + ("" if store.is_whole(record) else ", damaged")
            texts = (model, quantization, size_text(record.size_bytes), source, used)
            rows.add_row(*map(cell, (*texts, record.licence or "unknown")))
        shown.append(rows)
    total = sum(record.size_bytes for record in records)
    count = f"{counted(len(records), 'model')}, {size_text(total)}" if records else "No models"
    shown.append(cell(f"{count} in {store.folder}"))
    if unfinished:
        n_bytes = sum(path.stat().st_size for path in unfinished)
        shown.append(cell(f"Unfinished downloads: {size_text(n_bytes)}; `edge pull` goes on with them"))
    return shown


def render_pulled(store: Store, records: Sequence[Record]) -> list[Text]:
    """Each model and where it lies."""
    shown = []
    for record in records:
        licence = f", licence {record.licence}" if record.licence else ""
        commit = f" at {record.revision[:12]}" if record.revision else ""
        source = {Source.HUB: f"from the hub{commit}", Source.CONVERSION: f"converted{commit}"}.get(
            record.source, f"from a bundle{commit}"
        )
        shown.append(cell(f"{record.name}  {size_text(record.size_bytes)}, {source}{licence}"))
        shown.append(cell(f"  {store.paths(record)[0]}"))
    return shown


def content_document(store: Store, record: Record) -> dict[str, Any]:
    """A model whose files are what they were when they came."""
    return {"name": record.name, "path": str(store.paths(record)[0]), "files": files_to_json(record.files)}


def render_content(store: Store, record: Record) -> list[Text]:
    count = len(record.files)
    files = "the file has its sha256" if count == 1 else f"all {count} files have their sha256"
    return [cell(str(store.paths(record)[0])), cell(f"  ✓ content  {files}: it is what came as {record.name}")]


def removal_document(removals: Sequence[Removal], unfinished: Sequence[Path], freed_bytes: int) -> dict[str, Any]:
    """What was removed, as plain values."""
    return {
        "freed_bytes": freed_bytes,
        "models": [removal.record.name for removal in removals],
        "removed": [str(path) for removal in removals for path in removal.paths] + [str(path) for path in unfinished],
        "left": [str(path) for removal in removals for path in removal.outside],
    }


def removal_lines(removals: Sequence[Removal], unfinished: Sequence[Path]) -> list[str]:
    """What would be removed, and what is left where it is."""
    lines = []
    for removal in removals:
        lines.append(f"{removal.record.name}: {size_text(removal.freed_bytes)}")
        lines += [f"  {path}" for path in removal.paths]
        lines += [f"  stays, as it is not edge's: {path}" for path in removal.outside]
    return lines + [f"unfinished download: {size_text(path.stat().st_size)}\n  {path}" for path in unfinished]
