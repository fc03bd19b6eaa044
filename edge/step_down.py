"""Opens a model with less when memory does not suffice for what was wanted, and remembers what worked on this machine.

Knows what may be given up and in which order; what opens a model, and how it says so, is passed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import EdgeError
from edge.settings import ModelSettings, kv_types_text

Opened = TypeVar("Opened")

SMALLEST_PREFILL_TOKENS = 128
SMALLEST_CONTEXT_TOKENS = 1024
_FEWEST_LAYERS_SHARE = 4
_OPTIONS = {
    "prefill_tokens": "--ubatch",
    "key_type": "--kv-type",
    "value_type": "--kv-type",
    "context_tokens": "--ctx",
    "gpu_layers": "--gpu-layers",
    "repack_weights": "--no-repack",
}
_REMEMBERED = tuple(_OPTIONS)
# how llama.cpp, its backends and the engine's own process say that memory did not suffice
_SIGNS_OF_MEMORY = (
    "alloc",
    "out of memory",
    "outofmemory",
    "not enough memory",
    "insufficient memory",
    "mem_buffer != null",  # an assertion of ggml, over which its process ends
)


@dataclass(frozen=True)
class Step:
    """One thing given up: the settings without it, and what that is in words."""

    settings: ModelSettings
    words: str
    names: frozenset[str]
    """Of what is less than before."""


class StepMemory:
    """What worked instead of what was wanted, by model, in a JSON file. A damaged or missing file remembers nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall(self, model: str, wanted: ModelSettings) -> ModelSettings | None:
        """The settings that worked instead of these; None if they were never too much."""
        entry = self._read().get(model)
        if not isinstance(entry, dict) or entry.get("wanted") != _values(wanted):
            return None
        worked = entry.get("worked")
        if not isinstance(worked, dict) or not all(_is_setting(name, worked.get(name)) for name in _REMEMBERED):
            return None
        try:
            return replace(wanted, **{name: worked[name] for name in _REMEMBERED})
        except EdgeError:
            return None

    def remember(self, model: str, wanted: ModelSettings, worked: ModelSettings) -> None:
        """Keep what worked. A file that cannot be written is no reason to fail: the steps are made again next time."""
        from edge.whole_file import written_whole  # seldom needed, and slow to import

        entries = {**self._read(), model: {"wanted": _values(wanted), "worked": _values(worked)}}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path) as file:
                file.write(json.dumps(entries, indent=1).encode())

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _is_setting(name: str, value: object) -> bool:
    """Whether a remembered value is of the kind that a setting has, and no number that llama.cpp would not take."""
    if name in ("key_type", "value_type"):
        return isinstance(value, str)
    if name == "repack_weights":
        return isinstance(value, bool)
    is_number = isinstance(value, int) and not isinstance(value, bool) and value < 1 << 31
    return is_number or (name == "context_tokens" and value is None)


def _values(settings: ModelSettings) -> dict[str, Any]:
    values = asdict(settings)
    return {name: values[name] for name in _REMEMBERED}


def open_stepping_down(
    open_model: Callable[[ModelSettings], Opened],
    settings: ModelSettings,
    *,
    model: str,
    layers: int,
    context_tokens: int,
    memory: StepMemory,
    tell: Callable[[str], None],
    allows_quantized_cache: bool = True,
    may_undo_repacking: bool = False,
    given: Collection[str] = (),
) -> Opened:
    """What `open_model` gives for the settings, or for the first smaller ones that memory suffices for.

    `model` names it in `memory`; `layers` and `context_tokens` are what the settings mean where they say -1 and None.
    `tell` hears in one line what is given up, which is never what `given` names. Errors that are no matter of memory
    are raised as they are; if nothing smaller is left, the first one is, with what could be asked for instead. Whether
    keys and values may be quantized is what `edge.fitting.allows` says. With `may_undo_repacking` there is a second
    copy of weights that can be given up.
    """
    wanted = settings
    remembered = memory.recall(model, wanted)
    if remembered and not any(getattr(remembered, name) != getattr(wanted, name) for name in given):
        settings = remembered
        tell(f"Memory did not suffice last time, so now with {_difference(wanted, settings)} ({memory.path}).")
    first: EdgeError | None = None
    while True:
        try:
            opened = open_model(settings)
        except EdgeError as error:
            if not is_memory_failure(error):
                raise
            first = first or error
            steps = list(
                steps_down(
                    settings, layers=layers, context_tokens=context_tokens, may_undo_repacking=may_undo_repacking
                )
            )
            allowed = (step for step in steps if allows_quantized_cache or "value_type" not in step.names)
            step = next((step for step in allowed if not step.names.intersection(given)), None)
            if step is None:
                raise _explained(first, steps) from error
            tell(f"Memory does not suffice: trying {step.words}.")
            settings = step.settings
            continue
        if settings != wanted and first:
            memory.remember(model, wanted, settings)
        return opened


