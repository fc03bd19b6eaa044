"""The steps that the conversion bench measures, each a command of its own so that time and peak memory are its own:

python -m bench.convert_steps generate SHAPE DIR
python -m bench.convert_steps convert DIR OUT QUANT[,...] THREADS
python -m bench.convert_steps verify DIR THREADS FILE...
python -m bench.convert_steps quantize FILE OUT QUANT THREADS      llama.cpp's llama_model_quantize
python -m bench.convert_steps compare FILE FILE                    fails unless their tensors have the same bytes
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge.errors import EdgeError

if TYPE_CHECKING:
    from edge.gguf_file import TensorInfo

_COMPARED_BYTES = 1 << 24


def generate(shape: str, directory: str) -> None:
    from bench.convert_checkpoint import SHAPES, generate_checkpoint

    generate_checkpoint(Path(directory), SHAPES[shape])


def convert(directory: str, out: str, quantizations: str, threads: str) -> None:
    from convert.pipeline import write_checkpoint

    write_checkpoint(Path(directory), quantizations.split(","), Path(out), threads=int(threads))


def verify(directory: str, threads: str, *files: str) -> None:
    from convert.verify import verify_against

    for file in files:
        verify_against(Path(file), Path(directory), threads=int(threads))


def quantize(file: str, out: str, quantization: str, threads: str) -> None:
    from edge.llama.quantize import quantize_file

    quantize_file(Path(file), Path(out), quantization, threads=int(threads))


def compare(first: str, second: str) -> None:
    """EdgeError unless both files have the same tensors with the same bytes, in whatever order.

    F32 values may differ in their last places: RoPE factors are computed, and not by everyone in double precision.
    """
    from edge.gguf_file import read_gguf

    files = [read_gguf(Path(path)) for path in (first, second)]
    kinds = [{(tensor.name, tensor.shape, tensor.type.name) for tensor in file.tensors.values()} for file in files]
    if different := sorted(kinds[0] ^ kinds[1]):
        raise EdgeError(f"{first} and {second} differ in tensor {different[0][0]!r}.")
    with Path(first).open("rb") as ours, Path(second).open("rb") as theirs:
        for name, tensor in files[0].tensors.items():
            ours.seek(tensor.offset)
            theirs.seek(files[1].tensors[name].offset)
            if not _are_same(ours, theirs, tensor):
                raise EdgeError(f"{first} and {second} differ in the bytes of tensor {name!r}.")


def _are_same(ours: BinaryIO, theirs: BinaryIO, tensor: TensorInfo) -> bool:
    import numpy as np

    for first in range(0, tensor.n_bytes, _COMPARED_BYTES):
        count = min(_COMPARED_BYTES, tensor.n_bytes - first)
        chunks = ours.read(count), theirs.read(count)
        if chunks[0] == chunks[1]:
            continue
        if tensor.type.name != "F32":
            return False
        our_values, their_values = (np.frombuffer(chunk, np.float32) for chunk in chunks)
        if not np.allclose(our_values, their_values, rtol=1e-6, atol=0):
            return False
    return True


STEPS: Mapping[str, Callable[..., None]] = {
    "generate": generate,
    "convert": convert,
    "verify": verify,
    "quantize": quantize,
    "compare": compare,
}


def main(arguments: list[str]) -> None:
    try:
        STEPS[arguments[0]](*arguments[1:])
    except EdgeError as error:
        sys.exit(f"{error.message} {error.hint}".strip())


if __name__ == "__main__":
    main(sys.argv[1:])
