"""The whole of `edge bench`: several models measured in turn, and what was found of each as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cases import BenchSettings, Subject, check_length, first_token_prompt, metric_kinds, opened
from bench.energy import find_energy_meter, hidden_meter
from bench.figures import fresh_metrics, quality_metrics, speed_metrics, throttling_notes
from bench.fresh_start import (
    FreshSettings,
    FreshStart,
    can_forget_files,
    measure_fresh_start,
)
from bench.machine import machine_record
from bench.measure import Guard, Sample, measure_in_turn
from bench.process import can_measure_processes
from bench.quality import Compared, Estimate, Quality, measure_quality
from bench.record import Metric, MetricKind, ModelRecord, Record
from edge.ceiling import Bandwidth, ceiling, measure_bandwidth, weight_bytes_per_token
from edge.description import describe
from edge.devices import read_ram
from edge.gguf_file import read_gguf
from edge.llama import system
from edge.llama.model import Model
from edge.llama.model_description import model_description
from edge.stored_files import sha256_of

OWN_TEXT = Path(__file__).parent / "texts" / "held_out.txt"
"""What quality is measured on when nobody gives a text."""
_OPEN_SHARE_OF_RAM = 0.6
"""Of free memory, that all models together may take to be open at the same time."""
_PROGRESS_CHUNKS = 8
_Measured = Callable[[Compared | None, Sequence[Compared]], list[Quality | Estimate]]


@dataclass(frozen=True)
class QualityPlan:
    """On which text, against which file, and over how many chunks of it."""

    text: Path
    reference: Path | None = None
    chunks: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As a record has it: what two runs must share for their quality to be compared."""
        return {
            "text_sha256": sha256_of(self.text),
            "reference": self.reference.name if self.reference else None,
            "chunks": self.chunks,
        }


@dataclass(frozen=True)
class BenchPlan:
    models: tuple[Path, ...]
    settings: BenchSettings
    quality: QualityPlan | None = None


@dataclass
class _Found:
    """What is gathered about one model on the way to its record."""

    path: Path
    model: ModelRecord
    metrics: list[Metric] = field(default_factory=list)
    quality_metrics: list[Metric] = field(default_factory=list)
    gaps_seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    ceiling: dict[str, Any] | None = None
    quality: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fresh_starts: int = 0
    """That were measured."""
    rounds: int = 0
    """Of speeds that were measured."""

    @property
    def has_figures(self) -> bool:
        return bool(self.metrics or self.quality_metrics)


def run_bench(plan: BenchPlan, guard: Guard | None = None, say: Callable[[str], None] = lambda _: None) -> list[Record]:
    """Measure everything: first the ceiling, then quality, fresh starts and speeds. A record for each model.

    KeyboardInterrupt ends it early: what was measured by then is given, and goes on to be raised if that is nothing.
    """
    for path in plan.models:
        check_length(path, plan.settings)
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    machine = machine_record()
    guard = guard or Guard(find_energy_meter())
    say("Measuring the memory's bandwidth")
    bandwidth = measure_bandwidth(plan.settings.threads, available_bytes=read_ram().available_bytes)
    say(f"Memory gives {bandwidth.highest / 1e9:.1f} GB/s")
    told = hidden_meter()
    found = [_Found(path, model_record(path), notes=[told] if told else []) for path in plan.models]
    is_interrupted = False
    try:
        _measure(found, plan, bandwidth, guard, say)
    except KeyboardInterrupt:
        found = [each for each in found if each.has_figures]
        if not found:
            raise
        for each in found:
            each.notes.insert(0, _interruption_note(each, plan))
        is_interrupted = True
    settings = _settings_document(plan, guard)
    return [_record(each, started, settings, machine, interrupted=is_interrupted) for each in found]


def _measure(
    found: Sequence[_Found], plan: BenchPlan, bandwidth: Bandwidth, guard: Guard, say: Callable[[str], None]
) -> None:
    if plan.quality:
        _measure_quality(found, plan.settings, plan.quality, say)  # first: what is wrong with its input shows here
    for each in found:
        _start_fresh(each, plan.settings, say)
    for group in _groups(found):
        _measure_speeds(group, plan.settings, bandwidth, guard, say)


def _interruption_note(found: _Found, plan: BenchPlan) -> str:
    missing = ", and no quality" if plan.quality and not found.quality_metrics else ""
    return (
        f"Interrupted: {found.rounds} of {plan.settings.rounds} rounds and {found.fresh_starts} of "
        f"{plan.settings.fresh_starts} fresh starts were measured{missing}."
    )


