"""How the libraries are loaded: those that were built for many processors too, of which the best is chosen here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.errors import EdgeError
from edge.llama import library
from edge.llama.binding import llama


class FakeRegistry:
    """ggml's registry of backends, with functions under their names as the library gives them."""

    def __init__(self, registered: int, *, loadable: int) -> None:
        self.registered = registered
        self.loadable = loadable
        self.searched: list[bytes] = []

    def native(self, name: str, result: Any, *arguments: Any) -> Callable[..., int | None]:
        functions = {"ggml_backend_reg_count": lambda: self.registered, "ggml_backend_load_all_from_path": self.load}
        return functions[name]

    def load(self, folder: bytes) -> None:
        self.searched.append(folder)
        self.registered += self.loadable


def test_libraries_built_for_many_processors_are_loaded_from_beside_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry(0, loadable=1)
    monkeypatch.setattr(library, "_native", registry.native)
    library._load_processors()
    assert registry.searched == [os.fsencode(Path(llama._lib._name).parent)]


def test_library_with_its_processor_built_in_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry(1, loadable=1)
    monkeypatch.setattr(library, "_native", registry.native)
    library._load_processors()
    assert registry.searched == []


def test_libraries_for_other_processors_only_are_an_error_with_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_native", FakeRegistry(0, loadable=0).native)
    with pytest.raises(EdgeError) as caught:
        library._load_processors()
    folder = Path(llama._lib._name).parent
    assert caught.value.message == f"None of llama.cpp's libraries in {folder} is for this processor."
    assert caught.value.hint.startswith("Compile llama-cpp-python on this machine: pip install ")
