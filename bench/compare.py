"""An earlier run against this one: for each figure what changed, and how sure that is.

A figure has changed if it did so by more than a threshold and the samples would hardly differ as much by chance: by the
Mann-Whitney test for what was measured several times, by standard errors for what was computed over a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.machine import is_same_machine
from bench.record import Metric, MetricKind, ModelRecord, Record
from bench.spread import least_p, mann_whitney_p, ratio_interval, two_sided_p
from edge.errors import EdgeError

Verdict = Literal["better", "worse", "same", "unsure"]
DEFAULT_THRESHOLD = 0.05
_MOST_P = 0.05
_MUST_MATCH = (
    "threads",
    "gpu_layers",
    "key_type",
    "value_type",
    "repack_weights",
    "prompt_tokens",
    "generated_tokens",
    "largest_streams",
)
_WHERE_NOT_SAID = {"repack_weights": True}
"""What older records were measured with."""
_OF_TEXTS = ("perplexity", "divergence", "same_top", "perplexity_ratio")
"""Figures that hold for one text and one reference only."""


@dataclass(frozen=True)
class Change:
    """Of one figure of one model. The interval is that of the ratio of new to old, 95 times in 100."""

    model: str
    kind: MetricKind
    old: float
    new: float
    interval: tuple[float, float]
    p: float | None
    """How likely such a difference is by chance; None if no difference of so few samples could be told from it."""
    verdict: Verdict

    @property
    def ratio(self) -> float:
        return self.new / self.old if self.old else 1.0

    @property
    def confidence(self) -> float | None:
        """That old and new differ at all; None if too few samples were taken to tell."""
        return None if self.p is None else 1 - self.p


@dataclass(frozen=True)
class Comparison:
    changes: tuple[Change, ...]
    threshold: float
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        return self.count("worse") > 0

    def count(self, verdict: Verdict) -> int:
        return sum(change.verdict == verdict for change in self.changes)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """As JSON has it, with what follows from the figures beside them."""
    changes = [
        {**asdict(change), "ratio": change.ratio, "confidence": change.confidence} for change in comparison.changes
    ]
    return {**asdict(comparison), "changes": changes, "is_worse": comparison.is_worse}


def compare_records(
    new: Sequence[Record], old: Sequence[Record], source: Path, threshold: float = DEFAULT_THRESHOLD
) -> Comparison:
    """Each model of this run against the same one in a file. EdgeError if it is not there, or was run otherwise."""
    changes: list[Change] = []
    notes: list[str] = []
    for record in new:
        earlier = _find(record.model, old, source)
        _check_settings(record.settings, earlier, source)
        notes += _differences(record, earlier, source)
        pairs, left_out = _pairs(record, earlier, source)
        notes += left_out
        found = [_change(record.model.label, metric, before, threshold) for metric, before in pairs]
        if not found:
            raise EdgeError(
                f"{source} has no figure of {record.model.label} that was measured now.",
                hint="Give the same --pp, --tg and --parallel as in that run.",
            )
        changes += found
    return Comparison(tuple(changes), threshold, tuple(dict.fromkeys(notes)))


def _pairs(record: Record, earlier: Record, source: Path) -> tuple[list[tuple[Metric, Metric]], list[str]]:
    """The figures that both runs have, and what to say of those that cannot be compared."""
    pairs = [(metric, before) for metric in record.metrics if (before := earlier.metric(metric.kind.name))]
    notes = []
    texts = [each.settings.get("quality") for each in (record, earlier)]
    if texts[0] != texts[1] and any(_is_of_text(metric) for metric, _ in pairs):
        pairs = [pair for pair in pairs if not _is_of_text(pair[0])]
        notes.append(f"Quality is not compared: {source.name} had another text, reference or number of chunks.")
    for here, there, where in ((record, earlier, "in this run only"), (earlier, record, f"in {source.name} only")):
        alone = [metric.kind.title for metric in here.metrics if there.metric(metric.kind.name) is None]
        if alone:
            notes.append(f"Not compared, since {where}: {'; '.join(alone)}.")
    return pairs, notes


def _is_of_text(metric: Metric) -> bool:
    return metric.kind.name.removeprefix("cache_") in _OF_TEXTS


def check_comparable(
    models: Sequence[ModelRecord], settings: Mapping[str, Any], old: Sequence[Record], source: Path
) -> None:
    """EdgeError if a file has no results of one of these models, or was measured in another way."""
    for model in models:
        _check_settings(settings, _find(model, old, source), source)


def _find(model: ModelRecord, old: Sequence[Record], source: Path) -> Record:
    matching = [each for each in old if each.model.is_same_as(model)]
    if matching:
        return ([each for each in matching if each.model.name == model.name] or matching)[-1]
    there = ", ".join(dict.fromkeys(each.model.label for each in old))
    raise EdgeError(
        f"{source} has results of {there}, not of {model.label}.",
        hint="Compare with a run of the same model and quantization.",
    )


def _check_settings(settings: Mapping[str, Any], earlier: Record, source: Path) -> None:
    for name in _MUST_MATCH:
        new, old = (each.get(name, _WHERE_NOT_SAID.get(name)) for each in (settings, earlier.settings))
        if new != old:
            raise EdgeError(
                f"{source} was measured with {name} = {old}, this run with {new}.",
                hint="Measure both in the same way.",
            )


def _differences(record: Record, earlier: Record, source: Path) -> list[str]:
    """What else than edge may have changed the figures."""
    notes = [f"{source.name} was interrupted: its figures have fewer samples."] if earlier.interrupted else []
    was, now = (f"{each.model.name}, {each.model.file_bytes:,} bytes" for each in (earlier, record))
    if was != now:
        notes.append(f"The file was {was}; now it is {now}.")
    if not is_same_machine(dict(record.machine), dict(earlier.machine)):
        notes.append(f"{source.name} was measured on another machine: {earlier.machine['cpu']['name']}.")
    if record.machine["versions"] != earlier.machine["versions"]:
        notes.append(f"Versions differ: {_version_differences(record, earlier)}.")
    return notes


def _version_differences(record: Record, earlier: Record) -> str:
    old, new = earlier.machine["versions"], record.machine["versions"]
    return ", ".join(
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    )


def _change(model: str, metric: Metric, before: Metric, threshold: float) -> Change:
    p, interval = _test(metric, before)
    new, old = metric.value, before.value
    relative = new / old - 1 if old else 0.0
    return Change(model, metric.kind, old, new, interval, p, _verdict(metric.kind, relative, p, threshold))


def _test(metric: Metric, before: Metric) -> tuple[float | None, tuple[float, float]]:
    """The chance of such a difference, None if a small one could not come out at all, and the interval of the ratio."""
    if metric.standard_error is not None and before.standard_error is not None:
        error = (metric.standard_error**2 + before.standard_error**2) ** 0.5
        half = 1.96 * error / before.value if before.value else 0.0
        ratio = metric.value / before.value if before.value else 1.0
        return two_sided_p(metric.value - before.value, error), (ratio - half, ratio + half)
    can_tell = least_p(len(metric.samples), len(before.samples)) <= _MOST_P
    if not all(before.samples):
        return 1.0 if can_tell else None, (1.0, 1.0)
    p = mann_whitney_p(metric.samples, before.samples) if can_tell else None
    return p, ratio_interval(metric.samples, before.samples)


def _verdict(kind: MetricKind, relative: float, p: float | None, threshold: float) -> Verdict:
    if kind.better == "neither" or abs(relative) <= threshold:
        return "same"
    if p is None:
        return "unsure"
    if p > _MOST_P:
        return "same"
    return "better" if (relative > 0) == (kind.better == "higher") else "worse"