def steps_down(
    settings: ModelSettings, *, layers: int, context_tokens: int, may_undo_repacking: bool = False
) -> Iterator[Step]:
    """What can be given up from here, least felt for what it takes first: a second copy of weights, tokens of a step,
    precision of the cache, context, layers.
    """
    if may_undo_repacking and settings.repack_weights:
        yield Step(
            replace(settings, repack_weights=False), "weights that are not repacked", frozenset({"repack_weights"})
        )
    if settings.prefill_tokens > SMALLEST_PREFILL_TOKENS:
        tokens = max(SMALLEST_PREFILL_TOKENS, settings.prefill_tokens // 2)
        yield Step(replace(settings, prefill_tokens=tokens), f"steps of {tokens} tokens", frozenset({"prefill_tokens"}))
    if settings.flash_attention != "off":
        if (settings.key_type, settings.value_type) == ("F16", "F16"):
            smaller = replace(settings, key_type="Q8_0", value_type="Q8_0")
            yield Step(smaller, "keys and values in Q8_0", frozenset({"key_type", "value_type"}))
        elif settings.value_type in ("F16", "Q8_0"):
            smaller = replace(settings, key_type="Q8_0", value_type="Q4_0")
            yield Step(smaller, "keys in Q8_0 and values in Q4_0", frozenset({"key_type", "value_type"}))
    tokens = settings.context_tokens or context_tokens
    if tokens > SMALLEST_CONTEXT_TOKENS * settings.parallel:
        shorter = max(SMALLEST_CONTEXT_TOKENS * settings.parallel, tokens // 2)
        yield Step(
            replace(settings, context_tokens=shorter), f"a context of {shorter:,} tokens", frozenset({"context_tokens"})
        )
    on_gpu = layers if settings.gpu_layers < 0 else min(settings.gpu_layers, layers)
    if on_gpu > 0:
        fewer = on_gpu - max(1, layers // _FEWEST_LAYERS_SHARE)
        smaller = replace(settings, gpu_layers=max(0, fewer))
        yield Step(smaller, f"{max(0, fewer)} layers on the graphics card", frozenset({"gpu_layers"}))


def _explained(error: EdgeError, left: list[Step]) -> EdgeError:
    """An error of memory; what a person asked for and could ask for less of is in its hint."""
    options = dict.fromkeys(_OPTIONS[name] for step in left for name in sorted(step.names))
    if not options:
        return error
    return EdgeError(error.message, hint=f"Memory does not suffice: give less with {' or '.join(options)}.")


def is_memory_failure(error: EdgeError) -> bool:
    """Whether an error says that there was too little memory, be it of llama.cpp or of a process that was killed."""
    text = error.message.lower()
    return any(sign in text for sign in _SIGNS_OF_MEMORY)


def _difference(wanted: ModelSettings, settings: ModelSettings) -> str:
    """What settings have others than the wanted ones, as options."""
    values = {
        "--ubatch": str(settings.prefill_tokens),
        "--kv-type": kv_types_text(settings.key_type, settings.value_type),
        "--ctx": str(settings.context_tokens),
        "--gpu-layers": str(settings.gpu_layers),
        "--no-repack": "",
    }
    changed = (_OPTIONS[name] for name in _REMEMBERED if getattr(wanted, name) != getattr(settings, name))
    return " ".join(f"{option} {values[option]}".rstrip() for option in dict.fromkeys(changed))
