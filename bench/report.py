"""Figures of the bench for people: how each is written, and the tables of a run and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from bench.compare import Change, Comparison
from bench.record import Metric, MetricKind, Record, Unit
from edge.quantities import size_text
from edge.tables import cell, section, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_STYLES = {"better": "green", "worse": "bold red", "same": "", "unsure": "yellow"}


def figure_text(value: float, unit: Unit) -> str:
    """A figure with its unit, to as many digits as mean something."""
    if unit == "bytes":
        return size_text(round(value))
    if unit == "%":
        return f"{value:.1f} %"
    if unit == "x":
        return f"{value:.3f}x"
    return f"{significant(value)} {unit}" if unit else f"{value:.3f}"


def significant(value: float) -> str:
    """Three digits or more, never an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    if abs(value) >= 0.1:
        return f"{value:.3f}"
    return f"{value:.5f}"


def spread_text(metric: Metric) -> str:
    """Standard error where there is one, else quartiles; nothing for a single sample."""
    if metric.standard_error is not None:
        return f"± {figure_text(metric.standard_error, metric.kind.unit)}"
    if len(metric.samples) < 2:
        return ""
    low, high = (figure_text(end, metric.kind.unit) for end in metric.summary.quartiles)
    return f"{_number(low) if _unit(low) == _unit(high) else low} - {high}"


def _number(figure: str) -> str:
    """A figure's text without its unit."""
    return figure.partition(" ")[0].removesuffix("x")


def _unit(figure: str) -> str:
    return figure.removeprefix(_number(figure))


def kinds_of(records: Sequence[Record]) -> list[MetricKind]:
    """All figures that any of the records has, in their order."""
    return list({metric.kind.name: metric.kind for record in records for metric in record.metrics}.values())


def best_of(records: Sequence[Record], kind: MetricKind) -> int | None:
    """The record whose figure is the best, where its spread does not touch that of any other; else None."""
    known = [(metric, place) for place, record in enumerate(records) if (metric := record.metric(kind.name))]
    if len(known) < 2 or kind.better == "neither":
        return None
    sign = 1 if kind.better == "higher" else -1
    best, place = max(known, key=lambda each: sign * each[0].value)
    worst_of_best = min(sign * end for end in _spread(best))
    is_apart = all(
        max(sign * end for end in _spread(metric)) < worst_of_best for metric, other in known if other != place
    )
    return place if is_apart else None


def _spread(metric: Metric) -> tuple[float, float]:
    """Quartiles, or where the value lies 95 times in 100."""
    if metric.standard_error is None:
        return metric.summary.quartiles
    return metric.value - 1.96 * metric.standard_error, metric.value + 1.96 * metric.standard_error


def run_tables(records: Sequence[Record]) -> list[RenderableType]:
    """Of one model with spreads; of several side by side, the best of each line marked."""
    shown: list[RenderableType] = [_side_by_side(records)] if len(records) > 1 else [_single(records[0])]
    shown.append(section("Measured with", conditions(records[0])))
    notes = dict.fromkeys(note for record in records for note in record.notes)
    if notes:
        shown.append(section("Notes", [("", note) for note in notes]))
    return shown


def interrupted_text(records: Sequence[Record]) -> str:
    """Behind a title, where not everything was measured."""
    return ", interrupted" if any(record.interrupted for record in records) else ""


