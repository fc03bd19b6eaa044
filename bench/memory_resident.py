"""The peak memory of a process that reads a long prompt with a model and answers it, beside what was predicted."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.process import run_measured
from edge.device_profiles import repacked_types
from edge.devices import read_cpu
from edge.engine import Engine
from edge.gguf_file import read_gguf
from edge.kv_cache_memory import ContextPlan
from edge.memory import Placement, predict_memory
from edge.model_shape import stored_model
from edge.request import Request
from edge.settings import ModelSettings

_ANSWER_TOKENS = 8
_SPARE_TOKENS = 16


@dataclass(frozen=True)
class Resident:
    name: str
    predicted_bytes: int
    peak_bytes: int


def measure_resident(path: Path, context_tokens: int) -> Resident:
    """Predict the peak memory of a process that fills a context, and measure it."""
    placement = Placement(repacked_types=repacked_types(read_cpu().simd))
    predicted = predict_memory(stored_model(read_gguf(path)), ContextPlan(context_tokens), placement)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.memory_resident", str(path), str(context_tokens)]
        measured = run_measured(command, folder=Path(folder))
    return Resident(path.name, predicted.peak_resident_bytes, measured.peak_rss_bytes)


def fill_context(path: Path, context_tokens: int) -> None:
    """Read a prompt nearly as long as the context, and answer with a few tokens; one thread takes as much memory."""
    with Engine(path, ModelSettings(context_tokens=context_tokens, threads=1), isolate=False) as engine:
        words = engine.text_tokens(" The history of the world is long." * context_tokens)
        prompt = words[: context_tokens - _ANSWER_TOKENS - _SPARE_TOKENS]
        engine.submit(Request(prompt, max_tokens=_ANSWER_TOKENS)).result()


if __name__ == "__main__":
    fill_context(Path(sys.argv[1]), int(sys.argv[2]))
