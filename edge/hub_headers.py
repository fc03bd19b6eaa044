"""What a checkpoint on the Hugging Face hub consists of, without its weights: config.json and the safetensors headers.

The headers are read by range requests, some hundred kilobytes of files of many gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.errors import EdgeError
from edge.hub_errors import errors_for_people


@dataclass(frozen=True)
class TensorHeader:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointHeaders:
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]


class HeaderSource(Protocol):
    """Where headers come from."""

    def read(self, repository: str) -> CheckpointHeaders:
        """EdgeError, and nothing else that a person must see."""
        ...


class HubHeaders:
    """The real hub. huggingface_hub is imported at the first use."""

    def read(self, repository: str) -> CheckpointHeaders:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        with errors_for_people(repository):
            try:
                config = read_config_text(repository, Path(hf_hub_download(repository, "config.json")))
                metadata = HfApi().get_safetensors_metadata(repository)
            except NotASafetensorsRepoError as error:
                raise EdgeError(
                    f"{repository} has no safetensors checkpoint whose headers could be read.",
                    hint="Download a GGUF file of it, and plan with its path.",
                ) from error
            except SafetensorsParsingError as error:
                raise EdgeError(
                    f"The safetensors headers of {repository} are damaged: {error}", hint="Tell its authors."
                ) from error
        tensors = {
            name: TensorHeader(str(tensor.dtype), tuple(tensor.shape))
            for file in metadata.files_metadata.values()
            for name, tensor in file.tensors.items()
        }
        return CheckpointHeaders(config, tensors)


def read_config_text(repository: str, path: Path) -> dict[str, Any]:
    """A config.json that was downloaded. EdgeError if it is none."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeError(f"config.json of {repository} is not JSON: {error}.", hint="Tell its authors.") from error
    if not isinstance(config, dict):
        raise EdgeError(f"config.json of {repository} is no object.", hint="Tell its authors.")
    return config
