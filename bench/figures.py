"""What was measured as the figures of a record, each with its samples or its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.fresh_start import FreshStart
from bench.measure import Sample
from bench.quality import Estimate, Quality
from bench.record import Metric, MetricKind


def fresh_metrics(starts: Sequence[FreshStart]) -> list[Metric]:
    """Times and memory of fresh processes."""
    cold = [start for start in starts if not start.was_in_memory]
    warm = [start for start in starts if start.was_in_memory]
    rows: list[tuple[MetricKind, list[float]]] = [
        (
            MetricKind("cold_start", "first token of a fresh process, file from disk", "s", "lower"),
            [start.first_token_seconds for start in cold],
        ),
        (
            MetricKind("warm_start", "first token of a fresh process, file in memory", "s", "lower"),
            [start.first_token_seconds for start in warm],
        ),
        (MetricKind("load", "loading, file in memory", "s", "lower"), [start.load_seconds for start in warm]),
        (
            MetricKind("peak_rss", "peak memory of the process", "bytes", "lower"),
            [float(start.peak_rss_bytes) for start in starts],
        ),
        (
            MetricKind("vram", "memory of graphics cards", "bytes", "lower"),
            [float(start.vram_bytes) for start in starts if start.vram_bytes],
        ),
    ]
    return [Metric(kind, tuple(samples)) for kind, samples in rows if samples]


def speed_metrics(by_case: Mapping[str, Sequence[Sample]], kinds: Sequence[MetricKind]) -> list[Metric]:
    """Each figure with its samples, and for each case that was metered the energy of a token."""
    values: dict[str, list[float]] = {}
    for samples in by_case.values():
        for sample in samples:
            for name, value in sample.observation.values.items():
                values.setdefault(name, []).append(value)
    metrics = []
    for kind in kinds:
        if kind.name in values:
            metrics.append(Metric(kind, tuple(values[kind.name])))
        energies = [
            sample.joules / sample.observation.tokens
            for sample in by_case.get(kind.name, ())
            if sample.joules is not None and sample.observation.tokens
        ]
        if energies:
            energy = MetricKind(f"{kind.name}_energy", f"{kind.title}, energy", "J/tok", "lower")
            metrics.append(Metric(energy, tuple(energies)))
    return metrics


def throttling_notes(by_case: Mapping[str, Sequence[Sample]]) -> list[str]:
    """What a reader has to know where the machine slowed itself down."""
    again = sum(sample.attempts - 1 for samples in by_case.values() for sample in samples)
    slow = {name for name, samples in by_case.items() if any(sample.is_throttled for sample in samples)}
    notes = []
    if again:
        notes.append(f"The machine slowed itself down; {again} samples were measured again.")
    if slow:
        notes.append(f"The machine slowed itself down every time in: {', '.join(sorted(slow))}.")
    return notes


def quality_metrics(quality: Quality | Estimate, prefix: str = "") -> list[Metric]:
    """The figures that are compared and shown, each with its standard error."""
    ending = ", cache types against F16" if prefix else ""

    def metric(kind: MetricKind, estimate: Estimate, scale: float = 1.0) -> Metric:
        return Metric(kind, (scale * estimate.value,), scale * estimate.error)

    if isinstance(quality, Estimate):
        return [metric(MetricKind("perplexity", "perplexity", "", "lower"), quality)]
    rows = [
        metric(MetricKind(f"{prefix}divergence", f"KL divergence{ending}", "nats", "lower"), quality.divergence),
        metric(MetricKind(f"{prefix}same_top", f"same likeliest token{ending}", "%", "higher"), quality.same_top, 100),
        metric(
            MetricKind(f"{prefix}perplexity_ratio", f"perplexity against the reference's{ending}", "x", "lower"),
            quality.perplexity_ratio,
        ),
    ]
    if not prefix:
        rows.insert(0, metric(MetricKind("perplexity", "perplexity", "", "lower"), quality.perplexity))
    return rows
