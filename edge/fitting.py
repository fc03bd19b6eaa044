"""Whether a model with a context fits a device, how its layers are split then, and how fast it would answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge.device_profiles import Device
from edge.kv_cache_memory import ContextPlan, allows_cache_type
from edge.memory import (
    DEFAULT_CHECKPOINT_BYTES,
    MemoryPrediction,
    Placement,
    decode_bytes,
    decode_operations,
    predict_memory,
)
from edge.model_shape import StoredModel
from edge.settings import KVType, ModelSettings

PREFILL_TOKENS = (512, 256, 128)
"""Tokens of a step, the largest that fits first."""
GPU_EFFICIENCY = 0.65
RAM_EFFICIENCY = 0.6
"""Shares of the stated bandwidth that decoding reaches: assumed, from published speeds of 7B and 8B models in Q4_K_M
(RTX 3060: about 50 tokens a second; desktop processors with two channels: 6 to 8)."""
GUESSES = 16  # edge.loop.MAX_GUESSES: a step may ask for logits of so many tokens more


@dataclass(frozen=True)
class Candidate:
    """A file that a model may be run from: there already, or one that a conversion would make."""

    quantization: str
    model: StoredModel
    needs_matrix: bool = False


@dataclass(frozen=True)
class Extras:
    """What is loaded beside a model."""

    adapter_bytes: int = 0
    checkpoint_bytes: int = DEFAULT_CHECKPOINT_BYTES


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Shortfall:
    """Why something does not fit: what it needs, error included, of the memory that has too little."""

    memory: Literal["graphics memory", "main memory"]
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Fit:
    """A context that fits, with as many layers on the graphics card as possible."""

    candidate: Candidate
    context: ContextPlan
    gpu_layers: int
    prediction: MemoryPrediction
    tokens_per_second: float
    """Of one answer, with the context half full."""

    @property
    def is_whole_on_gpu(self) -> bool:
        return self.gpu_layers > len(self.candidate.model.shape.layers)


def context_of(
    tokens: int, *, sequences: int = 1, settings: ModelSettings | None = None, guesses: int = GUESSES
) -> ContextPlan:
    """A context as the engine makes it."""
    settings = settings or ModelSettings()
    return ContextPlan(
        context_tokens=tokens,
        sequences=sequences,
        batch_tokens=settings.prefill_tokens,
        max_outputs=sequences + guesses,
        key_type=settings.key_type,
        value_type=settings.value_type,
        has_flash_attention=settings.flash_attention != "off",
    )


def allows(candidate: Candidate, types: tuple[KVType, KVType]) -> bool:
    """Whether a model's keys and values can be kept in these types."""
    return all(allows_cache_type(candidate.model.shape, kind) for kind in types)


def fit(
    candidate: Candidate,
    context: ContextPlan,
    device: Device,
    extras: Extras = NO_EXTRAS,
    *,
    step_tokens: Sequence[int] = (),
    gpu_layers: int | None = None,
) -> Fit | Shortfall:
    """The largest step that leaves all layers on the card, or fits at all; else what is missing with the smallest.

    `step_tokens` are those to try, by default what the context says and less; with `gpu_layers`, just so many are on
    the card.
    """
    tried: list[Fit | Shortfall] = []
    for tokens in step_tokens or _step_sizes(context.batch_tokens):
        found = _fit(candidate, replace(context, batch_tokens=tokens), device, extras, gpu_layers)
        if isinstance(found, Fit) and (device.gpu is None or found.is_whole_on_gpu):
            return found
        tried.append(found)
    fits = [found for found in tried if isinstance(found, Fit)]
    return max(fits, key=lambda found: found.gpu_layers) if fits else tried[-1]


def _step_sizes(most: int) -> list[int]:
    """The tokens of a step to try: what is wanted, and less."""
    return [most, *(size for size in PREFILL_TOKENS if size < most)]


def _fit(
    candidate: Candidate, context: ContextPlan, device: Device, extras: Extras, gpu_layers: int | None
) -> Fit | Shortfall:
    whole = len(candidate.model.shape.layers) + 1
    if device.gpu is None:
        layers = 0
    elif gpu_layers is None:
        layers = _most_gpu_layers(candidate.model, context, device, extras)
    else:
        layers = min(gpu_layers, whole)
    prediction = _predict(candidate.model, context, device, layers, extras)
    if shortfall := _ram_shortfall(prediction, device):
        return shortfall
    if device.gpu and prediction.gpu.with_error > device.gpu.free_bytes and layers:
        return Shortfall("graphics memory", prediction.gpu.with_error, device.gpu.free_bytes)
    return Fit(candidate, context, layers, prediction, decode_speed(candidate.model, context, device, layers))


def gpu_shortfall(candidate: Candidate, context: ContextPlan, device: Device) -> Shortfall | None:
    """What is missing to have the whole model on the card; None if nothing is, or there is no card."""
    if device.gpu is None:
        return None
    whole = len(candidate.model.shape.layers) + 1
    smallest = replace(context, batch_tokens=min(context.batch_tokens, PREFILL_TOKENS[-1]))
    needed = _predict(candidate.model, smallest, device, whole, NO_EXTRAS).gpu.with_error
    return Shortfall("graphics memory", needed, device.gpu.free_bytes) if needed > device.gpu.free_bytes else None


def _most_gpu_layers(model: StoredModel, context: ContextPlan, device: Device, extras: Extras) -> int:
    """The most layers that fit on the card, by halving: each one more takes more."""
    if device.gpu is None:
        return 0
    gpu = device.gpu

    def fits(layers: int) -> bool:
        prediction = _predict(model, context, device, layers, extras)
        is_room = not device.is_unified or _ram_shortfall(prediction, device) is None
        return is_room and prediction.gpu.with_error <= gpu.free_bytes

    whole = len(model.shape.layers) + 1
    if fits(whole):
        return whole
    low, high = 0, whole
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _predict(
    model: StoredModel, context: ContextPlan, device: Device, gpu_layers: int, extras: Extras
) -> MemoryPrediction:
    return predict_memory(
        model,
        context,
        Placement(gpu_layers, device.repacked_types),
        adapter_bytes=extras.adapter_bytes,
        checkpoint_bytes=extras.checkpoint_bytes,
    )


def _ram_shortfall(prediction: MemoryPrediction, device: Device) -> Shortfall | None:
    """What is missing in main memory, which may be that of the graphics processor as well."""
    needed = prediction.ram.with_error + (prediction.gpu.with_error if device.is_unified else 0)
    return Shortfall("main memory", needed, device.ram.free_bytes) if needed > device.ram.free_bytes else None


def decode_speed(model: StoredModel, context: ContextPlan, device: Device, gpu_layers: int) -> float:
    """Tokens a second of all sequences together, their context half full, as memory bandwidth allows.

    Weights are read once for all sequences, keys and values for each; with many of them, arithmetic takes longer.
    """
    tokens, streams = context.context_tokens // (2 * context.sequences), context.sequences
    empty, half = (decode_bytes(model, context, gpu_layers, filled) for filled in (1, max(tokens, 1)))
    operations = decode_operations(model, gpu_layers)
    pools = ((device.gpu, GPU_EFFICIENCY), (device.ram, RAM_EFFICIENCY))
    seconds = 0.0
    for place, (pool, efficiency) in enumerate(pools):
        if pool is None:
            continue
        read = empty[place] + streams * max(0, half[place] - empty[place])
        seconds += max(read / (pool.bandwidth * efficiency), streams * operations[place] / pool.operations)
    return streams / seconds
