"""A model file with the settings that suit this machine best, and how it is opened with less where that fails.

What a person chose stays as it is. Knows neither engines nor where lines for people are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from edge.best_fit import GENEROUS_CONTEXT_TOKENS, BestFit, find_best_fit
from edge.device_profiles import Device
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.settings import DEFAULT_CONTEXT_TOKENS, ModelSettings
from edge.state_directory import state_directory
from edge.step_down import StepMemory, open_stepping_down

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Wanted:
    """How a model is to be loaded, as far as a person says."""

    settings: ModelSettings = field(default_factory=ModelSettings)
    given: frozenset[str] = frozenset()
    """Names of the settings that a person chose: these are never changed."""
    longest_tokens: int = GENEROUS_CONTEXT_TOKENS
    """What is enough of a context where none was chosen."""

    def with_settings(self, **changes: object) -> Wanted:
        return replace(self, settings=replace(self.settings, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FittedModel:
    """A model file, read but not loaded, and how it is best loaded on this machine."""

    file: GGUFFile
    wanted: Wanted
    best: BestFit | None
    """None of a kind that no prediction is made for: it is opened as it is wanted."""

    @property
    def settings(self) -> ModelSettings:
        return self.best.settings.model_settings(self.wanted.settings) if self.best else self.wanted.settings

    @property
    def line(self) -> str:
        """What was chosen, for a person; empty if nothing was."""
        return self.best.line if self.best else ""

    @property
    def may_not_fit(self) -> bool:
        return self.best is not None and self.best.shortfall is not None

    @property
    def memory_bytes(self) -> int:
        """What it takes when it is loaded, as far as that can be told."""
        if self.best and self.best.fit:
            return self.best.fit.prediction.total
        if self.best and self.best.shortfall:
            return self.best.shortfall.needed_bytes
        return sum(tensor.n_bytes for tensor in self.file.tensors.values())

    def open(self, open_engine: Callable[[ModelSettings], Opened], tell: Callable[[str], None]) -> Opened:
        """What `open_engine` gives for the settings, or for less where memory does not suffice, which `tell` hears."""
        shape = self.best.candidate.model.shape if self.best else None
        trained = shape.context_tokens if shape else DEFAULT_CONTEXT_TOKENS
        settings = self.settings
        return open_stepping_down(
            open_engine,
            settings,
            model=f"{self.file.path.absolute()} ({self.file.path.stat().st_size} bytes)",
            layers=len(shape.layers) + 1 if shape else 0,
            context_tokens=min(trained, DEFAULT_CONTEXT_TOKENS),
            memory=StepMemory(state_directory() / "memory.json"),
            tell=tell,
            allows_quantized_cache=self.best is not None and self.best.allows_quantized_cache,
            may_undo_repacking=settings.draft_model is None and (self.best is None or self.best.has_repacked_weights),
            given=self.wanted.given,
        )


def fit_model(path: Path, wanted: Wanted, device: Device | None = None) -> FittedModel:
    """A GGUF file with the best settings that fit the device, or this machine as it is now.

    EdgeError if it is no GGUF file.
    """
    file = read_gguf(path)
    try:
        best = find_best_fit(file, device, wanted.settings, given=wanted.given, longest_tokens=wanted.longest_tokens)
    except EdgeError:
        best = None
    return FittedModel(file, wanted, best)
