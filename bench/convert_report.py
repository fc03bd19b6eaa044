"""What a conversion bench found, as a JSON document and as a table."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

from bench.convert_sides import OURS, Case
from bench.encode import KindRates
from bench.process import Measurement
from edge.devices import examine_machine
from edge.tables import cell, show, table

_PACKAGES = ("edge-llm", "llama-cpp-python", "numpy")


@dataclass(frozen=True)
class SideRun:
    """One run of a side: its steps by name. The source was read at `source_read_rate` bytes/s just before."""

    name: str
    steps: tuple[tuple[str, Measurement], ...]
    output_bytes: int
    output_disk_bytes: int
    """What the outputs take on the disk, whose blocks are larger than their last bytes."""
    source_read_rate: float
    tensor_types: tuple[str, ...]
    """The types in the outputs."""

    @property
    def wall_seconds(self) -> float:
        return sum(measurement.wall_seconds for _, measurement in self.steps)

    @property
    def peak_rss_bytes(self) -> int:
        return max(measurement.peak_rss_bytes for _, measurement in self.steps)

    @property
    def temporary_bytes(self) -> int:
        """What lay on the disk at the worst moment and is no result."""
        return max(0, max(measurement.peak_disk_bytes for _, measurement in self.steps) - self.output_disk_bytes)


@dataclass(frozen=True)
class Round:
    """Every side once, our own read-back, and how fast the disk was at the time (bytes per second)."""

    sides: tuple[SideRun, ...]
    read_back: Measurement
    disk_write_rate: float


@dataclass(frozen=True)
class Result:
    case: Case
    parameter_count: int
    source_bytes: int
    rounds: tuple[Round, ...]
    encoders: tuple[KindRates, ...]
    """Our encoder and ggml's for the quantized types of our outputs."""

    @property
    def side_names(self) -> list[str]:
        return [side.name for side in self.rounds[0].sides]

    def side_median(self, name: str, value: Callable[[SideRun], float]) -> float:
        return median(value(side) for one in self.rounds for side in one.sides if side.name == name)

    def wall_ratio(self, name: str) -> float:
        """Our median wall time as a share of another side's."""
        ours, other = (self.side_median(side, lambda run: run.wall_seconds) for side in (OURS, name))
        return ours / other

    def nanoseconds_per_weight_and_core(self, name: str) -> float:
        seconds = self.side_median(name, lambda run: run.wall_seconds)
        return seconds * self.case.threads / self.parameter_count * 1e9

    def least_seconds(self) -> dict[str, float]:
        """What reading the source, encoding and writing would each take our side if it had not to wait for the others.

        Encoding has the processor time of the whole conversion, spread over its threads.
        """
        cpu = self.side_median(OURS, lambda run: sum(measurement.cpu_seconds for _, measurement in run.steps))
        return {
            "reading": self.source_bytes / self.side_median(OURS, lambda run: run.source_read_rate),
            "encoding": cpu / self.case.threads,
            "writing": self.side_median(OURS, lambda run: run.output_bytes)
            / median(one.disk_write_rate for one in self.rounds),
        }


