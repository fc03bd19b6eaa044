"""The report of a run as one HTML page that needs nothing else: no script, no host, for light and dark screens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from bench.compare import Change, Comparison
from bench.html_plots import Axis, Bar, Series, bar_plot, legend, line_plot, point_plot
from bench.record import Metric, Record
from bench.report import (
    best_of,
    conditions,
    confidence_text,
    figure_text,
    interrupted_text,
    interval_text,
    kinds_of,
    short_labels,
    significant,
    spread_text,
    threads_text,
    verdict_text,
)
from edge.quantities import size_text

_STYLE_FILE = Path(__file__).with_name("html_report.css")
_MOST_CURVE_POINTS = 160
_SHOWN_FROM_MEDIAN = 0.1
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html_report(records: Sequence[Record], comparison: Comparison | None = None) -> str:
    """The whole page: figures side by side, plots, quality, what changed, and what it was measured with."""
    labels = short_labels(records)
    title = "edge bench: " + ", ".join(dict.fromkeys(record.model.name for record in records))
    sections = [
        _header(records),
        _comparison(comparison) if comparison else "",
        f'<div class="plots">{"".join(_plots(records, labels))}</div>',
        _figures(records, labels),
        _quality(records, labels),
        _conditions(records),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE_FILE.read_text('utf-8')}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(records: Sequence[Record]) -> str:
    first = records[0]
    is_one_model = len({record.model.parameters for record in records}) == 1
    which = "Which quantization?" if is_one_model else "Which model?"
    what = which if len(records) > 1 else first.model.label
    what += interrupted_text(records)
    cards = "" if len(records) > 1 else _cards(first)
    return (
        f"<header><h1>{escape(what)}</h1><p>{escape(first.machine['cpu']['name'])},"
        f" {threads_text(first.settings['threads'])}, {escape(first.started)}</p>{cards}</header>"
    )


def _cards(record: Record) -> str:
    wanted = [metric for metric in record.metrics if metric.kind.name.startswith(("pp", "tg", "ttft"))]
    wanted = [metric for metric in wanted if "_" not in metric.kind.name]
    wanted += [metric for name in ("peak_rss", "warm_start", "divergence") if (metric := record.metric(name))]
    cards = [
        f"<div><b>{escape(figure_text(each.value, each.kind.unit))}</b><span>{escape(each.kind.title)}</span></div>"
        for each in wanted
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


# Tables


def _figures(records: Sequence[Record], labels: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    sizes = "".join(f"<td>{size_text(record.model.file_bytes)}</td>" for record in records)
    rows = [f"<tr><th>file</th>{sizes}</tr>"]
    for kind in kinds_of(records):
        best = best_of(records, kind)
        cells = [_figure_cell(record.metric(kind.name), is_best=place == best) for place, record in enumerate(records)]
        rows.append(f"<tr><th>{escape(kind.title)}</th>{''.join(cells)}</tr>")
    return (
        f'<section><h2>Figures</h2><div class="wide"><table class="figures"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p class='hint'>Medians; below each its quartiles, or its standard error. Marked is what is better than all"
        " others beyond these.</p></section>"
    )


def _figure_cell(metric: Metric | None, *, is_best: bool) -> str:
    if metric is None:
        return "<td></td>"
    style = ' class="best"' if is_best else ""
    spread = spread_text(metric)
    below = f"<small>{escape(spread)}</small>" if spread else ""
    return f"<td{style}>{escape(figure_text(metric.value, metric.kind.unit))}{below}</td>"


def _quality(records: Sequence[Record], labels: Sequence[str]) -> str:
    """The distribution of the divergence, for each reference."""
    rows = []
    for record, label in zip(records, labels, strict=True):
        for quality in record.quality:
            shares = "".join(f"<td>{significant(value)}</td>" for value in quality["divergence_percentiles"].values())
            rows.append(
                f"<tr><th>{escape(label)}</th><td>{escape(quality['reference'])}</td><td>{quality['positions']:,}</td>"
                f"<td>{significant(quality['largest_divergence'])}</td>{shares}"
                f"<td>{100 * quality['probability_difference_rms']['value']:.2f} %</td></tr>"
            )
    if not rows:
        return ""
    names = "".join(f"<th>{escape(share)}</th>" for share in records_shares(records))
    text = next(quality["text"] for record in records for quality in record.quality)
    head = f"<th></th><th>against</th><th>tokens</th><th>largest</th>{names}<th>RMS Δp</th>"
    return (
        f'<section><h2>KL divergence, token by token</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div><p class='hint'>In nats, over {escape(text)}."
        " Percentiles: of all tokens, so many are at or below.</p></section>"
    )


def records_shares(records: Sequence[Record]) -> list[str]:
    """The percentiles that the records have of divergences."""
    return next(list(quality["divergence_percentiles"]) for record in records for quality in record.quality)


def _comparison(comparison: Comparison) -> str:
    """What changed; what did not is there to be unfolded."""
    changed = [change for change in comparison.changes if change.verdict != "same"]
    unchanged = [change for change in comparison.changes if change.verdict == "same"]
    has_models = len({change.model for change in comparison.changes}) > 1
    parts = [_changes_table(changed, has_models=has_models)] if changed else []
    if unchanged:
        parts.append(
            f"<details><summary>{len(unchanged)} unchanged</summary>"
            f"{_changes_table(unchanged, has_models=has_models)}</details>"
        )
    parts += [f"<p class='hint'>{escape(note)}</p>" for note in comparison.notes]
    return f"<section><h2>{escape(verdict_text(comparison))}</h2>{''.join(parts)}</section>"


def _changes_table(changes: Sequence[Change], *, has_models: bool) -> str:
    rows = "".join(_change_row(change, has_model=has_models) for change in changes)
    return (
        f'<div class="wide"><table class="changes"><thead><tr><th></th>{"<th></th>" if has_models else ""}'
        "<th>before</th><th>now</th>"
        f"<th>ratio</th><th>confidence</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _change_row(change: Change, *, has_model: bool) -> str:
    unit = change.kind.unit
    model = f"<th>{escape(change.model)}</th>" if has_model else ""
    return (
        f"<tr>{model}<th>{escape(change.kind.title)}</th>"
        f"<td>{escape(figure_text(change.old, unit))}</td><td>{escape(figure_text(change.new, unit))}</td>"
        f"<td>{change.ratio:.2f}x<small>{interval_text(change)}</small></td>"
        f'<td>{escape(confidence_text(change))}</td><td class="{change.verdict}">{change.verdict}</td></tr>'
    )


def _conditions(records: Sequence[Record]) -> str:
    rows = [f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in conditions(records[0])]
    rows += [
        f"<tr><th>{escape(record.model.quantization)}</th><td>{escape(record.model.path)}</td></tr>"
        for record in records
    ]
    notes = dict.fromkeys(note for record in records for note in record.notes)
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<section><h2>Measured with</h2><table class="conditions"><tbody>{"".join(rows)}</tbody></table>'
        f"{f'<ul>{listed}</ul>' if notes else ''}</section>"
    )


# Plots


def _plots(records: Sequence[Record], labels: Sequence[str]) -> Iterator[str]:
    names = legend(labels) if len(records) > 1 else ""
    yield _figure("Quality against size", quality_plot(records, labels), "")
    yield _figure("Prefill and decode", speed_plot(records, labels), "")
    yield _figure("Throughput over streams", streams_plot(records, labels), names)
    yield _figure("Time between tokens", latency_plot(records, labels), names)
    yield _figure("Memory of a fresh process", memory_plot(records, labels), names)


def _figure(title: str, plot: str, below: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{plot}{below}</figure>" if plot else ""


def quality_plot(records: Sequence[Record], labels: Sequence[str]) -> str:
    """File size and KL divergence of each model; "" if there are no divergences."""
    series = []
    for record, label in zip(records, labels, strict=True):
        metric = record.metric("divergence")
        if metric and metric.value > 0:
            value, error = metric.value, metric.standard_error or 0.0
            spread = (max(value / 10, value - 1.96 * error), value + 1.96 * error)
            series.append(Series(label, ((float(record.model.file_bytes), value),), (spread,)))
    if not series:
        return ""
    size = Axis("file size", lambda value: size_text(round(value)), starts_at_zero=False)
    divergence = Axis("mean KL divergence, nats", lambda value: f"{value:g}", is_logarithmic=True)
    return point_plot("Mean KL divergence from the reference against file size", series, size, divergence)


def speed_plot(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Prefill and decode of each model; at decode the ceiling of memory bandwidth as a mark."""
    groups = []
    settings = records[0].settings
    for name in (f"pp{settings['prompt_tokens']}", f"tg{settings['generated_tokens']}"):
        bars = [
            _speed_bar(record, metric, label)
            for record, label in zip(records, labels, strict=True)
            if (metric := record.metric(name))
        ]
        if bars:
            titles = {metric.kind.name: metric.kind.title for record in records for metric in record.metrics}
            has_limit = any(bar.limit is not None for bar in bars)
            groups.append((f"{titles[name]}{' (mark: what memory allows, predicted)' if has_limit else ''}", bars))
    return bar_plot("Tokens per second of prefill and decode", groups) if groups else ""


