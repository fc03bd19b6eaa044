"""What `import edge` and `import convert` offer, and what they leave unimported."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import convert
import edge

HEAVY = ("numpy", "llama_cpp", "gguf", "fastapi", "rich", "jinja2", "llguidance", "prompt_toolkit")


@pytest.mark.parametrize("name", dir(edge))
def test_every_name_that_edge_offers_resolves(name: str) -> None:
    assert getattr(edge, name).__module__.startswith("edge.")


def test_names_that_the_documents_promise_are_offered() -> None:
    promised = {
        "Chat",
        "Constraint",
        "EdgeError",
        "Engine",
        "Message",
        "ModelSettings",
        "Request",
        "SamplingSettings",
    } | {"Server", "ServerSettings"}
    assert promised <= set(dir(edge))
    assert callable(convert.convert_checkpoint)


@pytest.mark.parametrize("package", ["edge", "convert"])
def test_name_that_is_not_offered_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Angine'"):
        importlib.import_module(package).Angine  # noqa: B018 - reading it is the test


@pytest.mark.parametrize("statement", ["import edge", "import convert"])
def test_importing_a_package_imports_nothing_heavy(statement: str) -> None:
    assert imported_by(statement) == []


def imported_by(statement: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()
