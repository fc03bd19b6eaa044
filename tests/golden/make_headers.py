"""Runs llama.cpp's own converter over every tiny checkpoint and writes what its files hold: keys, shapes and digests.

Needs torch, transformers and llama.cpp's source, whose path is the first argument; names of checkpoints may follow.
README.md beside it says how to run it. Two things of the converter cannot work on tiny checkpoints: it knows
pre-tokenizers by a hash of what published vocabularies make of a text, and the vocabulary of some families by
tokenizer.model only. The first gets a name of its own, the second is left out.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.golden.headers import FOLDER, stored_value
from tests.tiny import TINY, write_tiny_checkpoint


def main() -> None:
    source, *names = sys.argv[1:]
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name in names or TINY:
            folder = write_tiny_checkpoint(name, Path(directory))
            try:
                document = read_header(convert(folder, Path(directory) / f"{name}.gguf"))
            except (NotImplementedError, SystemExit) as error:
                print(f"{name}: llama.cpp cannot convert it: {error}")
                continue
            path = FOLDER / f"{name}.json"
            path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{path.name}: {path.stat().st_size} bytes")


def convert(folder: Path, path: Path) -> Path:
    converter = importlib.import_module("convert_hf_to_gguf")
    text_model = importlib.import_module("conversion.base").TextModel
    text_model.get_vocab_base_pre = lambda model, tokenizer: "unknown"
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model_class = converter.get_model_class(architecture)
    set_vocab = model_class.set_vocab

    def set_vocabulary(model: Any) -> None:
        try:
            set_vocab(model)
        except (FileNotFoundError, ValueError):  # no tokenizer.model
            model._set_vocab_none()

    model_class.set_vocab = set_vocabulary
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(path), "--outtype", "bf16"]
    if getattr(model_class, "supports_mtp_export", False):
        sys.argv.append("--no-mtp")
    try:
        converter.main()
    finally:
        model_class.set_vocab = set_vocab
    return path


def read_header(path: Path) -> dict[str, Any]:
    reader = importlib.import_module("gguf").GGUFReader(path)
    keys = {
        field.name: stored_value(field.contents())
        for field in reader.fields.values()
        if not field.name.startswith("GGUF.")
    }
    tensors = {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in tensor.shape],
            hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        ]
        for tensor in reader.tensors
    }
    return {"keys": keys, "tensors": tensors}


if __name__ == "__main__":
    main()
