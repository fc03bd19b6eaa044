"""Computes the reference logits of every tiny adapter on its checkpoint, with PEFT and transformers in float32.

Needs `peft` beside what make_golden.py needs. It makes all of them, or those of the adapters that are named; with
`--sensitivity` it writes nothing and prints what half of each adapter would cost, and none of it.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

from tests.golden.make_golden import load, logits, mean_divergence, sequences
from tests.golden.stored import GoldenSequence, write_golden
from tests.tiny import TINY, weights_sha256, write_tiny_checkpoint
from tests.tiny.adapters import ADAPTERS, write_tiny_adapter

KEPT_POSITIONS = (24, 16)  # of each sequence


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)  # PEFT warns of tensors that are missing or of no use
    names = [name for name in sys.argv[1:] if name != "--sensitivity"] or list(ADAPTERS)
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            base = write_tiny_checkpoint(ADAPTERS[name].base, Path(directory))
            adapter = write_tiny_adapter(name, Path(directory))
            if "--sensitivity" in sys.argv[1:]:
                print_sensitivity(name, base, adapter)
            else:
                make_golden(name, base, adapter)


def make_golden(name: str, base: Path, adapter: Path) -> None:
    model = adapted(base, adapter)
    stored = []
    for tokens, kept in zip(sequences(TINY[ADAPTERS[name].base]), KEPT_POSITIONS, strict=True):
        positions = np.linspace(0, len(tokens) - 1, kept).astype(np.int64)
        stored.append(
            GoldenSequence(tokens.astype(np.int32), positions.astype(np.int32), logits(model, tokens)[positions])
        )
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, transformers, peft)]
    path = write_golden(f"adapters/{name}", versions, weights_sha256(adapter), stored)
    print(f"{path.name}: {path.stat().st_size} bytes")


def print_sensitivity(name: str, base: Path, adapter: Path) -> None:
    tokens = next(iter(sequences(TINY[ADAPTERS[name].base])))
    reference = logits(adapted(base, adapter), tokens)
    half = logits(adapted(base, adapter, scale=0.5), tokens)
    without = logits(load(base), tokens)
    print(f"| {name} | {mean_divergence(reference, half):.1e} | {mean_divergence(reference, without):.1e} |")


def adapted(base: Path, adapter: Path, scale: float = 1.0) -> torch.nn.Module:
    """The checkpoint in float32 with the adapter beside its weights, not merged into them."""
    model = peft.PeftModel.from_pretrained(load(base), adapter, autocast_adapter_dtype=True).eval()
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(scale)
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
    return model


if __name__ == "__main__":
    main()
