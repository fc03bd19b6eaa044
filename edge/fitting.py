"""Whether a model with a context fits a device, how its layers are split then, and how fast it would answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge.device_profiles import Device
from edge.gpu_split import Split, fixed_layers, most_layers
from edge.kv_cache_memory import ContextPlan, allows_cache_type
from edge.memory import (
    DEFAULT_CHECKPOINT_BYTES,
    DeviceBytes,
    MemoryPrediction,
    Placement,
    decode_bytes,
    decode_operations,
    predict_card,
    predict_memory,
)
from edge.model_shape import StoredModel
from edge.settings import KVType, ModelSettings

PREFILL_TOKENS = (512, 256, 128)
"""Tokens of a step, the largest that fits first."""
GPU_EFFICIENCY = 0.65
RAM_EFFICIENCY = 0.6
"""Shares of the bandwidth that decoding reaches. The card's is assumed, from published speeds of 7B and 8B models in
Q4_K_M (RTX 3060: about 50 tokens a second); main memory's was measured on one machine, see docs/memory.md."""
GUESSES = 16  # edge.step_filling.MAX_GUESSES: a step may ask for logits of so many tokens more
_COPY_SLACK = 1 / 8
"""Of a repacked copy, so much must be left: what others come to need can have the file's pages, but not the copy's."""


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
    """A context that fits, with as many layers on graphics cards as possible."""

    candidate: Candidate
    context: ContextPlan
    gpu_split: Split
    """Layers on each card of the device."""
    prediction: MemoryPrediction
    tokens_per_second: float
    """Of one answer, with the context half full."""
    repack_weights: bool = True
    """Whether the repacked copy fits with some room to spare."""

    @property
    def gpu_layers(self) -> int:
        return sum(self.gpu_split)

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
    repack_weights: bool | None = None,
) -> Fit | Shortfall:
    """The largest step that leaves all layers on cards, or fits at all; else what is missing with the smallest.

    `step_tokens` are those to try, by default what the context says and less; with `gpu_layers`, just so many are on
    cards. Unless `repack_weights` says whether weights are repacked, they are where there is some room to spare.
    """
    tried: list[Fit | Shortfall] = []
    for tokens in step_tokens or _step_sizes(context.batch_tokens):
        found = _fit(candidate, replace(context, batch_tokens=tokens), device, extras, gpu_layers, repack_weights)
        if isinstance(found, Fit) and (not device.gpus or found.is_whole_on_gpu):
            return found
        tried.append(found)
    fits = [found for found in tried if isinstance(found, Fit)]
    return max(fits, key=lambda found: found.gpu_layers) if fits else tried[-1]


def _step_sizes(most: int) -> list[int]:
    """The tokens of a step to try: what is wanted, and less."""
    return [most, *(size for size in PREFILL_TOKENS if size < most)]


def _fit(
    candidate: Candidate,
    context: ContextPlan,
    device: Device,
    extras: Extras,
    gpu_layers: int | None,
    repack_weights: bool | None,
) -> Fit | Shortfall:
    model, whole = candidate.model, len(candidate.model.shape.layers) + 1
    predict, spreads = _Predictor(model, context, device, extras), may_spread(model)
    if gpu_layers is None:
        split = most_layers(predict, device, whole, may_spread=spreads)
    else:
        split = fixed_layers(predict, device, min(gpu_layers, whole), may_spread=spreads)
    prediction = predict.all(split)
    if shortfall := _ram_shortfall(prediction, device) or _graphics_shortfall(prediction, device, may_spread=spreads):
        return shortfall
    if repack_weights is None:
        slack_bytes = _COPY_SLACK * prediction.mapped_copy_bytes
        repack_weights = _needed_ram(prediction, device) + slack_bytes <= device.ram.free_bytes
    if not repack_weights:
        prediction = replace(prediction, mapped_copy_bytes=0)
    return Fit(candidate, context, split, prediction, decode_speed(model, context, device, split), repack_weights)


def gpu_shortfall(candidate: Candidate, context: ContextPlan, device: Device) -> Shortfall | None:
    """What is missing to have the whole model on the cards; None if nothing is, or there is no card."""
    smallest = replace(context, batch_tokens=min(context.batch_tokens, PREFILL_TOKENS[-1]))
    model, whole = candidate.model, len(candidate.model.shape.layers) + 1
    predict = _Predictor(model, smallest, device, NO_EXTRAS)
    split = fixed_layers(predict, device, whole, may_spread=may_spread(model))
    return _graphics_shortfall(predict.all(split), device, may_spread=may_spread(model))


@dataclass(frozen=True)
class _Predictor:
    """What the model takes by how its layers are split."""

    model: StoredModel
    context: ContextPlan
    device: Device
    extras: Extras

    def all(self, split: Split) -> MemoryPrediction:
        return predict_memory(
            self.model,
            self.context,
            self._placement(split),
            adapter_bytes=self.extras.adapter_bytes,
            checkpoint_bytes=self.extras.checkpoint_bytes,
        )

    def card(self, split: Split, card: int) -> DeviceBytes:
        return predict_card(
            self.model, self.context, self._placement(split), card, adapter_bytes=self.extras.adapter_bytes
        )

    def _placement(self, split: Split) -> Placement:
        return Placement(split, self.device.repacked_types)


def may_spread(model: StoredModel) -> bool:
    """Whether several cards may hold it: not where layers get embeddings of their own, whose room is not predicted."""
    return not model.shape.layer_embedding


def _graphics_shortfall(prediction: MemoryPrediction, device: Device, *, may_spread: bool) -> Shortfall | None:
    """What is missing on the cards: on all of them together, unless one alone has too little for its part.

    Of a model that may not be spread, what is missing on the one card.
    """
    over = [
        (used.with_error, gpu.free_bytes)
        for used, gpu in zip(prediction.gpus, device.gpus, strict=True)
        if used.with_error > gpu.free_bytes
    ]
    if not over:
        return None
    needed, free = sum(used.with_error for used in prediction.gpus), sum(gpu.free_bytes for gpu in device.gpus)
    return Shortfall("graphics memory", *((needed, free) if may_spread and needed > free else over[0]))


def _ram_shortfall(prediction: MemoryPrediction, device: Device) -> Shortfall | None:
    """What is missing in main memory, which may be that of the graphics processor as well."""
    needed = _needed_ram(prediction, device)
    return Shortfall("main memory", needed, device.ram.free_bytes) if needed > device.ram.free_bytes else None


def _needed_ram(prediction: MemoryPrediction, device: Device) -> int:
    return prediction.ram.with_error + sum(used.with_error for used in prediction.gpus if device.is_unified)


def decode_speed(model: StoredModel, context: ContextPlan, device: Device, split: Split) -> float:
    """Tokens a second of all sequences together, their context half full, as memory bandwidth allows.

    Weights are read once for all sequences, keys and values for each; with many of them, arithmetic takes longer. What
    is on several cards is computed by one after the other.
    """
    tokens, streams, placement = context.context_tokens // (2 * context.sequences), context.sequences, Placement(split)
    empty, half = (decode_bytes(model, context, placement, filled) for filled in (1, max(tokens, 1)))
    operations = decode_operations(model, placement)
    pools = [*((gpu, GPU_EFFICIENCY) for gpu in device.gpus), (device.ram, RAM_EFFICIENCY)]
    seconds = 0.0
    for place, (pool, efficiency) in enumerate(pools):
        read = empty[place] + streams * max(0, half[place] - empty[place])
        seconds += max(read / (pool.bandwidth * efficiency), streams * operations[place] / pool.operations)
    return streams / seconds
