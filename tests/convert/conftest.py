"""Tiny checkpoints written once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.tiny import write_tiny_checkpoint

TinyFolder = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFolder:
    """The folder of a tiny checkpoint by name. It is shared: a test that changes files takes a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    return cache(lambda name: write_tiny_checkpoint(name, folder))
