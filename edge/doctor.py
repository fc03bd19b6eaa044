"""What `edge doctor` reports: versions, processor, memory, disk, graphics, speed, and what could be better.

Gathering the facts and judging them are separate: `examine` asks machine and library, findings only compare.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge.ceiling import Bandwidth, measure_bandwidth
from edge.decode_speed import DecodeSpeed, measure_decode
from edge.devices import Machine, examine_machine
from edge.doctor_facts import Conditions, Disk, Installation, examine_installation, read_conditions, read_disk
from edge.doctor_findings import findings
from edge.finding import Finding
from edge.throttling import read_throttle_state, was_throttled


@dataclass(frozen=True)
class Report:
    machine: Machine
    installation: Installation
    threads: int
    """What a model is run with when nobody says otherwise."""
    disk: Disk | None
    findings: tuple[Finding, ...]
    conditions: Conditions
    bandwidth: Bandwidth
    decode: DecodeSpeed | None = None

    def to_json(self) -> dict[str, Any]:
        decode = {**asdict(self.decode), "share": self.decode.share} if self.decode else None
        return {**asdict(self), "conditions": self.conditions.document, "decode": decode}


def examine(cache_folder: Path | None = None, model: Path | None = None) -> Report:
    """The report on this machine; `cache_folder` is where models will be kept, whether it exists yet or not.

    Bandwidth is measured, and how fast `model` decodes. EdgeError for a model that cannot be opened.
    """
    machine, installation, before = examine_machine(), examine_installation(), read_conditions()
    disk = read_disk(cache_folder) if cache_folder else None
    threads = machine.cores.usable
    bandwidth = measure_bandwidth(threads, available_bytes=machine.ram.available_bytes)
    decode = measure_decode(model, threads, bandwidth) if model else None
    conditions = replace(before, was_throttled=was_throttled(before.throttling, read_throttle_state()))
    found = tuple(findings(machine, installation, disk, conditions, decode))
    return Report(machine, installation, threads, disk, found, conditions, bandwidth, decode)
