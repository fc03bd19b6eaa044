"""A conversion holds a few slabs of the source, whatever its size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.safetensors_file import write_safetensors
from tests.tiny import TINY, TOKENIZERS, tensor_shapes
from tests.tiny.adapters import ADAPTERS

MEASURE = """
import resource, sys
from pathlib import Path
from convert.merge import ScaledAdapter
from convert.pipeline import plan_checkpoint
from convert.verify import verify_planned
from convert.write import write_files
from edge.gguf_file import read_gguf

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

source, out, *adapters = map(Path, sys.argv[1:])
plan = plan_checkpoint(source, ["BF16", "Q8_0"], out, merge=[ScaledAdapter(adapter) for adapter in adapters])
before = peak_bytes()
paths = write_files(plan, threads=1)
written = peak_bytes()
for path in paths:
    verify_planned(read_gguf(path), plan, threads=1)
print(plan.source_bytes, written - before, peak_bytes() - before)
"""


def write_larger_checkpoint(name: str, folder: Path, intermediate_size: int) -> Path:
    """A checkpoint of about 70 MB with tensors of several slabs. Its weights are any small numbers."""
    config = {**TINY[name].config, "hidden_size": 1024, "intermediate_size": intermediate_size, "num_hidden_layers": 2}
    shapes = tensor_shapes(replace(TINY[name], config=config))
    shutil.copytree(TOKENIZERS / "llama2", folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    entries = [(name, "BF16", shape, lambda shape=shape: small_weights(shape)) for name, shape in shapes.items()]
    write_safetensors(folder / "model.safetensors", entries)
    return folder


def small_weights(shape: tuple[int, ...]) -> bytes:
    return np.random.default_rng(0).integers(0x3A00, 0x3D00, shape, np.uint16).tobytes()  # between 0.0005 and 0.03


def measured(*arguments: Path) -> tuple[int, int, int]:
    """Bytes of the source, and by how many memory grew while writing, and until everything was verified."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    source_bytes, writing_bytes, verifying_bytes = map(int, result.stdout.split())
    return source_bytes, writing_bytes, verifying_bytes


@pytest.mark.skipif(sys.platform == "win32", reason="has no getrusage")
@pytest.mark.parametrize(("name", "intermediate_size"), [("llama2", 4096), ("mixtral", 640)])
def test_peak_memory_does_not_grow_with_the_source(name: str, intermediate_size: int, tmp_path: Path) -> None:
    source = write_larger_checkpoint(name, tmp_path / "larger", intermediate_size)
    source_bytes, writing_bytes, verifying_bytes = measured(source, tmp_path / "out")
    assert source_bytes > 68_000_000
    assert writing_bytes < source_bytes / 4
    assert verifying_bytes < source_bytes / 2


@pytest.mark.skipif(sys.platform == "win32", reason="has no getrusage")
def test_merged_adapter_adds_no_more_than_itself_to_peak_memory(tmp_path: Path) -> None:
    source = write_larger_checkpoint("llama2", tmp_path / "larger", 4096)
    adapter = write_larger_adapter(tmp_path / "adapter")
    adapter_bytes = (adapter / "adapter_model.safetensors").stat().st_size
    source_bytes, writing_bytes, _ = measured(source, tmp_path / "out", adapter)
    assert 2_000_000 < adapter_bytes < 4_000_000
    assert writing_bytes < source_bytes / 4 + adapter_bytes


def write_larger_adapter(folder: Path) -> Path:
    """Of rank 64 for the feed-forward layers of a larger llama2. Its weights are any small numbers."""
    adapter = replace(
        ADAPTERS["llama2-embeddings"], rank=64, modules=("gate_proj", "up_proj", "down_proj"), tensor_suffix=""
    )
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(adapter.config), encoding="utf-8")
    sizes = {"gate_proj": (4096, 1024), "up_proj": (4096, 1024), "down_proj": (1024, 4096)}
    entries: list[tuple[str, str, tuple[int, int], Callable[[], bytes]]] = []
    for layer in (0, 1):
        for module, (outputs, inputs) in sizes.items():
            for side, shape in (("A", (64, inputs)), ("B", (outputs, 64))):
                name = f"base_model.model.model.layers.{layer}.mlp.{module}.lora_{side}.weight"
                entries.append((name, "BF16", shape, lambda shape=shape: small_weights(shape)))
    write_safetensors(folder / "adapter_model.safetensors", entries)
    return folder