def _record(
    found: _Found, started: str, settings: Mapping[str, Any], machine: Mapping[str, Any], *, interrupted: bool
) -> Record:
    return Record(
        model=found.model,
        started=started,
        settings=settings,
        machine=machine,
        metrics=(*found.metrics, *found.quality_metrics),
        ceiling=found.ceiling,
        gaps_seconds=found.gaps_seconds,
        memory=found.memory,
        quality=tuple(found.quality),
        notes=tuple(found.notes),
        interrupted=interrupted,
    )


def _settings_document(plan: BenchPlan, guard: Guard) -> dict[str, Any]:
    backends = sorted({device.name.rstrip("0123456789") for device in system.devices() if device.is_gpu})
    return {
        **plan.settings.document,
        "backends": ",".join(backends) or "CPU",
        "energy_meter": guard.meter.name if guard.meter else None,
        "notices_throttling": guard.read_state().is_known,
        "speculation": "off",
        "quality": plan.quality.document if plan.quality else None,
    }


# Fresh processes


def _start_fresh(found: _Found, settings: BenchSettings, say: Callable[[str], None]) -> None:
    """Starts with the file forgotten by the system, where it can be asked to, and with it in memory, in turn."""
    if not can_measure_processes():
        found.notes.append("Fresh processes cannot be measured on this system.")
        return
    fresh = FreshSettings(
        settings.prompt_tokens,
        settings.generated_tokens,
        settings.threads,
        settings.gpu_layers,
        settings.key_type,
        settings.value_type,
        settings.repack_weights,
    )
    kinds = (False, True) if can_forget_files() else (True,)
    starts: list[FreshStart] = []
    try:
        for number in range(settings.fresh_starts):
            say(f"{found.path.name}: fresh start {number + 1} of {settings.fresh_starts}")
            starts += [measure_fresh_start(found.path, fresh, from_memory=is_warm) for is_warm in kinds]
    finally:  # an interrupt too leaves those before it
        found.fresh_starts = len(starts) // len(kinds)
        _take_fresh(found, starts)


def _take_fresh(found: _Found, starts: Sequence[FreshStart]) -> None:
    found.metrics += fresh_metrics(starts)
    if starts:
        last = starts[-1]
        found.memory = {"timeline": [list(point) for point in last.timeline], "phases": [list(p) for p in last.phases]}


# Speeds


def _groups(found: Sequence[_Found]) -> Iterator[list[_Found]]:
    """Models that are open at the same time: all, if they fit into memory, else one after the other."""
    if not found:
        return
    total = sum(read_gguf(each.path).file_bytes for each in found)
    if total <= _OPEN_SHARE_OF_RAM * read_ram().available_bytes:
        yield list(found)
        return
    for each in found:
        each.notes.append("Models were measured one after the other: they do not fit into memory together.")
        yield [each]


