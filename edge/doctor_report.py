"""How `edge doctor` shows its report: sections of facts, and what could be better last."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.doctor import Report
from edge.doctor_facts import Installation
from edge.finding import Finding
from edge.placement import Placement
from edge.quantities import size_text
from edge.system_files import number_list_text
from edge.tables import TITLE_STYLE, cell, section

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


def render(report: Report) -> RenderableType:
    """The report in sections, what could be better last."""
    from rich.console import Group

    sections = [
        section("Versions", [(name, found or "not installed") for name, found in report.installation.versions.items()]),
        section("Processor", _processor_rows(report)),
        section("Placement and speed", _speed_rows(report)),
        section("Memory and disk", _memory_rows(report)),
        section("Graphics", _graphics_rows(report)),
    ]
    parts = [part for each in sections for part in (each, "")]
    return Group(*parts, cell("Findings", TITLE_STYLE), *_finding_lines(report.findings))


def _processor_rows(report: Report) -> list[tuple[str, str]]:
    cores, installation = report.machine.cores, report.installation
    unused = [name for name in report.machine.cpu.simd if name not in installation.simd]
    quota = f", {cores.quota:g} granted by the control group" if cores.quota is not None else ""
    return [
        ("system", report.machine.system),
        ("name", report.machine.cpu.name),
        ("cores", f"{cores.physical} ({cores.logical} hardware threads){quota}"),
        ("threads used", str(report.threads)),
        ("instructions used", ", ".join(installation.simd) or "none beyond the baseline"),
        ("not used", ", ".join(unused) or "none"),
        ("quantizes with", _encoder_text(installation)),
        ("library features", ", ".join(installation.features) or "none"),
    ]


def _speed_rows(report: Report) -> list[tuple[str, str]]:
    now, rows = report.conditions, []
    if now.placement.online:
        rows.append(("hardware threads", _placement_text(now.placement)))
    if now.load is not None:
        rows.append(("load", f"{now.load:g}"))
    if now.clock.highest:
        current = f"{now.clock.current / 1e6:.1f} of " if now.clock.current else ""
        rows.append(("clock", f"{current}{now.clock.highest / 1e6:.1f} GHz, governor {now.clock.governor}"))
    if now.heat:
        slows = f", slows down at {now.heat.slows_at:.0f}" if now.heat.slows_at else ""
        rows.append(("temperature", f"{now.heat.degrees:.0f} degrees Celsius ({now.heat.zone}){slows}"))
    rows.append(("throttling", _throttling_text(report)))
    rows.append(("memory bandwidth", f"{report.bandwidth.highest / 1e9:.1f} GB/s with {report.threads} threads"))
    if speed := report.decode:
        rows.append(
            (
                "decode",
                f"{speed.tokens_per_second:.1f} tokens/s with {speed.model}: {speed.share:.0%} of the"
                f" {speed.allowed_tokens_per_second:.1f} that memory allows",
            )
        )
    else:
        rows.append(("decode", "not measured: edge doctor MODEL does"))
    return rows


def _placement_text(placement: Placement) -> str:
    slow = f", slow ones {number_list_text(placement.slow)}" if placement.slow else ""
    nodes = f", on {len(placement.nodes)} NUMA nodes" if len(placement.nodes) > 1 else ""
    return f"{number_list_text(placement.allowed)} of {number_list_text(placement.online)} allowed{slow}{nodes}"


def _throttling_text(report: Report) -> str:
    state = report.conditions.throttling
    if report.conditions.was_throttled:
        return "slowed itself down while it was measured"
    if not state.is_known:
        return "this system does not tell"
    return "none while it was measured" + (f", {state.events} times since the start" if state.events else "")


def _encoder_text(installation: Installation) -> str:
    if installation.encoder == "ggml":
        return "ggml"
    left = installation.types_left_to_ggml
    exceptions = f"; {', '.join(left)} with ggml, for the same bytes" if left else ""
    return f"{installation.encoder} instructions{exceptions}"


def _memory_rows(report: Report) -> list[tuple[str, str]]:
    ram, disk = report.machine.ram, report.disk
    rows = [("RAM", f"{size_text(ram.available_bytes)} available of {size_text(ram.total_bytes)}")]
    if ram.limit_bytes is not None:
        rows.append(("control group", f"at most {size_text(ram.limit_bytes)}"))
    swap = report.conditions.swap
    if swap.total_bytes:
        rows.append(("swap", f"{size_text(swap.used_bytes)} of {size_text(swap.total_bytes)} used"))
    if disk is not None:
        rows.append(("disk", f"{size_text(disk.free_bytes)} free of {size_text(disk.total_bytes)} for {disk.path}"))
    return rows


def _graphics_rows(report: Report) -> list[tuple[str, str]]:
    rows = [("seen", f"{gpu.name}{'' if gpu.has_driver else ' (no compute driver)'}") for gpu in report.machine.gpus]
    rows = rows or [("seen", "no GPU that llama.cpp could use")]
    if driver := report.conditions.nvidia_driver:
        rows.append(("driver", f"NVIDIA {driver}"))
    rows.append(("offload", "supported" if report.installation.supports_gpu_offload else "not compiled in"))
    for device in report.installation.devices:
        rows.append((device.name, f"{device.description} ({device.kind}, {size_text(device.total_bytes)})"))
    return rows


def _finding_lines(found: tuple[Finding, ...]) -> Iterator[Text]:
    if not found:
        yield cell("Nothing to improve: this installation uses what the machine has.", "green")
    for finding in found:
        yield cell(f"! {finding.what}", "yellow")
        yield from (cell(_indented(text)) for text in (finding.why, finding.hint) if text)
        if finding.command:
            yield cell(_continued(finding.command), "bold")


def _indented(text: str) -> str:
    return textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="  ")


def _continued(command: str) -> str:
    """A long command over several lines as the shell allows it, so that it can still be copied."""
    lines = textwrap.wrap(command, 72, break_long_words=False, break_on_hyphens=False)
    mark = "`" if sys.platform == "win32" else "\\"
    return textwrap.indent(f" {mark}\n  ".join(lines), "  ")
