"""What a saved KV cache depends on: it is right only where all of this is the same.

Two quantizations of one checkpoint differ, and so do two fine-tunings of the same shape; another name, description or
chat template of the same weights makes no difference, for the tokens of a prompt say what the template wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from edge.errors import EdgeError
from edge.gguf_array import FixedArray, StringArray, Value
from edge.gguf_file import GGUFFile, read_gguf_container
from edge.settings import AdapterSettings, ModelSettings

_TEMPLATE_KEY = "tokenizer.chat_template"
_SAMPLE_BYTES = 512  # of each tensor that are read for the digest
_HEX_DIGITS = 32


@dataclass(frozen=True)
class PrefixIdentity:
    """Each field as text, to be compared as a whole."""

    model: str
    """Its file's name and its digest, which is what counts."""
    adapters: str
    """LoRA adapters with scales and digests; "" for none."""
    cache: str
    """The types of keys and values, and whether flash attention lays them out."""
    library: str
    """llama.cpp's version and commit."""
    weights: str = "repacked"
    """Whether processors compute with a repacked copy of them, which rounds otherwise; older files do not say so."""

    def why_different(self, wanted: PrefixIdentity) -> str:
        """In which part this one is not `wanted`, as the end of a sentence; "" where it is the same."""
        if _digest(self.model) != _digest(wanted.model):
            return f"was made with another model: {_name(self.model)}, not {_name(wanted.model)}"
        if self.adapters != wanted.adapters:
            return f"was made with {_adapter_text(self.adapters)}, not with {_adapter_text(wanted.adapters)}"
        if self.cache != wanted.cache:
            return f"was made with another kind of KV cache: {self.cache}, not {wanted.cache}"
        if self.library != wanted.library:
            return f"was made with another build of llama.cpp: {self.library}, not {wanted.library}"
        if self.weights != wanted.weights:
            return f"was made with weights {self.weights}, not {wanted.weights}"
        return ""

    def to_json(self) -> dict[str, str]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, document: object) -> PrefixIdentity | None:
        """None for what is not the document of one."""
        if not isinstance(document, dict):
            return None
        document = {"weights": cls.weights, **document}
        names = [field.name for field in fields(cls)]
        if not all(isinstance(document.get(name), str) for name in names):
            return None
        return cls(*(document[name] for name in names))


def identity_of(file: GGUFFile, settings: ModelSettings) -> PrefixIdentity:
    """What the states of a model that is opened with these settings depend on."""
    from edge.llama.system import library_versions  # loads llama.cpp

    versions = library_versions()
    return PrefixIdentity(
        model=f"{file.path.name} {model_digest(file)}",
        adapters=", ".join(map(_adapter, settings.adapters)),
        cache=f"keys {settings.key_type}, values {settings.value_type}, flash attention {settings.flash_attention}",
        library=f"{versions.llama_cpp} ({versions.commit})",
        weights="repacked" if settings.repack_weights else "as they are in the file",
    )


def model_digest(file: GGUFFile) -> str:
    """By which weights with their vocabulary and hyperparameters are known again.

    Takes in the metadata but for names and template, each tensor's name, shape and type, and a few bytes of each, so
    that models of the same shape differ without being read as a whole.
    """
    digest = hashlib.sha256()
    for key, value in sorted(file.metadata.items()):
        if not key.startswith(("general.", _TEMPLATE_KEY)) or key == "general.architecture":
            digest.update(f"{key}\0".encode())
            digest.update(_value_bytes(value))
    for tensor in file.tensors.values():
        digest.update(f"{tensor.name}\0{tensor.shape}{tensor.type.name}".encode())
    for sample in _samples(file):
        digest.update(sample)
    return digest.hexdigest()[:_HEX_DIGITS]


def template_digest(metadata: Mapping[str, Value]) -> str:
    """By which a model's chat template is known again."""
    return hashlib.sha256(str(metadata.get(_TEMPLATE_KEY, "")).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _samples(file: GGUFFile) -> Sequence[bytes]:
    """Bytes from the middle of every tensor."""
    samples = []
    by_path: dict[Path, list[tuple[int, int]]] = {}
    for tensor in file.tensors.values():
        n_bytes = min(_SAMPLE_BYTES, tensor.n_bytes)
        by_path.setdefault(tensor.path, []).append((tensor.offset + (tensor.n_bytes - n_bytes) // 2, n_bytes))
    for path, places in by_path.items():
        try:
            with path.open("rb") as opened:
                for offset, n_bytes in places:
                    opened.seek(offset)
                    samples.append(opened.read(n_bytes))
        except OSError as error:
            raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error
    return samples


def _value_bytes(value: Value) -> bytes:
    if isinstance(value, FixedArray):
        return value.raw
    if isinstance(value, StringArray):
        return b"\0".join(value.iter_bytes())
    return repr(value).encode("utf-8", "surrogatepass")


def _adapter(adapter: AdapterSettings) -> str:
    return f"{adapter.path.name} × {adapter.scale:g} {model_digest(read_gguf_container(adapter.path))}"


def _adapter_text(adapters: str) -> str:
    """Adapters for a message: without digests."""
    names = ", ".join(_name(adapter) for adapter in adapters.split(", "))
    return f"the adapter {names}" if adapters else "no adapter"


def _name(text: str) -> str:
    return text.rpartition(" ")[0]


def _digest(text: str) -> str:
    return text.rpartition(" ")[2]
