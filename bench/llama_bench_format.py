"""Prefill and decode in the JSON that llama-bench writes, so that its compare-llama-bench.py reads them.

That script holds only runs with the same settings against each other: llama-bench's are made with -b 512 -lm mmap.
Fields that edge has no setting for carry what llama-bench's defaults are. Source: llama.cpp,
tools/llama-bench/llama-bench.cpp (get_fields, json_printer) and scripts/compare-llama-bench.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from bench.cases import PREFILL_STEP_TOKENS
from bench.record import Metric, Record

_NANOSECONDS = 10**9


def llama_bench_documents(record: Record) -> list[dict[str, Any]]:
    """An object for prefill, and one for decode."""
    prompt, generated = int(record.settings["prompt_tokens"]), int(record.settings["generated_tokens"])
    found = ((record.metric(f"pp{prompt}"), prompt, 0), (record.metric(f"tg{generated}"), 0, generated))
    return [_document(record, metric, prompts, tokens) for metric, prompts, tokens in found if metric]


def _document(record: Record, metric: Metric, prompt_tokens: int, generated_tokens: int) -> dict[str, Any]:
    nanoseconds = [round(_NANOSECONDS * (prompt_tokens + generated_tokens) / rate) for rate in metric.samples]
    return {
        **_conditions(record),
        "n_prompt": prompt_tokens,
        "n_gen": generated_tokens,
        "n_depth": 0,
        "test_time": record.started,
        "avg_ns": round(mean(nanoseconds)),
        "stddev_ns": round(_deviation(nanoseconds)),
        "avg_ts": mean(metric.samples),
        "stddev_ts": _deviation(metric.samples),
        "samples_ns": nanoseconds,
        "samples_ts": list(metric.samples),
    }


def _conditions(record: Record) -> dict[str, Any]:
    settings, machine = record.settings, record.machine
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    return {
        "build_commit": build_commit(machine["versions"]),
        "build_number": 0,
        "cpu_info": machine["cpu"]["name"],
        "gpu_info": ", ".join(gpus),
        "backends": settings["backends"],
        "model_filename": record.model.path,
        "model_type": record.model.description,
        "model_size": record.model.weight_bytes,
        "model_n_params": record.model.parameters,
        "n_batch": PREFILL_STEP_TOKENS,
        "n_ubatch": PREFILL_STEP_TOKENS,
        "n_threads": settings["threads"],
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": str(settings["key_type"]).lower(),
        "type_v": str(settings["value_type"]).lower(),
        "n_gpu_layers": settings["gpu_layers"],
        "n_cpu_moe": 0,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": -1,
        "devices": "auto",
        "tensor_split": "0.00",
        "tensor_buft_overrides": "none",
        "load_mode": "mmap",
        "lazy_mode": "auto",
        "embeddings": False,
        "no_op_offload": 0,
        "no_host": False,
        "repack": settings.get("repack_weights", True),  # older records do not say so
        "fit_target": 0,
        "fit_min_ctx": 0,
    }


def build_commit(versions: dict[str, str]) -> str:
    """The first 8 letters of what tells this build from another: llama.cpp's commit, as llama-bench has it."""
    commit = versions["llama.cpp"].partition("(")[2].rstrip(")").removesuffix("-dirty")
    return (commit or versions["llama.cpp"])[:8]


def _deviation(values: Sequence[float]) -> float:
    """Of a sample, 0 for a single one."""
    return stdev(values) if len(values) > 1 else 0.0