def _speed_bar(record: Record, metric: Metric, label: str) -> Bar:
    is_decode = metric.kind.name.startswith("tg")
    limit = record.ceiling["tokens_per_second"] if is_decode and record.ceiling else None
    return Bar(label, metric.value, figure_text(metric.value, metric.kind.unit), metric.summary.quartiles, limit)


def streams_plot(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Tokens per second of all streams together."""
    series = []
    for record, label in zip(records, labels, strict=True):
        found = [(streams, record.metric(f"streams{streams}")) for streams in record.settings["streams"]]
        known = [(float(streams), metric) for streams, metric in found if metric]
        if known:
            points = tuple((streams, metric.value) for streams, metric in known)
            series.append(Series(label, points, tuple(metric.summary.quartiles for _, metric in known)))
    if not series:
        return ""
    asked = sorted({streams for record in records for streams in record.settings["streams"]})
    x = Axis("streams at the same time", lambda value: f"{value:g}", ticks=tuple(map(float, asked)))
    return line_plot("Tokens per second over streams", series, x, Axis("tokens per second, together", significant_tick))


def latency_plot(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Of one model a curve for each number of streams, of several a curve for each model with the fewest."""
    curves: list[tuple[str, Sequence[float]]] = []
    for record, label in zip(records, labels, strict=True):
        for streams, gaps in record.gaps_seconds.items():
            if len(records) == 1:
                curves.append((f"{streams} stream{'s' * (streams != '1')}", gaps))
            elif streams == next(iter(record.gaps_seconds)):
                curves.append((label, gaps))
    series = [Series(name, _without_shortest(cumulative(gaps))) for name, gaps in curves if gaps]
    if not series:
        return ""
    x = Axis("milliseconds from one token to the next", significant_tick, is_logarithmic=True)
    y = Axis("share of tokens", lambda value: f"{value:.0%}")
    plot = line_plot("Distribution of the time between tokens", series, x, y, dots=False)
    return plot + (legend([each.label for each in series]) if len(records) == 1 else "")


def memory_plot(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Resident memory over time; of one model with what of it is no file's, and when its phases began."""
    series = []
    for record, label in zip(records, labels, strict=True):
        if record.memory and record.memory["timeline"]:
            timeline = record.memory["timeline"]
            series.append(Series(label, tuple((point[0], float(point[1])) for point in timeline)))
    if not series:
        return ""
    marks: list[tuple[float, str]] = []
    below = ""
    if len(records) == 1 and records[0].memory:
        timeline = records[0].memory["timeline"]
        series = [
            Series("resident", series[0].points),
            Series("of it not of files", tuple((point[0], float(point[2])) for point in timeline)),
        ]
        marks = [(seconds, name) for name, seconds in records[0].memory["phases"] if name != "end"]
        below = legend([each.label for each in series])
    x = Axis("seconds since the process was started", lambda value: f"{value:g}")
    y = Axis("memory", lambda value: size_text(round(value)) if value else "0")
    return line_plot("Resident memory of a fresh process over time", series, x, y, marks, dots=False) + below


def _without_shortest(curve: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """From a tenth of the median on: tokens that waited for their reader came at once, and would stretch the axis."""
    median_milliseconds = min(curve, key=lambda point: abs(point[1] - 0.5))[0]
    return tuple(point for point in curve if point[0] >= _SHOWN_FROM_MEDIAN * median_milliseconds)


def cumulative(gaps_seconds: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(milliseconds, share of gaps that are no longer), as many points as a curve needs."""
    count = min(len(gaps_seconds), _MOST_CURVE_POINTS)
    shares = np.linspace(0, 1, count) if count > 1 else np.array([1.0])
    values = np.quantile(np.asarray(gaps_seconds), shares)
    return tuple((1000 * float(value), float(share)) for value, share in zip(values, shares, strict=True))


def significant_tick(value: float) -> str:
    return f"{value:g}"
