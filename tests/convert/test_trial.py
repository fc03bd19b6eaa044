"""A child process tries a file: what it finds comes back, and its end is an error like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from convert import trial
from convert.pipeline import write_checkpoint
from convert.trial import TrialTimeoutError, try_in_child
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder

FORWARD = "the forward pass"


def refusal(question: dict[str, object], seconds: float = 60) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        try_in_child(FORWARD, question, timeout_seconds=seconds)
    return caught.value


def fill(path: Path, name: str, value: float) -> None:
    """Give every weight of an F32 tensor one value."""
    tensor = read_gguf(path).tensors[name]
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(tensor.n_elements, value, np.float32).tobytes())


@pytest.fixture
def f32(tiny: TinyFolder, tmp_path: Path) -> Path:
    (path,) = write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "model.gguf")
    return path


def test_forward_pass_gives_the_range_of_the_logits(f32: Path) -> None:
    answer = try_in_child(
        FORWARD, {"kind": "forward", "path": str(f32), "threads": 1, "gives": "logits"}, timeout_seconds=60
    )
    assert answer["tokens"] == 16
    assert answer["smallest"] < 0 < answer["largest"]


def test_forward_pass_of_an_embedding_model_gives_the_range_of_its_embeddings(f32: Path) -> None:
    question = {"kind": "forward", "path": str(f32), "threads": 1, "gives": "embeddings"}
    answer = try_in_child(FORWARD, question, timeout_seconds=60)
    assert answer["tokens"] == 16
    assert -20 < answer["smallest"] < 0 < answer["largest"] < 20


def test_logits_that_are_no_numbers_are_refused(f32: Path) -> None:
    fill(f32, "blk.1.ffn_norm.weight", 3e38)
    error = refusal({"kind": "forward", "path": str(f32), "threads": 1, "gives": "logits"})
    assert error.message == "The forward pass gives logits that are no numbers, at token 1 of 16."
    assert error.hint == "The weights or the model's shape are wrong: the file cannot be used."


def test_logits_that_say_nothing_are_refused(f32: Path) -> None:
    fill(f32, "output_norm.weight", 0)
    error = refusal({"kind": "forward", "path": str(f32), "threads": 1, "gives": "logits"})
    assert error.message == "The forward pass gives logits that are all the same."
    assert error.hint == "The weights are wrong, such as all zero: the file cannot be used."


def test_file_that_llama_cpp_refuses_is_refused_with_its_words(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert refusal({"kind": "forward", "path": str(path), "threads": 1, "gives": "logits"}).message.startswith(
        f"llama.cpp cannot load {path}: "
    )


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals")
def test_abort_of_native_code_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; print('ggml.c:7: GGML_ASSERT(ne > 0) failed', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setattr(trial, "_CHILD", ("-c", code))
    error = refusal({})
    assert error.message == (
        "llama.cpp ended its process (SIGABRT) during the forward pass: ggml.c:7: GGML_ASSERT(ne > 0) failed."
    )
    assert error.hint == (
        "The file cannot be run. If the checkpoint is sound, this is an error of the converter: report it."
    )


def test_child_that_ends_without_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_CHILD", ("-c", "print('half a line')"))
    assert refusal({}).message == "llama.cpp ended its process (exit code 0) during the forward pass."
    monkeypatch.setattr(trial, "_CHILD", ("-c", "raise SystemExit(3)"))
    assert refusal({}).message == "llama.cpp ended its process (exit code 3) during the forward pass."


def test_child_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_CHILD", ("-c", "import time; time.sleep(600)"))
    error = refusal({}, seconds=0.2)
    assert isinstance(error, TrialTimeoutError)
    assert error.message == "The forward pass did not end within 0 seconds."
    assert error.hint == "Try again on a machine that is less busy, or leave the proof out with --no-verify."


def test_lines_before_the_answer_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_CHILD", ("-c", "print('{}'); print('{\"tokens\": 7}')"))
    assert try_in_child(FORWARD, {}, timeout_seconds=60) == {"tokens": 7}


def test_frozen_app_is_the_child_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(dict(arguments=sys.argv[1:])))\n")
    app.chmod(0o755)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(app))
    assert try_in_child(FORWARD, {}, timeout_seconds=60) == {"arguments": [trial.ARGUMENT]}
