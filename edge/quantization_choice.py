"""Which quantization of a model is fetched or made where none is asked for: the best that fits this machine."""

from __future__ import annotations

from collections.abc import Mapping

from edge.device_profiles import Device, MemoryPool, this_device
from edge.errors import EdgeError
from edge.fitting import GPU_EFFICIENCY, RAM_EFFICIENCY
from edge.hub_headers import HeaderSource
from edge.plan import ACCEPTABLE_COST, NOTICEABLE_COST, slowest_useful
from edge.plan_source import best_quantization
from edge.quantization_quality import weights_cost
from edge.terminal import note

_ROOM_BYTES = 200_000_000


def choose_quantization(
    reference: str, gguf_bytes: Mapping[str, int], device: Device | None = None, headers: HeaderSource | None = None
) -> str | None:
    """The best of the GGUF files that there are, given with their sizes, or what a checkpoint is best converted to.

    None where that cannot be told, or none fits. What was chosen is said in a line on stderr.
    """
    device = device or this_device(measures_bandwidth=False)
    try:
        chosen = best_of_files(gguf_bytes, device) if gguf_bytes else best_quantization(reference, device, headers)
    except EdgeError as error:
        note(f"{reference}: {error.message}")
        return None
    if chosen:
        note(f"{reference}: {chosen} is the best quantization that fits this machine.")
    return chosen


def best_of_files(gguf_bytes: Mapping[str, int], device: Device) -> str | None:
    """By the plan's rules for the best quality, with a quarter more than the file for a context."""
    if device.graphics and (chosen := _best_in(device.graphics, GPU_EFFICIENCY, gguf_bytes)):
        cost = weights_cost(chosen)
        if cost is not None and cost <= ACCEPTABLE_COST:
            return chosen
    return _best_in(device.ram, RAM_EFFICIENCY, gguf_bytes)


def _best_in(pool: MemoryPool, efficiency: float, gguf_bytes: Mapping[str, int]) -> str | None:
    """The least cost of what fits and is fast enough; of those that cost no more to notice, the smallest."""
    costs = {name: cost for name in gguf_bytes if (cost := weights_cost(name)) is not None}
    fitting = [name for name in costs if gguf_bytes[name] * 5 // 4 + _ROOM_BYTES <= pool.free_bytes]
    if not fitting:
        return None
    speeds = {name: pool.bandwidth * efficiency / max(gguf_bytes[name], 1) for name in fitting}
    acceptable = [name for name in fitting if costs[name] <= ACCEPTABLE_COST] or fitting
    slowest = slowest_useful(max(speeds[name] for name in acceptable))
    quick = [name for name in fitting if speeds[name] >= slowest]
    least = min(costs[name] for name in quick)
    return min((name for name in quick if costs[name] <= least + NOTICEABLE_COST), key=lambda name: gguf_bytes[name])
