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

from edge.errors import EdgeError

_COMPARED_BYTES = 1 << 24


def generate(shape: str, directory: str) -> None:
    from bench.convert_checkpoint import SHAPES, generate_checkpoint

    generate_checkpoint(Path(directory), SHAPES[shape])


def convert(directory: str, out: str, quantizations: str, threads: str) -> None:
    from convert.pipeline import convert_checkpoint

    convert_checkpoint(Path(directory), quantizations.split(","), Path(out), threads=int(threads))


def verify(directory: str, threads: str, *files: str) -> None:
    from convert.verify import verify_against

    for file in files:
        verify_against(Path(file), Path(directory), threads=int(threads))


def quantize(file: str, out: str, quantization: str, threads: str) -> None:
    from edge.llama.quantize import quantize_file

    quantize_file(Path(file), Path(out), quantization, threads=int(threads))


def compare(first: str, second: str) -> None:
    """EdgeError unless both files have the same tensors with the same bytes, in whatever order."""
    from edge.gguf_file import read_gguf

    files = [read_gguf(Path(path)) for path in (first, second)]
    kinds = [{name: (tensor.shape, tensor.type.name) for name, tensor in file.tensors.items()} for file in files]
    if kinds[0] != kinds[1]:
        different = sorted(
            name for name in kinds[0].keys() | kinds[1].keys() if kinds[0].get(name) != kinds[1].get(name)
        )
        raise EdgeError(f"{first} and {second} differ in tensor {different[0]!r}.")
    with Path(first).open("rb") as ours, Path(second).open("rb") as theirs:
        for name, tensor in files[0].tensors.items():
            ours.seek(tensor.offset)
            theirs.seek(files[1].tensors[name].offset)
            left = tensor.n_bytes
            while left:
                chunk = ours.read(min(left, _COMPARED_BYTES))
                if chunk != theirs.read(len(chunk)):
                    raise EdgeError(f"{first} and {second} differ in the bytes of tensor {name!r}.")
                left -= len(chunk)


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
