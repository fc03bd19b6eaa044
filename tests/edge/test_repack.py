"""Weights that are kept once more in another order, or not: what memory holds, and that answers stay the same."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bench.fresh_start import FreshSettings, measure_fresh_start
from edge.device_profiles import repacked_types
from edge.devices import read_cpu
from edge.gguf_file import read_gguf
from edge.llama import log
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.llama.quantize import quantize_file
from edge.local_engine import LocalEngine
from edge.memory import Placement, repacked_bytes
from edge.model_shape import stored_model
from edge.request import Completion, Request
from edge.settings import ModelSettings, SamplingSettings

MEBIBYTE = 1 << 20
SETTINGS = ModelSettings(context_tokens=512, threads=2)
PROMPT = "Count: one two three four five six. one two three four five six. one two three"
FRANCE = "The capital of France is"
TEXT = "The history of the world is long. In 1492 Columbus sailed over the ocean. Bees make honey from nectar."
COPY = re.compile(r"CPU_REPACK model buffer size = +(\d+\.\d+) MiB")

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def models(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The real model in types that are repacked, and as it comes, in Q4_1, which is not."""
    folder = tmp_path_factory.mktemp("repacked")
    made = {name: folder / f"{name}.gguf" for name in ("Q4_0", "Q4_K_M", "IQ4_NL")}
    for name, path in made.items():
        quantize_file(demo_gguf, path, name)
    return {**made, "Q4_1": demo_gguf}


def copied_bytes(path: Path) -> int:
    """What of a file is predicted to be copied on this machine."""
    return repacked_bytes(stored_model(read_gguf(path)), Placement(repacked_types=repacked_types(read_cpu().simd)))


def reported_mebibytes(path: Path, *, repack_weights: bool) -> float:
    """The buffer of repacked weights, as llama.cpp reports it."""
    with log.recorded() as lines, Model(path, repack_weights=repack_weights):
        return max((float(found[1]) for line in lines if (found := COPY.search(line))), default=0.0)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M", "IQ4_NL", "Q4_1"])
def test_llama_cpp_copies_what_is_predicted_or_nothing(models: dict[str, Path], name: str) -> None:
    predicted = copied_bytes(models[name]) / MEBIBYTE
    assert reported_mebibytes(models[name], repack_weights=True) == pytest.approx(predicted, abs=0.02)
    assert reported_mebibytes(models[name], repack_weights=False) == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what memory is no file's")
def test_process_takes_less_memory_that_is_no_files_without_the_copy(models: dict[str, Path]) -> None:
    copy = copied_bytes(models["Q4_0"])
    fresh = FreshSettings(32, 8, threads=1, gpu_layers=0, key_type="F16", value_type="F16")
    repacked, plain = (
        max(anonymous for _, _, anonymous in measure_fresh_start(models["Q4_0"], each, from_memory=True).timeline)
        for each in (fresh, replace(fresh, repack_weights=False))
    )
    assert repacked - plain == pytest.approx(copy, rel=0.1, abs=4 * MEBIBYTE)


# What is computed


def answer(path: Path, settings: ModelSettings, prompt: str = PROMPT) -> Completion:
    with LocalEngine(path, settings) as engine:
        request = Request(tuple(engine.text_tokens(prompt)), SamplingSettings(temperature=0), max_tokens=48)
        return engine.submit(replace(request, ignore_eos=True)).result()


@pytest.mark.usefixtures("guesses_at_every_step")
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M", "IQ4_NL", "Q4_1"])
@pytest.mark.parametrize("repack_weights", [True, False])
def test_greedy_answers_are_the_same_with_drafts_and_without(
    models: dict[str, Path], name: str, repack_weights: bool
) -> None:
    settings = replace(SETTINGS, repack_weights=repack_weights)
    drafted = answer(models[name], settings)
    alone = answer(models[name], replace(settings, speculation="off"))
    assert drafted.text == alone.text
    assert alone.usage.drafted_tokens == 0


@pytest.mark.usefixtures("guesses_at_every_step")
def test_draft_model_changes_no_answer_where_weights_are_not_repacked(models: dict[str, Path]) -> None:
    settings = replace(SETTINGS, repack_weights=False)
    drafted = answer(models["Q4_0"], replace(settings, draft_model=models["Q4_1"]))
    assert drafted.usage.drafted_tokens > 0
    assert drafted.text == answer(models["Q4_0"], replace(settings, speculation="off")).text


def log_probabilities(path: Path, *, repack_weights: bool) -> npt.NDArray[np.float64]:
    """Of each token [vocabulary] behind each of a text [tokens]."""
    with Model(path, repack_weights=repack_weights) as model:
        tokens = model.vocab.tokenize(TEXT)
        with Context(model, context_tokens=256, threads=2, max_outputs=len(tokens)) as context:
            batch = Batch(context.batch_tokens, 1)
            first = batch.add_all_wanted(tokens, sequence=0, position=0)
            context.decode(batch)
            logits = np.array([context.logits(first + place).copy() for place in range(len(tokens))], np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return shares


def test_weights_of_a_type_that_is_not_repacked_give_the_same_bits(models: dict[str, Path]) -> None:
    if copied_bytes(models["Q4_1"]):
        pytest.skip("this processor repacks Q8_0, in which the output is")
    repacked, plain = (log_probabilities(models["Q4_1"], repack_weights=each) for each in (True, False))
    assert np.array_equal(repacked, plain)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M", "IQ4_NL"])
def test_repacked_weights_differ_by_rounding_alone(models: dict[str, Path], name: str) -> None:
    repacked, plain = (log_probabilities(models[name], repack_weights=each) for each in (True, False))
    divergence = (np.exp(plain) * (plain - repacked)).sum(axis=1).mean()
    assert divergence < 0.02  # 0.003 to 0.004 with AVX-512; for Q4_0 the quantization itself costs 0.37
    assert (divergence > 0) == (copied_bytes(models[name]) > 0)  # so a prefix of one is none of the other
    texts = {answer(models[name], replace(SETTINGS, repack_weights=each), FRANCE).text[:12] for each in (True, False)}
    assert len(texts) == 1


# Less memory than it takes

_LOAD_WITHIN = """
import resource, sys
from pathlib import Path
from edge.errors import EdgeError
from edge.llama.model import Model
from edge.step_down import is_memory_failure

path, allowed = Path(sys.argv[1]), int(sys.argv[2])
with Model(path, vocabulary_only=True):
    pass  # what is set up once
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
held = int(status["VmData"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + allowed, held + allowed))
try:
    with Model(path):
        print("loaded with a copy")
except EdgeError as error:
    print(is_memory_failure(error), error.message)
with Model(path, repack_weights=False):
    print("loaded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process holds beside files")
def test_weights_are_loaded_where_memory_does_not_suffice_for_the_copy(models: dict[str, Path]) -> None:
    copy = copied_bytes(models["Q4_0"])
    if copy < 48 * MEBIBYTE:
        pytest.skip("this processor repacks too little of it")
    command = [sys.executable, "-c", _LOAD_WITHIN, str(models["Q4_0"]), str(copy * 3 // 4)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    failed, loaded = done.stdout.splitlines()
    assert failed.startswith("True llama.cpp cannot load ") and "insufficient memory" in failed
    assert loaded == "loaded"
