"""By which answers of one model are told from those of another: OpenAI's `system_fingerprint`."""

from __future__ import annotations

import hashlib

from edge.gguf_file import GGUFFile
from edge.prefix_identity import identity_of, model_digest, template_digest
from edge.settings import ModelSettings


def system_fingerprint(file: GGUFFile, settings: ModelSettings) -> str:
    """Differs where weights, chat template or adapters do, wherever the file is and whatever it is called."""
    parts = (model_digest(file), template_digest(file.metadata), identity_of(file, settings).adapters)
    return f"fp_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"
