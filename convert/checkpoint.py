"""A Hugging Face checkpoint directory: its configuration, chat template and tensors, validated before a weight is read.

Knows which files make a checkpoint and which checkpoints cannot be converted; the container format is for
`convert.safetensors_file`, the tokenizer's content for `convert.tokenizer`, reading weights for `convert.shards`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

from convert.safetensors_file import SafetensorsFile, SourceTensor, read_safetensors_header
from convert.shards import ShardMaps
from edge.errors import EdgeError

__all__ = ["Checkpoint", "ShardMaps", "read_checkpoint"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HASHED_FILES = (
    "config.json",
    "generation_config.json",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

# Tensor names that only a quantized checkpoint has, for those whose config.json says nothing
PACKED_TENSORS = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_scale_inv": "FP8",
    "weight_scale": "FP8 or compressed-tensors",
    "weight_packed": "compressed-tensors",
    "SCB": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "W_q": "HQQ",
}
PACKED_DTYPES = {"F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")


@dataclass(frozen=True)
class MergedAdapter:
    """A LoRA that is added to a checkpoint's weights; `sha256` is of the file with its matrices."""

    name: str
    sha256: str
    scale: float


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds. Hashes are hex sha256, by file name."""

    directory: Path
    name: str
    """The directory's name; for a snapshot in the hub's cache, the repository's."""
    repository: str | None
    """`org/name`, when the directory is a snapshot in the hub's cache."""
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    chat_template: str | None
    tensors: Mapping[str, SourceTensor]
    header_sha256: dict[str, str]
    file_sha256: dict[str, str]
    tokenizer_json: Path | None
    tokenizer_model: Path | None
    architecture: str
    merged: tuple[MergedAdapter, ...] = ()
    """What is added to its tensors when they are read."""

    @property
    def model_name(self) -> str:
        """What a file made of it is called."""
        return "-".join((self.name, *(adapter.name for adapter in self.merged)))


def read_checkpoint(directory: Path) -> Checkpoint:
    """Everything but the weights; EdgeError when this is no checkpoint, or one that must not or cannot be converted."""
    if not directory.is_dir():
        raise EdgeError(f"{directory} is not a directory.", hint="Give the directory that holds config.json.")
    config = read_config(directory)
    files = [read_safetensors_header(directory / name) for name in _safetensors_names(directory)]
    tensors = _merge(files)
    if (directory / INDEX_FILE).is_file() and not (directory / SINGLE_FILE).is_file():
        _check_index(directory, files)
    _refuse_packed_tensors(directory, tensors.values())
    tokenizer_config = _read_json_object(directory / "tokenizer_config.json", missing={})
    name, repository = _name(directory)
    return Checkpoint(
        directory=directory,
        name=name,
        repository=repository,
        config=config,
        generation_config=_read_json_object(directory / "generation_config.json", missing={}),
        tokenizer_config=tokenizer_config,
        chat_template=_chat_template(directory, tokenizer_config),
        tensors=tensors,
        header_sha256={file.path.name: file.header_sha256 for file in files},
        file_sha256=_file_hashes(directory),
        tokenizer_json=_existing(directory / "tokenizer.json"),
        tokenizer_model=_existing(directory / "tokenizer.model"),
        architecture=config["architectures"][0],
    )


def read_config(directory: Path) -> dict[str, Any]:
    """config.json, which names an architecture and no quantization; EdgeError otherwise.

    Needs no other file, so that a download can be refused before its weights are fetched.
    """
    path = directory / "config.json"
    if not path.is_file():
        _refuse_without_config(directory)
    config = _read_json_object(path)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise EdgeError(
            f"{path} names no architecture: `architectures` is {architectures!r}.",
            hint='It must be a list such as ["LlamaForCausalLM"].',
        )
    _refuse_quantized_config(directory, config)
    return config


def _refuse_without_config(directory: Path) -> NoReturn:
    if (directory / "adapter_config.json").is_file():
        raise EdgeError(
            f"{directory} is a PEFT adapter, not a whole model: it has adapter_config.json and no config.json.",
            hint="Give its base instead, and the adapter with --lora, or with --merge-lora to convert both as one.",
        )
    if any(directory.glob("*.gguf")):
        raise EdgeError(
            f"{directory} holds GGUF files, which are already converted.", hint="Give the .gguf file itself."
        )
    raise EdgeError(
        f"{directory} has no config.json.", hint="A checkpoint holds config.json beside its .safetensors files."
    )


def _read_json_object(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not path.is_file():
        return missing
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path} is not JSON: {error}.", hint="Download the file again.") from error
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not isinstance(value, dict):
        raise EdgeError(f"{path} holds a JSON {type(value).__name__}, not an object.", hint="Download the file again.")
    return value


def _refuse_quantized_config(directory: Path, config: dict[str, Any]) -> None:
    text_config = config.get("text_config")
    for part in (config, text_config if isinstance(text_config, dict) else {}):
        for key in QUANTIZATION_KEYS:
            if part.get(key):
                _refuse_quantized(directory, _quantization_method(key, part[key]), f"config.json has `{key}`")


def _quantization_method(key: str, settings: Any) -> str:
    if not isinstance(settings, dict):
        return repr(settings)
    if "quant_method" in settings:
        return str(settings["quant_method"])
    if any(str(name).startswith(("load_in_", "bnb_")) for name in settings):
        return "bitsandbytes"
    return "MLX" if key == "quantization" else key


def _refuse_packed_tensors(directory: Path, tensors: Iterable[SourceTensor]) -> None:
    for tensor in tensors:
        method = PACKED_TENSORS.get(tensor.name.rpartition(".")[2])
        if method is None and tensor.dtype in PACKED_DTYPES:
            method = tensor.dtype
        if method is not None:
            _refuse_quantized(directory, method, f"it holds {tensor.name} as {tensor.dtype}")


