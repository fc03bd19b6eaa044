"""A model opened in a fresh process: how long its first token takes, and the memory it holds from start to end.

`python -m bench.fresh_start REPORT MODEL SETTINGS` is that process; `measure_fresh_start` runs it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.process import run_measured
from edge.errors import EdgeError
from edge.settings import KVType, ModelSettings

_MODULE_BEGAN = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
_SAMPLE_SECONDS = 0.01
_FIRST_PROMPT = "The capital of France is"
_MOST_TIMELINE_POINTS = 400


@dataclass(frozen=True)
class FreshSettings:
    """What the process does after its first token: reads a prompt, and goes on behind it."""

    prompt_tokens: int
    generated_tokens: int
    threads: int
    gpu_layers: int
    key_type: KVType
    value_type: KVType
    repack_weights: bool = True


@dataclass(frozen=True)
class FreshStart:
    """Seconds count from the start of the process."""

    was_in_memory: bool
    """Whether the file's pages were left where an earlier reading had put them."""
    load_seconds: float
    first_token_seconds: float
    peak_rss_bytes: int
    vram_bytes: int
    """Of all graphics cards, that the model and its context took."""
    phases: tuple[tuple[str, float], ...]
    """Each with the second in which it began."""
    timeline: tuple[tuple[float, int, int], ...]
    """Seconds, resident bytes, and of them those that are no file's."""


def measure_fresh_start(path: Path, settings: FreshSettings, *, from_memory: bool) -> FreshStart:
    """Run the process to its end. EdgeError with its last lines if it fails.

    Without `from_memory`, the system is asked to forget the file before, as after a start of the machine; what other
    processes have mapped it keeps all the same.
    """
    if not from_memory:
        forget_file(path)
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        report = Path(scratch) / "report.json"
        words = [sys.executable, "-m", "bench.fresh_start", str(report), str(path), json.dumps(asdict(settings))]
        measured = run_measured(words, folder=Path(scratch))
        document = json.loads(report.read_text("utf-8"))
    return FreshStart(
        was_in_memory=from_memory,
        load_seconds=document["load_seconds"],
        first_token_seconds=document["first_token_seconds"],
        peak_rss_bytes=measured.peak_rss_bytes,
        vram_bytes=document["vram_bytes"],
        phases=tuple((name, seconds) for name, seconds in document["phases"]),
        timeline=thinned(document["timeline"]),
    )


def can_forget_files() -> bool:
    """Whether this system drops what it keeps of a file when asked to."""
    return hasattr(os, "posix_fadvise")


def forget_file(path: Path) -> None:
    """Ask the system to drop what it keeps of a file, or of all parts of a split one."""
    from edge.gguf_file import read_gguf

    file = read_gguf(path)
    for part in file.parts or (file.path,):
        with part.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def thinned(timeline: list[list[float]]) -> tuple[tuple[float, int, int], ...]:
    """As many points as a plot can show, the highest ones among them."""
    step = max(1, -(-len(timeline) // _MOST_TIMELINE_POINTS))
    groups = [timeline[first : first + step] for first in range(0, len(timeline), step)]
    highest = [max(group, key=lambda point: point[1]) for group in groups]
    return tuple((round(seconds, 3), int(rss), int(anonymous)) for seconds, rss, anonymous in highest)


class _MemoryWatch:
    """Samples what this process holds, from a thread of its own; nothing where no file of the system shows it."""

    def __init__(self, began: float) -> None:
        self.timeline: list[tuple[float, int, int]] = []
        self._began = began
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        if Path("/proc/self/statm").exists():
            self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read a hundred times a second
            while not self._is_over.wait(_SAMPLE_SECONDS):
                file.seek(0)
                _, resident, shared, *_ = map(int, file.read().split())
                self.timeline.append((_now() - self._began, resident * page, (resident - shared) * page))


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _process_began() -> float:
    """When this process was started, to a hundredth of a second; else when this module was."""
    try:
        fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime, in ticks since the start of the system
    except (OSError, ValueError, IndexError):
        return _MODULE_BEGAN


def start_fresh(path: Path, settings: FreshSettings) -> dict[str, Any]:
    """What the process does: open the model, answer a short prompt, then read a long one and go on behind it."""
    began = _process_began()
    watch = _MemoryWatch(began)
    watch.start()
    phases: list[tuple[str, float]] = [("imports", 0.0)]

    def enter(phase: str) -> float:
        phases.append((phase, _now() - began))
        return phases[-1][1]

    from edge.llama import system
    from edge.local_engine import LocalEngine
    from edge.request import Request

    load_began = enter("load")
    free_before = sum(device.free_bytes for device in system.devices() if device.is_gpu)
    options = ModelSettings(
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        key_type=settings.key_type,
        value_type=settings.value_type,
        repack_weights=settings.repack_weights,
    )
    with LocalEngine(path, options) as engine:
        load_ended = enter("first token")
        engine.submit(Request(engine.text_tokens(_FIRST_PROMPT), max_tokens=1, ignore_eos=True)).result()
        first_token = enter("prefill and decode")
        vocabulary = engine.vocab.size
        length = min(settings.prompt_tokens, engine.context_tokens - settings.generated_tokens - 1)
        prompt = tuple((7 * place + 11) % vocabulary for place in range(max(1, length)))
        engine.submit(Request(prompt, max_tokens=settings.generated_tokens, ignore_eos=True)).result()
        free_after = sum(device.free_bytes for device in system.devices() if device.is_gpu)
        enter("end")
        watch.stop()
    return {
        "load_seconds": load_ended - load_began,
        "first_token_seconds": first_token,
        "vram_bytes": max(0, free_before - free_after),
        "phases": phases,
        "timeline": watch.timeline,
    }


def main() -> None:
    report, model, settings = sys.argv[1:]
    try:
        document = start_fresh(Path(model), FreshSettings(**json.loads(settings)))
    except EdgeError as error:
        sys.exit(f"{error.message}\n{error.hint}")
    Path(report).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