def _measure_speeds(
    group: Sequence[_Found], settings: BenchSettings, bandwidth: Bandwidth, guard: Guard, say: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        subjects = []
        for each in group:
            say(f"Opening {each.path.name}")
            subjects.append(stack.enter_context(opened(each.path, settings)))
        cases = [case for subject in subjects for case in subject.cases]
        rounds: list[list[Sample]] = []
        cached: list[float] = []
        try:
            for taken in measure_in_turn(
                cases,
                settings.rounds,
                guard,
                lambda number: say(f"Round {number} of {settings.rounds}" if number else "Warming up"),
            ):
                cached = cached or [each.decode_steps.bytes_per_token(settings.generated_tokens) for each in subjects]
                rounds.append(taken)
        finally:  # an interrupt too leaves the rounds before it
            samples = zip(*rounds, strict=True)  # by case
            for each, subject, bytes_per_token in zip(group, subjects, cached, strict=False):  # none without a round
                each.rounds = len(rounds)
                each.model = model_record(subject.path, subject.engine.model)
                _take_speeds(each, subject, [next(samples) for _ in subject.cases], settings)
                _take_ceiling(each, settings, bandwidth, bytes_per_token)


def _take_speeds(found: _Found, subject: Subject, samples: Sequence[Sequence[Sample]], settings: BenchSettings) -> None:
    names = [case.name for case in subject.cases]
    by_case = dict(zip(names, samples, strict=True))
    found.metrics += speed_metrics(by_case, metric_kinds(settings, _first_token_prompt(subject, settings)))
    for streams in settings.streams:
        taken = by_case[f"streams{streams}"]
        found.gaps_seconds[str(streams)] = [round(gap, 6) for each in taken for gap in each.observation.gaps_seconds]
    found.notes += throttling_notes(by_case)


def _first_token_prompt(subject: Subject, settings: BenchSettings) -> int:
    return first_token_prompt(settings, subject.engine.context_tokens)


def _take_ceiling(found: _Found, settings: BenchSettings, bandwidth: Bandwidth, cached_per_token: float) -> None:
    """What the bandwidth allows, and the share of it that decoding reaches. Of layers on a card it says nothing."""
    if system.supports_gpu_offload() and settings.gpu_layers != 0:
        found.notes.append("Layers are on a graphics card, whose bandwidth is not measured: there is no ceiling.")
        return
    generated = settings.generated_tokens
    cache_bytes = cached_per_token * (generated + 1) / 2
    limit = ceiling(bandwidth, weight_bytes_per_token(read_gguf(found.path)), round(cache_bytes))
    found.ceiling = {"bandwidth": asdict(bandwidth), **asdict(limit)}
    place, decode = next(each for each in enumerate(found.metrics) if each[1].kind.name == f"tg{generated}")
    allowed = MetricKind("ceiling", "decode that memory allows, predicted", "tok/s", "neither")
    share = MetricKind("ceiling_share", "decode, share of what memory allows", "%", "neither")
    found.metrics[place + 1 : place + 1] = [
        Metric(allowed, (limit.tokens_per_second,)),
        Metric(share, tuple(100 * rate / limit.tokens_per_second for rate in decode.samples)),
    ]
    if not limit.weights_exceed_cache:
        found.notes.append("The weights fit into the last cache: decoding may be faster than memory allows.")
    if not bandwidth.exceeds_cache:
        found.notes.append("Memory is too small to measure its bandwidth beyond the cache: the ceiling is too high.")


def model_record(path: Path, model: Model | None = None) -> ModelRecord:
    """What is known of a file; once it is open, as llama.cpp describes it, too."""
    file = read_gguf(path)
    description = describe(file)
    return ModelRecord(
        name=path.stem,
        path=str(path),
        architecture=file.architecture,
        quantization=description.quantization or "?",
        parameters=description.parameters,
        file_bytes=file.file_bytes,
        weight_bytes=sum(tensor.n_bytes for tensor in file.tensors.values()),
        description=model_description(model) if model else "",
    )


# Quality


def _measure_quality(
    found: Sequence[_Found], settings: BenchSettings, plan: QualityPlan, say: Callable[[str], None]
) -> None:
    """Against the reference, if there is one; and where keys and values are quantized, against the same model's F16."""
    has_other_cache = (settings.key_type, settings.value_type) != ("F16", "F16")

    def measured(reference: Compared | None, others: Sequence[Compared]) -> list[Quality | Estimate]:
        return measure_quality(
            reference,
            others,
            plan.text,
            threads=settings.threads,
            repack_weights=settings.repack_weights,
            chunks=plan.chunks,
            progress=lambda number, count: (
                None if number % _PROGRESS_CHUNKS else say(f"Quality: chunk {number + 1} of {count}")
            ),
        )

    others = [each for each in found if each.path != plan.reference]
    if not others:
        _measure_alone(found, settings, measured)
    for group in _groups(others):
        sides = [Compared(each.path, settings.key_type, settings.value_type) for each in group]
        reference = Compared(plan.reference) if plan.reference else None
        for each, quality in zip(group, measured(reference, sides), strict=True):
            _take_quality(each, quality, "")
            for same in (each for each in found if each.path == plan.reference and not each.quality_metrics):
                assert isinstance(quality, Quality)
                _take_quality(same, quality.reference_perplexity, "")
    if has_other_cache:
        for each in found:
            side = Compared(each.path, settings.key_type, settings.value_type)
            _take_quality(each, measured(Compared(each.path), [side])[0], "cache_")


def _measure_alone(found: Sequence[_Found], settings: BenchSettings, measured: _Measured) -> None:
    """Perplexities of a reference that is held against nothing."""
    sides = [Compared(each.path, settings.key_type, settings.value_type) for each in found]
    for each, quality in zip(found, measured(None, sides), strict=True):
        _take_quality(each, quality, "")
        each.notes.append("The reference is the model itself: there is no divergence from it.")


def _take_quality(found: _Found, quality: Quality | Estimate, prefix: str) -> None:
    found.quality_metrics += quality_metrics(quality, prefix)
    if isinstance(quality, Quality):
        against = "the same model with F16 keys and values" if prefix else quality.reference
        found.quality.append({**asdict(quality), "reference": against})