def conditions(record: Record) -> list[tuple[str, str]]:
    """Machine, versions and settings that the figures belong to."""
    machine, settings = record.machine, record.settings
    rows = [
        ("processor", f"{machine['cpu']['name']}, {machine['cores']['physical']} cores, {machine['system']}"),
        ("memory", size_text(machine["ram"]["total_bytes"])),
    ]
    rows.append(("graphics", ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no card"))
    if record.ceiling:
        bandwidth = record.ceiling["bandwidth"]
        kinds = ", ".join(f"{kind} {bandwidth[kind] / 1e9:.1f}" for kind in ("read", "copy", "triad"))
        rows.append(("bandwidth", f"{kinds} GB/s with {threads_text(bandwidth['threads'])}"))
    meter = settings["energy_meter"] or "no meter"
    throttling = "noticed" if settings["notices_throttling"] else "cannot be noticed here"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return [
        *rows,
        (
            "settings",
            f"{threads_text(settings['threads'])}, {settings['rounds']} rounds, keys {settings['key_type']}, values"
            f" {settings['value_type']}",
        ),
        ("energy", meter),
        ("throttling", throttling),
        ("load before", "unknown" if machine["load_average"] is None else str(machine["load_average"])),
        ("versions", versions),
    ]


def threads_text(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """What changed since an earlier run."""
    shown = table(
        verdict_text(comparison),
        ("", "left"),
        ("before", "right"),
        ("now", "right"),
        ("ratio", "right"),
        ("interval", "right"),
        ("sure", "right"),
        ("", "left"),
    )
    _keep_figures_whole(shown)
    models = dict.fromkeys(change.model for change in comparison.changes)
    for model in models:
        if len(models) > 1:
            shown.add_row(cell(model, "bold"))
        for change in comparison.changes:
            if change.model == model:
                shown.add_row(*map(cell, _change_texts(change)), cell(change.verdict, _STYLES[change.verdict]))
    notes = section("Notes", [("", note) for note in comparison.notes])
    return [shown, notes] if comparison.notes else [shown]


def _change_texts(change: Change) -> tuple[str, ...]:
    before, now = (figure_text(value, change.kind.unit) for value in (change.old, change.new))
    return (
        change.kind.title,
        _number(before) if _unit(before) == _unit(now) else before,
        now,
        f"{change.ratio:.2f}x",
        interval_text(change),
        confidence_text(change),
    )


def interval_text(change: Change) -> str:
    """Of the ratio; nothing where there are too few samples for one."""
    low, high = change.interval
    return "" if change.p is None else f"{low:.2f} - {high:.2f}"


def confidence_text(change: Change) -> str:
    """Never as if something measured were certain."""
    if change.confidence is None:
        return "?"
    return ">99.9%" if change.confidence > 0.999 else f"{change.confidence:.1%}"


def verdict_text(comparison: Comparison) -> str:
    """The whole in one line."""
    counts = ", ".join(
        f"{count} {verdict}" for verdict in ("worse", "better", "unsure") if (count := comparison.count(verdict))
    )
    verdict = "worse" if comparison.is_worse else "no worse"
    return f"Against the earlier run: {verdict} ({counts or 'nothing changed'} by more than {comparison.threshold:.0%})"


def _single(record: Record) -> RenderableType:
    shown = table(
        f"{record.model.label}, {size_text(record.model.file_bytes)}{interrupted_text([record])}",
        ("", "left"),
        ("median", "right"),
        ("spread", "right"),
    )
    _keep_figures_whole(shown)
    for metric in record.metrics:
        texts = (metric.kind.title, figure_text(metric.value, metric.kind.unit), spread_text(metric))
        shown.add_row(*map(cell, texts))
    return shown


def _side_by_side(records: Sequence[Record]) -> RenderableType:
    columns: list[tuple[str, Literal["left", "right"]]] = [(label, "right") for label in short_labels(records)]
    shown = table(f"Side by side{interrupted_text(records)}", ("", "left"), *columns)
    _keep_figures_whole(shown)
    shown.add_row(cell("file"), *(cell(size_text(record.model.file_bytes)) for record in records))
    for kind in kinds_of(records):
        best = best_of(records, kind)
        values = [record.value(kind.name) for record in records]
        texts = ["" if value is None else figure_text(value, kind.unit) for value in values]
        cells = [cell(text, "green" if place == best else "") for place, text in enumerate(texts)]
        shown.add_row(cell(kind.title), *cells)
    return shown


def _keep_figures_whole(shown: Table) -> None:
    """On a narrow terminal, titles fill several lines before figures do."""
    for place, column in enumerate(shown.columns):
        column.no_wrap = place > 0


def short_labels(records: Sequence[Record]) -> list[str]:
    """Quantizations where they tell models apart, else names."""
    quantizations = [record.model.quantization for record in records]
    if len(set(quantizations)) == len(records) and len({record.model.parameters for record in records}) == 1:
        return quantizations
    return [record.model.name for record in records]
