"""Findings of the engine bench: figures with their anchors and bars, as a table and as a JSON document."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from bench.engine_turns import Samples, Speed
from edge.devices import examine_machine
from edge.tables import cell, show, table

_PACKAGES = ("edge-llm", "llama-cpp-python", "llguidance", "numpy")
_STYLES = {"holds": "green", "missed": "bold red", "skipped": "yellow", "shown": ""}
_LEAST_WIDTH = 170  # the table is of no use when its columns are broken into lines
Unit = Literal["x", "%", "", "ms"]


@dataclass(frozen=True)
class Bar:
    """What a figure must reach, or must not exceed."""

    limit: float
    kind: Literal["at least", "at most"]

    def shortfall(self, value: float) -> float:
        """By how much a value misses the bar, as a share of it (of a bar of 0, as it is); 0 or less if it holds."""
        missing = self.limit - value if self.kind == "at least" else value - self.limit
        return missing / self.limit if self.limit else missing


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was measured on our side and at the anchor, and the figure that the bar is for."""

    row: str
    """By which `--rows` finds it."""
    title: str
    ours: str = ""
    anchor: str = ""
    against: str = ""
    """What the anchor is."""
    value: float | None = None
    """None: not measured, and `note` says why."""
    unit: Unit = "x"
    bar: Bar | None = None
    spread: tuple[float, float] | None = None
    """Quartiles of `value` over the rounds."""
    note: str = ""
    samples: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "skipped"
        if self.bar is None:
            return "shown"
        return "missed" if self.bar.shortfall(self.value) > 0 else "holds"

    @property
    def is_missed(self) -> bool:
        return self.verdict == "missed"


def skipped(row: str, title: str, reason: str) -> Finding:
    """A row that could not be measured."""
    return Finding(row, title, note=reason)


def speed_finding(
    row: str, title: str, against: str, speeds: tuple[list[Speed], list[Speed]], bar: Bar, note: str = ""
) -> Finding:
    """Both sides' tokens per second; the note has the same figure in processor time."""
    wall, cpu = (
        Samples(*([getattr(speed, name) for speed in side] for side in speeds))
        for name in ("per_second", "per_cpu_second")
    )
    ours, anchor = wall.medians
    low, high = cpu.spread
    return Finding(
        row,
        title,
        f"{ours:.1f} tok/s",
        f"{anchor:.1f} tok/s",
        against,
        wall.ratio,
        bar=bar,
        spread=wall.spread,
        note=f"{note} {cpu.ratio:.3f}x in processor time ({low:.3f} - {high:.3f}).".lstrip(),
        samples={**wall.document, "cpu": cpu.document},
    )


def print_table(findings: Sequence[Finding], title: str) -> None:
    shown = table(
        title,
        ("", "left"),
        ("edge", "right"),
        ("anchor", "right"),
        ("", "left"),
        ("figure", "right"),
        ("quartiles", "right"),
        ("bar", "right"),
        ("", "left"),
    )
    for column in shown.columns:
        column.no_wrap = True
    for finding in findings:
        texts = (finding.title, finding.ours, finding.anchor, finding.against, _value_text(finding))
        bounds = (_spread_text(finding), _bar_text(finding))
        shown.add_row(*map(cell, (*texts, *bounds)), cell(_verdict_text(finding), _STYLES[finding.verdict]))
    notes = [f"{finding.title}: {finding.note}" for finding in findings if finding.note]
    show(shown, *map(cell, (*notes, machine_line())), least_width=_LEAST_WIDTH)


def machine_line() -> str:
    """The machine and the versions that the figures belong to."""
    machine = examine_machine()
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    return f"{machine.cpu.name}, {machine.cores.physical} cores; {versions}"


def result_document(findings: Sequence[Finding], case: Any) -> dict[str, Any]:
    """Figures and verdicts first, each with its samples, then the conditions they were measured in."""
    return {
        "findings": [
            {**asdict(finding), "verdict": finding.verdict, "shortfall": _shortfall(finding)} for finding in findings
        ],
        "case": {name: value for name, value in asdict(case).items() if name != "schema"},
        "machine": asdict(examine_machine()),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _shortfall(finding: Finding) -> float | None:
    return None if finding.bar is None or finding.value is None else finding.bar.shortfall(finding.value)


def _verdict_text(finding: Finding) -> str:
    if not finding.is_missed:
        return finding.verdict
    assert finding.bar is not None and finding.value is not None
    missing = finding.bar.shortfall(finding.value)
    return f"missed by {missing:.1%}" if finding.bar.limit else f"missed by {_number(missing, finding.unit)}"


def _value_text(finding: Finding) -> str:
    return "" if finding.value is None else _number(finding.value, finding.unit)


def _spread_text(finding: Finding) -> str:
    if finding.spread is None:
        return ""
    return " - ".join(_number(value, finding.unit) for value in finding.spread)


def _bar_text(finding: Finding) -> str:
    if finding.bar is None:
        return ""
    sign = "≥" if finding.bar.kind == "at least" else "≤"
    return f"{sign} {_number(finding.bar.limit, finding.unit)}"


def _number(value: float, unit: Unit) -> str:
    if unit == "%":
        return f"{value:.1%}"
    if unit == "":
        return f"{value:,.0f}"
    return f"{value:.3f}x" if unit == "x" else f"{value:.3f} {unit}"
