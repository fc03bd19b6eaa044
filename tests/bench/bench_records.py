"""Made-up records of the bench, as several tests need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.record import Metric, MetricKind, ModelRecord, Record

PREFILL = MetricKind("pp512", "prefill, 512 tokens", "tok/s", "higher")
DECODE = MetricKind("tg128", "decode, 128 tokens", "tok/s", "higher")
FIRST_TOKEN = MetricKind("ttft512", "first token after 512", "ms", "lower")
STREAMS = MetricKind("streams4", "4 streams", "tok/s", "higher")
PEAK = MetricKind("peak_rss", "peak memory of the process", "bytes", "lower")
DIVERGENCE = MetricKind("divergence", "KL divergence", "nats", "lower")

MACHINE: dict[str, Any] = {
    "system": "Linux 6.1 x86_64",
    "cpu": {"name": "Made-up CPU <7>", "simd": ["AVX2"]},
    "cores": {"logical": 8, "physical": 4, "quota": None},
    "ram": {"total_bytes": 16_000_000_000, "limit_bytes": None},
    "gpus": [],
    "last_cache_bytes": 8 << 20,
    "governor": "performance",
    "load_average": 0.1,
    "devices": ["CPU: Made-up CPU"],
    "versions": {"python": "3.11.7", "edge-llm": "0.1.0", "llama.cpp": "0.5.0 (0123456789abcdef-dirty)"},
}
SETTINGS: dict[str, Any] = {
    "prompt_tokens": 512,
    "generated_tokens": 128,
    "streams": [4],
    "largest_streams": 4,
    "rounds": 5,
    "threads": 4,
    "gpu_layers": -1,
    "key_type": "F16",
    "value_type": "F16",
    "fresh_starts": 1,
    "backends": "CPU",
    "energy_meter": None,
    "notices_throttling": True,
    "speculation": "off",
}
CEILING: dict[str, Any] = {
    "bandwidth": {
        "threads": 4,
        "buffer_bytes": 1 << 28,
        "cache_bytes": 8 << 20,
        "read": 40e9,
        "copy": 36e9,
        "triad": 30e9,
    },
    "weight_bytes": 90_000_000,
    "cache_bytes": 1_000_000,
    "tokens_per_second": 439.6,
    "weights_exceed_cache": True,
}
MEMORY: dict[str, Any] = {
    "timeline": [[0.0, 10_000_000, 8_000_000], [0.5, 200_000_000, 90_000_000], [1.0, 210_000_000, 95_000_000]],
    "phases": [["imports", 0.0], ["load", 0.3], ["first token", 0.6], ["end", 1.0]],
}


def make_quality(divergence: float = 0.05) -> dict[str, Any]:
    estimate = {"value": 0.1, "error": 0.01}
    return {
        "reference": "model-F16.gguf",
        "text": "held_out.txt",
        "chunk_tokens": 512,
        "chunks": 3,
        "positions": 765,
        "divergence": {"value": divergence, "error": 0.002},
        "divergence_percentiles": {"99.9%": 1.2, "50.0%": 0.01},
        "largest_divergence": 2.5,
        "probability_difference_rms": estimate,
    }


def make_record(
    quantization: str = "Q4_0",
    samples: Mapping[MetricKind, Sequence[float]] | None = None,
    *,
    divergence: float | None = 0.05,
    parameters: int = 135_000_000,
    machine: Mapping[str, Any] = MACHINE,
    settings: Mapping[str, Any] = SETTINGS,
    notes: tuple[str, ...] = (),
) -> Record:
    """A record in which everything is there."""
    measured = samples or {
        PREFILL: (900.0, 910.0, 905.0, 899.0, 920.0),
        DECODE: (100.0, 101.0, 99.0, 100.5, 102.0),
        FIRST_TOKEN: (560.0, 555.0, 571.0, 566.0, 559.0),
        STREAMS: (180.0, 182.0, 185.0, 179.0, 181.0),
        PEAK: (210e6, 211e6),
    }
    metrics = [Metric(kind, tuple(values)) for kind, values in measured.items()]
    if divergence is not None:
        metrics.append(Metric(DIVERGENCE, (divergence,), 0.002))
    return Record(
        model=ModelRecord(
            name=f"model-{quantization}",
            path=f"/models/model-{quantization}.gguf",
            architecture="llama",
            quantization=quantization,
            parameters=parameters,
            file_bytes={"Q8_0": 145_000_000}.get(quantization, 92_000_000),
            weight_bytes=90_000_000,
            description=f"llama 135M {quantization}",
        ),
        started="2026-01-02T03:04:05Z",
        settings=settings,
        machine=machine,
        metrics=tuple(metrics),
        ceiling=CEILING,
        gaps_seconds={"4": [0.01, 0.012, 0.011, 0.02]},
        memory=MEMORY,
        quality=() if divergence is None else (make_quality(divergence),),
        notes=notes,
    )
