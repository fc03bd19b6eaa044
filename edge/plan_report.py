"""A plan as people read it, and as JSON. Everything in it is predicted, and says so."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edge.device_profiles import Device, MemoryPool
from edge.fitting import GPU_EFFICIENCY, PREFILL_TOKENS, RAM_EFFICIENCY, Fit, may_spread
from edge.memory import DeviceBytes
from edge.plan import Choice, Obstacle, Plan, PlannedSettings
from edge.plan_source import ModelToPlan
from edge.quantities import size_text
from edge.quantization_quality import CACHE_SOURCE, WEIGHTS_SOURCE
from edge.settings import kv_types_text
from edge.tables import cell, section, table

if TYPE_CHECKING:
    from rich.table import Table


def render(model: ModelToPlan, plan: Plan) -> list[Table]:
    """What there is, the choices side by side, and for each one its lines and what keeps the next bigger one away."""
    details = [_details(model, choice, plan.device) for choice in plan.choices]
    return [_about(model, plan), _choices(plan), *details, _sources()]


def _about(model: ModelToPlan, plan: Plan) -> Table:
    device = plan.device
    rows = [("Model", f"{model.reference} ({model.origin})"), ("Device", f"{device.name}: {device.description}")]
    rows += [(name, _pool_text(gpu)) for name, gpu in zip(_card_names(device), device.gpus, strict=True)]
    if len(device.gpus) > 1 and not _spreads(plan):
        rows.append(("One card only", "layers get embeddings of their own; what several cards need is not predicted"))
    if device.idle_gpus:
        names = ", ".join(device.idle_gpus)
        rows.append(("Not used", f"{names}: llama.cpp cannot compute there, and edge doctor says why"))
    rows.append(("Main memory", _pool_text(device.ram)))
    if device.swap_bytes:
        rows.append(("Swap", f"{size_text(device.swap_bytes)} free, not counted: too slow to answer from"))
    return section("Plan", rows)


def _spreads(plan: Plan) -> bool:
    return may_spread(plan.choices[0].fit.candidate.model)


def _card_names(device: Device) -> list[str]:
    """What the cards are called in a plan; numbered where there are several, as llama.cpp numbers them."""
    count = len(device.gpus)
    return ["Graphics memory"] if count == 1 else [f"Graphics card {number}" for number in range(count)]


def _pool_text(pool: MemoryPool) -> str:
    return f"{size_text(pool.free_bytes)} free of {size_text(pool.total_bytes)}, {size_text(int(pool.bandwidth))}/s"


def _choices(plan: Plan) -> Table:
    listed = table(
        "Choices",
        ("For", "left"),
        ("File", "left"),
        ("Context", "right"),
        ("Tokens/s", "right"),
        ("KL, nats", "right"),
    )
    for choice in plan.choices:
        found = choice.fit
        listed.add_row(
            cell(", ".join(choice.roles)),
            cell(f"{found.candidate.quantization}, {size_text(found.candidate.model.weights_bytes)}"),
            cell(_context_text(found)),
            cell(f"{found.tokens_per_second:.1f}"),
            cell("unknown" if choice.quality_cost is None else f"{choice.quality_cost:.4f}"),
        )
    return listed


def _context_text(found: Fit) -> str:
    context = found.context
    if context.sequences == 1:
        return f"{context.context_tokens:,}"
    return f"{context.sequences} x {context.context_tokens // context.sequences:,}"


def _layers_text(found: Fit, layers: int) -> str:
    whole = len(found.candidate.model.shape.layers) + 1
    return "all layers" if layers == whole else f"{layers} of {whole} layers"


def memory_rows(found: Fit, device: Device) -> list[tuple[str, str]]:
    """What each memory holds, and what is left of it even if the prediction errs as far as it may."""
    rows = [
        (name, f"{_layers_text(found, layers)}: {_use_text(used, gpu)}")
        for name, layers, used, gpu in zip(
            _card_names(device), found.gpu_split, found.prediction.gpus, device.gpus, strict=True
        )
    ]
    rows.append(("Main memory", _use_text(found.prediction.ram, device.ram)))
    return rows


def _use_text(used: DeviceBytes, pool: MemoryPool) -> str:
    parts = [
        f"{name} {size_text(size)}"
        for name, size in (
            ("weights", used.weights),
            ("KV cache", used.cache),
            ("compute", used.compute + used.output),
            ("process", used.host),
            ("checkpoints", used.checkpoints),
            ("adapters", used.adapters),
        )
        if size
    ]
    left = size_text(pool.free_bytes - used.with_error)
    return f"{size_text(used.total)} ({', '.join(parts)}), {left} left"


def _details(model: ModelToPlan, choice: Choice, device: Device) -> Table:
    rows = [*memory_rows(choice.fit, device), *command_lines(model, choice)]
    if choice.next_bigger:
        rows.append(("Not more", obstacle_text(choice.next_bigger)))
    return section(", ".join(choice.roles).capitalize(), rows)


def command_lines(model: ModelToPlan, choice: Choice) -> list[tuple[str, str]]:
    """The commands that make the file and run it as planned."""
    settings, target, lines = choice.settings, model.reference, []
    if model.place == "name":
        target = f"{model.reference}:{settings.quantization}"
        lines += [("Fetch", f"edge pull {target}")] if model.reference != "demo" else []
    elif model.place == "directory":
        target = f"{model.reference.rstrip('/').rpartition('/')[2]}-{settings.quantization}.gguf"
        calibration = " --calibrate default" if choice.fit.candidate.needs_matrix else ""
        options = f"--quant {settings.quantization}{calibration} --out {shlex.quote(target)}"
        lines.append(("Convert", f"edge convert {shlex.quote(model.reference)} {options}"))
    target, options = shlex.quote(target), options_text(settings, cards=len(choice.fit.gpu_split))
    if settings.parallel == 1:
        lines.append(("Chat", f"edge chat {target} {options}"))
    lines.append(("Serve", f"edge serve {target} {options} --parallel {settings.parallel}"))
    return lines


def options_text(settings: PlannedSettings, cards: int = 0) -> str:
    """The options that load a model as planned on so many cards; those that are the default anyway are left out."""
    options = [f"--ctx {settings.context_tokens}"]
    types = kv_types_text(settings.key_type, settings.value_type)
    options += [f"--kv-type {types}"] if types != "F16" else []
    is_split = settings.gpu_layers > 0 or (settings.gpu_layers == 0 and cards > 0)
    options += [f"--gpu-layers {settings.gpu_layers}"] if is_split else []
    options += [f"--ubatch {settings.prefill_tokens}"] if settings.prefill_tokens != PREFILL_TOKENS[0] else []
    options += [] if settings.repack_weights else ["--no-repack"]
    return " ".join(options)


def obstacle_text(obstacle: Obstacle) -> str:
    """Why the next bigger thing was not chosen."""
    speed = "" if obstacle.tokens_per_second is None else f"{obstacle.tokens_per_second:.1f} tokens/s"
    if obstacle.shortfall is None:
        return f"{obstacle.what} would give {speed}"
    needed, free = size_text(obstacle.shortfall.needed_bytes), size_text(obstacle.shortfall.free_bytes)
    text = f"{obstacle.what}: needs {needed} of {obstacle.shortfall.memory}, where {free} are free"
    return f"{text}; with layers in main memory it would give {speed}" if speed else text


def _sources() -> Table:
    return section(
        "All of this is predicted",
        (
            (
                "Memory",
                "weights exact; the rest within 3 % or 16 MiB of what llama.cpp reports, taken from what is left",
            ),
            (
                "Tokens/s",
                f"bytes read for a token, with the context half full, at {GPU_EFFICIENCY:.0%} of the stated bandwidth"
                f" of a graphics card (assumed) and {RAM_EFFICIENCY:.0%} of main memory's",
            ),
            ("KL", f"divergence from the unquantized model. Weights: {WEIGHTS_SOURCE}. Cache: {CACHE_SOURCE}."),
        ),
    )


def document(model: ModelToPlan, plan: Plan) -> dict[str, Any]:
    """The plan as one JSON document."""
    device = plan.device
    return {
        "model": model.reference,
        "origin": model.origin,
        "device": {
            "name": device.name,
            "description": device.description,
            "gpus": [asdict(gpu) for gpu in device.gpus],
            "ram": asdict(device.ram),
            "swap_bytes": device.swap_bytes,
            "idle_gpus": list(device.idle_gpus),
        },
        "spreads_over_cards": _spreads(plan),
        "predicted": True,
        "choices": [_choice_document(model, choice, device) for choice in plan.choices],
    }


def _choice_document(model: ModelToPlan, choice: Choice, device: Device) -> dict[str, Any]:
    found = choice.fit
    return {
        "roles": list(choice.roles),
        "settings": asdict(choice.settings),
        "file_bytes": found.candidate.model.weights_bytes,
        "memory": {
            "gpus": [_bytes_document(used, gpu) for used, gpu in zip(found.prediction.gpus, device.gpus, strict=True)],
            "ram": _bytes_document(found.prediction.ram, device.ram),
        },
        "tokens_per_second": round(found.tokens_per_second, 2),
        "kl_divergence_nats": choice.quality_cost,
        "commands": [line for _, line in command_lines(model, choice)],
        "next_bigger": asdict(choice.next_bigger) if choice.next_bigger else None,
    }


def _bytes_document(used: DeviceBytes, pool: MemoryPool) -> dict[str, Any]:
    return {**asdict(used), "total": used.total, "margin": pool.free_bytes - used.with_error}