def result_document(result: Result) -> dict[str, Any]:
    """Medians first, then the conditions they were measured in, then every sample."""
    case = result.case
    return {
        "case": {
            "parameters": result.parameter_count,
            "source_bytes": result.source_bytes,
            "quantizations": list(case.quantizations),
            "threads": case.threads,
            "rounds": len(result.rounds),
        },
        "sides": [_side_document(result, name) for name in result.side_names],
        "wall_ratio": {name: round(result.wall_ratio(name), 4) for name in result.side_names if name != OURS},
        "read_back_seconds": median(one.read_back.wall_seconds for one in result.rounds),
        "outputs": "the same bytes in every quantized tensor of every side",
        "page_cache": "the source was read once just before each side; outputs end with fsync on our side only",
        "encoders": [asdict(rates) for rates in result.encoders],
        "least_seconds": result.least_seconds(),
        "disk_write_bytes_per_second": median(one.disk_write_rate for one in result.rounds),
        "machine": asdict(examine_machine()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "samples": [asdict(one) for one in result.rounds],
    }


def _side_document(result: Result, name: str) -> dict[str, Any]:
    steps = _step_medians(result, name)
    return {
        "name": name,
        "wall_seconds": result.side_median(name, lambda run: run.wall_seconds),
        "peak_rss_bytes": result.side_median(name, lambda run: run.peak_rss_bytes),
        "temporary_bytes": result.side_median(name, lambda run: run.temporary_bytes),
        "output_bytes": result.side_median(name, lambda run: run.output_bytes),
        "nanoseconds_per_weight_and_core": round(result.nanoseconds_per_weight_and_core(name), 2),
        "source_read_bytes_per_second": result.side_median(name, lambda run: run.source_read_rate),
        "steps": [{"name": step, **asdict(measurement)} for step, measurement in steps.items()],
    }


def _step_medians(result: Result, name: str) -> dict[str, Measurement]:
    """The median of each figure of each step of a side."""
    samples: dict[str, list[Measurement]] = {}
    for one in result.rounds:
        for side in one.sides:
            if side.name == name:
                for step, measurement in side.steps:
                    samples.setdefault(step, []).append(measurement)
    return {step: median_measurement(measurements) for step, measurements in samples.items()}


def median_measurement(measurements: list[Measurement]) -> Measurement:
    return Measurement(
        wall_seconds=median(each.wall_seconds for each in measurements),
        cpu_seconds=median(each.cpu_seconds for each in measurements),
        peak_rss_bytes=round(median(each.peak_rss_bytes for each in measurements)),
        peak_disk_bytes=round(median(each.peak_disk_bytes for each in measurements)),
    )


def print_table(result: Result) -> None:
    case = result.case
    title = (
        f"{result.parameter_count:,} parameters to {', '.join(case.quantizations)},"
        f" {case.threads} threads, median of {len(result.rounds)}"
    )
    shown = table(
        title,
        ("side", "left"),
        ("wall s", "right"),
        ("CPU s", "right"),
        ("RSS MB", "right"),
        ("temp MB", "right"),
        ("ns/weight", "right"),
    )
    for name in result.side_names:
        steps = _step_medians(result, name)
        shown.add_row(
            name,
            f"{result.side_median(name, lambda run: run.wall_seconds):.1f}",
            f"{sum(step.cpu_seconds for step in steps.values()):.1f}",
            f"{result.side_median(name, lambda run: run.peak_rss_bytes) / 1e6:,.0f}",
            f"{result.side_median(name, lambda run: run.temporary_bytes) / 1e6:,.0f}",
            f"{result.nanoseconds_per_weight_and_core(name):.1f}",
        )
        if len(steps) > 1:
            for step, measurement in steps.items():
                shown.add_row(
                    f"  {step}",
                    f"{measurement.wall_seconds:.1f}",
                    f"{measurement.cpu_seconds:.1f}",
                    f"{measurement.peak_rss_bytes / 1e6:,.0f}",
                )
    show(shown, *map(cell, summary(result)))


def summary(result: Result) -> list[str]:
    """The claim, and what it was measured on."""
    machine = examine_machine()
    others = [name for name in result.side_names if name != OURS]
    read_back = median(one.read_back.wall_seconds for one in result.rounds)
    disk = median(one.disk_write_rate for one in result.rounds)
    read = result.side_median(OURS, lambda run: run.source_read_rate)
    least = result.least_seconds()
    shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in least.items())
    return [
        *(f"edge takes {result.wall_ratio(name):.2f} of the time of: {name}" for name in others),
        "RSS is the peak of the largest step, temp what lay on the disk besides results, ns times cores.",
        "All sides made the same quantized bytes. The source was in the page cache; only edge's time includes fsync.",
        f"Reading the files back against the checkpoint takes edge {read_back:.1f} s more.",
        *(
            f"{rates.kind}, one core: {rates.plain.ours:.1f} ns per weight, ggml {rates.plain.ggml:.1f}"
            f" ({rates.plain.ratio:.1f}x)"
            for rates in result.encoders
        ),
        f"Limit: {max(least, key=lambda name: least[name])}. By itself each would take edge: {shares}.",
        f"{machine.cpu.name}, {machine.cores.physical} cores; source read at {read / 1e6:,.0f} MB/s;"
        f" plain write and fsync: {disk / 1e6:,.0f} MB/s;"
        f" llama-cpp-python {version('llama-cpp-python')}",
    ]
