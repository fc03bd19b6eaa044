"""Tiny checkpoints, complete as transformers saves them: config, generation config, BF16 safetensors, tokenizer.

Nothing of their weights is stored: they follow from a checkpoint's name, bit for bit on every machine, and are
written when a test asks for them. `tests/golden` holds the logits that transformers computes from the same files.
Each module here has the checkpoints of some families.
"""

from __future__ import annotations

import math
from pathlib import Path

from tests.tiny import dense, experts, gemma, lfm, llama, qwen, rope, windows
from tests.tiny.checkpoint import CONTEXT_TOKENS as CONTEXT_TOKENS
from tests.tiny.checkpoint import TinyCheckpoint as TinyCheckpoint
from tests.tiny.files import TOKENIZERS as TOKENIZERS
from tests.tiny.files import weights_sha256 as weights_sha256
from tests.tiny.files import write_checkpoint
from tests.tiny.weights import tensor_values as tensor_values

_MODULES = (llama, gemma, qwen, experts, dense, rope, windows, lfm)
TINY: dict[str, TinyCheckpoint] = {
    checkpoint.name: checkpoint for module in _MODULES for checkpoint in module.CHECKPOINTS
}


def tensor_shapes(checkpoint: TinyCheckpoint) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its name, sorted as transformers sorts them."""
    return dict(sorted(checkpoint.shapes(checkpoint.config).items()))


def converted_parameters(checkpoint: TinyCheckpoint) -> int:
    """The number of weights that a file of the checkpoint's language model holds."""
    language_model = [
        math.prod(shape)
        for name, shape in tensor_shapes(checkpoint).items()
        if not name.startswith(
            ("vision_tower.", "multi_modal_projector.", "model.visual.", "model.vision_tower.", "model.embed_vision.")
        )
    ]
    return sum(language_model) - checkpoint.padding_tokens * checkpoint.text_config["hidden_size"]


def write_tiny_checkpoint(family: str, directory: Path, *, variant: str = "") -> Path:
    """Writes the checkpoint `family` or `family-variant` of `TINY` into a new folder of `directory` and gives it."""
    return write_checkpoint(TINY[f"{family}-{variant}" if variant else family], directory)
