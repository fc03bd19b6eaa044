"""The JSON of llama-bench: its fields, and its way to compute means and deviations."""

from __future__ import annotations

import pytest

from bench.llama_bench_format import build_commit, llama_bench_documents
from tests.bench.bench_records import MACHINE, make_record

# llama.cpp, scripts/compare-llama-bench.py: LLAMA_BENCH_DB_FIELDS, all that it reads
READ_FIELDS = """
build_commit build_number cpu_info gpu_info backends model_filename model_type model_size model_n_params n_batch
n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers split_mode main_gpu no_kv_offload flash_attn
tensor_split tensor_buft_overrides load_mode embeddings no_op_offload n_prompt n_gen n_depth test_time avg_ns stddev_ns
avg_ts stddev_ts n_cpu_moe fit_target fit_min_ctx
"""


def test_prefill_and_decode_have_every_field_that_the_compare_script_reads() -> None:
    prefill, decode = llama_bench_documents(make_record())
    for document in (prefill, decode):
        assert set(READ_FIELDS.split()) <= set(document)
        assert document["model_size"] == 90_000_000
        assert document["build_commit"] == "01234567"
        assert document["model_filename"] == "/models/model-Q4_0.gguf"
        assert (document["type_k"], document["n_threads"], document["cpu_info"]) == ("f16", 4, "Made-up CPU <7>")
    assert (prefill["n_prompt"], prefill["n_gen"]) == (512, 0)
    assert (decode["n_prompt"], decode["n_gen"]) == (0, 128)


def test_rates_are_tokens_over_nanoseconds_with_a_samples_deviation() -> None:
    decode = llama_bench_documents(make_record())[1]
    assert decode["samples_ts"] == [100.0, 101.0, 99.0, 100.5, 102.0]
    assert decode["samples_ns"][0] == 1_280_000_000
    assert decode["avg_ts"] == pytest.approx(100.5)
    assert decode["stddev_ts"] == pytest.approx(1.1180339887)


def test_a_build_without_a_commit_is_told_by_its_version() -> None:
    assert build_commit({"llama.cpp": "0.5.0-dev"}) == "0.5.0-de"
    assert build_commit(MACHINE["versions"]) == "01234567"
