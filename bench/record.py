"""What a run of the bench found for one model, as a value and as a line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bench.spread import Summary, summarize
from edge.errors import EdgeError

SCHEMA = "edge-bench/1"
Unit = Literal["tok/s", "s", "ms", "bytes", "x", "%", "J/tok", "nats", ""]
Better = Literal["higher", "lower", "neither"]
"""Which way a figure should go; neither, for one that describes the machine or a reply and is not judged."""


@dataclass(frozen=True)
class MetricKind:
    """What a figure is called, in what it is measured and which way it should go."""

    name: str
    title: str
    unit: Unit
    better: Better


@dataclass(frozen=True)
class Metric:
    """A figure with all its samples; or, where it is computed from a whole text, with its standard error."""

    kind: MetricKind
    samples: tuple[float, ...]
    standard_error: float | None = None

    @property
    def summary(self) -> Summary:
        return summarize(self.samples)

    @property
    def value(self) -> float:
        return self.summary.median


@dataclass(frozen=True)
class ModelRecord:
    """The file that was measured."""

    name: str
    path: str
    architecture: str
    quantization: str
    parameters: int
    file_bytes: int
    weight_bytes: int
    """Of the tensors alone."""
    description: str
    """As llama.cpp describes it."""

    @property
    def label(self) -> str:
        return f"{self.name} ({self.quantization})"

    def is_same_as(self, other: ModelRecord) -> bool:
        """Whether figures of both can be held against each other, as of the same weights."""
        return (self.architecture, self.parameters, self.quantization) == (
            other.architecture,
            other.parameters,
            other.quantization,
        )


@dataclass(frozen=True)
class Record:
    """Everything about one model. `notes` say what a reader of the figures has to know."""

    model: ModelRecord
    started: str
    """UTC, ISO 8601."""
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    ceiling: Mapping[str, Any] | None = None
    """The bandwidth measured, and the tokens per second that it allows."""
    gaps_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Between tokens, for each number of streams."""
    memory: Mapping[str, Any] | None = None
    """A fresh process: [seconds, resident bytes, of them anonymous], and when its phases began."""
    quality: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    """Whether somebody ended the run before everything was measured."""

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.kind.name == name), None)

    def value(self, name: str) -> float | None:
        metric = self.metric(name)
        return metric.value if metric else None


def record_document(record: Record) -> dict[str, Any]:
    """As JSON has it: summaries stand beside the samples, for whoever reads only those."""
    document = asdict(record)
    document["metrics"] = [
        {
            **asdict(metric.kind),
            "samples": list(metric.samples),
            "standard_error": metric.standard_error,
            **asdict(metric.summary),
        }
        for metric in record.metrics
    ]
    return {"schema": SCHEMA, **document}


def record_line(record: Record) -> str:
    return json.dumps(record_document(record), ensure_ascii=False)


def read_records(path: Path) -> list[Record]:
    """What `--out` wrote. EdgeError for a file that is not that."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise EdgeError(f"{path} cannot be read: {reason}.", hint="Give a file that --out wrote.") from error
    records = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise EdgeError(f"{path} holds no results.", hint="Give a file that --out wrote.")
    return records


def _parse(line: str, place: str) -> Record:
    try:
        document = json.loads(line)
        if document["schema"] != SCHEMA:
            raise EdgeError(
                f"{place} is in the format {document['schema']!r}, not {SCHEMA!r}.",
                hint="Measure again with this version of edge.",
            )
        return _record_of(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgeError(
            f"{place} is no result of edge bench{_reason(error)}.", hint="Give a file that --out wrote."
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong with a line that is JSON and nearly a result."""
    if isinstance(error, KeyError):
        return f": {error.args[0]!r} is missing"
    return f": {error}" if isinstance(error, _UnsoundError) else ""


class _UnsoundError(ValueError):
    """Says what about a result cannot be."""


def _record_of(document: Mapping[str, Any]) -> Record:
    if not isinstance(document["machine"]["versions"], dict) or not isinstance(document["machine"]["cpu"]["name"], str):
        raise _UnsoundError("its machine has no processor or no versions")
    return Record(
        model=ModelRecord(**document["model"]),
        started=str(document["started"]),
        settings=dict(document["settings"]),
        machine=dict(document["machine"]),
        metrics=tuple(map(_metric_of, document["metrics"])),
        ceiling=document["ceiling"],
        gaps_seconds=dict(document["gaps_seconds"]),
        memory=document["memory"],
        quality=tuple(document["quality"]),
        notes=tuple(document["notes"]),
        interrupted=bool(document.get("interrupted", False)),  # written since runs can be
    )


def _metric_of(document: Mapping[str, Any]) -> Metric:
    kind = MetricKind(document["name"], document["title"], document["unit"], document["better"])
    samples = tuple(float(sample) for sample in document["samples"])
    error = None if document["standard_error"] is None else float(document["standard_error"])
    if not samples:
        raise _UnsoundError(f"{kind.name} has no samples")
    if not all(map(math.isfinite, (*samples, error or 0.0))):
        raise _UnsoundError(f"{kind.name} has a sample that is no number")
    if kind.unit not in get_args(Unit) or kind.better not in get_args(Better):
        raise _UnsoundError(f"{kind.name} is in {kind.unit!r}, of which {kind.better!r} is better")
    return Metric(kind, samples, error)