def _refuse_quantized(directory: Path, method: str, evidence: str) -> NoReturn:
    raise EdgeError(
        f"{directory} is already quantized ({method}): {evidence}.",
        hint="Quantizing twice ruins a model: take the original checkpoint in BF16, F16 or F32.",
    )


def _safetensors_names(directory: Path) -> list[str]:
    """The weight files, in transformers' order of preference: one file, else the shards that the index names."""
    if (directory / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    if not (directory / INDEX_FILE).is_file():
        _refuse_without_safetensors(directory)
    names = sorted(set(_weight_map(directory).values()))
    for name in names:
        if not (directory / name).is_file():
            raise EdgeError(
                f"{directory / name} is missing; {INDEX_FILE} names it.", hint="Download the checkpoint again."
            )
    return names


def _refuse_without_safetensors(directory: Path) -> NoReturn:
    names = sorted(path.name for path in directory.iterdir())
    pickles = [name for name in names if Path(name).suffix in PICKLE_SUFFIXES]
    if shards := [name for name in names if name.endswith(".safetensors")]:
        raise EdgeError(
            f"{directory} has {shards[0]} but neither {SINGLE_FILE} nor {INDEX_FILE}.",
            hint=f"Download {INDEX_FILE} as well: it says which shards make up the model.",
        )
    if pickles:
        raise EdgeError(
            f"{directory} has its weights only as Python pickles ({', '.join(pickles)}), "
            "which can run any code when they are read.",
            hint="Look for a revision with .safetensors files, or have one made at "
            "https://huggingface.co/spaces/safetensors/convert .",
        )
    raise EdgeError(
        f"{directory} holds no weights.", hint=f"Expected {SINGLE_FILE}, or {INDEX_FILE} and the shards it names."
    )


def _weight_map(directory: Path) -> dict[str, str]:
    path = directory / INDEX_FILE
    weight_map = _read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise EdgeError(f"{path} has no weight_map.", hint="Download the file again.")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_file_name(shard):
            raise EdgeError(
                f"{path} places {tensor!r} in {shard!r}, which is not a file name inside the checkpoint.",
                hint="Do not trust this checkpoint: an index has no reason to point elsewhere.",
            )
        if not shard.endswith(".safetensors"):
            raise EdgeError(
                f"{path} places {tensor!r} in {shard!r}, which is not a safetensors file.",
                hint="Only safetensors are read: other formats can run code.",
            )
    return weight_map


def _is_file_name(name: str) -> bool:
    """Whether `name` stays in its directory on every system: no separator, drive or parent."""
    return name.isprintable() and PureWindowsPath(name).name == name and name not in ("", ".", "..")


def _merge(files: Iterable[SafetensorsFile]) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    for file in files:
        for tensor in file.tensors.values():
            if tensor.name in tensors:
                raise EdgeError(
                    f"{tensor.name} is in both {tensors[tensor.name].file} and {tensor.file}.",
                    hint="The shards come from different saves: download the checkpoint again.",
                )
            tensors[tensor.name] = tensor
    return tensors


def _check_index(directory: Path, files: Iterable[SafetensorsFile]) -> None:
    """The index and the shards must name the same tensors in the same places."""
    weight_map = _weight_map(directory)
    placed = {name: file.path.name for file in files for name in file.tensors}
    for name, shard in weight_map.items():
        if placed.get(name) != shard:
            raise EdgeError(
                f"{directory / shard} does not hold {name!r}, though {INDEX_FILE} places it there.",
                hint="The index and the shards come from different saves: download the checkpoint again.",
            )
    if extra := placed.keys() - weight_map.keys():
        first = min(extra)
        raise EdgeError(
            f"{directory / placed[first]} holds {first!r}, which {INDEX_FILE} does not name.",
            hint="The index and the shards come from different saves: download the checkpoint again.",
        )


def _chat_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The first of chat_template.jinja, chat_template.json and tokenizer_config.json that has one.

    Source: transformers, `PreTrainedTokenizerBase.from_pretrained` and `ProcessorMixin.get_processor_dict`.
    """
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        try:
            return jinja.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise EdgeError(f"{jinja} cannot be read: {error}.") from error
    for path, config in (
        (directory / "chat_template.json", _read_json_object(directory / "chat_template.json", missing={})),
        (directory / "tokenizer_config.json", tokenizer_config),
    ):
        if config.get("chat_template") is not None:
            return _default_template(path, config["chat_template"])
    return None


def _default_template(path: Path, value: Any) -> str | None:
    """The template itself, or the one called "default" of a map or of a list of {name, template}."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {"default": next((item.get("template") for item in value if item.get("name") == "default"), None)}
    template = value.get("default") if isinstance(value, dict) else value
    if template is None or isinstance(template, str):
        return template
    raise EdgeError(f"{path}: chat_template is neither text nor a list of named templates.")


def _name(directory: Path) -> tuple[str, str | None]:
    """The checkpoint's name, and its repository when it lies in the hub's cache.

    Source: huggingface_hub's cache layout, `models--org--name/snapshots/<commit>`.
    """
    absolute = directory.absolute()
    repository = absolute.parent.parent.name
    if absolute.parent.name == "snapshots" and repository.startswith("models--"):
        parts = repository.split("--")[1:]
        return parts[-1], "/".join(parts)
    return absolute.resolve().name, None


def _file_hashes(directory: Path) -> dict[str, str]:
    hashes = {}
    for name in HASHED_FILES:
        if (directory / name).is_file():
            with (directory / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
