"""The best settings for a model file on this machine, or for a model that has yet to be converted, within milliseconds.

For commands that are given neither `--ctx` nor `--quant`. Reads a file's header, and imports no numpy; llama.cpp is
asked about graphics cards where no device is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.device_profiles import Device, this_device, without_gpu
from edge.fitting import PREFILL_TOKENS, Candidate, Extras, Fit, Shortfall, allows, context_of, fit
from edge.gguf_file import GGUFFile, read_gguf
from edge.model_shape import stored_model
from edge.plan import CACHE_TYPES, CONTEXTS, USUAL_CONTEXT_TOKENS, PlannedSettings, make_plan, planned_settings
from edge.quantities import size_text
from edge.settings import KVType, ModelSettings

GENEROUS_CONTEXT_TOKENS = 32768
"""Taken where all of it needs no more than half of what is free."""
SHORTEST_CONTEXT_TOKENS = 512
USEFUL_CONTEXT_TOKENS = 2048
"""Below this, layers are left in main memory rather than the context cut further."""


@dataclass(frozen=True)
class BestFit:
    """What to load a model with, and whether it will fit."""

    candidate: Candidate
    settings: PlannedSettings
    fit: Fit | None
    shortfall: Shortfall | None = None
    """What is missing for even the smallest context; the settings are those of that one."""

    @property
    def line(self) -> str:
        """What was chosen, in one line for a person."""
        chosen = self.settings
        if self.shortfall:
            needed, free = size_text(self.shortfall.needed_bytes), size_text(self.shortfall.free_bytes)
            memory = self.shortfall.memory
            context = f"even with {chosen.context_tokens:,} tokens of context"
            return f"This model may not fit: it needs about {needed} of {memory} {context}, where {free} are free."
        assert self.fit is not None, "either it fits or something is missing"
        types = {chosen.key_type, chosen.value_type}
        cache = "" if types == {"F16"} else f", keys and values in {chosen.key_type}/{chosen.value_type}"
        weights = "" if chosen.repack_weights else ", weights not repacked"
        total = size_text(self.fit.prediction.total)
        return (
            f"Using {chosen.context_tokens:,} tokens of context{cache}{_split_text(self.fit)}{weights}:"
            f" about {total} of memory."
        )

    @property
    def allows_quantized_cache(self) -> bool:
        return allows(self.candidate, CACHE_TYPES[1])

    @property
    def has_repacked_weights(self) -> bool:
        """Whether main memory will hold a second copy of weights."""
        return self.fit is not None and self.fit.prediction.mapped_copy_bytes > 0


def _split_text(found: Fit) -> str:
    """Where layers are; nothing is said of a model that is in one place."""
    cards = [layers for layers in found.gpu_split if layers]
    if not cards or (found.is_whole_on_gpu and len(cards) == 1):
        return ""
    layers = f"{found.gpu_layers} of {len(found.candidate.model.shape.layers) + 1} layers"
    if len(cards) == 1:
        return f", {layers} on the graphics card"
    return f", {layers} on {len(cards)} graphics cards ({' + '.join(map(str, cards))})"


def best_that_fits(
    model: Path | Sequence[Candidate], device: Device | None = None, base: ModelSettings | None = None
) -> PlannedSettings:
    """The settings of `find_best_fit`, or for several candidates those of the best quality that fits.

    EdgeError if none of several candidates fits; a file is never refused, since the prediction may err.
    """
    if isinstance(model, Path):
        return find_best_fit(model, device, base).settings
    base = base or ModelSettings()
    device = device or this_device(measures_bandwidth=False)
    return make_plan(model, device, base.context_tokens).choices[0].settings


def find_best_fit(
    model: Path | GGUFFile,
    device: Device | None = None,
    base: ModelSettings | None = None,
    *,
    given: Collection[str] = (),
    longest_tokens: int = GENEROUS_CONTEXT_TOKENS,
) -> BestFit:
    """The best way to load a GGUF file. What `base` says other than the defaults stays as it is, and so does what
    `given` names of it.

    All layers on the graphics card come first, then a usual context, then keys and values in 16 bits, and last weights
    that are repacked: each is given up only where it does not fit, and context and 16 bits for the card only where all
    layers come to it by that. A context of up to `longest_tokens` is taken where there is room to spare.
    """
    base = base or ModelSettings()
    device = device or this_device(measures_bandwidth=False)
    device = without_gpu(device) if base.gpu_layers == 0 else device
    candidate = Candidate("", stored_model(read_gguf(model) if isinstance(model, Path) else model))
    search = _Search(candidate, device, base, frozenset(given))
    trained = candidate.model.shape.context_tokens
    types_to_try = search.types()
    generous = search.fit(min(trained, longest_tokens) * base.parallel, types_to_try[0])
    if base.context_tokens is None and isinstance(generous, Fit) and _has_room_to_spare(generous, device):
        return search.best(generous)
    tried = [
        search.fit(tokens, types)
        for tokens in _lengths(min(trained, USUAL_CONTEXT_TOKENS, longest_tokens), base)
        for types in types_to_try
    ]
    fits = [found for found in tried if isinstance(found, Fit)]
    if not fits:
        last = tried[-1]
        assert isinstance(last, Shortfall), "what does not fit says why"
        return BestFit(candidate, search.smallest(trained, types_to_try[-1]), None, last)
    good = (found for found in fits if _is_on_fast_memory(found, device, base))
    return search.best(next(good, fits[0]))


@dataclass(frozen=True)
class _Search:
    """One file on one device, and what of its settings is not searched for."""

    candidate: Candidate
    device: Device
    base: ModelSettings
    given: frozenset[str]

    @property
    def _step_tokens(self) -> tuple[int, ...]:
        chosen = self.base.prefill_tokens
        return (chosen,) if "prefill_tokens" in self.given or chosen != PREFILL_TOKENS[0] else ()

    @property
    def _gpu_layers(self) -> int | None:
        if self.base.gpu_layers >= 0:
            return self.base.gpu_layers
        return len(self.candidate.model.shape.layers) + 1 if "gpu_layers" in self.given else None

    @property
    def _repack_weights(self) -> bool | None:
        """A draft model may need repacked weights, of which steps of several tokens are exact: edge.exact_steps."""
        is_chosen = "repack_weights" in self.given or not self.base.repack_weights
        return self.base.repack_weights if is_chosen or self.base.draft_model else None

    def types(self) -> list[tuple[KVType, KVType]]:
        """Types of keys and values to try; those that were chosen, if any were."""
        chosen = (self.base.key_type, self.base.value_type)
        if chosen != CACHE_TYPES[0] or "key_type" in self.given or self.base.flash_attention == "off":
            return [chosen]
        return [types for types in CACHE_TYPES if allows(self.candidate, types)]

    def fit(self, tokens: int, types: tuple[KVType, KVType]) -> Fit | Shortfall:
        settings = replace(self.base, key_type=types[0], value_type=types[1])
        return fit(
            self.candidate,
            context_of(tokens, sequences=self.base.parallel, settings=settings),
            self.device,
            _extras(self.base),
            step_tokens=self._step_tokens,
            gpu_layers=self._gpu_layers,
            repack_weights=self._repack_weights,
        )

    def best(self, found: Fit) -> BestFit:
        settings = planned_settings(found)
        if not self.device.gpus or self._gpu_layers is not None:
            settings = replace(settings, gpu_layers=self.base.gpu_layers)
        return BestFit(self.candidate, settings, found)

    def smallest(self, trained_tokens: int, types: tuple[KVType, KVType]) -> PlannedSettings:
        """What takes least of a model that does not fit."""
        base = self.base
        return PlannedSettings(
            quantization="",
            context_tokens=_lengths(trained_tokens, base)[-1],
            parallel=base.parallel,
            gpu_layers=base.gpu_layers,
            prefill_tokens=self._step_tokens[0] if self._step_tokens else PREFILL_TOKENS[-1],
            key_type=types[0],
            value_type=types[1],
            repack_weights=bool(self._repack_weights),
        )


def _lengths(usual_tokens: int, base: ModelSettings) -> list[int]:
    """Contexts to try, the longest first."""
    if base.context_tokens is not None:
        return [base.context_tokens]
    shorter = [tokens for tokens in CONTEXTS if SHORTEST_CONTEXT_TOKENS <= tokens < usual_tokens]
    return [tokens * base.parallel for tokens in (usual_tokens, *reversed(shorter))]


def _extras(base: ModelSettings) -> Extras:
    """Adapters and a draft model, by the size of their files."""
    paths = [adapter.path for adapter in base.adapters] + ([base.draft_model] if base.draft_model else [])
    sizes = (path.stat().st_size for path in paths if path.is_file())
    return Extras(adapter_bytes=sum(sizes), checkpoint_bytes=base.checkpoint_bytes)


def _has_room_to_spare(found: Fit, device: Device) -> bool:
    pools = [(found.prediction.ram, device.ram), *zip(found.prediction.gpus, device.gpus, strict=True)]
    is_whole = not device.gpus or found.is_whole_on_gpu
    return is_whole and all(2 * used.with_error <= pool.free_bytes for used, pool in pools)


def _is_on_fast_memory(found: Fit, device: Device, base: ModelSettings) -> bool:
    """Whether it is fast without a context too short to be of use."""
    is_usable = found.context.context_tokens >= min(
        USEFUL_CONTEXT_TOKENS * base.parallel, base.context_tokens or 1 << 31
    )
    return (not device.gpus or found.is_whole_on_gpu) and is_usable
