"""A hub of dictionaries and a converter that writes its quantization: what the model store is tested with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.pool import Progress
from edge.errors import EdgeError
from edge.hub import HubFile, RepositoryFiles

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]})
CHECKPOINT = {"config.json": CONFIG, "tokenizer.json": "{}", "model.safetensors": "weights"}
COMMIT = "c0ffee" + "0" * 34


class FakeConverter:
    """Writes the quantization as the file."""

    def __init__(self) -> None:
        self.calls: list[tuple[Path, str]] = []

    def __call__(self, source: Path, quantizations: Sequence[str], out: Path, *, progress: Any = None) -> list[Path]:
        (quantization,) = quantizations
        self.calls.append((source, quantization))
        out.write_text(quantization)
        if progress:
            progress(Progress(7, 7))
        return [out]


class FakeHub:
    """Repositories as dictionaries from file name to text, all at the commit `revision`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, str]] = {}
        self.revision = COMMIT
        self.licence: str | None = None
        self.is_local_copy = False
        self.is_away = False
        self.wrong_bytes: dict[str, str] = {}
        self.listings = 0
        self.downloaded: list[str] = []

    def files(self, repository: str, revision: str | None = None) -> RepositoryFiles:
        self.listings += 1
        if self.is_away or repository not in self.repositories:
            raise EdgeError(f"There is no model {repository}")
        files = {name: known_file(text) for name, text in self.repositories[repository].items()}
        return RepositoryFiles(repository, revision or self.revision, files, self.licence, self.is_local_copy)

    def download(self, listing: RepositoryFiles, names: Sequence[str], folder: Path, progress: Any = None) -> Path:
        if self.is_away:
            raise EdgeError("The hub is away")
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(self.wrong_bytes.get(name, self.repositories[listing.repository][name]))
                self.downloaded.append(name)
        return folder


def known_file(text: str) -> HubFile:
    """What the hub knows of a large file."""
    return HubFile(len(text.encode()), sha256_text(text))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
