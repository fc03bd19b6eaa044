"""In steps up to the size that is said, tokens are computed as each would be alone, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from convert.pipeline import write_checkpoint
from convert.plan import NO_OPTIONS, ConversionOptions
from convert.tensor_types import read_choices
from edge.errors import EdgeError
from edge.exact_steps import exact_step_tokens
from edge.gguf_file import read_gguf
from edge.llama import cpu_backend
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.local_engine import LocalEngine
from edge.prompt import plain_tokens
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from tests.tiny import write_tiny_checkpoint

HELD, MORE = 560, 60  # from 512 cells on, the attention to a single token would be split over the threads
LARGE = 30
SETTINGS = ModelSettings(context_tokens=512, threads=1)
SIZES = (2, 3, 4, 5, 6, 10, 15, 20, LARGE)


def logits_by_steps(context: Context, tokens: list[int], size: int) -> npt.NDArray[np.float32]:
    """Logits [MORE, vocabulary] of the last tokens of a sequence, computed `size` at a time."""
    batch = Batch(context.batch_tokens, 1)
    context.remove(0, 0)
    batch.add(tokens[:HELD], sequence=0, position=0, last_logits=True)
    context.decode(batch)
    rows = []
    for start in range(HELD, HELD + MORE, size):
        batch.clear()
        first = batch.add_all_wanted(tokens[start : start + size], sequence=0, position=start)
        context.decode(batch)
        rows += [context.logits(first + index).copy() for index in range(size)]
    return np.array(rows)


def exact_sizes(path: Path, *, context: dict[str, object] | None = None, repack_weights: bool = True) -> list[int]:
    """The sizes of steps whose logits are those of steps of one token."""
    tokens = [int(token) for token in np.random.default_rng(1).integers(3, 250, HELD + MORE)]
    with (
        Model(path, repack_weights=repack_weights) as model,
        Context(
            model, context_tokens=1024, threads=2, batch_tokens=1024, max_outputs=LARGE, **(context or {})
        ) as opened,  # type: ignore[arg-type]
    ):
        alone = logits_by_steps(opened, tokens, 1)
        return [size for size in SIZES if np.array_equal(logits_by_steps(opened, tokens, size), alone)]


def written(family: str, quantization: str, folder: Path, options: ConversionOptions = NO_OPTIONS) -> Path:
    checkpoint = write_tiny_checkpoint(family, folder / f"for {quantization}")
    (path,) = write_checkpoint(checkpoint, [quantization], folder / f"{quantization}.gguf", options=options)
    return path


@pytest.mark.parametrize(
    ("quantization", "limit"),
    [
        ("Q8_0", None),
        *((name, 7) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q5_K_M", "Q6_K", "IQ4_XS")),  # Q6_K outputs
        *((name, 3) for name in ("Q2_K", "Q4_K_M")),
        *((name, 1) for name in ("F32", "F16", "BF16")),
    ],
)
def test_steps_are_exact_up_to_the_size_that_is_said(quantization: str, limit: int | None, tmp_path: Path) -> None:
    path = written("llama3", quantization, tmp_path)
    assert exact_step_tokens(read_gguf(path), "x86_64") == limit
    here = exact_step_tokens(read_gguf(path))
    assert {size for size in SIZES if here is None or size <= here} <= set(exact_sizes(path))


@pytest.mark.parametrize(
    ("kind", "repacked", "plain"),
    [
        ("Q4_0", None, None),
        ("IQ4_NL", None, 1),
        ("Q2_K", 3, 7),
        ("Q4_K", 3, 7),
        ("Q5_K", 7, 7),
        ("Q6_K", 7, 7),
        ("Q8_0", None, None),
    ],
)
def test_steps_are_exact_up_to_another_size_where_weights_are_not_repacked(
    kind: str, repacked: int | None, plain: int | None, tmp_path: Path
) -> None:
    options = ConversionOptions(choices=read_choices([f".*={kind}"], output=kind, embedding=kind))
    file = read_gguf(written("llama3", "Q8_0", tmp_path, options))
    assert exact_step_tokens(file, "x86_64") == repacked
    assert exact_step_tokens(file, "x86_64", repack_weights=False) == plain
    here = exact_step_tokens(file, repack_weights=False)
    assert {size for size in SIZES if here is None or size <= here} <= set(exact_sizes(file.path, repack_weights=False))


def test_other_processors_multiply_pairs_of_columns_where_weights_are_not_repacked(tmp_path: Path) -> None:
    for quantization in ("Q8_0", "Q4_0", "Q6_K", "Q4_1"):
        file = read_gguf(written("llama3", quantization, tmp_path))
        assert exact_step_tokens(file, "aarch64", repack_weights=False) == 1
    assert exact_step_tokens(read_gguf(written("llama3", "Q5_K_S", tmp_path)), "aarch64", repack_weights=False) == 1
    assert exact_step_tokens(read_gguf(tmp_path / "Q4_1.gguf"), "aarch64") == 1


def test_other_processors_multiply_more_types_in_fours(tmp_path: Path) -> None:
    assert exact_step_tokens(read_gguf(written("llama3", "Q6_K", tmp_path)), "aarch64") == 3
    assert exact_step_tokens(read_gguf(written("llama3", "Q8_0", tmp_path)), "aarch64") is None


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "qwen3"])
def test_steps_are_exact_with_sliding_windows_and_without(family: str, tmp_path: Path) -> None:
    assert exact_sizes(written(family, "Q8_0", tmp_path)) == list(SIZES)


@pytest.mark.parametrize(("key_type", "value_type"), [("Q8_0", "Q8_0"), ("Q4_0", "Q4_0"), ("Q8_0", "F16")])
def test_steps_are_exact_with_other_types_of_keys_and_values(key_type: str, value_type: str, tmp_path: Path) -> None:
    path = written("llama3", "Q8_0", tmp_path)
    assert exact_sizes(path, context={"key_type": key_type, "value_type": value_type}) == list(SIZES)


@pytest.mark.model
def test_steps_of_a_real_model_are_exact(demo_gguf: Path) -> None:
    assert exact_step_tokens(read_gguf(demo_gguf), "x86_64") is None
    here = exact_step_tokens(read_gguf(demo_gguf))
    assert here == 1 or exact_sizes(demo_gguf) == list(SIZES)


def test_router_of_experts_is_multiplied_like_other_f32_weights(tmp_path: Path) -> None:
    assert exact_step_tokens(read_gguf(written("mixtral", "Q8_0", tmp_path))) == 1


def test_embeddings_that_are_only_looked_up_do_not_count(tmp_path: Path) -> None:
    file = read_gguf(written("llama3", "Q8_0", tmp_path))
    half = replace(file.tensors["token_embd.weight"], type=replace(file.tensors["token_embd.weight"].type, name="F16"))
    separate = {**file.tensors, "token_embd.weight": half}
    tied = {name: each for name, each in separate.items() if name != "output.weight"}
    assert exact_step_tokens(replace(file, tensors=separate)) is None
    assert exact_step_tokens(replace(file, tensors=tied)) == 1


# Where the backend cannot be reached


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cpu_backend._find_device.cache_clear()
    monkeypatch.setattr(cpu_backend, "_KNOWN_LAYOUT", 99)
    yield
    cpu_backend._find_device.cache_clear()


@pytest.mark.usefixtures("unreachable")
def test_context_of_another_ggml_says_that_attention_is_not_alike(tmp_path: Path) -> None:
    path = written("llama3", "Q8_0", tmp_path)
    with Model(path) as model, Context(model, context_tokens=1024, threads=2) as context:
        assert not context.attends_alike
    with Model(path) as model, Context(model, context_tokens=256, key_type="Q8_0", value_type="Q8_0") as context:
        assert context.attends_alike
    assert 2 not in exact_sizes(path)


# What the engine makes of it


@pytest.mark.usefixtures("guesses_at_every_step")
def test_weights_that_are_not_exact_are_computed_without_drafts(tmp_path: Path) -> None:
    drafted = {}
    for quantization in ("Q8_0", "F16"):
        with LocalEngine(written("llama3", quantization, tmp_path), SETTINGS) as engine:
            prompt = tuple(plain_tokens("one two three four five six\n" * 6, engine.vocab))
            request = Request(prompt, SamplingSettings(temperature=0), max_tokens=60, ignore_eos=True)
            drafted[quantization] = engine.submit(request).result().usage.drafted_tokens
    assert drafted["Q8_0"] > 0
    assert drafted["F16"] == 0


def test_draft_model_for_weights_that_are_exact_only_repacked_is_refused_without(tmp_path: Path) -> None:
    options = ConversionOptions(choices=read_choices([".*=IQ4_NL"], output="IQ4_NL", embedding="IQ4_NL"))
    path = written("llama3", "Q8_0", tmp_path, options)
    if exact_step_tokens(read_gguf(path)) == 1:
        pytest.skip("this processor rounds it otherwise in any case")
    with LocalEngine(path, replace(SETTINGS, draft_model=path)):
        pass
    if exact_step_tokens(read_gguf(path), repack_weights=False) == 1:
        with pytest.raises(EdgeError, match="A draft model would change what "):
            LocalEngine(path, replace(SETTINGS, draft_model=path, repack_weights=False))


def test_draft_model_for_weights_that_are_not_exact_is_refused(tmp_path: Path) -> None:
    path = written("llama3", "F16", tmp_path)
    with pytest.raises(EdgeError) as caught:
        LocalEngine(path, replace(SETTINGS, draft_model=path))
    assert caught.value.message == (
        "A draft model would change what F16.gguf says: steps of two tokens are rounded otherwise."
    )
    assert caught.value.hint == (
        "Use it with quantized, repacked weights, as in Q8_0, and flash attention; or leave it out."
    )
