"""The command that plans: edge plan. Everything heavy is imported inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import EdgeError
from edge.results import Json, print_result

if TYPE_CHECKING:
    from edge.device_profiles import Device


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A .gguf file, a checkpoint directory, org/name[:QUANT], or demo.")
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="rtx-3060-12gb, rtx-4070-12gb, raspberry-pi-5-8gb, laptop-16gb, or this (default).",
        ),
    ] = None,
    vram: Annotated[
        str | None, typer.Option("--vram", metavar="SIZE", help="Graphics memory that is free, such as 12GB.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", metavar="SIZE", help="Main memory that is free, such as 16GB.")
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option("--bandwidth", metavar="RATE", help="Of the graphics card, or of main memory: 360GB/s."),
    ] = None,
    context: Annotated[int | None, typer.Option("--ctx", metavar="N", help="Plan for this context only.")] = None,
    as_json: Json = False,
) -> None:
    """Show which quantization and settings suit a device: memory, speed and quality, predicted. Nothing is loaded."""
    from edge.plan import make_plan
    from edge.plan_report import document, render
    from edge.plan_source import find_model, smaller_model_hint

    chosen = _device(device, vram, ram, bandwidth)
    found = find_model(model)
    if context is not None and context < 16:
        raise EdgeError(f"A context of {context} tokens was asked for.", hint="Ask for at least 16 with --ctx.")
    try:
        planned = make_plan(found.candidates, chosen, context)
    except EdgeError as error:
        if "more than is free" not in error.message:
            raise
        free = max(chosen.ram.free_bytes, chosen.graphics.free_bytes if chosen.graphics else 0)
        raise EdgeError(
            f"{model} fits nowhere on {chosen.name}: {error.message}", hint=smaller_model_hint(free)
        ) from error
    print_result(document(found, planned), [*render(found, planned)], as_json)


def _device(name: str | None, vram: str | None, ram: str | None, bandwidth: str | None) -> Device:
    from edge.device_profiles import THIS, described_device, find_device

    described = {"--vram": vram, "--ram": ram, "--bandwidth": bandwidth}
    given = [option for option, value in described.items() if value is not None]
    if name is not None and given:
        raise EdgeError(f"--device and {given[0]} exclude each other.", hint="Name a device or describe one.")
    if given:
        return described_device(vram=vram, ram=ram, bandwidth=bandwidth)
    return find_device(THIS if name is None else name)
