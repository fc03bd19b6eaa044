"""A conversion holds a few slabs of the source, whatever its size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.safetensors_file import write_safetensors
from tests.tiny import TINY, TOKENIZERS, tensor_shapes

MEASURE = """
import resource, sys
from pathlib import Path
from convert.pipeline import plan_checkpoint
from convert.verify import verify_against
from convert.write import write_files

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

source, out = map(Path, sys.argv[1:])
plan = plan_checkpoint(source, ["BF16", "Q8_0"], out)
before = peak_bytes()
paths = write_files(plan, threads=1)
written = peak_bytes()
for path in paths:
    verify_against(path, source, threads=1)
print(plan.source_bytes, written - before, peak_bytes() - before)
"""


def write_larger_checkpoint(name: str, folder: Path, intermediate_size: int) -> Path:
    """A checkpoint of about 70 MB with tensors of several slabs. Its weights are any small numbers."""
    config = {**TINY[name].config, "hidden_size": 1024, "intermediate_size": intermediate_size, "num_hidden_layers": 2}
    shapes = tensor_shapes(replace(TINY[name], config=config))
    shutil.copytree(TOKENIZERS / "llama2", folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    random = np.random.default_rng(0)

    def weights(shape: tuple[int, ...]) -> bytes:
        return random.integers(0x3A00, 0x3D00, shape, np.uint16).tobytes()  # between 0.0005 and 0.03

    entries = [(name, "BF16", shape, lambda shape=shape: weights(shape)) for name, shape in shapes.items()]
    write_safetensors(folder / "model.safetensors", entries)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="has no getrusage")
@pytest.mark.parametrize(("name", "intermediate_size"), [("llama2", 4096), ("mixtral", 640)])
def test_peak_memory_does_not_grow_with_the_source(name: str, intermediate_size: int, tmp_path: Path) -> None:
    source = write_larger_checkpoint(name, tmp_path / "larger", intermediate_size)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    source_bytes, writing_bytes, verifying_bytes = map(int, result.stdout.split())
    assert source_bytes > 68_000_000
    assert writing_bytes < source_bytes / 4
    assert verifying_bytes < source_bytes / 2
